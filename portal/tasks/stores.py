"""Where kept outputs lie: in the store of an account, or in the portal's own, an entry of settings.STORAGES.

What is needed of it is little: write an object once, piece by piece; read a range of it; delete it. Every storage of
Django can do that, and one that has its objects far away should also have `read_range`, because opening an object to
read some KiB of it would fetch all of it there.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import FileSystemStorage, storages
from django.db import DatabaseError

from portal import clouds
from portal.errors import Passing, PortalError
from portal.tasks import registry

OWN = "outputs"  # the portal's own store
_PIECE = 1024 * 1024


@runtime_checkable
class Ranged(Protocol):
    """A storage that can read a part of an object without the rest."""

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """At most so many bytes from `start` on; fewer at the end of the object."""


class Folder(FileSystemStorage):
    """A folder of this computer, or one that all hosts mount. What is saved is on the disk when `save` returns."""

    def read_range(self, name: str, start: int, size: int) -> bytes:
        with open(self.path(name), "rb", buffering=0) as file:
            file.seek(start)
            found = file.read(size)
            # A network's file system may give less than there is.
            while 0 < len(found) < size and (more := file.read(size - len(found))):
                found += more
            return found

    def save(self, name: str | None, content: Any, max_length: int | None = None) -> str:
        saved: str = super().save(name, content, max_length)
        path = Path(self.path(saved))
        for one in (path, path.parent, path.parent.parent):  # a new folder is an entry in the one above it
            _flush(one)
        return saved


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class OfAccount:
    """The store of an account, as a storage."""

    def __init__(self, store: clouds.Store) -> None:
        self.store = store

    def save(self, name: str, content: File[bytes]) -> str:
        self.store.put(name, iter(lambda: content.read(_PIECE), b""))
        return name

    def size(self, name: str) -> int:
        return self.store.size(name) or 0

    def read_range(self, name: str, start: int, size: int) -> bytes:
        return self.store.get(name, start, size) or b""

    def delete(self, name: str) -> None:
        self.store.delete(name)


class Store:
    """A store by its name. Whatever goes wrong in it is `Passing`, in words: it may be there again later."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def title(self) -> str:
        """For people, at the beginning of a sentence."""
        return f"The store “{self.name}”" if self.name in settings.STORAGES else "The cloud configuration's store"

    @property
    def _storage(self) -> Any:
        return storages[self.name] if self.name in settings.STORAGES else OfAccount(registry.store(self.name))

    def write(self, name: str, pieces: Iterable[bytes]) -> str:
        """A new object, of pieces that are asked for one after the other. Returns what it is called in the end."""
        with _in_words(f"{self.title} did not take an output."):
            saved: str = self._storage.save(name, File(io.BufferedReader(_Pieces(pieces), _PIECE), name=name))
            return saved

    def size(self, name: str) -> int:
        with _in_words(f"{self.title} does not say how large an output is."):
            return int(self._storage.size(name))

    def read(self, name: str, start: int, size: int) -> bytes:
        """Exactly this range."""
        with _in_words(f"{self.title} does not give an output."):
            storage = self._storage
            if isinstance(storage, Ranged):
                found = storage.read_range(name, start, size)
            else:
                with storage.open(name, "rb") as file:
                    file.seek(start)
                    found = file.read(size)
            if len(found) != size:
                raise EOFError(f"{name} has {len(found)} of {size} bytes at {start}")
            return bytes(found)

    def delete(self, name: str) -> None:
        """No error when it is not there."""
        with _in_words(f"{self.title} did not delete an object."):
            self._storage.delete(name)


@contextmanager
def _in_words(sentence: str) -> Iterator[None]:
    try:
        yield
    except _OfPieces as error:
        raise error.why from None
    except DatabaseError:
        raise
    except Exception as error:  # a storage may raise what its SDK does
        advice = "It is tried again. Until then nothing of the output is lost; look at the store if it goes on."
        what = f"{error.message} {error.evidence}" if isinstance(error, PortalError) else f"{error}"
        raise Passing(sentence, evidence=f"{type(error).__name__}: {what}".rstrip(), advice=advice) from error


class _OfPieces(Exception):
    """Whoever makes the pieces has failed, not the store."""

    def __init__(self, why: Exception) -> None:
        self.why = why


class _Pieces(io.RawIOBase):
    """A file to be read once, from beginning to end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except Exception as error:
                raise _OfPieces(error) from error
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
