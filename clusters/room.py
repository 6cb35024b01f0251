"""How much there is for clusters where nobody sells more of it: on this computer, which all organizations share, and
in a pool of computers, of which clusters have those that others cannot have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import F, Q, Sum

from accounts.access import Can
from accounts.models import User
from clusters import offers, plans
from clusters.models import Cluster
from portal.clouds import InstanceType
from portal.text import uuid_in
from workspaces.models import CloudConfig, Workspace


@dataclass(frozen=True)
class Room:
    """`cores` and `memory_gib` are what the machine has; `taken` are the cores of all clusters whose nodes run."""

    cores: int
    memory_gib: float
    taken: int

    def fits(self, offer: InstanceType) -> int:
        """How many nodes of this type would have cores of their own."""
        return max(0, self.cores - self.taken) // offer.cores

    def sum_of(self, offer: InstanceType, nodes: int) -> Sums:
        return Sums(self, offer.cores * nodes, round(self.memory_gib * offer.cores * nodes / self.cores, 1))


@dataclass(frozen=True)
class Sums:
    """What a cluster that is to be made asks of the room."""

    room: Room
    cores: int
    memory_gib: float

    @property
    def all_cores(self) -> int:
        return self.room.taken + self.cores

    @property
    def is_too_much(self) -> bool:
        """Ranks would take turns on a core. That is allowed: it is slow, and good enough to try a program."""
        return self.all_cores > self.room.cores


def room_for(workspace: Workspace, types: Sequence[InstanceType]) -> Room | None:
    """None where the cloud has no bound that is known. This computer's largest instance type is all of it."""
    if workspace.cloud_config.kind != CloudConfig.Kind.LOCAL or not types:
        return None
    whole = max(types, key=lambda offer: offer.cores)
    not_begun = Q(status=Cluster.Status.NEW, dedicated=True)  # its run's time may be far away
    with_cores = Cluster.objects.exclude(not_begun | Q(status__in=Cluster.WITHOUT_CORES))
    here = with_cores.filter(workspace__cloud_config__kind=CloudConfig.Kind.LOCAL)
    taken = here.aggregate(cores=Sum(F("cores_per_node") * F("node_count")))["cores"] or 0
    return Room(whole.cores, whole.memory_gib, taken)


@dataclass(frozen=True)
class Holder:
    """Who has so many of the nodes that somebody else wants."""

    nodes: int
    cluster: Cluster | None  # None: clusters of workspaces that the person does not see


def holders(person: User, subjects: Sequence[str]) -> list[Holder]:
    """Given by their clusters, one a node. Those that the person sees come first, those with most nodes before."""
    counts = Counter(subjects)
    uuids = [uuid for subject in counts if (uuid := uuid_in(subject))]
    seen = Cluster.objects.where(person, Can.VIEW).filter(uuid__in=uuids).select_related("workspace") if uuids else ()
    found = [Holder(counts[str(cluster.uuid)], cluster) for cluster in seen]
    found.sort(key=lambda one: (-one.nodes, str(one.cluster)))
    others = counts.total() - sum(one.nodes for one in found)
    return [*found, Holder(others, None)] if others else found


def why_not_enough(workspace: Workspace, instance_type: str, nodes: int) -> str:
    """Why so many nodes more cannot be had now, where nodes are taken and not made: as sentences."""
    offer = offers.offer(workspace, instance_type, nodes).value
    if offer is None or offer.impossible:
        return offer.impossible if offer else ""
    for quota in offer.quotas:
        if not quota.is_enough:
            who = plans.holders(workspace, quota.held_by)
            are = "is" if quota.left == 1 else "are"
            return f"{quota.left} of the type {instance_type} {are} free now.{f' In use: {who}.' if who else ''}"
    return ""
