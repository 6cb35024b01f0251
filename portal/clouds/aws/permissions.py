"""Who the portal is in an account, and what it is allowed there."""

from __future__ import annotations

from portal.clouds.aws.session import Session
from portal.clouds.types import Identity, Permission, Region


def identity(session: Session) -> Identity:
    raise NotImplementedError


def ask(session: Session) -> list[Permission]:
    raise NotImplementedError


def regions(session: Session) -> list[Region]:
    raise NotImplementedError
