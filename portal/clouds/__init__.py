"""What a cloud is. `Cloud` is all that the rest of the portal knows of any of them.

A new cloud: a folder beside `local/`, one value of `CloudKind`, one case in `connect`,
one line in `tests/clouds/test_contract.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, assert_never

from portal.clouds.types import (
    CloudKind,
    CloudNode,
    HostKey,
    Identity,
    InstanceType,
    NodesSpec,
    NodeState,
    Region,
    Resource,
    Tags,
)
from portal.errors import Passing, Pending, PortalError, Refused

__all__ = [
    "Cloud",
    "CloudKind",
    "CloudNode",
    "HostKey",
    "Identity",
    "InstanceType",
    "NodeState",
    "NodesSpec",
    "Passing",
    "Pending",
    "PortalError",
    "Refused",
    "Region",
    "Resource",
    "Tags",
    "connect",
]


class Cloud(Protocol):
    """One cloud configuration in one region.

    - Every method may be called again after a crash: `ensure_*` finds by tag before it makes, `delete_*` is content
      with nothing.
    - No method waits for a machine. `ensure_*`, `stop_nodes` and `delete_*` answer None when it is done, or `Pending`:
      then the ledger waits, and asks again with the same words and with the answer's `token`.
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

    def ensure_network(self, tags: Tags, *, token: str = "") -> Pending | None:
        """The workspace's private network."""
        ...

    def delete_network(self, tags: Tags, *, token: str = "") -> Pending | None: ...

    def ensure_filesystem(self, tags: Tags, *, token: str = "") -> Pending | None:
        """The workspace's shared filesystem, mounted on each of its nodes."""
        ...

    def delete_filesystem(self, tags: Tags, *, token: str = "") -> Pending | None:
        """Delete it with everything in it."""
        ...

    def ensure_nodes(self, spec: NodesSpec, *, token: str = "") -> Pending | None:
        """Ask for those of the nodes that are missing, start those that have stopped, and leave the others alone.

        None: all are asked for, and `nodes` says how they come. Nodes of higher ranks stay.
        """
        ...

    def stop_nodes(self, tags: Tags, *, token: str = "") -> Pending | None:
        """Stop all nodes of the cluster, and keep their disks and names. None: all have stopped."""
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

    def delete_nodes(self, tags: Tags, ranks: Collection[int] | None = None, *, token: str = "") -> Pending | None:
        """Take away the nodes of these ranks, with their disks; of all, with what else the cluster has. None: gone."""
        ...

    def console(self, tags: Tags, rank: int) -> str:
        """The end of what the node said while it booted, as evidence; at most some KiB. Empty where there is none."""
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
