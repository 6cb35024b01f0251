"""Looking after nodes: each is asked whether it answers, because MPI itself never notices a frozen one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Sequence
from functools import partial

from django.core.mail import EmailMessage
from django.db import DatabaseError
from django.db.models import QuerySet
from django.db.models.functions import Now

from clusters import engines, hostfile, idle, reconcile, samples, terminals
from clusters.actions import repair_cluster, repair_what_is_gone, stop_what_failed
from clusters.inventory import Inventory, Listed
from clusters.models import Cluster, Node
from portal import ssh
from portal.clouds import CloudNode
from portal.errors import PortalError
from portal.models import installation
from portal.prepared import prepared_keys
from portal.secrets import CannotDecrypt
from portal.tasks import live
from portal.tasks.threads import DATABASE, LEASES, apart
from portal.tasks.watch import Bell, SharingWatcher
from workspaces.models import CloudConfig, Stray

logger = logging.getLogger(__name__)

EVERY = 5.0  # seconds between looks at a cluster
ANSWER_WITHIN = 5.0
AT_ONCE = 64  # questions under way, over connections that are open
CONNECT_AT_ONCE = 12  # to nodes that are to be connected to first: more handshakes would all be late together
SILENT_AT_ONCE = 12  # to nodes that did not answer: waiting for them holds up no others
GAP = 0.005  # seconds from one question to the next; less, where all nodes could not be asked in SPREAD otherwise
SPREAD = 4.0  # seconds of EVERY over which the questions of a round are spread
COMPARE_EVERY = 60.0
SPOT_EVERY = 15.0  # seconds; clouds take a spot node back two minutes after they have said so
SPOT_AT_ONCE = 8  # accounts
SELDOM = 60  # every so many looks, also where nothing of ours should be: a worker may have been too slow there
MOST_STRAYS = 20  # that are looked at between two comparisons: each is a call to the cloud
REFRESH_ENGINES = 24 * 3600.0
MOST_GUESTS = 9999  # sessions by ssh that a node is believed to have
RESEND = (5.0, 30.0, 120.0)  # seconds after which mails that the server did not take are sent again
AT_A_TIME = 500  # rows in one statement


class NodeWatcher(SharingWatcher):
    """Asks the nodes of its share of the running clusters whether they answer."""

    kind = "cluster"
    rung_by = (live.WATCH_CLUSTERS,)

    def __init__(self) -> None:
        self.connections = ssh.Connections()
        self.inventory = Inventory()
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.connect_turns = asyncio.Semaphore(CONNECT_AT_ONCE)
        self.silent_turns = asyncio.Semaphore(SILENT_AT_ONCE)
        self.gap, self.next_turn = GAP, 0.0
        self.mine: set[int] = set()
        self.looking: set[int] = set()  # clusters: one that takes long holds up no other
        self.answered: set[int] = set()  # nodes, of which that is not written down
        self.samples = samples.Samples()
        self.guests: dict[int, int | None] = {}  # of nodes, where it is another number than is written down
        self.rounds: asyncio.Task[None] | None = None

    async def wanted(self) -> set[int]:
        return await LEASES(_running)()

    async def look_after(self, pk: int) -> None:
        self.mine.add(pk)
        if self.rounds is None or self.rounds.done():
            self.rounds = asyncio.create_task(self._go_round())
        try:
            await asyncio.shield(self.rounds)
        finally:
            self.mine.discard(pk)
            if not self.mine:
                self.rounds.cancel()

    def close(self) -> None:
        self.connections.close()

    async def _go_round(self) -> None:
        """One query a round for all nodes, and one statement for all that answered."""
        async with asyncio.TaskGroup() as group:
            while True:
                found = await _nodes(self.mine - self.looking)
                self.gap = min(GAP, SPREAD / max(1, sum(len(nodes) for _, nodes in found)))
                for cluster, nodes in found:
                    self.looking.add(cluster)
                    group.create_task(self._look_once(cluster, nodes))
                await asyncio.sleep(EVERY)
                answered, self.answered = self.answered, set()
                await _seen(answered)
                if self.guests:
                    guests, self.guests = self.guests, {}
                    await _count_guests(guests)
                await asyncio.to_thread(samples.keep, self.samples.news())

    async def _look_once(self, cluster: int, nodes: list[tuple[Node, ssh.Host]]) -> None:
        try:
            await self._look(nodes)
        except DatabaseError as error:
            logger.warning("what was seen of cluster %s could not be written down: %s", cluster, error)
        except Exception:  # of one cluster, or of its cloud; the others are looked at all the same
            logger.exception("cluster %s could not be looked at", cluster)
        finally:
            self.looking.discard(cluster)

    async def _look(self, nodes: list[tuple[Node, ssh.Host]]) -> None:
        """Ask all nodes of a cluster, and write down at once what has changed."""
        good = await asyncio.gather(*(self._ask(node, host) for node, host in nodes))
        self.answered.update(node.pk for (node, _), answers in zip(nodes, good, strict=True) if answers)
        if all(good) and all(node.state == Node.State.ANSWERS for node, _ in nodes):
            return
        cluster = nodes[0][0].cluster
        seen = None if all(good) else await self._listed(cluster)
        states = await asyncio.gather(
            *(self._state(node, host, answers, seen) for (node, host), answers in zip(nodes, good, strict=True))
        )
        if cluster.pk in self.mine:
            await _write_down(cluster, [node for node, _ in nodes], states, seen)

    async def _ask(self, node: Node, host: ssh.Host) -> bool:
        """Whether it answers. Asked twice, because the first one may only tell that a kept connection is dead."""
        loop = asyncio.get_running_loop()
        turns = self.turns if self.connections.has(host) else self.connect_turns
        if node.state != Node.State.ANSWERS:
            turns = self.silent_turns
        for _ in range(2):
            at = self.next_turn = max(loop.time(), self.next_turn + self.gap)
            await asyncio.sleep(at - loop.time())
            async with turns:
                try:
                    async with asyncio.timeout(ANSWER_WITHIN):
                        answer = await self.connections.run(
                            host, self.samples.command(node), seconds=ANSWER_WITHIN, most=samples.MOST_ANSWER
                        )
                    if answer.status == 0:
                        said, _, counts = answer.out.partition(b"\n")
                        self.samples.take(node, counts)
                        if (guests := _guests(said)) != node.guests:
                            self.guests[node.pk] = guests
                    return answer.status == 0
                except (PortalError, TimeoutError):
                    self.connections.drop(host)
            turns = self.silent_turns
        return False

    async def _state(self, node: Node, host: ssh.Host, answers: bool, seen: dict[int, CloudNode] | None) -> Node.State:
        """Only the cloud can say that a node is gone. One that hangs takes connections: its kernel does that for it.

        But only so many: after a while nobody can tell any more, and then it is what it was.
        """
        if answers:
            return Node.State.ANSWERS
        if seen is not None and not (node.rank in seen and seen[node.rank].is_coming):
            return Node.State.GONE
        async with self.silent_turns:
            takes = await ssh.knock(host)
        if takes or (takes is None and node.state == Node.State.FROZEN):
            return Node.State.FROZEN
        return Node.State.SILENT

    async def _listed(self, cluster: Cluster) -> dict[int, CloudNode] | None:
        """What the cloud lists, by rank; None when it does not say."""
        try:
            return {node.rank: node for node in await self.inventory.nodes(cluster)}
        except PortalError as error:
            logger.warning("cluster %s: %s", cluster.uuid, error)
            return None


class RepairWatcher:
    """Repairs clusters of which people want it."""

    rung_by = (live.WATCH_CLUSTERS,)

    async def run(self, bell: Bell) -> None:
        while True:
            await DATABASE(repair_what_is_gone)()
            await bell.wait(EVERY)


class IdleWatcher:
    """Has the timers of clusters that nobody uses act, and tells people before."""

    def __init__(self) -> None:
        self.sending: set[asyncio.Task[None]] = set()

    async def run(self, bell: Bell) -> None:
        while True:
            if mails := await DATABASE(idle.look)():  # the mail server may take its time
                self.sending.add(task := asyncio.create_task(_send(mails)))
                task.add_done_callback(self.sending.discard)
            await bell.wait(EVERY)


async def _send(mails: Sequence[EmailMessage]) -> None:
    """Tried some times more, while the mail server is away, as long as what they say may still be of use."""
    try:
        for pause in (*RESEND, None):
            mails = await apart(partial(idle.send, mails))
            if not mails:
                return
            if pause is not None:
                await asyncio.sleep(pause)
        logger.error("%s mails of timers were not sent, and are given up", len(mails))
    except Exception:
        logger.exception("%s mails of timers were not sent", len(mails))


class SpotWatcher:
    """Sees what clouds have announced of spot nodes, while these answer as ever. One question for all of a region."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(SPOT_AT_ONCE)
        self.asking: set[tuple[int, str]] = set()

    async def run(self, bell: Bell) -> None:
        """An account that does not answer holds up no other."""
        async with asyncio.TaskGroup() as group:
            while True:
                for place, clusters in (await DATABASE(_spot)()).items():
                    if place not in self.asking:
                        self.asking.add(place)
                        group.create_task(self._ask(place, clusters))
                await asyncio.sleep(SPOT_EVERY)

    async def _ask(self, place: tuple[int, str], clusters: Sequence[Cluster]) -> None:
        of = clusters[0]
        try:
            async with self.turns:
                listed = await apart(lambda: of.workspace.cloud.inventory(of.tags.portal))
            await DATABASE(note_announcements)(clusters, listed)
        except (PortalError, CannotDecrypt) as error:
            logger.warning("spot nodes of %s: %s", of.workspace.cloud_config, error)
        except Exception:  # of one place; the others are asked all the same
            logger.exception("spot nodes of %s could not be looked at", of.workspace.cloud_config)
        finally:
            self.asking.discard(place)


class FailedWatcher:
    """Stops clusters whose creation has failed, once nobody keeps them any longer."""

    async def run(self, bell: Bell) -> None:
        while True:
            await DATABASE(stop_what_failed)()
            await bell.wait(EVERY)


class TerminalsWatcher:
    """Closes the rows of terminals whose process has ended without a word."""

    async def run(self, bell: Bell) -> None:
        while True:
            await DATABASE(terminals.sweep)()
            await bell.wait(EVERY)


class HostfileWatcher:
    """Sees that somebody has brought a hostfile up to date on a node."""

    async def run(self, bell: Bell) -> None:
        while True:
            for cluster, head in await DATABASE(_with_old_hostfiles)():
                try:
                    current = await apart(partial(hostfile.is_current, cluster, head))
                except (PortalError, CannotDecrypt) as error:
                    logger.warning("the hostfile of cluster %s: %s", cluster.uuid, error)
                else:
                    if current:
                        await DATABASE(_hostfile_is_current)(cluster)
            await bell.wait(EVERY)


class EnginesWatcher:
    """Keeps the list of engine versions. The package index may take a minute to answer."""

    async def run(self, bell: Bell) -> None:
        while True:
            await engines.refresh()
            await asyncio.sleep(REFRESH_ENGINES)


class CloudWatcher(SharingWatcher):
    """Compares what each cloud holds in our name with our rows, and ends what no row accounts for."""

    kind = "cloud"
    rung_by = ()

    async def wanted(self) -> set[int]:
        return await LEASES(_clouds)()

    async def look_after(self, pk: int) -> None:
        for look in itertools.count():
            for place in await DATABASE(reconcile.places)(pk):
                if not place.is_used and look % SELDOM:
                    continue
                try:
                    await self.compare(place)
                except PortalError as error:
                    logger.warning("%s, %s: %s", place.config.uuid, place.region, error)
            await asyncio.sleep(COMPARE_EVERY)

    async def compare(self, place: reconcile.Place) -> None:
        """One look. The cloud is asked where no thread with a database waits. Raises `PortalError`."""
        ours = await DATABASE(installation)()
        found = await apart(lambda: place.cloud.owners(ours))
        strays = await DATABASE(reconcile.compare)(place, found)
        # By chance, so that those which stay for long keep nobody from the others.
        for stray in random.sample(strays, min(len(strays), MOST_STRAYS)):
            try:
                await self._look_at(place, stray)
            except PortalError as error:  # the others are looked at all the same
                logger.warning("%s: %s", stray, error)

    async def _look_at(self, place: reconcile.Place, stray: Stray) -> None:
        tags = stray.tags
        if await DATABASE(reconcile.is_to_end)(stray):
            left, trouble = await apart(partial(reconcile.end, place, tags))
            await DATABASE(reconcile.write_down)(stray, left, trouble, asked_to_go=True)
        else:
            left = await apart(partial(place.cloud.leftovers, tags))
            await DATABASE(reconcile.write_down)(stray, left)


@prepared_keys
def _clouds() -> QuerySet[CloudConfig]:
    return CloudConfig.objects.filter(workspaces__isnull=False)


@prepared_keys
def _running() -> QuerySet[Cluster]:
    return Cluster.objects.filter(status=Cluster.Status.RUNNING)


def _spot() -> dict[tuple[int, str], list[Cluster]]:
    """Running clusters of spot nodes, by where they are."""
    running = Cluster.objects.filter(status=Cluster.Status.RUNNING, spot=True)
    places: dict[tuple[int, str], list[Cluster]] = {}
    for one in running.select_related("workspace__organization", "workspace__cloud_config__organization"):
        places.setdefault((one.workspace.cloud_config_id, one.workspace.region), []).append(one)
    return places


def note_announcements(clusters: Sequence[Cluster], listed: Listed) -> None:
    """What is said of their nodes, for pages; and what is not said any more."""
    for cluster in clusters:
        said = {node.id: node.notice[:200] for node in listed.get(cluster.tags, ())}
        changed = 0
        for node in cluster.nodes.all():
            notice = said.get(node.cloud_id, "")
            if node.notice != notice:
                changed += Node.objects.filter(pk=node.pk, cloud_id=node.cloud_id).update(notice=notice)
        if changed:
            live.ring(*cluster.live_names())


def _with_old_hostfiles() -> list[tuple[Cluster, Node]]:
    """With their head nodes."""
    heads = Node.objects.filter(pk__in=_heads_with_old_hostfiles())
    return [(head.cluster, head) for head in heads.select_related("cluster__workspace__organization")]


@prepared_keys
def _heads_with_old_hostfiles() -> QuerySet[Node]:
    return Node.objects.filter(
        rank=0, state=Node.State.ANSWERS, cluster__hostfile_is_old=True, cluster__status=Cluster.Status.RUNNING
    )


def _hostfile_is_current(cluster: Cluster) -> None:
    cluster.hostfile_is_written()
    live.ring(*cluster.live_names())


@DATABASE
def _nodes(clusters: set[int]) -> list[tuple[int, list[tuple[Node, ssh.Host]]]]:
    """The nodes of those clusters that run, and how to reach them."""
    nodes = (
        Node.objects.filter(cluster__in=clusters, cluster__status=Cluster.Status.RUNNING)
        .select_related("cluster__workspace__organization", "cluster__workspace__cloud_config")
        .order_by("cluster", "rank")
    )
    found = []
    for cluster, theirs in itertools.groupby(nodes, key=lambda node: node.cluster_id):
        try:
            found.append((cluster, [(node, node.host) for node in theirs]))
        except CannotDecrypt as error:  # of one workspace; the others are looked at all the same
            logger.error("cluster %s cannot be looked at: %s", cluster, error)
    return found


def _guests(said: bytes) -> int | None:
    """None where the node does not say."""
    return min(MOST_GUESTS, int(said)) if said.isdigit() and len(said) < 10 else None


@DATABASE
def _count_guests(guests: dict[int, int | None]) -> None:
    for pk, count in guests.items():
        Node.objects.filter(pk=pk).update(guests=count)


@DATABASE
def _seen(nodes: set[int]) -> None:
    ordered = sorted(nodes)
    for at in range(0, len(ordered), AT_A_TIME):
        Node.objects.filter(pk__in=ordered[at : at + AT_A_TIME]).update(seen=Now())


@DATABASE
def _write_down(
    cluster: Cluster, nodes: list[Node], states: list[Node.State], seen: dict[int, CloudNode] | None
) -> None:
    # Asked again, because somebody else may have reported a node as lost meanwhile.
    known = dict(cluster.nodes.filter(cluster__status=Cluster.Status.RUNNING).values_list("pk", "state"))
    changed = False
    for node, state in zip(nodes, states, strict=True):
        if known.get(node.pk, state) != state:
            logger.info("node %s: %s", node.hostname, state)
            Node.objects.filter(pk=node.pk, cluster__status=Cluster.Status.RUNNING).update(state=state)
            changed = True
    if changed:
        live.ring(*cluster.live_names(), live.WATCH_CLUSTERS)
    if any(_has_moved(node, seen) for node in nodes):
        try:
            repair_cluster(cluster, by=None)  # its nodes must learn each other's new addresses
        except PortalError as error:
            logger.info("cluster %s is not repaired now: %s", cluster.uuid, error)


def _has_moved(node: Node, seen: dict[int, CloudNode] | None) -> bool:
    """Nodes that were stopped and started may come back at another address, or by another door."""
    there = seen.get(node.rank) if seen else None
    if there is None or not there.address:
        return False
    return (there.address, there.port, there.door) != (node.address, node.port, node.door)
