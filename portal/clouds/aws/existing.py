"""A network that is not the portal's: looked at before it is used, and not changed.

What is ours in it: the security group of the files, that of the nodes where none was named, the filesystem and its
mount targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from botocore.exceptions import ClientError

from portal.clouds.aws import firewall, making
from portal.clouds.aws.choices import Choices
from portal.clouds.aws.firewall import EVERYWHERE, NFS, SSH, Rule
from portal.clouds.aws.options import Reach
from portal.clouds.aws.region import Region
from portal.clouds.aws.things import GROUP, SUBNET, TABLE, VPC, Kind, Ours, Thing, listed, where
from portal.clouds.aws.trouble import code_of, is_missing
from portal.errors import Refused

FREE = 16  # addresses that a subnet has left: for a mount target, and some nodes


def ensure(ours: Ours, chosen: Choices) -> None:
    check(ours.at, chosen)
    firewall.ensure(ours, chosen.vpc, chosen.vpc_groups)


def check(at: Region, chosen: Choices) -> None:
    """Raises `Refused` with all that stands against it, each as a sentence; its field is that of the first one."""
    against = list(_against(at, chosen))
    if not against:
        return
    field, first = against[0]
    more = len(against) - 1
    raise Refused(
        first if not more else f"{first} There is more: {more} further thing{'s' if more > 1 else ''}.",
        evidence="\n".join(said for _, said in against),
        advice="Change that in AWS and try again, or choose another network for a new workspace.",
        code="wrong_network",
        field=field,
    )


def _against(at: Region, chosen: Choices) -> Iterator[tuple[str, str]]:
    if not _named(at, VPC, [chosen.vpc]):
        yield "vpc", f"There is no {chosen.vpc} in {at.name}."
        return
    for attribute, about in (("enableDnsSupport", "DNS resolution"), ("enableDnsHostnames", "DNS hostnames")):
        if not making.has(at, chosen.vpc, attribute):
            yield "vpc", f"{chosen.vpc} has no {about}: filesystem and nodes are found by name."
    subnets = _named(at, SUBNET, chosen.vpc_subnets)
    yield from _against_subnets(at, chosen, subnets)
    if chosen.vpc_groups:
        groups = _named(at, GROUP, chosen.vpc_groups)
        inside = [one for one in groups if one["VpcId"] == chosen.vpc]
        for one in sorted(set(chosen.vpc_groups) - {group["GroupId"] for group in inside}):
            yield "vpc_groups", f"There is no security group {one} in {chosen.vpc}."
        yield from (("vpc_groups", said) for said in _against_groups(at, inside))


def _named(at: Region, kind: Kind, ids: Sequence[str]) -> list[Thing]:
    filters = [{"Name": {VPC: "vpc-id", SUBNET: "subnet-id", GROUP: "group-id"}[kind], "Values": list(ids)}]
    try:
        return listed(at, kind, filters)
    except ClientError as error:
        if is_missing(code_of(error)):
            return []
        raise


def _against_subnets(at: Region, chosen: Choices, subnets: list[Thing]) -> Iterator[tuple[str, str]]:
    name = "vpc_subnets"
    inside = {one["SubnetId"]: one for one in subnets if one["VpcId"] == chosen.vpc}
    for subnet in chosen.vpc_subnets:
        if subnet not in inside:
            yield name, f"There is no subnet {subnet} in {chosen.vpc}."
    zones: dict[str, str] = {}
    for subnet, one in inside.items():
        if other := zones.get(one["AvailabilityZone"]):
            yield name, f"{other} and {subnet} are in one zone, {one['AvailabilityZone']}. Name one subnet a zone."
        zones[one["AvailabilityZone"]] = subnet
        if one["AvailableIpAddressCount"] < FREE:
            yield name, f"{subnet} has {one['AvailableIpAddressCount']} free addresses; {FREE} are needed at least."
    tables = listed(at, TABLE, where(vpc_id=chosen.vpc))
    kinds = {subnet: way_out(tables, subnet) for subnet in inside}
    for subnet, way in kinds.items():
        if not way:
            yield name, f"{subnet} has no route to the Internet: neither an internet gateway nor a NAT gateway."
    ways = {way.startswith("igw-") for way in kinds.values() if way}
    if len(ways) == 2:
        yield name, "Some of the subnets are public, and others are private. Name subnets of one kind."
    elif ways == {False} and at.options.reach is Reach.PUBLIC:
        yield (
            name,
            "These subnets are private, and this portal reaches nodes at public addresses. Whoever runs the portal "
            "can change that where it is in this network, or is joined with it: PORTAL_AWS_REACH.",
        )


def way_out(tables: Iterable[Thing], subnet: str) -> str:
    """What leads to the Internet from a subnet: the id of an internet gateway, of something else, or nothing."""
    tables = list(tables)
    own = [one for one in tables if any(link.get("SubnetId") == subnet for link in one["Associations"])]
    main = [one for one in tables if any(link.get("Main") for link in one["Associations"])]
    for table in (own or main)[:1]:
        for route in table["Routes"]:
            if route.get("DestinationCidrBlock") == EVERYWHERE and route.get("State", "active") == "active":
                target = next((str(value) for name, value in route.items() if name in _TARGETS and value), "")
                if target:
                    return target
    return ""


_TARGETS = (
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "NetworkInterfaceId",
    "InstanceId",
    "VpcPeeringConnectionId",
)


def _against_groups(at: Region, groups: list[Thing]) -> Iterator[str]:
    """Each node has all of them: what one admits, all do."""
    names = {one["GroupId"] for one in groups}
    comes = {rule for one in groups for rule in Rule.of(one["IpPermissions"])}
    leaves = {rule for one in groups for rule in Rule.of(one["IpPermissionsEgress"])}

    def among(rules: set[Rule]) -> bool:
        return any(rule.is_all and rule.source in names for rule in rules)

    if not among(comes):
        yield "The security groups do not let nodes reach each other: add a rule for all traffic from the group itself."
    if not among(leaves) and not any(rule.is_all and rule.source == EVERYWHERE for rule in leaves):
        yield "The security groups do not let nodes reach each other: add a rule for all traffic to the group itself."
    for port, about in ((443, "the Internet"), (NFS, "the shared filesystem")):
        if not any(rule.admits(port) and (port == NFS or rule.source == EVERYWHERE) for rule in leaves):
            yield f"The security groups do not let nodes out to {about}: add a rule for TCP {port}."
    for network in firewall.shut_out(at, groups):
        yield f"The security groups do not admit SSH from the portal: add a rule for TCP {SSH} from {network}."
