"""What is known of a region's instance types beside their list, and what that makes of nodes that somebody thinks of.

It is read from rows: all that is in it can be written as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

from portal.clouds.types import InstanceType, Offer, Quota

# How many instances run in the region of the account, whoever has made them: by type, those on demand and spot ones.
Running: TypeAlias = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Limit:
    """How many vCPUs of some families an account may have at once."""

    name: str
    families: str  # a regular expression: what their names begin with
    spot: bool
    most: int | None  # None: the cloud does not say


@dataclass(frozen=True)
class Market:
    zones: Mapping[str, Sequence[str]] = field(default_factory=dict)  # that have it, by type; empty: it is not known
    spot_prices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # dollars an hour, by type and zone
    limits: Sequence[Limit] = ()

    def offer(
        self,
        kind: InstanceType,
        nodes: int,
        *,
        zone: str = "",
        spot: bool = False,
        running: Running,
        vcpus: Mapping[str, int],
    ) -> Offer:
        """`vcpus` by type, of those that run; the price of `kind` is that on demand."""
        where = self.zones.get(kind.name, ())
        if zone and self.zones and zone not in where:
            others = f"Those that have it: {', '.join(where)}." if where else ""
            return Offer(None, impossible=f"{kind.name} cannot be had in {zone}. {others}".strip())
        if spot and not kind.spot:
            return Offer(None, impossible=f"{kind.name} cannot be had as a spot node.")
        warnings = []
        price = self._spot_price(kind.name, zone) if spot else kind.hourly_price
        if price is None:
            warnings.append("The cloud does not say what it costs." + (" There may be no spot nodes." if spot else ""))
        limit = next((one for one in self.limits if one.spot == spot and re.match(one.families, kind.name)), None)
        if limit and limit.most is None:
            warnings.append("The cloud does not say how many vCPUs the account may have.")
        if len(where) == 1 and not zone:
            warnings.append(f"Only {where[0]} has this type.")
        quotas = (_quota(limit, kind.vcpus * nodes, running, vcpus),) if limit else ()
        return Offer(None if price is None else price * nodes, quotas, tuple(warnings))

    def _spot_price(self, name: str, zone: str) -> Decimal | None:
        """The highest of the zones in which the nodes may come to be: nobody is promised less."""
        prices = self.spot_prices.get(name, {})
        return max((Decimal(price) for where, price in prices.items() if zone in ("", where)), default=None)


def _quota(limit: Limit, asked: int, running: Running, vcpus: Mapping[str, int]) -> Quota:
    used = sum(
        count[limit.spot] * vcpus.get(name, 0) for name, count in running.items() if re.match(limit.families, name)
    )
    return Quota(limit.name, asked, None if limit.most is None else max(0, limit.most - used))
