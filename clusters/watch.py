"""Looking after nodes: each is asked whether it answers, because MPI itself never notices a frozen one."""

from __future__ import annotations

import asyncio
import logging

from channels.db import database_sync_to_async
from django.utils.timezone import now

from clusters import engines
from clusters.models import Cluster, Node
from portal import ssh
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
    good = [node.pk for node, answers_now in zip(nodes, answers, strict=True) if answers_now]
    Node.objects.filter(pk__in=good).update(seen=now())
    changed: dict[int, Cluster] = {}
    running: dict[int, set[int]] = {}
    for node, answers_now in zip(nodes, answers, strict=True):
        state = Node.State.ANSWERS
        if not answers_now:
            cluster = node.cluster
            if cluster.pk not in running:
                try:
                    seen = cluster.workspace.cloud.nodes(cluster.tags)
                    running[cluster.pk] = {other.rank for other in seen if other.running}
                except PortalError as error:
                    logger.warning("cluster %s: %s", cluster.uuid, error)
                    running[cluster.pk] = {node.rank}  # not known: then only silent
            state = Node.State.SILENT if node.rank in running[cluster.pk] else Node.State.GONE
        if state != node.state:
            logger.info("node %s: %s", node.hostname, state)
            Node.objects.filter(pk=node.pk, cluster__status=Cluster.Status.RUNNING).update(state=state)
            changed[node.cluster_id] = node.cluster
    for cluster in changed.values():
        live.ring(*cluster.live_names())
