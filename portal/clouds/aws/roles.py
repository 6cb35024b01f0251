"""What nodes may do in the account: a role of the cluster's own, or one that its owner has registered."""

from __future__ import annotations

from portal.clouds.aws.session import Session
from portal.clouds.types import Identity, RoleSpec, Tags
from portal.errors import Pending


def check(session: Session, name: str) -> Identity:
    raise NotImplementedError


def attach(session: Session, name: str) -> None:
    raise NotImplementedError


def detach(session: Session, name: str) -> None:
    raise NotImplementedError


def ensure(session: Session, spec: RoleSpec) -> Pending | None:
    raise NotImplementedError


def delete(session: Session, tags: Tags) -> Pending | None:
    raise NotImplementedError
