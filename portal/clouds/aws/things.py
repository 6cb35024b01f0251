"""The kinds of things that the portal makes in a region with EC2, and how those of one subject are found by their tags.

Kinds, their filters and states: the reference of Amazon EC2's API, at each Describe call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from portal.clouds.aws import tags as tagging
from portal.clouds.aws.region import Region
from portal.clouds.types import Tags

Thing = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    word: str  # for people
    operation: str  # that lists them
    under: str  # what its answer calls them
    id: str  # what it calls their id
    tagged: str  # what a call that makes one calls its tags' kind
    filters: str = "Filters"  # what it calls filters
    gone: frozenset[str] = frozenset()  # states in which one is listed for a while after its end
    going: frozenset[str] = frozenset()  # … and before it


VPC = Kind("VPC", "describe_vpcs", "Vpcs", "VpcId", "vpc")
SUBNET = Kind("subnet", "describe_subnets", "Subnets", "SubnetId", "subnet")
GATEWAY = Kind(
    "internet gateway", "describe_internet_gateways", "InternetGateways", "InternetGatewayId", "internet-gateway"
)
TABLE = Kind("route table", "describe_route_tables", "RouteTables", "RouteTableId", "route-table")
GROUP = Kind("security group", "describe_security_groups", "SecurityGroups", "GroupId", "security-group")
ADDRESS = Kind("elastic IP address", "describe_addresses", "Addresses", "AllocationId", "elastic-ip")
NAT = Kind(
    "NAT gateway",
    "describe_nat_gateways",
    "NatGateways",
    "NatGatewayId",
    "natgateway",
    filters="Filter",
    gone=frozenset({"deleted"}),
    going=frozenset({"deleting"}),
)
ENDPOINT = Kind(
    "VPC endpoint",
    "describe_vpc_endpoints",
    "VpcEndpoints",
    "VpcEndpointId",
    "vpc-endpoint",
    gone=frozenset({"deleted"}),
    going=frozenset({"deleting"}),
)
INTERFACE = Kind(
    "network interface",
    "describe_network_interfaces",
    "NetworkInterfaces",
    "NetworkInterfaceId",
    "network-interface",
    going=frozenset({"detaching"}),
)
INSTANCE = Kind(
    "instance",
    "describe_instances",
    "Reservations[].Instances[]",
    "InstanceId",
    "instance",
    gone=frozenset({"terminated"}),
    going=frozenset({"shutting-down"}),
)
VOLUME = Kind("volume", "describe_volumes", "Volumes", "VolumeId", "volume", going=frozenset({"deleting"}))
TEMPLATE = Kind(
    "launch template", "describe_launch_templates", "LaunchTemplates", "LaunchTemplateId", "launch-template"
)
PLACEMENT = Kind(
    "placement group",
    "describe_placement_groups",
    "PlacementGroups",
    "GroupName",
    "placement-group",
    gone=frozenset({"deleted"}),
    going=frozenset({"deleting"}),
)
SPOT = Kind(
    "spot request",
    "describe_spot_instance_requests",
    "SpotInstanceRequests",
    "SpotInstanceRequestId",
    "spot-instances-request",
    gone=frozenset({"closed", "cancelled", "failed"}),
)

KINDS = (
    VPC,
    SUBNET,
    GATEWAY,
    TABLE,
    GROUP,
    ADDRESS,
    NAT,
    ENDPOINT,
    INTERFACE,
    INSTANCE,
    VOLUME,
    TEMPLATE,
    PLACEMENT,
    SPOT,
)


def listed(at: Region, kind: Kind, filters: list[dict[str, Any]]) -> list[Thing]:
    """What there is of a kind, but for what is gone."""
    asked: dict[str, Any] = {kind.filters: filters}
    found = at.every(kind.operation, kind.under, **asked)
    return [one for one in found if state(one) not in kind.gone]


def state(thing: Thing) -> str:
    """Of a thing that has one. Services write it in their own ways."""
    said = thing.get("State") or thing.get("Status") or ""
    return str(said["Name"] if isinstance(said, Mapping) else said).lower()


def where(**filters: str) -> list[dict[str, Any]]:
    """Filters of a Describe call: `vpc_id` is vpc-id."""
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]


@dataclass(frozen=True)
class Ours:
    """The things of one subject in a region."""

    at: Region
    tags: Tags
    extra: tuple[tuple[str, str], ...] = ()

    def every(self, kind: Kind, *, part: str = "", **filters: str) -> list[Thing]:
        """Lowest id first, so that everybody who looks takes the same one for the first."""
        more = {"part": part} if part else {}
        found = listed(self.at, kind, [*tagging.filters(self.tags, **more), *where(**filters)])
        return sorted(found, key=lambda one: str(one[kind.id]))

    def written(self, kind: Kind, *, part: str = "") -> list[dict[str, Any]]:
        """Tags for the call that makes one."""
        return tagging.specified(kind.tagged, tagging.written(self.tags, self.extra, name=self.name(part), **_of(part)))

    def name(self, part: str = "") -> str:
        """What AWS's console shows."""
        return "-".join(filter(None, ["coxswain", self.tags.subject[:8], part]))

    def one(
        self,
        kind: Kind,
        *,
        remove: Callable[[Thing], object],
        used: Callable[[Thing], object] = bool,
        part: str = "",
        **filters: str,
    ) -> Thing | None:
        """The one that there is to be. Where a lost answer has made two, the one in use is kept, or the first one."""
        found = sorted(self.every(kind, part=part, **filters), key=lambda one: not used(one))
        for other in found[1:]:
            remove(other)
        return found[0] if found else None


def _of(part: str) -> dict[str, str]:
    return {"part": part} if part else {}


def part_of(thing: Thing) -> str:
    return tagging.read(thing.get("Tags")).get(tagging.PART, "")


def ids(kind: Kind, things: Collection[Thing]) -> list[str]:
    return [str(one[kind.id]) for one in things]
