"""In which words every floor reports trouble, sorted by what should happen next."""

from __future__ import annotations

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


class Passing(PortalError):
    """A passing fault: throttling, a lost connection, a node that boots. Worth another try."""

    code = "passing"


class Conflict(PortalError):
    """What is there is in no state for that, or somebody else was first. Nothing was changed."""

    code = "conflict"


class Taken(Conflict):
    """Another row has this name, or what else may be there once. Nothing was changed."""

    code = "taken"
