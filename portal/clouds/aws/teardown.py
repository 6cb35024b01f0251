"""How a network goes: in the order that AWS allows, each thing confirmed gone before what it is in, and nothing that is
somebody else's.

The order: NAT gateways, their addresses, endpoints; then network interfaces are waited for, which the filesystem, NAT
gateways and nodes leave behind for a while; route tables, subnets, security groups, the internet gateway, the VPC.
"""

from __future__ import annotations

from collections.abc import Iterator

from botocore.exceptions import ClientError

from portal.clouds.aws import firewall
from portal.clouds.aws import tags as tagging
from portal.clouds.aws.region import Region
from portal.clouds.aws.things import (
    ADDRESS,
    ENDPOINT,
    GATEWAY,
    GROUP,
    INSTANCE,
    INTERFACE,
    NAT,
    SUBNET,
    TABLE,
    VPC,
    Kind,
    Ours,
    Thing,
    ids,
    listed,
    state,
    where,
)
from portal.clouds.aws.trouble import code_of, passed_over
from portal.errors import Pending, Refused

_SOON = 10.0  # seconds until a look is worth it


def delete(ours: Ours) -> Pending | None:
    """Of all VPCs that carry our tags, and of what is ours in that of somebody else."""
    at = ours.at
    gateways = at.every(NAT.operation, NAT.under, Filter=tagging.filters(ours.tags))  # with those that are gone
    for one in gateways:
        if state(one) not in NAT.gone | NAT.going:
            nat(at, one)
    if left := ours.every(NAT):
        return _waited(NAT, left)
    for one in ours.every(ADDRESS):
        address(at, one)
    for one in ours.every(ENDPOINT):
        if state(one) not in ENDPOINT.going:
            endpoint(at, one)
    if left := ours.every(ENDPOINT):
        return _waited(ENDPOINT, left)
    vpcs, groups = ids(VPC, ours.every(VPC)), ours.every(GROUP)
    if waits := _interfaces(at, vpcs, groups, _of(gateways)):
        return waits
    try:
        for one in ours.every(TABLE):
            table(at, one)
        for one in ours.every(SUBNET):
            subnet(at, one)
        for one in groups:
            firewall.remove(at, one)
        for one in ours.every(GATEWAY):
            gateway(at, one)
        for vpc in vpcs:
            with passed_over(missing=True):
                at.ec2.delete_vpc(VpcId=vpc)
    except ClientError as error:
        if code_of(error) == "DependencyViolation" and (others := list(_in_the_way(at, vpcs, ids(GROUP, groups)))):
            raise _somebody_elses(others) from error
        raise
    for kind in (TABLE, SUBNET, GROUP, GATEWAY, VPC):
        if left := ours.every(kind):
            return _waited(kind, left)
    return None


def now(ours: Ours, vpc: str) -> None:
    """A VPC that was made twice, with what of ours is in it already: nothing that AWS needs time for."""
    for kind, take in ((TABLE, table), (SUBNET, subnet), (GROUP, firewall.remove)):
        for one in ours.every(kind, vpc_id=vpc):
            take(ours.at, one)
    for one in ours.every(GATEWAY, **{"attachment.vpc-id": vpc}):
        gateway(ours.at, one)
    with passed_over(missing=True):
        ours.at.ec2.delete_vpc(VpcId=vpc)


def nat(at: Region, one: Thing) -> None:
    with passed_over("NatGatewayNotFound", missing=True):
        at.ec2.delete_nat_gateway(NatGatewayId=one["NatGatewayId"])


def address(at: Region, one: Thing) -> None:
    with passed_over(missing=True):
        at.ec2.release_address(AllocationId=one["AllocationId"])


def endpoint(at: Region, one: Thing) -> None:
    at.ec2.delete_vpc_endpoints(VpcEndpointIds=[one["VpcEndpointId"]])


def table(at: Region, one: Thing) -> None:
    for association in one["Associations"]:
        if not association.get("Main"):
            with passed_over(missing=True):
                at.ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
    with passed_over(missing=True):
        at.ec2.delete_route_table(RouteTableId=one["RouteTableId"])


def subnet(at: Region, one: Thing) -> None:
    with passed_over(missing=True):
        at.ec2.delete_subnet(SubnetId=one["SubnetId"])


def gateway(at: Region, one: Thing) -> None:
    for attachment in one["Attachments"]:
        with passed_over("Gateway.NotAttached", missing=True):
            at.ec2.detach_internet_gateway(InternetGatewayId=one["InternetGatewayId"], VpcId=attachment["VpcId"])
    with passed_over(missing=True):
        at.ec2.delete_internet_gateway(InternetGatewayId=one["InternetGatewayId"])


def _waited(kind: Kind, left: list[Thing]) -> Pending:
    return Pending(f"Waiting until this is gone: {kind.word} {', '.join(ids(kind, left))}.", _SOON)


def _interfaces(at: Region, vpcs: list[str], groups: list[Thing], nats: set[str]) -> Pending | None:
    """Wait for those that go by themselves. Raises `Refused` for others: what is theirs cannot be taken away.

    Emulators delete a subnet with interfaces in it; AWS does not. Everybody is told before anything is taken away.
    """
    ours = set(ids(GROUP, groups))
    found = [one for vpc in vpcs for one in listed(at, INTERFACE, where(vpc_id=vpc))]
    found += [one for group in ours for one in listed(at, INTERFACE, where(group_id=group)) if one["VpcId"] not in vpcs]
    unique = {one["NetworkInterfaceId"]: one for one in found}
    ending = _ending(at, list(unique.values()))
    others: list[Thing] = []
    going: list[Thing] = []
    for one in unique.values():
        about, has = one.get("Description") or "", {group["GroupId"] for group in one["Groups"]}
        by_itself = (
            state(one) in INTERFACE.going
            or _instance(one) in ending
            or (about.startswith("EFS mount target") and has & ours)
            or one["NetworkInterfaceId"] in nats
        )
        (going if by_itself else others).append(one)
    if others:
        raise _somebody_elses([_said(INTERFACE, one) for one in others])
    return _waited(INTERFACE, going) if going else None


def _of(gateways: list[Thing]) -> set[str]:
    """The interfaces of NAT gateways."""
    every = (address for one in gateways for address in one.get("NatGatewayAddresses", ()))
    return {address["NetworkInterfaceId"] for address in every if "NetworkInterfaceId" in address}


def _instance(interface: Thing) -> str:
    return str((interface.get("Attachment") or {}).get("InstanceId") or "")


def _ending(at: Region, interfaces: list[Thing]) -> set[str]:
    """Of the instances that these interfaces are of, those that are about to be gone."""
    asked = sorted({_instance(one) for one in interfaces} - {""})
    if not asked:
        return set()
    filters = [{"Name": "instance-id", "Values": asked}]
    found = at.every(INSTANCE.operation, INSTANCE.under, Filters=filters)
    return {one["InstanceId"] for one in found if state(one) in INSTANCE.going | INSTANCE.gone}


def _said(kind: Kind, one: Thing) -> str:
    about = [one.get("Description") or one.get("GroupName") or "", _instance(one) and f"of instance {_instance(one)}"]
    more = ", ".join(filter(None, about))
    return f"{kind.word} {one[kind.id]}{f' ({more})' if more else ''}"


def _somebody_elses(things: list[str]) -> Refused:
    return Refused(
        "Something that is not the portal's is in the workspace's network, so the network cannot go.",
        evidence="\n".join(things),
        advice="Remove it in AWS, or have its owner do that; then delete the workspace again.",
        code="in_the_way",
    )


_PEERING = Kind(
    "peering connection",
    "describe_vpc_peering_connections",
    "VpcPeeringConnections",
    "VpcPeeringConnectionId",
    "vpc-peering-connection",
    gone=frozenset({"deleted", "rejected", "expired", "failed"}),
)
_VPN = Kind("VPN gateway", "describe_vpn_gateways", "VpnGateways", "VpnGatewayId", "vpn-gateway")
_ACL = Kind("network ACL", "describe_network_acls", "NetworkAcls", "NetworkAclId", "network-acl")

# What keeps a VPC, and by which filter that in it is listed.
_KEEPS = (
    (SUBNET, "vpc-id"),
    (INTERFACE, "vpc-id"),
    (GROUP, "vpc-id"),
    (TABLE, "vpc-id"),
    (ENDPOINT, "vpc-id"),
    (NAT, "vpc-id"),
    (GATEWAY, "attachment.vpc-id"),
    (_ACL, "vpc-id"),
    (_VPN, "attachment.vpc-id"),
    (_PEERING, "requester-vpc-info.vpc-id"),
    (_PEERING, "accepter-vpc-info.vpc-id"),
)


def _in_the_way(at: Region, vpcs: list[str], groups: list[str]) -> Iterator[str]:
    """What keeps these from going and is not ours."""
    for vpc in vpcs:
        for kind, name in _KEEPS:
            for one in listed(at, kind, [{"Name": name, "Values": [vpc]}]):
                if not (_comes_with(kind, one) or tagging.owner(tagging.read(one.get("Tags")))):
                    yield _said(kind, one)
    for group in groups:
        for name in ("ip-permission.group-id", "egress.ip-permission.group-id"):
            for one in listed(at, GROUP, [{"Name": name, "Values": [group]}]):
                if one["GroupId"] not in groups:
                    yield f"{_said(GROUP, one)}, whose rules name {group}"


def _comes_with(kind: Kind, one: Thing) -> bool:
    """Whether AWS makes one with each VPC, and takes it away with it."""
    if kind is GROUP:
        return str(one["GroupName"]) == "default"
    if kind is TABLE:
        return any(association.get("Main") for association in one["Associations"])
    return kind is _ACL and bool(one["IsDefault"])
