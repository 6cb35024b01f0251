"""What lies on the nodes of a cluster beside its runs: folders that nobody needs, and programs that nobody asked for.

A folder of a run stays while the run is not seen to its end, while a task or somebody else looks after what it left,
and where the stored output has to be compared with it. Of another folder nothing may run, and it goes. The nodes are
looked at first and the rows are read then: a row is always there before its folder.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Collection
from uuid import UUID, uuid5

from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError
from django.db.models import QuerySet

from clusters.models import Cluster, Node
from jobs.models import Run
from jobs.plans import fence
from portal import detached, ssh
from portal.errors import PortalError, Refused
from portal.prepared import prepared_keys
from portal.tasks import live
from portal.tasks.models import Task
from portal.tasks.threads import LEASES, Threads
from portal.tasks.watch import SharingWatcher
from portal.text import uuid_in

logger = logging.getLogger(__name__)

EVERY = 60.0  # seconds between looks at a cluster
PATIENCE = 120.0  # seconds that something is left alone after it was first seen
THREADS = Threads("folders", 4)  # that wait for nodes


class FolderWatcher(SharingWatcher):
    """Looks after its share of the running clusters of which all nodes answer."""

    kind = "folders"
    rung_by = ()

    async def wanted(self) -> set[int]:
        return await LEASES(_whole)()

    async def look_after(self, pk: int) -> None:
        seen: dict[UUID, float] = {}
        while True:
            try:
                await THREADS(clear)(pk, seen)
            except (DatabaseError, PortalError):
                logger.warning("the folders of cluster %s were not looked through", pk, exc_info=True)
            await asyncio.sleep(EVERY)


@prepared_keys
def _whole() -> QuerySet[Cluster]:
    lost = Node.objects.exclude(state=Node.State.ANSWERS).values("cluster")
    return Cluster.objects.filter(status=Cluster.Status.RUNNING).exclude(pk__in=lost)


def clear(pk: int, seen: dict[UUID, float]) -> None:
    """One look. `seen` is when each thing without a purpose was first seen, and is kept for the next look.

    Raises `PortalError` when a node does not answer.
    """
    cluster = Cluster.objects.select_related("workspace__organization").get(pk=pk)
    _release_of_the_dead(cluster, seen)
    nodes = list(cluster.nodes.all())
    found = _on_node(nodes[0])
    purposeless = found - _with_purpose(found)
    for gone in seen.keys() - purposeless - {_holder(cluster)}:
        del seen[gone]
    for uuid in sorted(purposeless):
        if time.monotonic() - seen.setdefault(uuid, time.monotonic()) < PATIENCE:
            continue
        if Run.objects.filter(uuid=uuid).exists() or _end_unknown(uuid, cluster, nodes):
            _remove(uuid, nodes[0])


def _on_node(head: Node) -> set[UUID]:
    """The runs of which there are folders on /shared, and the one that was the last to have the head node."""
    last, folders = shlex.quote(fence(head.home)), shlex.quote(f"{head.shared}/.runs")
    answer = ssh.run(head.host, f"cat {last} 2>/dev/null; echo; ls -1 {folders} 2>/dev/null; true")
    return {uuid for line in answer.text.splitlines() if (uuid := uuid_in(line.rsplit("/", 1)[-1]))}


def _with_purpose(uuids: Collection[UUID]) -> set[UUID]:
    runs = {run.pk: run for run in Run.objects.filter(uuid__in=uuids).select_related("output", "cluster")}
    tasks = Task.objects.unfinished().filter(
        subject_type=ContentType.objects.get_for_model(Run), subject_id__in=list(runs)
    )
    busy = set(tasks.values_list("subject_id", flat=True))

    def is_over(run: Run) -> bool:
        left = run.may_be_left and run.cluster.status != Cluster.Status.TERMINATED
        return run.is_finished and run.observed and not left and run.output.agrees is not False

    return {run.uuid for pk, run in runs.items() if pk in busy or not is_over(run)}


def _holder(cluster: Cluster) -> UUID:
    """What has the cluster for itself while the nodes are cleared."""
    return uuid5(cluster.uuid, "folders")


def _release_of_the_dead(cluster: Cluster, seen: dict[UUID, float]) -> None:
    """Somebody holds it who ends what nobody knows. That takes less than `PATIENCE`; after it, they have died."""
    holder = _holder(cluster)
    if cluster.occupied_by != holder:
        seen.pop(holder, None)
    elif time.monotonic() - seen.setdefault(holder, time.monotonic()) >= PATIENCE:
        cluster.release(holder)
        del seen[holder]
        live.ring(live.WATCH_WAITING)


def _end_unknown(uuid: UUID, cluster: Cluster, nodes: list[Node]) -> bool:
    """End what runs of it. The portal has no such run, perhaps because its database was put back to an earlier day.

    False while a run is on the cluster: it is not to be disturbed, and the nodes are cleared at its own end.
    """
    if not Cluster.objects.free().filter(pk=cluster.pk).update(occupied_by=_holder(cluster)):
        return False
    head, *others = nodes
    try:
        answers = [
            *detached.sweep([head.host], str(uuid), alone=fence(head.home), others=True),
            *detached.sweep([node.host for node in others], str(uuid), others=True),
        ]
    finally:
        cluster.release(_holder(cluster))
        live.ring(live.WATCH_WAITING)
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, PortalError):
            raise answer
        if answer.status or not answer.text.isdecimal():
            raise Refused(f"What runs on {node.hostname} could not be looked through.", evidence=answer.said)
        if int(answer.text):
            logger.warning("%s processes of a run that is not known, %s, ended on %s", answer.text, uuid, node.hostname)
    return True


def _remove(uuid: UUID, head: Node) -> None:
    folder, last = f"{head.shared}/.runs/{uuid}", shlex.quote(fence(head.home))
    # The fence forgets who had it last, unless another one has it by now: then another name is in it.
    forget = f"grep -qsF {uuid} {last} && : >{last}"
    ssh.check(head.host, f"rm -rf {shlex.quote(folder)} && {{ {forget}; true; }}", what=f"Removing {folder}")
    logger.info("%s has no purpose on %s any more, and was removed", folder, head.hostname)
