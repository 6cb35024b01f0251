"""From the size of a Snowflake warehouse to a cluster that may do its work: where to start from, no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from clusters.offers import Catalogue
from portal.clouds import InstanceType


@dataclass(frozen=True)
class _Kind:
    """An instance type that the table names, and how large it is where it is had."""

    name: str
    cores: int
    memory_gib: float


_SMALL = _Kind("c5n.2xlarge", 4, 21)
_R4, _R8, _R24 = _Kind("r5n.4xlarge", 8, 128), _Kind("r5n.8xlarge", 16, 256), _Kind("r5n.24xlarge", 48, 768)
_TABLE: Mapping[str, tuple[int, _Kind]] = {
    "XS": (1, _SMALL),
    "S": (1, _R4),
    "M": (1, _R8),
    "L": (1, _R24),
    "XL": (2, _R24),
    "2XL": (5, _R24),
}


@dataclass(frozen=True)
class Start:
    """Where to start from instead of a warehouse of this size, with what can be had."""

    size: str
    nodes: int
    instance_type: InstanceType
    instead_of: str = ""  # the type that the table names, where it cannot be had

    @property
    def cores(self) -> int:
        return self.nodes * self.instance_type.cores

    @property
    def hourly_price(self) -> Decimal | None:
        price = self.instance_type.hourly_price
        return None if price is None else price * self.nodes


def starts(catalogue: Catalogue | None) -> list[Start]:
    """Smallest first; nothing where nothing is offered."""
    if catalogue is None or not catalogue.types:
        return []
    found = []
    for size, (nodes, kind) in _TABLE.items():
        exact = catalogue.named.get(kind.name)
        near = exact or catalogue.nearest(kind.cores, kind.memory_gib)
        assert near is not None
        found.append(Start(size, nodes, near, "" if exact else kind.name))
    return found
