"""The store of "This computer": a folder, and in it `.locks` and `.drafts`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from portal.clouds.local.records import read_json, write_atomically
from portal.clouds.local.trouble import told
from portal.clouds.stores import Lock, checked
from portal.errors import Conflict

_DRAFTS = ".drafts"
_OLD = 24 * 3600.0  # seconds after which nobody writes a draft any more


class FolderStore:
    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, data: bytes | Iterable[bytes], *, lock: Lock | None = None) -> None:
        path = self.root / checked(name)
        draft = self._draft([data] if isinstance(data, bytes) else data, path.name)
        try:
            with told(), self._turn():  # lest somebody takes its folder away just now
                self._prove(lock)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.replace(draft, path)
                for folder in (path.parent, *path.parent.parents):  # a new one is an entry in the one above it
                    _flush(folder)
                    if folder == self.root:
                        break
        finally:
            draft.unlink(missing_ok=True)

    def _draft(self, pieces: Iterable[bytes], name: str) -> Path:
        """A file with all of it, on the disk."""
        with told():
            drafts = self.root / _DRAFTS
            drafts.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget_old(drafts)
            number, path = tempfile.mkstemp(prefix=f"{name}.", dir=drafts)
        draft = Path(path)
        try:
            with open(number, "wb") as file:
                for piece in pieces:
                    with told():
                        file.write(piece)
                with told():
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return draft

    def size(self, name: str) -> int | None:
        with told(), contextlib.suppress(FileNotFoundError):
            return os.stat(self.root / checked(name)).st_size
        return None

    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes | None:
        with told(), contextlib.suppress(FileNotFoundError), open(self.root / checked(name), "rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)
        return None

    def list(self, prefix: str = "") -> list[str]:
        with told():
            folder = prefix.rpartition("/")[0]
            inside = self.root / checked(folder) if folder else self.root
            found = (path.relative_to(self.root) for path in inside.rglob("*") if path.is_file())
            names = (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
            return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str, *, lock: Lock | None = None) -> None:
        with told(), self._turn():
            self._prove(lock)
            path = self.root / checked(name)
            path.unlink(missing_ok=True)
            if lock and lock.name == name:
                self._place(name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others are in there, or it is gone
                path.parent.rmdir()

    def lock(self, name: str, *, owner: str, seconds: float, over: str = "") -> Lock | None:
        with told(), self._turn():
            held, now = self._held(name), time.time()
            if held.get("owner") not in (owner, "", over, None) and held["until"] > now:
                return None
            fence = held.get("fence", 0) + (held.get("owner") != owner)
            self._write(name, owner=owner, fence=fence, until=now + seconds)
            return Lock(name, owner, fence, datetime.fromtimestamp(now + seconds, UTC))

    def holder(self, name: str) -> Lock | None:
        with told(), self._turn():
            held = self._held(name)
            if not held.get("owner") or held["until"] <= time.time():
                return None
            return Lock(name, held["owner"], held["fence"], datetime.fromtimestamp(held["until"], UTC))

    def release(self, lock: Lock) -> None:
        with told(), self._turn():
            held = self._held(lock.name)
            if (held.get("owner"), held.get("fence")) == (lock.owner, lock.fence):
                self._write(lock.name, owner="", fence=lock.fence, until=0.0)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One process at a time."""
        (self.root / ".locks").mkdir(mode=0o700, parents=True, exist_ok=True)
        turn = os.open(self.root / ".locks" / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield
        finally:
            os.close(turn)

    def _place(self, name: str) -> Path:
        return self.root / ".locks" / f"{checked(name).replace('/', '@')}.json"

    def _held(self, name: str) -> dict[str, Any]:
        return read_json(self._place(name)) or {}

    def _write(self, name: str, **held: object) -> None:
        write_atomically(self._place(name), json.dumps(held).encode())

    def _prove(self, lock: Lock | None) -> None:
        if lock is None:
            return
        held = self._held(lock.name)
        if (held.get("owner"), held.get("fence")) != (lock.owner, lock.fence):
            raise Conflict("Somebody else works on this now.", evidence=f"{lock.name}: {held.get('owner') or 'nobody'}")


def _forget_old(drafts: Path) -> None:
    """Of those who died while writing one."""
    with os.scandir(drafts) as found:
        for draft in found:
            with contextlib.suppress(FileNotFoundError):  # just finished
                if draft.stat().st_mtime < time.time() - _OLD:
                    os.unlink(draft)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
