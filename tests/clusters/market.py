"""A cloud in memory that offers as much as a large one: 1,400 instance types, zones, spot nodes, roles and prices."""

from __future__ import annotations

from decimal import Decimal

from portal.clouds import Can, Identity, InstanceType, Offer, Quota, Refused, Zone
from tests.clouds.bad import AccountOf, MemoryCloud

SIZES = (
    (2, "large"),
    (4, "xlarge"),
    (8, "2xlarge"),
    (16, "4xlarge"),
    (36, "9xlarge"),
    (72, "18xlarge"),
    (96, "24xlarge"),
)
FAMILIES = [
    f"{letter}{number}{more}" for letter in "cmrxz" for number in range(1, 9) for more in ("", "n", "g", "d", "i")
]


def types():
    """Seven of each of 200 families. Those with an n have a quick network, and those with a g another architecture."""
    found = []
    for family in FAMILIES:
        ratio = {"c": 2, "m": 4, "r": 8, "x": 16, "z": 8}[family[0]]
        for vcpus, size in SIZES:
            arm = family.endswith("g")
            found.append(
                InstanceType(
                    f"{family}.{size}", family.upper(), vcpus if arm else vcpus // 2, vcpus, float(vcpus * ratio),
                    accelerated_network=family.endswith("n"),
                    hourly_price=Decimal(vcpus * ratio) / 80,
                    architecture="arm64" if arm else "x86_64",
                    spot=not family.startswith("z"),
                )
            )  # fmt: skip
    return found


class MarketCloud(MemoryCloud):
    can = MemoryCloud.can | {Can.ZONE, Can.SPOT, Can.ROLE, Can.PRICES}
    types = types()

    def __init__(self):
        super().__init__()
        self.asked = []
        self.specs = []

    def zones(self):
        return [Zone("north-1a"), Zone("north-1b", "(new)")]

    def offer(self, instance_type, nodes, *, zone="", spot=False):
        self.asked.append((instance_type, nodes, zone, spot))
        kind = next(one for one in self.types if one.name == instance_type)
        price = kind.hourly_price * nodes / (4 if spot else 1)
        quota = Quota("vCPUs of standard nodes", kind.vcpus * nodes, 640)
        warnings = ("The zone was short of these yesterday.",) if zone == "north-1b" else ()
        return Offer(price, (quota,), warnings, "" if quota.is_enough else f"{nodes} of these are over your quota.")

    def ensure_nodes(self, spec, *, token=""):
        self.specs.append(spec)


class MarketAccount(AccountOf):
    def check_role(self, name):
        if name != "reader":
            raise Refused(f"There is no role {name}.", code="not_found")
        return Identity(name)

    def instance_types(self, region):
        return list(self._cloud.types)
