"""A VPC of the portal's: a subnet in each zone, a way to the Internet, and to S3 without a detour.

Each thing is found by its tags, and made only where it is missing. Whoever dies in between leaves what the next one
finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

from botocore.exceptions import ClientError

from portal.clouds.aws import firewall, teardown
from portal.clouds.aws.choices import Choices, Kind, free_range, network_of
from portal.clouds.aws.region import Region
from portal.clouds.aws.things import (
    ADDRESS,
    ENDPOINT,
    GATEWAY,
    NAT,
    SUBNET,
    TABLE,
    VPC,
    Ours,
    Thing,
    part_of,
    state,
    where,
)
from portal.clouds.aws.trouble import code_of, passed_over
from portal.errors import Passing, Pending, Refused

MOST_ZONES = 6  # that a network is in; a subnet and a mount target cost nothing
PUBLIC, PRIVATE = "public", "private"  # parts: route tables, and a subnet in each zone
EVERYWHERE = "0.0.0.0/0"


def ensure(ours: Ours, chosen: Choices) -> Pending | None:
    vpc = _vpc(ours, chosen)
    subnets = _subnets(ours, vpc, chosen.subnets)
    gateway = _gateway(ours, vpc["VpcId"])
    tables = [_table(ours, vpc["VpcId"], PUBLIC, subnets)]
    _route(ours, tables[0], "GatewayId", gateway)
    firewall.ensure(ours, vpc["VpcId"])
    if chosen.subnets is Kind.PRIVATE:
        tables.append(_table(ours, vpc["VpcId"], PRIVATE, subnets))
    _endpoint(ours, vpc["VpcId"], tables)
    return _nat(ours, subnets, tables[1]) if chosen.subnets is Kind.PRIVATE else None


def _vpc(ours: Ours, chosen: Choices) -> Thing:
    """Of two, the one that already has a subnet of ours is kept."""
    begun = {subnet["VpcId"] for subnet in ours.every(SUBNET)}
    found = ours.one(VPC, used=lambda one: one["VpcId"] in begun, remove=lambda one: teardown.now(ours, one["VpcId"]))
    if found is None:
        block = _free(ours.at, chosen)
        found = ours.at.ec2.create_vpc(CidrBlock=str(block), TagSpecifications=ours.written(VPC))["Vpc"]
    for attribute in ("enableDnsSupport", "enableDnsHostnames"):  # EFS is found by name
        if not has(ours.at, found["VpcId"], attribute):
            name = attribute[0].upper() + attribute[1:]
            ours.at.ec2.modify_vpc_attribute(VpcId=found["VpcId"], **{name: {"Value": True}})
    return found


def has(at: Region, vpc: str, attribute: str) -> bool:
    answer = at.ec2.describe_vpc_attribute(VpcId=vpc, Attribute=attribute)
    return bool(answer[attribute[0].upper() + attribute[1:]]["Value"])


def _free(at: Region, chosen: Choices) -> IPv4Network:
    """AWS has no objection to two networks of the same addresses; whoever wants to join them later has."""
    taken = {
        IPv4Network(block["CidrBlock"]): vpc["VpcId"]
        for vpc in at.every("describe_vpcs", "Vpcs")
        for block in vpc.get("CidrBlockAssociationSet") or [vpc]
    }
    if not chosen.range:
        return free_range(taken, at.options)
    network = network_of(chosen.range, at.options)
    if others := [f"{vpc} has {block}" for block, vpc in taken.items() if block.overlaps(network)]:
        raise Refused(
            f"The account already uses addresses of {network}.",
            evidence="\n".join(others),
            advice="Delete this workspace, and choose another range for a new one.",
            code="overlap",
            field="range",
        )
    return network


def _subnets(ours: Ours, vpc: Thing, kind: Kind) -> dict[tuple[str, str], Thing]:
    """By part and zone. A sixteenth of the range is each one's: the first half is for public ones."""
    found = {(part_of(one), one["AvailabilityZone"]): one for one in ours.every(SUBNET, vpc_id=vpc["VpcId"])}
    known = {zone for _, zone in found}
    zones = sorted(sorted(_zones(ours.at), key=lambda zone: (zone not in known, zone))[:MOST_ZONES])
    if len(zones) < 2:
        raise Refused(f"The region {ours.at.name} has fewer than two zones.", code="no_zone", field="region")
    blocks = [str(block) for block in IPv4Network(vpc["CidrBlock"]).subnets(prefixlen_diff=4)]
    taken = {one["CidrBlock"] for one in found.values()}
    for part, half in ((PUBLIC, blocks[:8]), (PRIVATE, blocks[8:]))[: 2 if kind is Kind.PRIVATE else 1]:
        for zone in zones:
            if (part, zone) not in found:
                block = next(one for one in half if one not in taken)
                taken.add(block)
                found[part, zone] = _subnet(ours, vpc["VpcId"], part, zone, block)
    return found


def _subnet(ours: Ours, vpc: str, part: str, zone: str, block: str) -> Thing:
    make = {"VpcId": vpc, "AvailabilityZone": zone, "CidrBlock": block}
    try:
        made = ours.at.ec2.create_subnet(**make, TagSpecifications=ours.written(SUBNET, part=part))
    except ClientError as error:
        if code_of(error) == "InvalidSubnet.Conflict":
            raise firewall.taken(ours, SUBNET, where(vpc_id=vpc)) from error
        raise
    return made["Subnet"]  # type: ignore[no-any-return]


def _zones(at: Region) -> list[str]:
    found = at.every("describe_availability_zones", "AvailabilityZones")
    usual = [one for one in found if one.get("ZoneType", "availability-zone") == "availability-zone"]
    return sorted(one["ZoneName"] for one in usual if state(one) == "available")


def _gateway(ours: Ours, vpc: str) -> str:
    found = ours.one(GATEWAY, used=lambda one: one["Attachments"], remove=lambda one: teardown.gateway(ours.at, one))
    if found is None:
        found = ours.at.ec2.create_internet_gateway(TagSpecifications=ours.written(GATEWAY))["InternetGateway"]
    if not any(one["VpcId"] == vpc for one in found["Attachments"]):
        with passed_over("Resource.AlreadyAssociated"):
            ours.at.ec2.attach_internet_gateway(InternetGatewayId=found["InternetGatewayId"], VpcId=vpc)
    return str(found["InternetGatewayId"])


def _table(ours: Ours, vpc: str, part: str, subnets: Mapping[tuple[str, str], Thing]) -> Thing:
    """With the subnets of this part in it."""
    found = ours.one(
        TABLE,
        part=part,
        vpc_id=vpc,
        used=lambda one: one["Associations"],
        remove=lambda one: teardown.table(ours.at, one),
    )
    if found is None:
        made = ours.at.ec2.create_route_table(VpcId=vpc, TagSpecifications=ours.written(TABLE, part=part))
        found = made["RouteTable"]
    table, there = found["RouteTableId"], {one.get("SubnetId") for one in found["Associations"]}
    for (of, _), subnet in sorted(subnets.items()):
        if of == part and subnet["SubnetId"] not in there:
            with passed_over("Resource.AlreadyAssociated"):
                ours.at.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet["SubnetId"])
    return found


def _route(ours: Ours, table: Thing, through: str, target: str) -> None:
    """What has no way of its own leaves through this."""
    found = next((one for one in table["Routes"] if one.get("DestinationCidrBlock") == EVERYWHERE), None)
    if found is None:
        change = ours.at.ec2.create_route
    elif found.get(through) != target:
        change = ours.at.ec2.replace_route
    else:
        return
    with passed_over("RouteAlreadyExists"):
        change(RouteTableId=table["RouteTableId"], DestinationCidrBlock=EVERYWHERE, **{through: target})


def _endpoint(ours: Ours, vpc: str, tables: Sequence[Thing]) -> None:
    """S3 from inside: it costs nothing, and does not go through a NAT gateway, which does."""
    wanted = [table["RouteTableId"] for table in tables]
    going = [one for one in ours.every(ENDPOINT, vpc_id=vpc) if state(one) in ENDPOINT.going]
    if going:
        raise Passing("The endpoint for S3 is on its way out.", code="not_now")
    found = ours.one(ENDPOINT, vpc_id=vpc, remove=lambda one: teardown.endpoint(ours.at, one))
    if found is None:
        with passed_over("RouteAlreadyExists"):
            ours.at.ec2.create_vpc_endpoint(
                VpcEndpointType="Gateway",
                VpcId=vpc,
                ServiceName=f"com.amazonaws.{ours.at.name}.s3",
                RouteTableIds=wanted,
                TagSpecifications=ours.written(ENDPOINT),
            )
    elif missing := [table for table in wanted if table not in found["RouteTableIds"]]:
        ours.at.ec2.modify_vpc_endpoint(VpcEndpointId=found["VpcEndpointId"], AddRouteTableIds=missing)


def _nat(ours: Ours, subnets: Mapping[tuple[str, str], Thing], table: Thing) -> Pending | None:
    """One for all zones: each costs something by the hour, and what a zone that fails takes with it is made anew."""
    ec2 = ours.at.ec2
    found = ours.one(
        NAT,
        used=lambda one: state(one) in ("available", "pending"),
        remove=lambda one: teardown.nat(ours.at, one),
    )
    if found and state(found) in NAT.going:
        return Pending("A NAT gateway is on its way out.", 15)
    if found and state(found) == "failed":
        teardown.nat(ours.at, found)
        raise Refused(
            "AWS could not make the NAT gateway.",
            evidence=f"{found.get('FailureCode', '')}: {found.get('FailureMessage', '')}",
            advice="Update the infrastructure of the workspace, or delete it: what is there is found again.",
            code="refused",
        )
    address = ours.one(
        ADDRESS,
        used=lambda one: one.get("AssociationId"),
        remove=lambda one: teardown.address(ours.at, one),
    )
    if address is None:
        address = ec2.allocate_address(Domain="vpc", TagSpecifications=ours.written(ADDRESS))
    if found is None:
        found = ec2.create_nat_gateway(
            SubnetId=min(one for one in subnets.items() if one[0][0] == PUBLIC)[1]["SubnetId"],
            AllocationId=address["AllocationId"],
            TagSpecifications=ours.written(NAT),
        )["NatGateway"]
    if state(found) != "available":
        return Pending("AWS makes the NAT gateway, which takes a minute or two.", 15)
    _route(ours, table, "NatGatewayId", found["NatGatewayId"])
    return None
