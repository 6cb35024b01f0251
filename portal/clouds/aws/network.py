"""A workspace's private network: a VPC with a subnet in each zone, or one of the account's owner."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.request import urlopen

from botocore.exceptions import ClientError

from portal.clouds.aws import existing, filesystem, firewall, making, teardown
from portal.clouds.aws import tags as tagging
from portal.clouds.aws.choices import Choices
from portal.clouds.aws.options import AwsOptions, Reach
from portal.clouds.aws.region import Region
from portal.clouds.aws.things import GROUP, SUBNET, TABLE, Ours, Thing, ids, listed, where
from portal.clouds.aws.trouble import code_of, is_missing
from portal.clouds.types import Tags, WorkspaceSpec
from portal.errors import Passing, Pending, Refused

_ASK = "https://checkip.amazonaws.com"  # AWS's own answer to whoever asks where they come from


@dataclass(frozen=True)
class Subnet:
    id: str
    zone: str
    is_public: bool  # what is in it needs a public address of its own to reach the internet, or to be reached from it


@dataclass(frozen=True)
class Network:
    """A workspace's network, as AWS has it now."""

    vpc: str
    subnets: tuple[Subnet, ...]  # where nodes are: one a zone, by the zones' names
    doors: tuple[Subnet, ...]  # of node 0, where the portal reaches the others through it: one a zone; else none
    groups: tuple[str, ...]  # security groups of each node
    filesystem: str  # the id of its EFS
    key: str = ""  # the ARN of the KMS key of disks; empty: AWS's own

    @property
    def zones(self) -> list[str]:
        return [subnet.zone for subnet in self.subnets]

    def place(self, zone: str, rank: int) -> Subnet:
        """Where a node of this rank goes. Raises `Refused` where the workspace is not in this zone."""
        for subnet in (*(self.doors if rank == 0 else ()), *self.subnets):
            if subnet.zone == zone:
                return subnet
        raise Refused(
            f"The workspace has no subnet in the zone {zone}.",
            advice=f"Choose one of its zones: {', '.join(self.zones)}.",
            code="no_zone",
            field="zone",
        )


def found(at: Region, tags: Tags) -> Network:
    """Of this workspace. Raises `Refused`, or `Passing` while it is on its way, where something of it is missing."""
    ours = Ours(at, tags)
    files = filesystem.of(at, tags)
    if files is None:
        raise _missing("filesystem")
    if files["LifeCycleState"] == "creating":
        raise Passing("The workspace's filesystem is on its way.", code="not_now")
    targets = filesystem.targets(at, files["FileSystemId"])
    used = {one["SubnetId"] for one in targets if one["LifeCycleState"] == "available"}
    if not used:
        raise Passing("Mount targets are on their way.", code="not_now") if targets else _missing("mount targets")
    vpc = _vpc(at, used)
    subnets, tables = listed(at, SUBNET, where(vpc_id=vpc)), listed(at, TABLE, where(vpc_id=vpc))
    keys = tagging.read(files["Tags"])
    groups = keys.get(filesystem.GROUPS, "").split() or ids(GROUP, ours.every(GROUP, part=firewall.NODES, vpc_id=vpc))
    if not groups:
        raise _missing("security group")
    every = sorted((_subnet(one, tables) for one in subnets), key=lambda one: one.zone)
    nodes = tuple(one for one in every if one.id in used)
    own = set(ids(SUBNET, [one for one in subnets if tagging.owner(tagging.read(one.get("Tags"))) == tags]))
    through = at.options.reach is Reach.PUBLIC and not any(one.is_public for one in nodes)
    doors = tuple(one for one in every if through and one.is_public and one.id in own)
    return Network(vpc, nodes, doors, tuple(groups), files["FileSystemId"], keys.get(filesystem.KEY, ""))


def _vpc(at: Region, subnets: Collection[str]) -> str:
    vpcs = {one["VpcId"] for one in listed(at, SUBNET, [{"Name": "subnet-id", "Values": sorted(subnets)}])}
    if len(vpcs) != 1:
        raise _missing("subnets")
    return str(vpcs.pop())


def _subnet(one: Thing, tables: Sequence[Thing]) -> Subnet:
    is_public = existing.way_out(tables, one["SubnetId"]).startswith("igw-")
    return Subnet(one["SubnetId"], one["AvailabilityZone"], is_public)


def _missing(what: str) -> Refused:
    return Refused(
        f"Something of the workspace is not in AWS any more: its {what}.",
        advice="An admin of the organization updates the workspace's infrastructure: what is missing is made anew.",
        code="no_workspace",
    )


def reach(options: AwsOptions, rank: int, *, public: str | None, private: str | None) -> tuple[str | None, int | None]:
    """How the portal reaches a node that has these addresses: at which, and through the node of which rank.

    No address yet: None. `CloudNode.address` and `CloudNode.via` are what it answers.
    """
    if options.reach == Reach.PRIVATE:
        return private, None
    if public:
        # What an emulator calls public is somebody's address; its nodes are at their private ones.
        return (private if options.endpoint else public), None
    return private, (None if rank == 0 else 0)


def ensure(at: Region, spec: WorkspaceSpec) -> Pending | None:
    chosen = Choices.of(spec.choices, at.options)
    if not at.options.addresses:
        raise Refused(
            "Nobody has said yet from which addresses the portal reaches nodes, so they would admit nobody.",
            advice="Whoever runs the portal sets PORTAL_AWS_ADDRESSES: docs/aws.md says how.",
            code="no_addresses",
        )
    ours = Ours(at, spec.tags, spec.extra_tags)
    _check_key(at, chosen.kms_key)
    if chosen.vpc:
        existing.ensure(ours, chosen)
        return None
    return making.ensure(ours, chosen)


def _check_key(at: Region, key: str) -> None:
    if not key:
        return
    try:
        about = at.session.client("kms", at.name).describe_key(KeyId=key)["KeyMetadata"]
    except ClientError as error:
        if not is_missing(code_of(error)):
            raise
        raise _wrong_key(f"There is no such key in {at.name}.") from error
    if about["KeyState"] != "Enabled":
        raise _wrong_key(f"Its state is {about['KeyState']}, and is to be Enabled.")
    if about.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
        raise _wrong_key("EFS and EBS take a symmetric key, and this is another one.")


def _wrong_key(why: str) -> Refused:
    return Refused(
        f"The KMS key cannot be used. {why}",
        advice="Mend that in AWS and try again, or choose another key for a new workspace.",
        code="wrong_key",
        field="kms_key",
    )


def delete(at: Region, tags: Tags) -> Pending | None:
    return teardown.delete(Ours(at, tags))


def why_not_reached(at: Region, tags: Tags) -> str:
    """Why nodes of this workspace may not be reached by the portal, as sentences; nothing where all seems right.

    What the firewall admits is compared with the portal's addresses, and those with what AWS sees of the portal.
    """
    groups = listed(at, GROUP, [{"Name": "group-id", "Values": list(found(at, tags).groups)}])
    said = []
    if out := firewall.shut_out(at, groups):
        said.append(
            f"The firewall of the nodes does not admit the portal: SSH from {', '.join(out)} is missing in "
            f"{', '.join(ids(GROUP, groups))}. Update the infrastructure of the workspace."
        )
    seen = _seen() if at.options.reach is Reach.PUBLIC and not at.options.endpoint else ""
    if seen and not any(ip_address(seen) in ip_network(one) for one in at.options.addresses):
        said.append(
            f"AWS sees the portal at {seen}, and nodes admit {', '.join(at.options.addresses)}. Whoever runs the "
            "portal mends PORTAL_AWS_ADDRESSES; then update the infrastructure of the workspace."
        )
    return " ".join(said)


def _seen() -> str:
    """The address that the portal comes from, as AWS sees it. Nothing where that cannot be found out."""
    try:
        with urlopen(_ASK, timeout=3) as answer:
            said = answer.read(64).decode("ascii", "replace").strip()
        return str(ip_address(said))
    except (OSError, ValueError):
        return ""
