"""In which words every floor reports trouble, sorted by what should happen next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from portal.text import storable


class PortalError(Exception):
    """Something a person should read.

    `message` is a sentence for people, shown as it is; `evidence` is what a machine said (a line of output, an error
    code); `advice` is the next step; `code` is for programs, and stays the same when the sentence is put better;
    `field` is the one of a form that it is about. Never put a secret in any of them.
    """

    code = "failed"

    def __init__(self, message: str, *, evidence: str = "", advice: str = "", code: str = "", field: str = "") -> None:
        self.message, self.evidence, self.advice = map(storable, (message, evidence, advice))
        self.field = field
        if code:
            self.code = code
        super().__init__(self.message)


class Refused(PortalError):
    """Trying again will not help: quota, bad credentials, an unknown instance type, a changed host key."""

    code = "refused"


@dataclass(frozen=True)
class Alternative:
    """What may be had instead."""

    zone: str = ""
    instance_type: str = ""

    def __str__(self) -> str:
        return " in ".join(filter(None, [self.instance_type, self.zone]))


class NoRoom(Refused):
    """A cloud has no more of it just now. Some of what a call asked for may have been made: it is found by its tags."""

    code = "no_room"

    def __init__(
        self,
        message: str,
        alternatives: Sequence[Alternative] = (),
        *,
        evidence: str = "",
        held_by: Sequence[str] = (),
    ) -> None:
        """`held_by`: the subjects of those that have what is missing, one a node, where the cloud knows."""
        self.alternatives = tuple(alternatives)
        self.held_by = tuple(held_by)
        others = f"Try {' or '.join(map(str, self.alternatives))}." if self.alternatives else "Try again later."
        super().__init__(message, evidence=evidence, advice=others)


class Passing(PortalError):
    """A passing fault: throttling, a lost connection, a node that boots. Worth another try."""

    code = "passing"


class Conflict(PortalError):
    """What is there is in no state for that, or somebody else was first. Nothing was changed."""

    code = "conflict"


class Taken(Conflict):
    """Another row has this name, or what else may be there once. Nothing was changed."""

    code = "taken"


@dataclass(frozen=True)
class Pending:
    """No trouble: what was asked for is on its way, and needs time. Ask again with the same words.

    `detail` says to people what is awaited, and `look_in` after how many seconds a look is worth it. `token` is given
    back in the next call: by it a cloud finds a long operation of its own. It may be lost, and has no secret in it.
    """

    detail: str
    look_in: float
    code: str = ""  # for programs, like that of an error
    starts: datetime | None = None  # when it is expected, where a queue says so: until then no patience is used up
    final: bool = False  # it will never come by itself, so waiting is of no use
    token: str = ""
