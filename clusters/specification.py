"""What a cluster is to be, kept before there is one: a job has it, and each of its runs has a cluster made by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Self

from clusters.models import Cluster, EngineVersion
from portal.clouds import InstanceType
from portal.errors import PortalError


@dataclass(frozen=True)
class Specification:
    """As the form of a cluster was filled in, without what a cluster of one run has no use for: a name and timers.

    `hourly_price`: of a node, where that of its instance type is not right.
    """

    instance_type: InstanceType
    node_count: int
    engine: tuple[str, str]  # kind and version
    zone: str = ""
    spot: bool = False
    role: str = ""
    extra_tags: Mapping[str, str] = field(default_factory=dict)
    hourly_price: Decimal | None = None

    @classmethod
    def of(cls, cleaned: Mapping[str, Any], hourly_price: Decimal | None = None) -> Self:
        """By what a form has found valid; where its cloud lacks something, the form lacks the field."""
        engine: EngineVersion = cleaned["engine_version"]
        more = {name: cleaned[name] for name in ("zone", "spot", "role", "extra_tags") if name in cleaned}
        return cls(
            cleaned["instance_type"],
            cleaned["node_count"],
            (engine.kind, engine.version),
            **more,
            hourly_price=hourly_price,
        )

    @classmethod
    def of_cluster(cls, cluster: Cluster) -> Self:
        """Of one more like it. Its instance type has what a cluster keeps of one: no memory."""
        same = {name: getattr(cluster, name) for name in ("node_count", "zone", "spot", "role", "extra_tags")}
        engine, cores, price = cluster.engine_version, cluster.cores_per_node, cluster.hourly_price
        kind = InstanceType(cluster.instance_type, "", cores, vcpus=cores, memory_gib=0, hourly_price=price)
        return cls(kind, engine=(engine.kind, engine.version), hourly_price=price, **same)

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Self:
        """What `kept` has written."""
        kind = {**kept["instance_type"], "hourly_price": _price(kept["instance_type"]["hourly_price"])}
        engine, price = tuple(kept["engine"]), _price(kept["hourly_price"])
        return cls(**{**kept, "instance_type": InstanceType(**kind), "engine": engine, "hourly_price": price})

    @property
    def kept(self) -> dict[str, Any]:
        """For a JSON field. How many there are of an instance type, and are free, is true for a moment only."""
        kind = {**asdict(self.instance_type), "there": None, "free": None}
        kind["hourly_price"] = _text(self.instance_type.hourly_price)
        mine = {name: value for name, value in vars(self).items() if name != "instance_type"}
        return {
            **mine,
            "instance_type": kind,
            "engine": list(self.engine),
            "extra_tags": dict(self.extra_tags),
            "hourly_price": _text(self.hourly_price),
        }

    @property
    def chosen(self) -> dict[str, Any]:
        """For `create_cluster`. Raises `PortalError` where the engine version is not known any more."""
        kind, version = self.engine
        engine = EngineVersion.objects.filter(kind=kind, version=version).first()
        if engine is None:
            raise PortalError(f"{self.engine_words} is not known here any more. Choose another engine version.")
        mine = {name: value for name, value in vars(self).items() if name != "engine"}
        return {**mine, "engine_version": engine}

    @property
    def filled_in(self) -> dict[str, Any]:
        """For a form in which it is to be seen again."""
        kind, version = self.engine
        engine = EngineVersion.objects.filter(kind=kind, version=version).values_list("pk", flat=True).first()
        same = {name: getattr(self, name) for name in ("node_count", "zone", "spot", "role", "extra_tags")}
        return {**same, "instance_type": self.instance_type.name, "engine_version": engine}

    @property
    def cores(self) -> int:
        return self.node_count * self.instance_type.cores

    @property
    def price(self) -> Decimal | None:
        """Of all nodes, an hour, in US dollars. None: not known, or nobody charges."""
        node = self.hourly_price if self.hourly_price is not None or self.spot else self.instance_type.hourly_price
        return None if node is None else node * self.node_count

    @property
    def engine_words(self) -> str:
        kind, version = self.engine
        return str(EngineVersion(kind=kind, version=version))

    @property
    def nodes(self) -> str:
        return f"{self.node_count} × {self.instance_type.name}"

    def __str__(self) -> str:
        return f"{self.nodes}, {self.engine_words}"


def _text(price: Decimal | None) -> str | None:
    return None if price is None else str(price)


def _price(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
