"""What a cluster that is to be made would be: its sums, its price, what stands in its way, when it would be ready."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from accounts.models import User
from clusters import offers, plans
from clusters.durations import in_words
from clusters.room import Holder, Room, Sums, holders
from portal.clouds import Can, InstanceType, Offer
from portal.tasks.history import Usual, usual_whole
from workspaces.models import Workspace


@dataclass(frozen=True)
class Wanted:
    instance_type: InstanceType
    nodes: int
    zone: str = ""
    spot: bool = False
    auto_pause: int | None = None  # in minutes, 0: never; None: not known, or not here

    @property
    def cores(self) -> int:
        return self.nodes * self.instance_type.cores

    @property
    def memory_gib(self) -> float:
        return self.nodes * self.instance_type.memory_gib

    def __str__(self) -> str:
        return f"{self.nodes} × {self.instance_type.name}"


@dataclass(frozen=True)
class Estimate:
    """`answer` is what the cloud says of it, if it does; `sums` what this computer has for it."""

    wanted: Wanted
    answer: offers.Answer[Offer]
    has_prices: bool
    sums: Sums | None
    ready: Usual | None
    samples: int
    holders: list[Holder]  # who has what is missing

    @property
    def hourly_price(self) -> Decimal | None:
        """Of all nodes, in US dollars. What the cloud says of them goes before what its list says of the type."""
        if self.answer.value and self.answer.value.hourly_price is not None:
            return self.answer.value.hourly_price
        price = self.wanted.instance_type.hourly_price
        return None if price is None or self.wanted.spot else price * self.wanted.nodes

    @property
    def node_price(self) -> Decimal | None:
        return None if self.hourly_price is None else self.hourly_price / self.wanted.nodes

    @property
    def idle_time(self) -> str:
        return in_words(self.wanted.auto_pause) if self.wanted.auto_pause else ""

    @property
    def idle_price(self) -> Decimal | None:
        """Of the time without activity until it is paused; of a day where it never is."""
        if self.hourly_price is None:
            return None
        return self.hourly_price * (self.wanted.auto_pause or 24 * 60) / 60

    @property
    def said(self) -> str:
        """For whoever hears the page."""
        price = f", ${self.hourly_price:,.2f} an hour" if self.hourly_price is not None else ""
        offer = self.answer.value
        trouble = f". {offer.impossible}" if offer and offer.impossible else ""
        if offer and not trouble and not all(quota.is_enough for quota in offer.quotas):
            trouble = ". There are not enough now"
        return f"{self.wanted}: {self.wanted.cores} cores{price}{trouble}"


def estimate(workspace: Workspace, wanted: Wanted, room: Room | None, *, seen_by: User) -> Estimate:
    kind = wanted.instance_type
    answer = offers.offer(workspace, kind.name, wanted.nodes, zone=wanted.zone, spot=wanted.spot)
    samples, ready = usual_whole(plans.CREATE.kind, workspace.cloud_config.kind)
    sums = room.sum_of(kind, wanted.nodes) if room else None
    held = [subject for quota in (answer.value.quotas if answer.value else ()) for subject in quota.held_by]
    who = holders(seen_by, held)
    return Estimate(wanted, answer, Can.PRICES in workspace.can, sums, ready, samples, who)


def node_price(workspace: Workspace, wanted: Wanted, *, seen_by: User) -> Decimal | None:
    """What the plan beside the form has said a node costs an hour."""
    return estimate(workspace, wanted, None, seen_by=seen_by).node_price
