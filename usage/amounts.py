"""How much was used: whole minutes and exact dollars, which are rounded where they are shown and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Amount:
    """Minutes of nodes, and of cores. `dollar_minutes` is minutes of nodes by their price per hour."""

    node_minutes: int = 0
    core_minutes: int = 0
    free_minutes: int = 0  # of the node-minutes: those without a price
    dollar_minutes: Decimal | None = None  # None: nothing of it has a price

    @classmethod
    def of(cls, minutes: int, *, nodes: int, cores: int, price: Decimal | None) -> Amount:
        """Of one cluster, with so many cores a node, by the price of a node and hour; None where nobody charges."""
        node_minutes = minutes * nodes
        return cls(
            node_minutes=node_minutes,
            core_minutes=node_minutes * cores,
            free_minutes=node_minutes if price is None else 0,
            dollar_minutes=None if price is None else node_minutes * price,
        )

    def __add__(self, other: Amount) -> Amount:
        charged = [dollars for dollars in (self.dollar_minutes, other.dollar_minutes) if dollars is not None]
        return Amount(
            self.node_minutes + other.node_minutes,
            self.core_minutes + other.core_minutes,
            self.free_minutes + other.free_minutes,
            sum(charged, Decimal()) if charged else None,
        )

    @property
    def node_hours(self) -> Decimal:
        return Decimal(self.node_minutes) / 60

    @property
    def core_hours(self) -> Decimal:
        return Decimal(self.core_minutes) / 60

    @property
    def free_hours(self) -> Decimal:
        return Decimal(self.free_minutes) / 60

    @property
    def cost(self) -> Decimal | None:
        """In US dollars; None where nothing of it has a price."""
        return None if self.dollar_minutes is None else self.dollar_minutes / 60
