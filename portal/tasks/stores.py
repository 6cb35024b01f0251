"""Where kept outputs lie: a store is an entry of settings.STORAGES, by its name.

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

from django.core.files.base import File
from django.core.files.storage import FileSystemStorage, storages
from django.db import DatabaseError

from portal.errors import Passing, PortalError


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


class Store:
    """A store by its name. Whatever goes wrong in it is `Passing`, in words: it may be there again later."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, name: str, pieces: Iterable[bytes]) -> str:
        """A new object, of pieces that are asked for one after the other. Returns what it is called in the end."""
        with _in_words(f"The store “{self.name}” did not take an output."):
            return storages[self.name].save(name, File(io.BufferedReader(_Pieces(pieces), 1024 * 1024), name=name))

    def size(self, name: str) -> int:
        with _in_words(f"The store “{self.name}” does not say how large an output is."):
            return int(storages[self.name].size(name))

    def read(self, name: str, start: int, size: int) -> bytes:
        """Exactly this range."""
        with _in_words(f"The store “{self.name}” does not give an output."):
            storage: Any = storages[self.name]
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
        with _in_words(f"The store “{self.name}” did not delete an object."):
            storages[self.name].delete(name)


@contextmanager
def _in_words(sentence: str) -> Iterator[None]:
    try:
        yield
    except (PortalError, DatabaseError):  # of whoever makes the pieces
        raise
    except Exception as error:  # a storage may raise what its SDK does
        advice = "It is tried again. Until then nothing of the output is lost; look at the store if it goes on."
        raise Passing(sentence, evidence=f"{type(error).__name__}: {error}", advice=advice) from error


class _Pieces(io.RawIOBase):
    """A file to be read once, from beginning to end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
