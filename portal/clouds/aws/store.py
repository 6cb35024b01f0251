"""The metadata store: a bucket, and a table of locks.

S3 knows nothing of locks, and DynamoDB takes no condition that has a time of its own in it. So:

- The clock of locks is AWS's: the Date of the answer in which a lock was read. Hosts of the portal may disagree.
- A lock is one item, written only over what was read of it. It stays for ever, and with it the number of its owners.
- What is written under a lock holds it for `_WRITE` seconds, in one conditional write that proves it too, then writes
  to S3 in one request, which takes less, and gives the lock its end back. Nobody takes it over in between; who dies
  there leaves it taken for that long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from portal.clouds.aws.session import Session
from portal.clouds.aws.trouble import code_of, in_words
from portal.clouds.stores import Lock, checked
from portal.errors import Conflict, Passing, Refused

PART = 8 * 1024 * 1024  # bytes of an object that are sent in one request; S3 takes at least 5 MiB, and 10,000 of them
_WRITE = 60.0  # seconds; a request ends within 30: see the limits in `session.py`
_TRIES = 5  # times that a lock is looked at anew because somebody else wrote it meanwhile
_NOT_SO = "ConditionalCheckFailedException"


@dataclass(frozen=True)
class _Held:
    """What the table has of a lock; `now` is when it said so."""

    owner: str
    fence: int
    until: float
    is_there: bool
    now: float


class AwsStore:
    def __init__(self, session: Session) -> None:
        self._session = session

    @in_words
    def put(self, name: str, data: bytes | Iterable[bytes], *, lock: Lock | None = None) -> None:
        at = self._object(name)
        parts = _parts([data] if isinstance(data, bytes) else data)
        first = next(parts, b"")
        second = next(parts, None)
        with _there():
            if second is None:
                with self._held_for_a_write(lock):
                    self._s3.put_object(**at, Body=first)
            else:
                self._put_in_parts(at, _together(first, second, parts), lock)

    def _put_in_parts(self, at: dict[str, str], parts: Iterator[bytes], lock: Lock | None) -> None:
        upload = {**at, "UploadId": self._s3.create_multipart_upload(**at)["UploadId"]}
        done = []
        try:
            for number, part in enumerate(parts, 1):
                said = self._s3.upload_part(**upload, PartNumber=number, Body=part)
                done.append({"ETag": said["ETag"], "PartNumber": number})
            with self._held_for_a_write(lock):
                self._s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
        except BaseException:
            # Where that fails too, the bucket's lifecycle takes the parts away.
            with contextlib.suppress(ClientError, BotoCoreError):
                self._s3.abort_multipart_upload(**upload)
            raise

    @in_words
    def size(self, name: str) -> int | None:
        try:
            return int(self._s3.head_object(**self._object(name))["ContentLength"])
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchKey"):  # without a body, so a bucket that is gone says the same
                return None
            raise

    @in_words
    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes | None:
        at = self._object(name)
        if size == 0:
            return None if self.size(name) is None else b""
        ranged = {"Range": f"bytes={start}-{'' if size is None else start + size - 1}"} if start or size else {}
        try:
            with _there():
                body: bytes = self._s3.get_object(**at, **ranged)["Body"].read()
                return body
        except ClientError as error:
            match code_of(error):
                case "NoSuchKey":
                    return None
                case "InvalidRange":  # it begins at the end, or after it
                    return b""
            raise

    @in_words
    def list(self, prefix: str = "") -> list[str]:
        if folder := prefix.rpartition("/")[0]:
            checked(folder)
        found = []
        more: dict[str, str] = {}
        while True:
            with _there():
                said = self._s3.list_objects_v2(**self._bucket, Prefix=prefix, **more)
            found += [one["Key"] for one in said.get("Contents", ())]
            if not said.get("IsTruncated"):
                return sorted(found)
            more = {"ContinuationToken": said["NextContinuationToken"]}

    @in_words
    def delete(self, name: str, *, lock: Lock | None = None) -> None:
        at = self._object(name)
        with _there(), self._held_for_a_write(lock):
            self._s3.delete_object(**at)
        if lock and lock.name == name:
            self._let_go(lock)

    @in_words
    def lock(self, name: str, *, owner: str, seconds: float, over: str = "") -> Lock | None:
        for _ in range(_TRIES):
            held = self._held(name)
            if held.owner not in (owner, "", over) and held.until > held.now:
                return None
            fence = held.fence + (held.owner != owner)
            # The Date of an answer is in whole seconds: it may have been up to one more when that was said.
            until = held.now + seconds + (1 if seconds else 0)
            if self._write(name, held, owner, fence, until):
                return Lock(name, owner, fence, datetime.fromtimestamp(until, UTC))
        return None

    @in_words
    def holder(self, name: str) -> Lock | None:
        held = self._held(name)
        if not held.owner or held.until <= held.now:
            return None
        return Lock(name, held.owner, held.fence, datetime.fromtimestamp(held.until, UTC))

    @in_words
    def release(self, lock: Lock) -> None:
        self._let_go(lock)

    def _let_go(self, lock: Lock) -> None:
        for _ in range(_TRIES):
            held = self._held(lock.name)
            if (held.owner, held.fence) != (lock.owner, lock.fence):
                return
            if self._write(lock.name, held, "", held.fence, 0.0):
                return
        raise Passing("Others write to the store's table all the time just now.", evidence=lock.name)

    @contextlib.contextmanager
    def _held_for_a_write(self, lock: Lock | None) -> Iterator[None]:
        """Raises `Conflict` where somebody else has it."""
        if lock is None:
            yield
            return
        for _ in range(_TRIES):
            held = self._held(lock.name)
            if (held.owner, held.fence) != (lock.owner, lock.fence):
                evidence = f"{lock.name}: {held.owner or 'nobody'}"
                raise Conflict("Somebody else works on this now.", evidence=evidence)
            longer = max(held.until, held.now + _WRITE)
            if self._write(lock.name, held, held.owner, held.fence, longer):
                break
        else:
            raise Passing("Others write to the store's table all the time just now.", evidence=lock.name)
        try:
            yield
        finally:
            # Not where its owner has taken it for longer meanwhile, which is another value.
            with contextlib.suppress(ClientError, BotoCoreError):  # then it is taken for a minute
                held_long = _Held(held.owner, held.fence, longer, True, held.now)
                self._write(lock.name, held_long, held.owner, held.fence, held.until)

    def _held(self, name: str) -> _Held:
        with _there():
            said = self._table.get_item(**self._locks, Key=self._key(name), ConsistentRead=True)
        item = said.get("Item", {})
        return _Held(
            owner=item.get("owner", {}).get("S", ""),
            fence=int(item.get("fence", {}).get("N", 0)),
            until=float(item.get("until", {}).get("N", 0)),
            is_there=bool(item),
            now=_date(said),
        )

    def _write(self, name: str, held: _Held, owner: str, fence: int, until: float) -> bool:
        """Whether it was still as it was read."""
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(LockID)"}
        if held.is_there:
            condition = {
                "ConditionExpression": "#owner = :owner AND #fence = :fence AND #until = :until",
                "ExpressionAttributeNames": {"#owner": "owner", "#fence": "fence", "#until": "until"},
                "ExpressionAttributeValues": _item(held.owner, held.fence, held.until, ":"),
            }
        try:
            with _there():
                item = {**self._key(name), **_item(owner, fence, until)}
                self._table.put_item(**self._locks, Item=item, **condition)
        except ClientError as error:
            if code_of(error) == _NOT_SO:
                return False
            raise
        return True

    @property
    def _s3(self) -> Any:
        return self._session.client("s3", self._session.options.region)

    @property
    def _table(self) -> Any:
        return self._session.client("dynamodb", self._session.options.region)

    @property
    def _bucket(self) -> dict[str, str]:
        # Names are everybody's: a bucket that was deleted may be somebody else's by now.
        options = self._session.options
        return {"Bucket": options.bucket, "ExpectedBucketOwner": options.account}

    @property
    def _locks(self) -> dict[str, str]:
        return {"TableName": self._session.options.table}

    def _object(self, name: str) -> dict[str, str]:
        return {**self._bucket, "Key": checked(name)}

    def _key(self, name: str) -> dict[str, dict[str, str]]:
        return {"LockID": {"S": f"{self._session.options.bucket}/{checked(name)}"}}


@contextlib.contextmanager
def _there() -> Iterator[None]:
    """What the store consists of does not come back by waiting."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in ("NoSuchBucket", "ResourceNotFoundException"):
            raise Refused(
                "The metadata store of the cloud configuration is not there.",
                evidence=f"{error.operation_name}: {code}: {error.response['Error'].get('Message', '')}",
                advice="Check the cloud configuration: its page says what is missing.",
                code="no_store",
            ) from error
        raise


def _item(owner: str, fence: int, until: float, mark: str = "") -> dict[str, dict[str, str]]:
    """As DynamoDB takes it. A number is compared by its value."""
    return {
        f"{mark}owner": {"S": owner},
        f"{mark}fence": {"N": str(fence)},
        f"{mark}until": {"N": repr(float(until))},
    }


def _date(said: dict[str, Any]) -> float:
    date = said["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError as error:
        raise Passing("AWS's answer does not say when it was given.", evidence=date) from error


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, `PART` of them at a time."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= PART:
            yield bytes(held[:PART])
            del held[:PART]
    if held:
        yield bytes(held)


def _together(first: bytes, second: bytes, more: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from more
