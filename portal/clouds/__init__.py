"""What a cloud is. `Cloud` is all that the rest of the portal knows of any of them.

A new cloud: a folder beside `local/`, one value of `CloudKind`, one case in `connect`,
one line in `tests/clouds/test_contract.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, assert_never

from portal.errors import Passing, PortalError, Refused

__all__ = [
    "Cloud",
    "CloudKind",
    "CloudNode",
    "ClusterSpec",
    "HostKey",
    "Identity",
    "InstanceType",
    "NodeState",
    "Passing",
    "PortalError",
    "Refused",
    "Region",
    "Resource",
    "Tags",
    "connect",
]


class CloudKind(StrEnum):
    LOCAL = "local"


@dataclass(frozen=True)
class Tags:
    """Written on everything that is made, in the call that makes it. Things are found by these, never by memory."""

    portal: str
    organization: str
    workspace: str
    subject: str  # the uuid of the workspace or cluster that owns the thing


@dataclass(frozen=True)
class Identity:
    """Who we are in the cloud."""

    name: str
    detail: str = ""


@dataclass(frozen=True)
class Region:
    name: str
    title: str


@dataclass(frozen=True)
class InstanceType:
    name: str
    family: str
    cores: int  # physical cores: the number of MPI ranks a node gets
    vcpus: int
    memory_gib: float
    accelerated_network: bool = False
    hourly_price: Decimal | None = None  # US dollars; None when the cloud does not charge


@dataclass(frozen=True)
class HostKey:
    """A node's SSH host key, made by us, so that even the first connection is pinned. OpenSSH formats."""

    private: str = field(repr=False)
    public: str


@dataclass(frozen=True)
class ClusterSpec:
    """What a person asked for."""

    tags: Tags
    name: str  # a DNS label; nodes are called NAME-0, NAME-1 …
    instance_type: str
    host_keys: tuple[HostKey, ...]  # one a node, by rank
    authorized_keys: tuple[str, ...]  # OpenSSH public keys that may sign in

    @property
    def nodes(self) -> int:
        return len(self.host_keys)


class NodeState(StrEnum):
    """What a cloud says of a node. A word of a cloud's own that is none of these is an error, not a guess."""

    PENDING = "pending"  # it is being made or started; asking for it again would do nothing
    RUNNING = "running"
    STOPPED = "stopped"  # or on its way there


@dataclass(frozen=True)
class CloudNode:
    """A node as the cloud sees it now."""

    id: str
    rank: int
    hostname: str
    state: NodeState
    address: str | None  # from the portal; None until the cloud has given it one
    port: int
    private_address: str | None  # from the other nodes of the cluster
    user: str
    home: str
    shared: str  # where the workspace's filesystem is mounted
    note: str = ""  # what a person should know, e.g. that hostnames are simulated
    door: str = ""  # path of a unix socket by which the portal comes in, where it does not by the address
    switched_off: datetime | None = None  # when its life before this one was ended in order, if that is known
    refuses: str = ""  # why no new run may start here, as the beginning of `note`; empty when it may

    @property
    def running(self) -> bool:
        return self.state == NodeState.RUNNING

    @property
    def is_coming(self) -> bool:
        """It runs, or will without being asked for again."""
        return self.state in (NodeState.PENDING, NodeState.RUNNING)


@dataclass(frozen=True)
class Resource:
    """One thing that still exists, for the list of what is left."""

    kind: str
    id: str
    detail: str = ""


class Cloud(Protocol):
    """One cloud configuration in one region.

    - Every method may be called again after a crash: `ensure_*` finds by tag before it makes, `delete_*` is content
      with nothing.
    - No method waits for a node. The ledger waits, so that one place knows time-outs and cancelling.
    - They raise `Passing` or `Refused` and nothing else; nothing of an SDK gets out, and no secret is in a message.
    - No retries inside; SDK retries are off. One call ends within a minute.
    - Nodes have ranks 0 … n-1 kept in a tag, so that doing it again makes *the missing one*.
    """

    kind: CloudKind
    look_in: float  # seconds until a look at nodes that boot or go is worth it; clouds throttle who looks too often

    def check(self) -> Identity:
        """Say who we are. Raises `Refused` naming the permission that is missing."""
        ...

    def regions(self) -> list[Region]: ...

    def instance_types(self) -> list[InstanceType]:
        """What can be had here, smallest first. Empty when the credentials allow nothing."""
        ...

    def ensure_network(self, tags: Tags) -> None:
        """The workspace's private network."""
        ...

    def delete_network(self, tags: Tags) -> None: ...

    def ensure_filesystem(self, tags: Tags) -> None:
        """The workspace's shared filesystem, mounted on each of its nodes."""
        ...

    def delete_filesystem(self, tags: Tags) -> None:
        """Delete it with everything in it."""
        ...

    def ensure_nodes(self, spec: ClusterSpec) -> None:
        """Ask for those of the cluster's nodes that are missing, and start those that have stopped."""
        ...

    def nodes(self, tags: Tags) -> list[CloudNode]:
        """What exists now, lowest rank first."""
        ...

    def inventory(self, portal: str) -> dict[Tags, list[CloudNode]]:
        """All nodes in this region that carry this portal's tag, lowest rank first, by the tags that they carry.

        One question for all clusters, however many there are.
        """
        ...

    def owners(self, portal: str) -> set[Tags]:
        """The tags of everything in this region, of any kind, that carries this portal's tag."""
        ...

    def delete_nodes(self, tags: Tags) -> None:
        """Ask for the nodes to go. They are gone when `nodes` no longer lists them."""
        ...

    def leftovers(self, tags: Tags) -> list[Resource]:
        """Everything of this subject that still exists. Asks the cloud, not our memory."""
        ...


def connect(kind: CloudKind, options: Mapping[str, Any], *, region: str) -> Cloud:
    """The cloud of a cloud configuration. `options` are the configuration's own; SDKs load only when used."""
    match kind:
        case CloudKind.LOCAL:
            from portal.clouds.local import LocalCloud

            return LocalCloud.from_options(options, region=region)
        case _:
            assert_never(kind)
