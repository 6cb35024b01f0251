"""What can go wrong in a cloud or on a node, sorted by what should happen next."""

from __future__ import annotations


class PortalError(Exception):
    """Something a person should read.

    `message` is a sentence for people, shown as it is; `evidence` is what a machine said (a line of
    output, an error code); `advice` is the next step. Never put a secret in any of them.
    """

    def __init__(self, message: str, *, evidence: str = "", advice: str = "") -> None:
        self.message = message
        self.evidence = evidence
        self.advice = advice
        super().__init__(message)


class Refused(PortalError):
    """Trying again will not help: quota, bad credentials, an unknown instance type, a changed host key."""


class Passing(PortalError):
    """A passing fault: throttling, a lost connection, a node that boots. Worth another try."""
