"""The metadata store: a bucket, and a table of locks."""

from __future__ import annotations

from collections.abc import Iterable

from portal.clouds.aws.session import Session
from portal.clouds.stores import Lock


class AwsStore:
    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, name: str, data: bytes | Iterable[bytes], *, lock: Lock | None = None) -> None:
        raise NotImplementedError

    def size(self, name: str) -> int | None:
        raise NotImplementedError

    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes | None:
        raise NotImplementedError

    def list(self, prefix: str = "") -> list[str]:
        raise NotImplementedError

    def delete(self, name: str, *, lock: Lock | None = None) -> None:
        raise NotImplementedError

    def lock(self, name: str, *, owner: str, seconds: float) -> Lock | None:
        raise NotImplementedError

    def release(self, lock: Lock) -> None:
        raise NotImplementedError
