"""Looking after nodes: each is asked whether it answers, because MPI itself never notices a frozen one."""

from __future__ import annotations

import asyncio
import logging
from itertools import groupby

from channels.db import database_sync_to_async
from django.utils.timezone import now

from clusters import engines
from clusters.actions import repair_cluster, repair_what_is_gone
from clusters.models import Cluster, Node
from portal import ssh
from portal.clouds import CloudNode
from portal.errors import PortalError
from portal.secrets import CannotDecrypt
from portal.tasks import live
from portal.tasks.watch import Bell

logger = logging.getLogger(__name__)

EVERY = 5.0  # seconds between looks at a cluster
ANSWER_WITHIN = 5.0
AT_ONCE = 64  # questions under way: more handshakes than that would all be late together
REFRESH_ENGINES = 24 * 3600.0


class NodeWatcher:
    def __init__(self) -> None:
        self.connections = ssh.Connections()
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.looking: set[int] = set()  # clusters: one that takes long holds up no other

    async def run(self, bell: Bell) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_keep_engines())
                while True:
                    for cluster, nodes in await _nodes():
                        if cluster not in self.looking:
                            self.looking.add(cluster)
                            group.create_task(self._look_once(cluster, nodes))
                    await database_sync_to_async(repair_what_is_gone)()
                    await asyncio.sleep(EVERY)
        finally:
            self.connections.close()

    async def _look_once(self, cluster: int, nodes: list[tuple[Node, ssh.Host]]) -> None:
        try:
            await self._look(nodes)
        finally:
            self.looking.discard(cluster)

    async def _look(self, nodes: list[tuple[Node, ssh.Host]]) -> None:
        """Ask all nodes of a cluster, and write down at once what has changed."""
        good = await asyncio.gather(*(self._ask(host) for _, host in nodes))
        cluster = nodes[0][0].cluster
        # In a thread that holds nothing else up: a cloud may take a minute.
        seen = None if all(good) else await database_sync_to_async(_listed, thread_sensitive=False)(cluster)
        await _write_down(cluster, [node for node, _ in nodes], good, seen)

    async def _ask(self, host: ssh.Host) -> bool:
        """Whether it answers. Asked twice, because the first one may only tell that a kept connection is dead."""
        for _ in range(2):
            async with self.turns:
                try:
                    async with asyncio.timeout(ANSWER_WITHIN):
                        return (await self.connections.run(host, "true", seconds=ANSWER_WITHIN)).status == 0
                except (PortalError, TimeoutError):
                    self.connections.drop(host)
        return False


async def _keep_engines() -> None:
    """Beside the looks: the package index may take a minute to answer."""
    while True:
        await engines.refresh()
        await asyncio.sleep(REFRESH_ENGINES)


@database_sync_to_async
def _nodes() -> list[tuple[int, list[tuple[Node, ssh.Host]]]]:
    """The nodes of each running cluster, and how to reach them."""
    nodes = (
        Node.objects.filter(cluster__status=Cluster.Status.RUNNING)
        .select_related("cluster__workspace__organization", "cluster__workspace__cloud_config")
        .order_by("cluster", "rank")
    )
    found = []
    for cluster, theirs in groupby(nodes, key=lambda node: node.cluster_id):
        try:
            found.append((cluster, [(node, node.host) for node in theirs]))
        except CannotDecrypt as error:  # of one workspace; the others are looked at all the same
            logger.error("cluster %s cannot be looked at: %s", cluster, error)
    return found


@database_sync_to_async
def _write_down(cluster: Cluster, nodes: list[Node], good: list[bool], seen: dict[int, CloudNode] | None) -> None:
    Node.objects.filter(pk__in=[node.pk for node, answers in zip(nodes, good, strict=True) if answers]).update(
        seen=now()
    )
    # Asked again, because somebody else may have reported a node as lost meanwhile.
    known = dict(cluster.nodes.filter(cluster__status=Cluster.Status.RUNNING).values_list("pk", "state"))
    changed = False
    for node, answers in zip(nodes, good, strict=True):
        state = Node.State.ANSWERS if answers else _state(node, seen)
        if known.get(node.pk, state) != state:
            logger.info("node %s: %s", node.hostname, state)
            Node.objects.filter(pk=node.pk, cluster__status=Cluster.Status.RUNNING).update(state=state)
            changed = True
    if changed:
        live.ring(*cluster.live_names(), live.WATCH)
    if any(_has_moved(node, seen) for node in nodes):
        try:
            repair_cluster(cluster, by=None)  # its nodes must learn each other's new addresses
        except PortalError as error:
            logger.info("cluster %s is not repaired now: %s", cluster.uuid, error)


def _listed(cluster: Cluster) -> dict[int, CloudNode] | None:
    """What the cloud lists, by rank; None when it does not say."""
    try:
        return {node.rank: node for node in cluster.workspace.cloud.nodes(cluster.tags)}
    except PortalError as error:
        logger.warning("cluster %s: %s", cluster.uuid, error)
        return None


def _state(node: Node, seen: dict[int, CloudNode] | None) -> Node.State:
    """Of a node that does not answer. Only the cloud can say that it is gone."""
    if seen is None:
        return Node.State.SILENT
    return Node.State.SILENT if node.rank in seen and seen[node.rank].running else Node.State.GONE


def _has_moved(node: Node, seen: dict[int, CloudNode] | None) -> bool:
    """Nodes that were stopped and started may come back at another address, or by another door."""
    there = seen.get(node.rank) if seen else None
    if there is None or not there.address:
        return False
    return (there.address, there.port, there.door) != (node.address, node.port, node.door)
