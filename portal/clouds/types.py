"""What clouds are given and what they answer: frozen, and without secrets in their `repr`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from portal.errors import Refused


class CloudKind(StrEnum):
    LOCAL = "local"
    MACHINES = "machines"
    AWS = "aws"


class Can(StrEnum):
    """What not every kind of cloud can do. What one cannot is on no page and in no plan.

    Asked for all the same, it is `not_here`.
    """

    MAKE = "make"  # make nodes: with the names and host keys that the portal gives them, and disks of their own
    NETWORK = "network"  # make a workspace's network
    FILESYSTEM = "filesystem"  # make a workspace's shared filesystem
    STORE = "store"  # keep objects for the portal
    PAUSE = "pause"  # stop nodes and keep their disks
    SCALE = "scale"  # add nodes to a cluster that runs, and take some away
    ZONE = "zone"  # choose where in a region nodes are
    SPOT = "spot"  # have nodes for less that may be taken away
    ROLE = "role"  # give nodes rights of their own in the cloud
    BUCKET = "bucket"  # have nodes read buckets of the cloud by these rights
    OWN_KEYS = "own-keys"  # have nodes make host keys of their own: others can read the ones that they are given
    PRICES = "prices"  # say what things cost


def not_here(can: Can, cloud: str) -> Refused:
    """What is raised for what is not in `can`. `cloud` is how people call it."""
    return Refused(f"{cloud} cannot do this: {can}.", code="not_here")


@dataclass(frozen=True)
class Tags:
    """Written on everything that is made, in the call that makes it. Things are found by these, never by memory.

    Each is a uuid. What a workspace itself consists of has the workspace as its `subject`.
    """

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
class Permission:
    """Something that the portal needs to be allowed."""

    name: str  # in the cloud's own words
    granted: bool | None  # None: the cloud does not say
    why: str = ""  # what it is for, or why it is missing
    statement: str = ""  # what to paste where, so that it is granted


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
    hourly_price: Decimal | None = None  # US dollars; None where nobody charges, or says how much
    architecture: str = "x86_64"
    spot: bool = False  # whether it can be had as a spot node
    there: int | None = None  # how many nodes there are of it; None: as many as one pays for, or nobody knows
    free: int | None = None  # and how many of them can be had now


@dataclass(frozen=True)
class Zone:
    """A part of a region that fails by itself."""

    name: str
    title: str = ""


@dataclass(frozen=True)
class Quota:
    """A limit of the account that the nodes would count against."""

    name: str
    asked: int
    left: int | None  # None: the cloud does not say
    held_by: tuple[str, ...] = ()  # the subjects of those that have what is missing, one a node, where that is known

    @property
    def is_enough(self) -> bool:
        return self.left is None or self.asked <= self.left


@dataclass(frozen=True)
class Offer:
    """What the nodes that a person thinks of would cost, and what stands in the way."""

    hourly_price: Decimal | None  # of all of them, in US dollars; None where nobody charges, or says how much
    quotas: tuple[Quota, ...] = ()
    warnings: tuple[str, ...] = ()  # sentences: it may be slow, or may not be had just now
    impossible: str = ""  # why it cannot be had, as a sentence; empty where it can


@dataclass(frozen=True)
class WorkspaceSpec:
    """What is asked for of a workspace's network and filesystem."""

    tags: Tags
    extra_tags: tuple[tuple[str, str], ...] = ()  # of people: written on everything, and never used to find it
    choices: tuple[tuple[str, str], ...] = ()  # in the words of its kind of cloud, which refuses what it does not know


@dataclass(frozen=True)
class RoleSpec:
    """The role of a cluster's nodes that is the cluster's own."""

    tags: Tags
    extra_tags: tuple[tuple[str, str], ...] = ()  # of people, as in `WorkspaceSpec`


@dataclass(frozen=True)
class HostKey:
    """A node's SSH host key, made by us, so that even the first connection is pinned. OpenSSH formats."""

    private: str = field(repr=False)
    public: str


@dataclass(frozen=True)
class NodesSpec:
    """What a person asked for: the nodes of ranks 0 … n-1 of a cluster."""

    tags: Tags
    name: str  # a DNS label; nodes that are made are called NAME-0, NAME-1 …
    instance_type: str
    host_keys: tuple[HostKey, ...]  # one a node, by rank; of no meaning to a cloud that does not make nodes
    authorized_keys: tuple[str, ...]  # OpenSSH public keys that may sign in; the first is the portal's
    zone: str = ""  # empty: the cloud chooses
    spot: bool = False
    role: str = ""  # what the nodes may do in the cloud, by the cloud's name of it; empty: the cluster's own, if any
    extra_tags: tuple[tuple[str, str], ...] = ()  # of people, as in `WorkspaceSpec`

    @property
    def nodes(self) -> int:
        return len(self.host_keys)


class NodeState(StrEnum):
    """What a cloud says of a node. A word of a cloud's own that is none of these is an error, not a guess."""

    ASKED = "asked"  # the cloud has taken the request, and no computer is there yet
    BOOTING = "booting"
    RUNNING = "running"  # it has an address; whether it answers is another question
    STOPPING = "stopping"  # it was told to stop, or to go
    STOPPED = "stopped"  # its disks are kept, and it can be started
    GONE = "gone"  # a cloud may list a node for a while after its end, so that its `reason` can be read


@dataclass(frozen=True)
class CloudNode:
    """A node as the cloud sees it now."""

    id: str
    rank: int
    hostname: str
    state: NodeState
    address: str | None  # from the portal; None until the cloud has given it one. Another one after a stop and a start
    port: int
    private_address: str | None  # from the other nodes of the cluster
    user: str
    home: str
    shared: str  # where the workspace's filesystem is mounted
    reason: str = ""  # why it is in this state, where the cloud says so and nobody asked for it: a sentence
    is_away: bool = False  # it may come back; but while it is asked for, the cloud gives another one in its place
    zone: str = ""
    spot: bool = False
    notice: str = ""  # what the cloud has announced, such as that it takes the node away: a sentence
    ends: datetime | None = None  # when it does that
    via: int | None = None  # the rank of the node through which the portal reaches it; None: directly
    note: str = ""  # what a person should know, e.g. that hostnames are simulated
    door: str = ""  # path of a unix socket by which the portal comes in, where it does not by the address
    switched_off: datetime | None = None  # when its life before this one was ended in order, if that is known
    host_key: str = ""  # its public one, OpenSSH format, where it has its own and not the one that it was given
    own_key: str = ""  # path on it of another public host key, which it has made itself: see `Can.OWN_KEYS`
    ready: str = ""  # path on it of what is there once it is all that was promised; empty: as soon as it answers
    certificates: tuple[str, ...] = ()  # by which its authorized keys sign in, one each, where its server wants that
    refuses: str = ""  # why no new run may start here, as the beginning of `note`; empty when it may

    @property
    def running(self) -> bool:
        return self.state == NodeState.RUNNING

    @property
    def is_coming(self) -> bool:
        """It runs, or will without being asked for again."""
        return self.state in (NodeState.ASKED, NodeState.BOOTING, NodeState.RUNNING)


@dataclass(frozen=True)
class Resource:
    """One thing that still exists, for the list of what is left."""

    kind: str
    id: str
    detail: str = ""
    is_going: bool = False  # it was told to go, and only needs time
    is_looked_after: bool = False  # the cloud takes it away by itself once that can be done, which may be in days

    def __str__(self) -> str:
        return f"{self.kind} {self.id}{' (going)' if self.is_going else ''}"
