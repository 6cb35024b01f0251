"""The store of an account: what belongs to whoever owns the account, and what several portals must agree on.

A folder; or a bucket with a table of locks. In it lie `deployments/`, which say what was made in the account, and
`outputs/`, what runs have printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from portal.errors import Refused

_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Lock:
    """The right to write under a name, until it ends or somebody has taken it over after that."""

    name: str
    owner: str
    fence: int  # larger for each new owner, for ever: what an earlier one still writes is refused
    until: datetime


class Store(Protocol):
    """Objects by name: words of letters, digits, `.`, `_` and `-`, between slashes. Raises `Passing` or `Refused`.

    Locks go by the store's own clock.
    """

    def put(self, name: str, data: bytes | Iterable[bytes], *, lock: Lock | None = None) -> None:
        """Write it whole or not at all. Raises `Conflict` where somebody else has taken the lock since.

        Pieces are asked for one after the other, and not all held at once; a large object may take longer than a
        minute. What asking for one raises gets out as it is, and nothing is written then.
        """
        ...

    def size(self, name: str) -> int | None:
        """How many bytes the object has. None where there is none."""
        ...

    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes | None:
        """The object, or so many bytes of it from `start` on, fewer at its end. None where there is none."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """The names that begin so, sorted."""
        ...

    def delete(self, name: str, *, lock: Lock | None = None) -> None:
        """Quiet where there is none. Raises `Conflict` as `put` does. A lock of the same name is gone with it."""
        ...

    def lock(self, name: str, *, owner: str, seconds: float, over: str = "") -> Lock | None:
        """Take the lock, or hold on to it for so long from now. None: somebody else has it.

        Whose lock has run out has it again under the same fence, if nobody has had it in between. `over` is an owner
        of whom it is known that nobody is left: the lock is taken from that one, but from no other.
        """
        ...

    def holder(self, name: str) -> Lock | None:
        """The lock as somebody has it now. None: it is nobody's."""
        ...

    def release(self, lock: Lock) -> None:
        """Let others have it. Quiet where they have it already."""
        ...


def checked(name: str) -> str:
    """The name of an object. Raises `Refused` for one that a store may not have."""
    if not _NAME.fullmatch(name) or len(name) > 500:
        raise Refused("An object of a store has a name of letters, digits and “._-”.", evidence=name[:200])
    return name
