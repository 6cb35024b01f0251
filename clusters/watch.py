"""Looking after nodes: each is asked whether it answers, because MPI itself never notices a frozen one."""

from __future__ import annotations

import asyncio
import logging

from channels.db import database_sync_to_async
from django.utils.timezone import now

from clusters import engines
from clusters.actions import repair_cluster
from clusters.models import Cluster, Node
from portal import ssh
from portal.clouds import CloudNode
from portal.clouds.errors import PortalError
from portal.tasks import live
from portal.tasks.watch import Bell

logger = logging.getLogger(__name__)

EVERY = 10.0  # seconds
ANSWER_WITHIN = 5.0
REFRESH_ENGINES = 24 * 3600.0


class NodeWatcher:
    def __init__(self) -> None:
        self.connections = ssh.Connections()

    async def run(self, bell: Bell) -> None:
        loop = asyncio.get_running_loop()
        refreshed = -REFRESH_ENGINES
        try:
            while True:
                if loop.time() - refreshed > REFRESH_ENGINES:
                    refreshed = loop.time()
                    await engines.refresh()
                nodes = await _nodes()
                states = await asyncio.gather(*(self._ask(host) for _, host in nodes))
                if nodes:
                    await _write_down([node for node, _ in nodes], states)
                await asyncio.sleep(EVERY)
        finally:
            self.connections.close()

    async def _ask(self, host: ssh.Host) -> bool:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return (await self.connections.run(host, "true", seconds=ANSWER_WITHIN)).status == 0
        except (PortalError, TimeoutError):
            self.connections.drop(host)
            return False


@database_sync_to_async
def _nodes() -> list[tuple[Node, ssh.Host]]:
    nodes = Node.objects.filter(cluster__status=Cluster.Status.RUNNING).select_related(
        "cluster__workspace__organization", "cluster__workspace__cloud_config"
    )
    return [(node, node.host) for node in nodes]


@database_sync_to_async
def _write_down(nodes: list[Node], answers: list[bool]) -> None:
    Node.objects.filter(pk__in=[node.pk for node, good in zip(nodes, answers, strict=True) if good]).update(seen=now())
    clusters = {node.cluster_id: node.cluster for node in nodes}
    silent = {node.cluster_id for node, good in zip(nodes, answers, strict=True) if not good}
    listed = {pk: _asked(clusters[pk]) for pk in silent}
    changed: set[int] = set()
    for node, good in zip(nodes, answers, strict=True):
        state = Node.State.ANSWERS if good else _state(node, listed[node.cluster_id])
        if state != node.state:
            logger.info("node %s: %s", node.hostname, state)
            Node.objects.filter(pk=node.pk, cluster__status=Cluster.Status.RUNNING).update(state=state)
            changed.add(node.cluster_id)
    for pk in changed:
        live.ring(*clusters[pk].live_names())
    for pk, seen in listed.items():
        if any(node.cluster_id == pk and _has_moved(node, seen) for node in nodes):
            try:
                repair_cluster(clusters[pk], by=None)  # its nodes must learn each other's new addresses
            except PortalError as error:
                logger.info("cluster %s is not repaired now: %s", clusters[pk].uuid, error)


def _asked(cluster: Cluster) -> dict[int, CloudNode] | None:
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
