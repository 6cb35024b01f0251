"""What goes on in an organization, as the apps above tell it: each puts a function into `tellers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accounts.models import Organization, User
from portal.states import Badge


@dataclass(frozen=True)
class Holding:
    """One thing that goes on."""

    name: str
    workspace: str
    badge: Badge
    url: str
    cancel: Callable[[User], object]  # by whom; called in the transaction of whatever makes it necessary


tellers: list[Callable[..., list[Holding]]] = []  # told by the apps, in `ready` of their `apps.py`
# Called when an organization is deleted, in that transaction: what of the app's is of no use after it goes. May refuse.
closers: list[Callable[[Organization], None]] = []


def holdings(
    organization: Organization, *, seen_by: User | None = None, started_by: User | None = None, workspace: Any = None
) -> list[Holding]:
    """What runs now: all of it, or what one may look into, or what one has started and may be cancelled."""
    found: list[Holding] = []
    for tell in tellers:
        found += tell(organization, seen_by=seen_by, started_by=started_by, workspace=workspace)
    return found
