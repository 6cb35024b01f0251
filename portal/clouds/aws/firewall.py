"""Who reaches nodes and files: security groups.

Nodes: all among themselves, both ways, which EFA wants too; SSH from the portal's addresses; out to everywhere. Files:
NFS from nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from botocore.exceptions import ClientError

from portal.clouds.aws import tags as tagging
from portal.clouds.aws.region import Region
from portal.clouds.aws.things import GROUP, Kind, Ours, Thing, listed, where
from portal.clouds.aws.trouble import code_of, passed_over
from portal.errors import Passing, Refused

SSH, NFS = 22, 2049
NODES, FILES = "nodes", "files"  # the parts that the groups are
EVERYWHERE = "0.0.0.0/0"
_ALL = "-1"  # protocols


@dataclass(frozen=True)
class Rule:
    """One source of one permission. EC2 puts several into one; it gives and takes them one by one as well."""

    protocol: str
    first: int
    last: int
    source: str  # a network, the id of a security group, or of a prefix list

    @classmethod
    def of(cls, permissions: Iterable[Mapping[str, Any]]) -> set[Rule]:
        found = set()
        for one in permissions:
            protocol = one["IpProtocol"]
            first, last = (0, 65535) if protocol == _ALL else (one.get("FromPort", 0), one.get("ToPort", 65535))
            sources = [
                *(source["CidrIp"] for source in one.get("IpRanges", ())),
                *(source["CidrIpv6"] for source in one.get("Ipv6Ranges", ())),
                *(source["GroupId"] for source in one.get("UserIdGroupPairs", ())),
                *(source["PrefixListId"] for source in one.get("PrefixListIds", ())),
            ]
            found |= {cls(protocol, first, last, source) for source in sources}
        return found

    @property
    def permission(self) -> dict[str, Any]:
        """As Authorize… and Revoke… take it."""
        if self.source.startswith("sg-"):
            source: dict[str, Any] = {"UserIdGroupPairs": [{"GroupId": self.source}]}
        elif self.source.startswith("pl-"):
            source = {"PrefixListIds": [{"PrefixListId": self.source}]}
        elif ":" in self.source:
            source = {"Ipv6Ranges": [{"CidrIpv6": self.source}]}
        else:
            source = {"IpRanges": [{"CidrIp": self.source}]}
        ports = {} if self.protocol == _ALL else {"FromPort": self.first, "ToPort": self.last}
        return {"IpProtocol": self.protocol, **ports, **source}

    def admits(self, port: int) -> bool:
        return self.protocol in (_ALL, "tcp", "6") and self.first <= port <= self.last

    @property
    def is_all(self) -> bool:
        return self.protocol == _ALL

    def is_from(self, network: str) -> bool:
        """Whether everybody in this network is a source."""
        if self.source.startswith(("sg-", "pl-")):
            return False
        source, asked = ip_network(self.source), ip_network(network)
        return source.version == asked.version and asked.subnet_of(source)  # type: ignore[arg-type]


def ensure(ours: Ours, vpc: str, groups: Collection[str] = ()) -> None:
    """The group of files, and that of nodes, where they do not have these, which are somebody else's."""
    if groups:
        nodes = list(groups)
    else:
        group = _group(ours, vpc, NODES, "Nodes: all among themselves, SSH from the portal.")
        nodes = [group["GroupId"]]
        among = Rule(_ALL, 0, 65535, nodes[0])
        portal = {Rule("tcp", SSH, SSH, network) for network in ours.at.options.addresses}
        _set(ours.at, group, SSH, {among, *portal}, out={among, Rule(_ALL, 0, 65535, EVERYWHERE)})
    group = _group(ours, vpc, FILES, "Files: NFS from nodes.")
    _set(ours.at, group, NFS, {Rule("tcp", NFS, NFS, source) for source in nodes})


def _group(ours: Ours, vpc: str, part: str, about: str) -> Thing:
    found = ours.one(GROUP, part=part, vpc_id=vpc, remove=lambda other: remove(ours.at, other))
    if found:
        return found
    make = {"GroupName": ours.name(part), "Description": about, "VpcId": vpc}
    try:
        made = ours.at.ec2.create_security_group(**make, TagSpecifications=ours.written(GROUP, part=part))
    except ClientError as error:
        if code_of(error) == "InvalidGroup.Duplicate":
            raise taken(ours, GROUP, where(vpc_id=vpc, group_name=ours.name(part))) from error
        raise
    return {"GroupId": made["GroupId"], "IpPermissions": [], "IpPermissionsEgress": []}


def taken(ours: Ours, kind: Kind, filters: list[dict[str, Any]]) -> Passing | Refused:
    """What to raise where AWS says that there is one already and it is not found among ours: somebody else's, or ours,
    which AWS does not list yet.
    """
    for one in listed(ours.at, kind, filters):
        if tagging.owner(tagging.read(one.get("Tags"))) != ours.tags:
            return Refused(
                f"Something that is not the portal's is in the way: {kind.word} {one[kind.id]}.",
                advice="Remove it in AWS, then try again.",
                code="in_the_way",
            )
    return Passing(f"AWS does not list a {kind.word} yet that it has made.", code="missing")


def _set(at: Region, group: Thing, port: int, rules: set[Rule], *, out: Collection[Rule] = ()) -> None:
    """Give what is missing, and take from everybody else what leads to this port. Other ports are left alone."""
    where_ = group["GroupId"]
    there, leaves = Rule.of(group["IpPermissions"]), Rule.of(group["IpPermissionsEgress"])
    for rule in sorted(rules - there, key=repr):
        with passed_over("InvalidPermission.Duplicate"):
            at.ec2.authorize_security_group_ingress(GroupId=where_, IpPermissions=[rule.permission])
    for rule in sorted(set(out) - leaves, key=repr):
        with passed_over("InvalidPermission.Duplicate"):
            at.ec2.authorize_security_group_egress(GroupId=where_, IpPermissions=[rule.permission])
    for rule in sorted(there - rules, key=repr):
        if rule.admits(port):
            with passed_over("InvalidPermission.NotFound"):
                at.ec2.revoke_security_group_ingress(GroupId=where_, IpPermissions=[rule.permission])


def remove(at: Region, group: Thing) -> None:
    """With its own rules first: two groups that name each other cannot go."""
    where_ = group["GroupId"]
    for rules, revoke in (
        (group["IpPermissions"], at.ec2.revoke_security_group_ingress),
        (group["IpPermissionsEgress"], at.ec2.revoke_security_group_egress),
    ):
        named = [rule.permission for rule in sorted(Rule.of(rules), key=repr) if rule.source.startswith("sg-")]
        if named:
            with passed_over("InvalidPermission.NotFound", missing=True):
                revoke(GroupId=where_, IpPermissions=named)
    with passed_over(missing=True):
        at.ec2.delete_security_group(GroupId=where_)


def shut_out(at: Region, groups: Collection[Thing]) -> list[str]:
    """Those of the portal's addresses that nodes of these groups do not admit to SSH."""
    rules = [rule for group in groups for rule in Rule.of(group["IpPermissions"]) if rule.admits(SSH)]
    return [one for one in at.options.addresses if not any(rule.is_from(one) for rule in rules)]
