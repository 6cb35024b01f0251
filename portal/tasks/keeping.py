"""Keeping outputs: their bytes move from chunks, in the database, to parts, in the store.

Any number of processes may do it at once, and each may die at any moment, while more is appended:

1. A row says which object is about to be written, under a name that nobody else has.
2. The object is written.
3. In one transaction `Output.kept` moves to the end of the part, if it still is where it was read, and the row becomes
   a part. Whoever comes second here deletes their own object, and no other.
4. The chunks that lie in parts are deleted, a few at a time.

What is left when somebody dies: before 3, a row and perhaps an object, which `drop_unfinished` takes away; after it,
chunks that are in a part too, and are deleted by whoever comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connection, connections, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Least, Length, Now

from portal.errors import Passing, PortalError
from portal.failpoints import failpoint
from portal.prepared import prepared_keys, reread
from portal.tasks import live
from portal.tasks.blocks import Block, Stub, blocks, joined, outline, read_data, with_segments
from portal.tasks.outputs import BLOCK, ENTRY, Chunk, Output, Part, Stream, time_of
from portal.tasks.stores import Store

if TYPE_CHECKING:
    from portal.tasks.watch import Bell

logger = logging.getLogger(__name__)

PART = 64 * 1024 * 1024  # bytes of output in one object; a whole output that is smaller is one
MOST_SEGMENTS = 1_000_000  # in one object
AT_ONCE = 64  # chunks that are deleted or joined in one transaction: other writers wait for it
MANY = 512  # chunks of a running task or run that are worth a look whether they are small
READ = 1024 * 1024
HELD = timedelta(minutes=1)  # for so long nobody else begins, after the last sign of life
UNFINISHED = timedelta(hours=1)  # after so long nobody writes a part any more
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)  # before an output is tried again
MOST_AT_ONCE = 50  # outputs
MOST_IN_A_ROW = 3  # of one store that cannot be kept, until it is taken to be away


def keep(output: Output, expected: dict[str, str] | None = None, *, lives: Callable[[], object] = bool) -> None:
    """Keep all that has been stored of it, with its checksums. May be called again, and by several at once.

    `expected` are checksums that the node computed of its files, by stream name; `agrees` says whether they match. It
    stays None of an output that was cut. Raises `Passing` when the store does not take it; then nothing is lost, and
    it is tried again from time to time. `lives` is called again and again meanwhile.
    """
    if expected is not None:
        Output.objects.filter(pk=output.pk).update(expected=expected)
    reread(output)
    is_compared = output.expected is None or output.agrees is not None
    if expected is None and is_compared and output.keep_at is None and output.kept == output.digested == output.head:
        return
    goal = output.head
    while output.kept < goal:
        _keep_part(output, goal)
        lives()
    _drop_kept_chunks(output, lives)
    while output.digested < output.kept:
        _digest(output, lives)
    failpoint("output.digested")
    _drop_old_file(output)
    if output.expected is not None and not output.cut:
        empty = sha256(b"").hexdigest()
        agrees = all(output.digests.get(name, empty) == digest for name, digest in output.expected.items())
        Output.objects.filter(pk=output.pk, digested=output.digested).update(agrees=agrees)
    with transaction.atomic():
        # As it was when its chunks were deleted: where more came since, or was kept by another, there is more to do.
        Output.objects.filter(pk=output.pk, kept=output.kept, head=output.kept, digested=output.kept).update(
            keep_at=None, keep_tries=0, loose=0
        )
        live.ring(output.live_name)
    reread(output)


def try_to_keep(output: Output) -> None:
    """`keep`, of something that has ended whether its output can be kept now or not. If not, it is tried again."""
    try:
        keep(output)
    except PortalError as error:
        logger.warning("output %s is not kept yet: %s %s", output.uuid, error.message, error.evidence)


class _Late(Exception):
    """Somebody else has kept these bytes."""


def _keep_part(output: Output, goal: int) -> None:
    """Move the next bytes into a part, up to position `goal` or as many as are one. `output` is read anew."""
    store = Store(output.store)
    begin = output.kept
    stem = f"{output.folder}/" if output.folder else f"{output.uuid.hex[:2]}/{output.uuid}."
    name = f"{stem}{begin:014}.{secrets.token_hex(6)}"
    part = Part.objects.create(output=output, file=name, position=begin)
    failpoint("output.part.begun")
    content = _Content(output, begin, goal)
    try:
        saved = store.write(name, content.pieces())
        if store.size(saved) != content.size + content.index_size:
            raise Passing(f"{store.title} did not take all of an output.", evidence=saved)
        failpoint("output.part.written")
        try:
            with transaction.atomic():
                ours = Output.objects.filter(pk=output.pk, kept=begin)
                if not ours.update(kept=begin + content.size, keep_at=Now() + HELD):
                    raise _Late
                written = Part.objects.filter(pk=part.pk, size=0).update(
                    file=saved, size=content.size, line=content.line, directory=b"".join(content.directory)
                )
                if not written:
                    raise _Late
        except _Late:
            store.delete(saved)
            part.delete()
    except PortalError:
        # The object may be there in part. Where it cannot be deleted now, its row stays.
        with contextlib.suppress(PortalError):
            store.delete(name)
            part.delete()
        raise
    failpoint("output.part.kept")
    reread(output)  # where somebody else was first, theirs counts


class _Content:
    """What a part's object holds, as it is read from chunks; and when it was written, its directory."""

    def __init__(self, output: Output, begin: int, goal: int) -> None:
        self.output, self.begin, self.goal = output, begin, goal
        self.size = self.line = self.index_size = 0
        self.directory: list[bytes] = []

    def pieces(self) -> Iterator[bytes]:
        index: list[bytes] = []
        segments = 0
        for block in joined(_from(self.output, self.begin, self.goal)):
            if self.size and (self.size + len(block.data) > PART or segments >= MOST_SEGMENTS):
                break
            if not self.size:
                self.line = block.line
            packed = zlib.compress(block.segments, 1)
            self.directory.append(
                BLOCK.pack(len(block.data), block.data.count(b"\n"), block.ms, len(packed), block.streams)
            )
            index.append(packed)
            self.index_size += len(packed)
            self.size += len(block.data)
            segments += len(block.segments) // ENTRY.size
            yield block.data
        yield from index


def _from(output: Output, begin: int, end: int) -> Iterator[Block]:
    at = begin
    while at < end:
        found = blocks(output, at, limit=READ, until=end)
        yield from found
        at = found[-1].end


@prepared_keys
def _some_in_parts(output: int, kept: int, *, most: int) -> QuerySet[Chunk]:
    """By their end: one that was joined meanwhile may begin in a part and end behind it."""
    return Chunk.objects.filter(output=output, position__lte=kept - F("size")).order_by("position")[:most]


def _drop_kept_chunks(output: Output, lives: Callable[[], object] = bool) -> None:
    with _without_zeros():
        while keys := _some_in_parts(output.pk, output.kept, most=AT_ONCE):
            with _politely():
                Chunk.objects.filter(pk__in=keys).delete()
            lives()
            failpoint("output.chunks.deleted")


@contextlib.contextmanager
def _without_zeros() -> Iterator[None]:
    """SQLite as Debian builds it writes zeros over what is deleted, eight times the work; this lies in the store."""
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        before = ("OFF", "ON", "FAST")[cursor.execute("PRAGMA secure_delete").fetchone()[0]]
        cursor.execute("PRAGMA secure_delete = FAST")
        try:
            yield
        finally:
            cursor.execute(f"PRAGMA secure_delete = {before}")


@contextlib.contextmanager
def _politely() -> Iterator[None]:
    """SQLite has one writer, and who waits for it looks only now and then: leave as much time as was taken."""
    began = time.monotonic()
    yield
    if connection.vendor == "sqlite":
        time.sleep(min(0.2, time.monotonic() - began))


def _drop_old_file(output: Output) -> None:
    """Of an earlier version, once nothing is read from it any more."""
    if output.file and not output.chunks.filter(data=None).exists():
        Store(output.store).delete(output.file)
        Output.objects.filter(pk=output.pk, file=output.file).update(file="")


def _digest(output: Output, lives: Callable[[], object]) -> None:
    """Compute the checksums of what is kept from what the store gives. Those of streams without news stay."""
    kept, before = output.kept, output.digested
    news = 0
    for stub in _parts_between(output, before, kept):
        news |= stub.streams or 0
    sums = {stream: sha256() for stream in Stream if news >> stream & 1}
    said = time.monotonic()
    for page in _pages(output, news, kept):
        lives()
        if time.monotonic() - said > HELD.total_seconds() / 4:
            said = time.monotonic()
            Output.objects.filter(pk=output.pk, keep_at__isnull=False).update(keep_at=Now() + HELD)
        mixed = {stub.position: stub.segments for stub in with_segments(output, [s for s in page if _is_mixed(s)])}
        for stub, data in zip(page, read_data(output, page), strict=True):
            if segments := mixed.get(stub.position):
                _feed(sums, segments, data)
            else:
                sums[Stream((stub.streams or 0).bit_length() - 1)].update(data)
    digests = {**output.digests, **{stream.name.lower(): found.hexdigest() for stream, found in sums.items()}}
    Output.objects.filter(pk=output.pk, digested=before).update(digests=digests, digested=kept)
    reread(output)


def _parts_between(output: Output, begin: int, end: int) -> Iterator[Stub]:
    at = begin
    while at < end:
        page = outline(output, at, end, 1024)
        yield from page
        at = page[-1].end


def _pages(output: Output, streams: int, end: int) -> Iterator[list[Stub]]:
    """What is kept and has bytes of these streams, about `READ` bytes at a time, each page of one part."""
    page: list[Stub] = []
    for stub in _parts_between(output, 0, end):
        if page and (len(page) * Output.CHUNK >= READ or stub.part is not page[-1].part):
            yield page
            page = []
        if (stub.streams or 0) & streams:
            page.append(stub)
    if page:
        yield page


def _is_mixed(stub: Stub) -> bool:
    return bool(stub.streams and stub.streams & (stub.streams - 1))


def _feed(sums: dict[Stream, Any], segments: bytes, data: bytes) -> None:
    view, start = memoryview(data), 0
    for stream, run in groupby(ENTRY.iter_unpack(segments), key=lambda entry: entry[0]):
        size = sum(entry[3] for entry in run)
        if stream in sums:
            sums[Stream(stream)].update(view[start : start + size])
        start += size


def join_small(output: Output) -> None:
    """Make few chunks of many small ones. The last ones stay: there will be more to join them with."""
    rows = output.chunks.filter(position__gte=output.kept, data__isnull=False).annotate(packed=Length("segments"))
    group: list[tuple[int, int, int, int]] = []
    size = packed = 0
    for row in rows.order_by("position").values_list("pk", "position", "size", "packed"):
        full = size + row[2] > Output.CHUNK or packed + row[3] > Output.MOST_SEGMENTS * ENTRY.size
        if group and (full or group[-1][1] + group[-1][2] != row[1]):
            if len(group) > 1:
                _join([pk for pk, *_ in group])
            group, size, packed = [], 0, 0
        group.append(row)
        size, packed = size + row[2], packed + row[3]


def _join(keys: list[int]) -> None:
    chunks = list(Chunk.objects.filter(pk__in=keys).order_by("position"))
    found = [Block(one.position, one.line, one.ms, bytes(one.segments), bytes(one.data or b"")) for one in chunks]
    made = [
        Chunk(output_id=chunks[0].output_id, position=one.position, size=len(one.data), line=one.line,
              at=time_of(one.ms), segments=one.segments, data=one.data)
        for one in joined(found)
    ]  # fmt: skip
    with contextlib.suppress(_Late), _politely(), transaction.atomic():
        if Chunk.objects.filter(pk__in=keys).delete()[0] != len(keys):
            raise _Late  # joined by another, or in a part by now
        Chunk.objects.bulk_create(made)
    failpoint("output.chunks.joined")


def keep_due(stop: threading.Event) -> bool:
    """Keep what has ended, and what has become long or scattered while it goes on. True: there may be more to do.

    An output that cannot be kept is put off, each time for longer, and hinders no other. Neither does a store that is
    away: after some of its outputs in a row, all others of it are put off too.
    """
    worth = Q(ended=True) | Q(head__gte=F("kept") + PART) | Q(loose__gte=MANY)
    due = list(Output.objects.filter(worth, keep_at__lte=Now()).order_by("keep_at")[:MOST_AT_ONCE])
    in_a_row: Counter[str] = Counter()  # outputs of each store that could not be kept
    for output in due:
        if stop.is_set():
            return False
        if in_a_row[output.store] == MOST_IN_A_ROW:
            continue
        ours = Output.objects.filter(pk=output.pk, keep_at__lte=Now()).update(keep_at=Now() + HELD)
        if not ours:
            continue
        if error := _keep(output):
            in_a_row[output.store] += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**output.keep_tries)
            Output.objects.filter(pk=output.pk).update(keep_at=Now() + pause, keep_tries=Least(F("keep_tries") + 1, 20))
            logger.warning("output %s is not kept, next try in %s: %s", output.uuid, pause, error)
        else:
            in_a_row[output.store] = 0
    for store in [store for store, count in in_a_row.items() if count == MOST_IN_A_ROW]:
        others = Output.objects.filter(worth, store=store, keep_at__lte=Now())
        if put_off := others.update(keep_at=Now() + FIRST_PAUSE):
            logger.warning("%s seems to be away: %s more outputs wait", Store(store).title, put_off)
    return len(due) == MOST_AT_ONCE


def _keep(output: Output) -> str:
    """What is to be done for it now. Why it could not be, in words; empty when it could."""
    try:
        if output.ended:
            keep(output)
            return ""
        seen = output.loose
        while output.head - output.kept >= PART:
            _keep_part(output, output.head)
        _drop_kept_chunks(output)
        join_small(output)
        Output.objects.filter(pk=output.pk).update(keep_at=Now(), keep_tries=0, loose=F("loose") - seen)
    except PortalError as error:
        return f"{error.message} {error.evidence}"
    except DatabaseError:
        raise  # of all of them
    except Exception as error:  # a bug that one output meets must not be in the way of the others
        logger.exception("output %s", output.uuid)
        return type(error).__name__
    return ""


def drop_unfinished() -> None:
    """Take away the objects of whoever died while writing them."""
    for part in Part.objects.filter(size__lte=0, begun__lt=Now() - UNFINISHED).select_related("output")[:MOST_AT_ONCE]:
        Part.objects.filter(pk=part.pk, size=0).update(size=-1)  # from now on it cannot become a part
        if Part.objects.filter(pk=part.pk, size=-1).exists():
            try:
                Store(part.output.store).delete(part.file)
            except PortalError as error:
                logger.warning("%s is left over: %s %s", part.file, error.message, error.evidence)
            else:
                part.delete()


class OutputWatcher:
    """Keeps outputs in a thread of its own. Several may run, in any process: they share the work."""

    EVERY = 15.0

    async def run(self, bell: Bell) -> None:
        stop = threading.Event()
        try:
            while True:
                if not await asyncio.to_thread(_look, stop):
                    await asyncio.sleep(self.EVERY)
        finally:
            stop.set()


def _look(stop: threading.Event) -> bool:
    try:
        more = keep_due(stop)
        drop_unfinished()
    except DatabaseError as error:
        logger.warning("outputs are not kept: %s", error)
        return False
    else:
        return more
    finally:
        connections.close_all()  # this thread's own
