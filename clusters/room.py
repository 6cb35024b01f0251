"""How much there is for clusters where nobody sells more of it: on this computer, which all organizations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import F, Sum

from clusters.models import Cluster
from portal.clouds import InstanceType
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


def room_for(workspace: Workspace, offers: Sequence[InstanceType]) -> Room | None:
    """None where the cloud has no bound that is known. This computer's largest instance type is all of it."""
    if workspace.cloud_config.kind != CloudConfig.Kind.LOCAL or not offers:
        return None
    whole = max(offers, key=lambda offer: offer.cores)
    with_cores = Cluster.objects.exclude(status__in=Cluster.WITHOUT_CORES)
    here = with_cores.filter(workspace__cloud_config__kind=CloudConfig.Kind.LOCAL)
    taken = here.aggregate(cores=Sum(F("cores_per_node") * F("node_count")))["cores"] or 0
    return Room(whole.cores, whole.memory_gib, taken)
