"""A workspace's private network: a VPC with subnets in two zones, or one of the account's owner."""

from __future__ import annotations

from dataclasses import dataclass

from portal.clouds.aws.options import AwsOptions, Reach
from portal.clouds.aws.region import Region
from portal.clouds.types import Tags, WorkspaceSpec
from portal.errors import Pending, Refused


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
    raise NotImplementedError


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
    raise NotImplementedError


def delete(at: Region, tags: Tags) -> Pending | None:
    raise NotImplementedError
