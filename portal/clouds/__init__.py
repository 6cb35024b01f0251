"""What a cloud is. `Account` and `Cloud` are all that the rest of the portal knows of any of them.

A new cloud: a folder beside `local/` with its options, one value of `CloudKind`, one case in `connect`, one line in
`tests/clouds/test_contract.py`. What is given and answered is in `types.py`, what a store is in `stores.py`, and what a
node offers to whoever signs in is in `promises.py`; `bootstrap.py` makes that of a bare image. Above the folder: its
kind and the options of a row in `workspaces/models.py`, and its form in `workspaces/forms.py`.

What is asked in which order:

- A configuration: `check`, `permissions` and `regions`, once an hour and when somebody wants it.
- A workspace: `ensure_network`, then `ensure_filesystem`; they go in reverse, each once the one before answers None,
  and then `leftovers` until it is empty.
- A cluster: `ensure_role` where no role was chosen, `ensure_nodes`, `nodes` until each has an address; from then on the
  portal speaks SSH. Its end is `delete_nodes`, `delete_role`, `leftovers`. A repair, a start and a resume are
  `ensure_nodes` again, and so is a scale; what is too much then goes by `delete_nodes` with its ranks.
- Beside all that, in the watch process: `inventory` where nodes do not answer, at most every few seconds, and `owners`
  once a minute; and for pages, `instance_types`, `zones` and `offer` in threads, of which answers are kept for a while.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Protocol, TypeAlias, assert_never

from portal.clouds.aws.options import AwsOptions
from portal.clouds.local.options import LocalOptions
from portal.clouds.machines.options import MachinesOptions
from portal.clouds.market import Market, Running
from portal.clouds.stores import Lock, Store
from portal.clouds.types import (
    Can,
    CloudKind,
    CloudNode,
    HostKey,
    Identity,
    InstanceType,
    NodesSpec,
    NodeState,
    Offer,
    Permission,
    Quota,
    Region,
    Resource,
    RoleSpec,
    Tags,
    WorkspaceSpec,
    Zone,
)
from portal.errors import Alternative, NoRoom, Passing, Pending, PortalError, Refused

__all__ = [
    "Account",
    "Alternative",
    "Can",
    "Cloud",
    "CloudKind",
    "CloudNode",
    "HostKey",
    "Identity",
    "InstanceType",
    "Lock",
    "Market",
    "NoRoom",
    "NodeState",
    "NodesSpec",
    "Offer",
    "Options",
    "Passing",
    "Pending",
    "Permission",
    "PortalError",
    "Quota",
    "Refused",
    "Region",
    "Resource",
    "RoleSpec",
    "Running",
    "Store",
    "Tags",
    "WorkspaceSpec",
    "Zone",
    "connect",
]

# Of each kind of cloud: a frozen dataclass without a secret, that can be hashed. Its `in_words` are pairs (what it is,
# how it is) that people of the organization may read.
Options: TypeAlias = LocalOptions | MachinesOptions | AwsOptions


class Account(Protocol):
    """A cloud configuration: who we are in a cloud, what we may do, and what may be had.

    It is made without a word to the cloud, and kept: threads share it, and what it is told (a session, a token that
    ends) it keeps itself. Each process has one of its own. Another content of the configuration is another account.

    Its methods raise `Passing` or `Refused`, and end within a minute, as those of `Cloud`. The code of a refusal says
    what to tell people and what to offer them: see the table in `portal/tasks/causes.py`.
    """

    kind: CloudKind
    can: frozenset[Can]  # of this kind of cloud: what is not in it raises `Refused` with the code "not_here"

    def check(self) -> Identity:
        """Say who we are. Raises `Refused` where that is nobody."""
        ...

    def permissions(self) -> list[Permission]:
        """Each thing that the portal needs to be allowed; granted or not, with what to paste.

        Of everything that the folder ever asks the cloud for, and of nothing more: what is missing makes the
        configuration INCOMPLETE. Nothing is made in order to find out.
        """
        ...

    def regions(self) -> list[Region]:
        """Where a workspace can be: the names are kept with workspaces, and so stay what they are."""
        ...

    def instance_types(self, region: str) -> list[InstanceType]:
        """What can be had there, smallest first, with prices where they are known. Empty when the credentials allow
        nothing. However many there are, and however long that takes: no page waits for it.
        """
        ...

    def check_role(self, name: str) -> Identity:
        """Whether nodes can be given this role. Needs `Can.ROLE`.

        Raises `Refused`, whose code says why not: not_found, other_account, not_trusted, not_allowed, limit_reached.
        """
        ...

    def attach_role(self, name: str) -> None:
        """Give this role, which is its owner's, what every node needs besides. Needs `Can.ROLE`.

        Raises `Refused` as `check_role` does.
        """
        ...

    def detach_role(self, name: str) -> None:
        """Take that away from it, and nothing else; quiet where there is nothing to take. Needs `Can.ROLE`."""
        ...

    def ensure_role(self, spec: RoleSpec, *, token: str = "") -> Pending | None:
        """A role of the cluster's own, with what every node needs: for nodes of no other role. Needs `Can.ROLE`.

        Answers as the methods of `Cloud` do; so does `delete_role`.
        """
        ...

    def delete_role(self, tags: Tags, *, token: str = "") -> Pending | None:
        """After the nodes: what has a role cannot do without. Needs `Can.ROLE`."""
        ...

    def reading(self, bucket: str) -> str:
        """The policy with which a role, and so nodes that have it, may read this bucket: to be pasted, in a few lines.
        Needs `Can.BUCKET`.
        """
        ...

    @property
    def store(self) -> Store:
        """Where the account's owner has what the portal keeps for them. Needs `Can.STORE`."""
        ...

    def cloud(self, region: str) -> Cloud:
        """The same one each time. Nobody is asked: a region that there is not is refused by what is then called."""
        ...


class Cloud(Protocol):
    """One region of an account.

    - Every method may be called again after a crash: `ensure_*` finds by tag before it makes, `delete_*` is content
      with nothing. What was chosen the first time (an image, a range of addresses) is read from what is there.
    - Tags are written in the call that makes a thing, with `extra_tags`, by which nothing is ever found. A thing
      without our tags is never changed or deleted, also where it is in the way: then `Refused` names it.
    - No method waits for a machine. `ensure_*`, `stop_nodes` and `delete_*` answer None when it is done, or `Pending`:
      then the ledger waits, and asks again with the same words and with the answer's `token`.
    - They raise `Passing` or `Refused` and nothing else; nothing of an SDK gets out, and no secret is in a message.
    - No retries inside; SDK retries are off. One call ends within a minute.
    - Nodes have ranks 0 … n-1 kept in a tag, so that doing it again makes *the missing one*.
    """

    kind: CloudKind
    can: frozenset[Can]
    look_in: float  # seconds, at most, until a look at nodes that boot or go is worth it: clouds throttle whoever asks

    def zones(self) -> list[Zone]:
        """Where nodes can be. Needs `Can.ZONE`."""
        ...

    def offer(self, instance_type: str, nodes: int, *, zone: str = "", spot: bool = False) -> Offer:
        """What so many nodes would cost, count against, and whether they can be had. Nothing is asked for."""
        ...

    def market(self) -> Market:
        """What `offer` is made of, of all instance types, however long that takes. Needs `Can.PRICES`."""
        ...

    def running(self) -> Running:
        """What counts against the quotas now, whoever has made it. Needs `Can.PRICES`."""
        ...

    def ensure_network(self, spec: WorkspaceSpec, *, token: str = "") -> Pending | None:
        """The workspace's private network: all of its nodes reach each other in it at any port, the portal reaches them
        by SSH, nobody else does, and they reach package indexes and Git servers. Needs `Can.NETWORK`.
        """
        ...

    def delete_network(self, tags: Tags, *, token: str = "") -> Pending | None:
        """After the filesystem, and all nodes. Needs `Can.NETWORK`."""
        ...

    def ensure_filesystem(self, spec: WorkspaceSpec, *, token: str = "") -> Pending | None:
        """The workspace's shared filesystem, mounted on each of its nodes. Needs `Can.FILESYSTEM`."""
        ...

    def delete_filesystem(self, tags: Tags, *, token: str = "") -> Pending | None:
        """Delete it with everything in it. Needs `Can.FILESYSTEM`. Raises `Passing` while nodes have it mounted."""
        ...

    def ensure_nodes(self, spec: NodesSpec, *, token: str = "") -> Pending | None:
        """Ask for those of the nodes that are missing, start those that have stopped, and leave the others alone.

        None: all are asked for, and `nodes` says how they come. Nodes of higher ranks stay. Raises `NoRoom` where the
        cloud has no more of them. Where `Can.MAKE`, node R is called NAME-R and has the host key of its rank; so that
        the first connection is pinned, it shows that one from its first moment on.
        """
        ...

    def stop_nodes(self, tags: Tags, *, token: str = "") -> Pending | None:
        """Stop all nodes of the cluster, and keep their disks and names. None: all have stopped. Needs `Can.PAUSE`."""
        ...

    def delete_nodes(self, tags: Tags, ranks: Collection[int] | None = None, *, token: str = "") -> Pending | None:
        """Take away the nodes of these ranks, with their disks; of all, with what else the cluster has (a template, a
        placement group, addresses). None: gone. Some of them without the others: needs `Can.SCALE`.
        """
        ...

    def nodes(self, tags: Tags) -> list[CloudNode]:
        """What exists now, lowest rank first, one a rank: one that is gone only where there is no other."""
        ...

    def console(self, tags: Tags, rank: int) -> str:
        """The end of what the node said while it booted, as evidence; at most some KiB. Empty where there is none."""
        ...

    def inventory(self, portal: str) -> dict[Tags, list[CloudNode]]:
        """All nodes in this region that carry this portal's tag, lowest rank first, by the tags that they carry.

        One question for all clusters, however many there are.
        """
        ...

    def owners(self, portal: str) -> set[Tags]:
        """The tags of everything in this region, of any kind, that carries this portal's tag; roles are everywhere.

        Those that have no row are strays.
        """
        ...

    def leftovers(self, tags: Tags) -> list[Resource]:
        """Everything of this subject that still exists, and what of it is going. Asks the cloud, not our memory.

        Of a workspace: its network and filesystem with all their parts, and not the nodes of its clusters.
        """
        ...


@lru_cache(maxsize=64)
def connect(options: Options, credentials: str = "") -> Account:
    """The account of a cloud configuration, made once for each content of it. SDKs load only when used.

    `credentials` is what its folder put into the configuration's sealed field, in the clear.
    """
    match options:
        case LocalOptions():
            from portal.clouds.local.account import LocalAccount

            return LocalAccount.of(options)
        case MachinesOptions():
            from portal.clouds.machines.account import MachinesAccount

            return MachinesAccount(options.account)
        case AwsOptions():
            from portal.clouds.aws.account import AwsAccount

            return AwsAccount(options, credentials)
        case _:
            assert_never(options)
