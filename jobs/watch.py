"""Observing runs: output into the store by offset, and the end, exactly once, whatever dies in between."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, DataError, IntegrityError, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.timezone import now

from clusters.actions import report_lost
from clusters.inventory import Inventory
from clusters.models import Cluster
from jobs.causes import Cause, explain, may_be_of_nodes, of_deletion, of_nodes, sound, span
from jobs.dispatch import dispatch_all
from jobs.models import QUIET, Run
from jobs.plans import remove_folder, sweep
from jobs.retries import retry_due
from portal import detached, ssh
from portal.clouds import CloudNode
from portal.detached import Alive, Spoilt
from portal.errors import Passing, PortalError, Refused
from portal.failpoints import failpoint
from portal.prepared import prepared, prepared_keys
from portal.tasks import ledger, live
from portal.tasks.models import Segment, Stream, Task, WrongOffset
from portal.tasks.output import plain_text
from portal.tasks.pace import Pace
from portal.tasks.threads import DATABASE, LEASES, Threads
from portal.tasks.watch import Bell, SharingWatcher
from portal.text import storable

logger = logging.getLogger(__name__)

HOLD_SETUP = 0.05  # seconds that what was prepared is held back, hoping for the command's first line
MOST_BUFFERED = 2 * 1024 * 1024
MOST_LINE = 256 * 1024  # bytes of a line of the node's words
SILENCE = 10.0  # seconds without a beat before a head node counts as silent
LOOK_FOR_LEFTOVERS = 5.0  # seconds between looks
MOST_FAULTS = 5  # of its observer, or looks at what its programs have spoilt, until a run is given up
NONSENSE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    DataError,
    IntegrityError,
)
MOST_FRUITLESS = 60  # observations in a row that do not say how the run goes: about ten minutes
UNLISTED = 60.0  # seconds after which a node is gone that its cloud does not list; lists of clouds lag behind
LATE = 60.0  # seconds after its time limit in which the node should have ended a run
SWITCHING_OFF = timedelta(seconds=5)  # in which a node that was told to end does so
SWITCHED_OFF = Cause(
    "The portal was stopped while the run was on its nodes.", advice="Run it again.", code="switched_off"
)
ANSWERS_WITHIN = 8.0  # seconds, a node that is asked what became of it
# Where sessions are apart, the first process is the session's own, and as old as the question.
AGE = 'test "$COXSWAIN_APART" || { cat /proc/uptime /proc/1/stat && getconf CLK_TCK; }'
VANISHED = 5.0  # seconds that a node may say that a run never began, after it said that it has
SWEEPS = Threads("sweeps", 8)  # through nodes, which may take their time
STREAMS = {"o": Stream.STDOUT, "e": Stream.STDERR, "n": Stream.SETUP, "s": Stream.SETUP}


class RunWatcher(SharingWatcher):
    """Observes its share of the runs that are on a node and not seen to their end."""

    kind = "run"
    rung_by = (live.WATCH_RUNS,)

    def __init__(self) -> None:
        self.connections = ssh.Connections()
        self.inventory = Inventory()
        self.faults: Counter[int] = Counter()  # of observers, by run

    async def wanted(self) -> set[int]:
        return await LEASES(_to_observe)()

    async def look_after(self, pk: int) -> None:
        try:
            await Observer(pk, self.connections, self.inventory).run()
        except Exception as error:  # noqa: BLE001 (told apart there)
            await self._failed(pk, error)

    def close(self) -> None:
        self.connections.close()

    async def _failed(self, pk: int, error: BaseException) -> None:
        """It is started again; but a run whose words cannot be taken in, however often they are told, is given up."""
        logger.error("observer of run %s failed, starting it again", pk, exc_info=error)
        if not isinstance(error, NONSENSE):
            return  # the database is away, or has too much to do
        self.faults[pk] += 1
        if self.faults[pk] >= MOST_FAULTS:
            del self.faults[pk]
            try:
                await Observer(pk, self.connections, self.inventory).give_up(error)
            except DatabaseError:
                logger.exception("run %s could not be given up", pk)


class DispatchWatcher:
    """Has waiting runs begin when their cluster can take them, whatever has made it free."""

    EVERY = 3.0  # seconds, when nothing is heard
    rung_by = (live.WATCH_WAITING, live.WATCH_CLUSTERS)

    async def run(self, bell: Bell) -> None:
        pace = Pace()
        while True:
            await pace.turn()
            if again := await DATABASE(retry_due)():
                logger.info("%s runs that failed are tried again", again)
            if begun := await DATABASE(dispatch_all)():
                logger.info("it was the turn of %s runs", begun)
            await bell.wait(self.EVERY)


class LeftoverWatcher(SharingWatcher):
    """Ends what a run left on a node that did not answer at the time, as soon as it does."""

    kind = "leftover"
    rung_by = (live.WATCH_CLUSTERS,)

    async def wanted(self) -> set[int]:
        return await LEASES(_with_leftovers)()

    async def look_after(self, pk: int) -> None:
        while True:
            await SWEEPS(_sweep)(pk)
            await asyncio.sleep(LOOK_FOR_LEFTOVERS)


def _with_leftovers() -> set[int]:
    return _left(ContentType.objects.get_for_model(Run).pk)


@prepared_keys
def _left(kind: int) -> QuerySet[Run]:
    ended = Run.objects.filter(may_be_left=True, cluster__status=Cluster.Status.RUNNING)
    return ended.filter(~Exists(Task.objects.unfinished().filter(subject_type=kind, subject_id=OuterRef("pk"))))


def _sweep(pk: int) -> None:
    """Nodes may take their time to say nothing."""
    try:
        rows = Run.objects.filter(may_be_left=True)  # another one may have looked since: the next run may be there
        run = rows.select_related("cluster__workspace__organization", "job").filter(pk=pk).first()
        if run and not run.cluster.lost_nodes:
            silent, ended = sweep(run)
            if not silent:
                remove_folder(run)
                live.ring(live.WATCH_WAITING)
            for hostname, count in ended.items():
                logger.warning("%s processes of run %s were left on %s; ended", count, pk, hostname)
    except (DatabaseError, PortalError):
        logger.warning("run %s: what it left was not looked for", pk, exc_info=True)


@prepared_keys
def _to_observe() -> QuerySet[Run]:
    return Run.objects.filter(started__isnull=False, observed=False)


@prepared
def _observed(pk: int) -> QuerySet[Run]:
    return Run.objects.select_related("cluster__workspace__organization", "output").filter(pk=pk)


@dataclass
class Buffer:
    """What was received of the node's log and is not stored, in the order it came."""

    rest: bytes = b""  # the beginning of a frame
    segments: list[tuple[Segment, int]] = field(default_factory=list)  # with the size of its frame in the log
    size: int = 0
    new: bool = False  # output of the command has come since the last `take`
    setup_since: float | None = None  # what was said of its preparation waits since then

    def hold(self) -> float | None:
        """Seconds until it is worth to `take`. None: until more comes."""
        if self.new:
            return 0.0
        return None if self.setup_since is None else max(0.0, self.setup_since + HOLD_SETUP - time.monotonic())

    def note(self) -> None:
        """There is news of the preparation, in these bytes or elsewhere."""
        self.setup_since = self.setup_since or time.monotonic()

    def add(self, data: bytes) -> None:
        """Raises `Spoilt` at what is no log."""
        found, end = detached.frames(self.rest + data)
        self.rest = (self.rest + data)[end:]
        before = 0
        for frame, until in found:
            segment = Segment(STREAMS[frame.kind], frame.data, frame.at, frame.world, frame.rank)
            self.segments.append((segment, until - before))
            self.size += until - before
            before = until
            if frame.kind in "oe":
                self.new = True
            else:
                self.note()

    def take(self) -> tuple[list[Segment], int]:
        """All of it, and how many bytes of the log that is."""
        segments, size = [segment for segment, _ in self.segments], self.size
        self.segments, self.size, self.new, self.setup_since = [], 0, False, None
        return segments, size


class Observer:
    """One run, from wherever its output was last stored up to, to its end."""

    def __init__(self, pk: int, connections: ssh.Connections, inventory: Inventory | None = None) -> None:
        self.pk = pk
        self.connections = connections
        self.inventory = inventory or Inventory()
        self.began = now()
        self.buffer = Buffer()
        self.facts: dict[str, Any] = {}
        self.news = False  # facts that are not written down
        self.silent = False
        self.has_heard = False  # in this observation, more than facts
        self.unknown = ""  # why the node could not say whether it lives
        self.unlisted_since: float | None = None  # that the cloud has not listed its node
        self.pace = Pace()
        self.printed_at = time.monotonic()
        self.has_ended = False  # in this observation, and its task was not told yet
        self.is_quiet = False  # it has not printed for a while, and pages know

    async def give_up(self, error: BaseException) -> None:
        """The run is FAILED, and ended on its nodes, because it cannot be followed."""
        await self._lost(
            Cause(
                "The portal cannot take in what the head node says of this run.",
                f"{type(error).__name__}, in the portal's log",
                "Run it again; if it fails in the same way, tell whoever runs this portal.",
                "not_followed",
            )
        )

    async def run(self) -> None:
        missing = fruitless = spoilt = 0
        pause = 0.2
        while True:
            target = await self._target()
            if target is None:
                return
            host = target[0]
            longest = 2.0
            trouble: PortalError | None = None
            self.buffer, self.has_heard, self.has_ended = Buffer(), False, False
            try:
                telling = detached.observe(self.connections, *target)
                async with asyncio.timeout(None) as patience, telling as out:
                    if await self._receive(out, patience):
                        return
                missing = spoilt = 0
                if self.has_heard:
                    fruitless, pause = 0, 0.2
                else:
                    trouble = Refused(
                        "The head node answers, and does not say how the run goes.", evidence=self.unknown
                    )
            except WrongOffset:
                logger.warning("run %s: another observer was here; going on from what it stored", self.pk)
            except TimeoutError:
                await self._mark_silent(f"{host.name} sent nothing for {SILENCE:.0f} s.")
                self.connections.drop(host)
            except Passing as error:
                await self._mark_silent(error.message)
                # Only the cloud can say that a node is gone for good. Ask twice, some time apart.
                missing = missing + 1 if await self._head_lives() == Alive.NO else 0
                if missing >= 3:
                    await self._lost(_of_head("The head node went away while the run was on it.", error.evidence))
                    return
            except Spoilt as error:
                spoilt += 1
                if spoilt >= MOST_FAULTS:
                    await self._not_followed(error)
                    return
            except PortalError as error:
                trouble = error
            if self.silent and self.costs and self.ends_by and now() > self.ends_by:
                words = f"The head node does not answer, and the time limit of {span(self.limit or 0)} is over."
                await self._lost(_of_head(words))
                return
            if trouble and await self._is_deleted():
                # A computer that was there before the cluster is there after it, and lets its keys do nothing more.
                await self._lost(_of_head("The head node went away while the run was on it.", trouble.evidence))
                return
            if trouble:
                # The run may be well: that its node shows another key, or answers with nonsense, is no word of its end.
                await self._mark_silent(trouble.message)
                fruitless, longest = fruitless + 1, 10.0
                if fruitless >= MOST_FRUITLESS:
                    await self._not_followed(trouble)
                    return
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    async def _not_followed(self, error: PortalError) -> None:
        """Nobody says that it has ended, and nobody can say how it goes: it is ended on its nodes."""
        advice = f"{error.advice} What ran of it is ended. Look at the cluster, and run the job again.".strip()
        await self._lost(Cause(error.message, error.evidence, advice, "not_followed"))

    @DATABASE
    def _target(self) -> tuple[ssh.Host, str, int] | None:
        (run,) = _observed(self.pk)
        if run.observed:
            return None
        # Anew each time: while the connection was away, another observer may have stored something.
        self.output, self.silent, self.names = run.output, run.silent_since is not None, run.live_names()
        self.stored = self.received = run.output.log
        self.never_since: float | None = None
        self.limit = run.time_limit
        self.costs = run.cluster.dedicated  # for as long as the run is waited for, and nobody may look
        self.ends_by = (
            run.started + timedelta(seconds=run.time_limit + LATE) if run.started and run.time_limit else None
        )
        head, folder = run.kept_at()
        return head.host, folder, self.stored

    async def _receive(self, out: Any, patience: asyncio.Timeout) -> bool:
        """Take in what the node tells. True when the run was seen to its end."""
        messages: asyncio.Queue[Message | PortalError | None] = asyncio.Queue(maxsize=16)
        pump = asyncio.create_task(_pump(out, messages))
        try:
            while True:
                wait = self.buffer.hold()
                if wait is not None:
                    wait = max(wait, self.pace.left())
                message = await _next(messages, wait, patience)
                if message is _NOTHING_YET:
                    await self._store()
                elif message is None:
                    return False
                elif isinstance(message, PortalError):
                    raise message
                elif await self._take_in(*message):
                    return True
        finally:
            pump.cancel()

    async def _take_in(self, word: dict[str, Any], data: bytes) -> bool:
        """One thing that the node has told. True when it was the last."""
        if "unknown" in word:
            self.unknown = str(word["unknown"])[:300]
            if not self.silent:
                await self._mark_silent(f"The head node cannot say whether it lives: {self.unknown}")
        else:
            self.has_heard = self.has_heard or "facts" not in word
            if self.silent:
                await self._heard()
        if self.ends_by and "exit" not in word and "sha256" not in word and now() > self.ends_by:
            await self._lost(
                Cause(
                    f"Ended by the portal, after its time limit of {span(self.limit or 0)}.",
                    "What keeps the time on the head node has not ended it: programs of the run may have stopped that.",
                    "If it needs longer, give the job a longer time limit.",
                    "time_limit",
                )
            )
            return True
        if "log" in word:
            self.printed_at, self.is_quiet = time.monotonic(), False
        elif not self.is_quiet and time.monotonic() - self.printed_at > QUIET.total_seconds():
            self.is_quiet = True
            await live.send(*self.names)
        if "log" in word:
            if word["log"] != self.received:
                raise Spoilt("The head node's log of the run makes no sense.", evidence=json.dumps(word)[:200])
            self.received += len(data)
            self.buffer.add(data)
            if self.buffer.size >= MOST_BUFFERED:
                await self._store()
        elif "facts" in word and isinstance(word["facts"], dict):
            self.facts, self.news = word["facts"], True
            self.buffer.note()
        elif "exit" in word:
            await self._store(everything=True)
            failpoint("jobs.watch.exit.before")
            end = _End.of(word["exit"])
            await self._ended(end, await self._switched_off_under(end), await self._lost_under(end))
            self.has_ended = True
            failpoint("jobs.watch.exit.after")
        elif "sha256" in word:
            if not isinstance(word["sha256"], dict):
                raise Spoilt("The head node says what makes no sense.", evidence=str(word)[:200])
            # If we die before it, the next observer is told the end again.
            await self._finish({kind[:10]: str(digest)[:64] for kind, digest in list(word["sha256"].items())[:10]})
            return True
        elif "beat" in word and self.has_ended:  # its checksums take long, and its cluster is not to wait for them
            self.has_ended = False
            await self._wake()
        elif "never" in word:
            return await self._never_began()
        elif "gone" in word:
            await self._store(everything=True)
            seen, began = await self._head_seen()
            if seen and (at := seen.switched_off) and at > began:
                await self._lost(SWITCHED_OFF, at=at)
                return True
            if seen and seen.refuses:
                advice = "Remove what nobody needs from /shared and from the nodes' homes, and run it again."
                await self._lost(Cause("Its head node ended it: the disk is full.", seen.refuses, advice, "disk_full"))
                return True
            if word.get("rebooted"):
                name = seen.hostname if seen else "Its head node"
                await self._lost(
                    Cause(
                        f"{name} was started again while the run was on it.",
                        "Its kernel is another one than when the run began.",
                        "What the run has printed is kept. Run it again.",
                        "head_lost",
                    )
                )
                return True
            await self._lost(
                Cause(
                    "The run disappeared without an exit status.",
                    "Its keeper on the head node is gone.",
                    "It was killed from outside, ran out of memory, or its node was started again. Run it again.",
                    "disappeared",
                )
            )
            return True
        return False

    async def _never_began(self) -> bool:
        """The node knows of no such run: it is just being started, or the run has deleted its own folder."""
        self.never_since = self.never_since or time.monotonic()
        if time.monotonic() - self.never_since < VANISHED or not await self._is_on_node():
            return False
        await self._lost(
            Cause(
                "The run's folder on the head node was deleted while it ran.",
                "A program of the run has removed it, or one of another run on the same /shared.",
                "The program must leave /shared/.runs alone. What was left of it on the nodes was ended.",
                "folder_deleted",
            )
        )
        return True

    @DATABASE
    def _is_on_node(self) -> bool:
        return Run.objects.filter(pk=self.pk, is_on_node=True).exists()

    async def _store(self, *, everything: bool = False) -> None:
        segments, size = self.buffer.take()
        if size or self.news:
            self.pace.spend()
            failpoint("jobs.watch.store.before")
            await self._append(segments, size)
            failpoint("jobs.watch.store.after")
        if everything and self.buffer.rest:
            logger.warning("run %s: its log ends in the middle of a frame", self.pk)

    @DATABASE
    def _append(self, segments: list[Segment], size: int) -> None:
        """What was received of output and facts, in one transaction."""
        with transaction.atomic():
            if self.news:
                ended = self.facts.get("ended")
                Run.objects.filter(pk=self.pk).update(
                    phase=str(self.facts.get("phase") or "")[:10],
                    commit=str(self.facts.get("commit") or "")[:40],
                    commit_subject=plain_text(str(self.facts.get("subject") or "").encode())[:200],
                    ended_ranks=_ended_ranks(ended) if isinstance(ended, dict) else {},
                )
            if size:
                self.output.append_log(segments, offset=self.stored, size=size)
            if self.news:  # last: who waits for output hears of that first
                live.ring(*self.names)
        self.stored += size
        self.news = False

    @DATABASE
    def _heard(self) -> None:
        self.silent = False
        if Run.objects.filter(pk=self.pk, silent_since__isnull=False).update(silent_since=None):
            live.ring(*self.names)

    @DATABASE
    def _mark_silent(self, why: str) -> None:
        logger.warning("run %s: %s", self.pk, why)
        self.silent = True
        if Run.objects.filter(pk=self.pk, silent_since=None).update(silent_since=now()):
            live.ring(*self.names)

    async def _head_lives(self) -> Alive:
        """As its cloud says. Of a node that it does not list, only after a while, or where the cluster is deleted."""
        try:
            seen, _ = await self._head_seen()
        except PortalError as error:
            logger.warning("run %s: the cloud does not say whether its node runs: %s", self.pk, error)
            return Alive.UNKNOWN
        if seen is not None:
            self.unlisted_since = None
            return Alive.YES if seen.is_coming else Alive.NO
        self.unlisted_since = self.unlisted_since or time.monotonic()
        is_over = time.monotonic() - self.unlisted_since > UNLISTED or await self._is_deleted()
        return Alive.NO if is_over else Alive.UNKNOWN

    @DATABASE
    def _is_deleted(self) -> bool:
        return Cluster.objects.filter(runs=self.pk, status__in=Cluster.DELETED).exists()

    async def _head_seen(self) -> tuple[CloudNode | None, datetime]:
        """The head node as the cloud sees it, and since when the run is on it."""
        run = await self._with_cloud()
        seen = await self.inventory.nodes(run.cluster)
        return next((node for node in seen if node.rank == run.head_rank), None), run.started or now()

    @DATABASE
    def _with_cloud(self) -> Run:
        places = ("cluster__workspace__cloud_config", "cluster__workspace__organization")
        return Run.objects.select_related(*places).get(pk=self.pk)

    async def _switched_off_under(self, end: _End) -> bool:
        """Whether its node was told to end a moment before: then that is why, whatever its programs died of.

        Nodes are switched off with the portal, so that nobody watches then; a run that fails before our eyes waits for
        no cloud.
        """
        if end.words["status"] == 0 or end.at > self.began:
            return False
        try:
            seen, _ = await self._head_seen()
        except PortalError as error:
            logger.info("run %s: the cloud does not say whether its node was switched off: %s", self.pk, error)
            return False
        return bool(seen and seen.switched_off and timedelta(0) <= end.at - seen.switched_off <= SWITCHING_OFF)

    async def _lost_under(self, end: _End) -> Cause | None:
        """What became of its other nodes, each of which is asked, where it ended as if one of them was lost."""
        if not may_be_of_nodes(end.words):
            return None
        hosts, began = await self._others()
        ages = await asyncio.gather(*(self._age(host) for host in hosts))
        lasted = (now() - began).total_seconds()
        silent = [host.name for host, age in zip(hosts, ages, strict=True) if age is None]
        rebooted = [
            (host.name, now() - timedelta(seconds=age))
            for host, age in zip(hosts, ages, strict=True)
            if age is not None and age < lasted
        ]
        return of_nodes(rebooted, silent)

    @DATABASE
    def _others(self) -> tuple[list[ssh.Host], datetime]:
        """The nodes beside the head node, and since when the run is on them."""
        run = Run.objects.select_related("cluster__workspace__organization").get(pk=self.pk)
        others = run.cluster.members.exclude(rank=run.head_rank).exclude(address="")
        return [node.host for node in others.select_related("cluster__workspace__organization")], run.started or now()

    async def _age(self, host: ssh.Host) -> float | None:
        """Seconds since it was started; None where it does not answer, and infinite where it cannot tell."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                answer = await self.connections.run(host, AGE, seconds=ANSWERS_WITHIN, most=4096)
            up, rest = answer.text.split("\n", 1)
            status, ticks = rest.rsplit("\n", 1)
            # Of its first process, which is as old as itself; its kernel may be older, and another computer's too.
            return float(up.split()[0]) - int(status.rpartition(")")[2].split()[19]) / int(ticks)
        except (Passing, TimeoutError):
            return None
        except (PortalError, ValueError, LookupError, ArithmeticError) as error:
            logger.info("run %s: %s does not say how long it has been up: %s", self.pk, host.name, error)
            return math.inf

    @DATABASE
    def _ended(self, end: _End, was_switched_off: bool = False, lost: Cause | None = None) -> None:
        """All of its output is stored; write down how it ended. The outcome is the run's, not the task's."""
        with transaction.atomic():
            live.ring(*self.names)  # first, of what follows the commit
            run = _held(self.pk)
            if run.ended is None:
                failure = self.facts.get("failure")
                cause = explain(run, end.words, failure if isinstance(failure, dict) else None)
                verdict = end.words.get("verdict") or {}
                if cause.message and was_switched_off:
                    cause = of_deletion(run.cluster) or SWITCHED_OFF
                elif lost or verdict.get("lost"):  # nodes that a deletion has shut do not answer the launcher either
                    told = replace(lost, evidence=cause.evidence) if lost else cause
                    cause = of_deletion(run.cluster, before=end.at) or told
                Run.objects.filter(pk=run.pk).update(
                    ended=max(end.at, run.started or end.at),
                    exit_status=end.words["status"],
                    exit_signal=end.words["signal"],
                    **cause.fields,
                    failures=verdict.get("failures", []),
                    ended_ranks={},
                    silent_since=None,
                )
                _outcome(run, Run.Status.FAILED if cause.message else Run.Status.FINISHED)
                if names := verdict.get("lost"):
                    report_lost(run.cluster, names)

    @DATABASE
    def _wake(self) -> None:
        with transaction.atomic():
            wake_task(_held(self.pk))

    @DATABASE
    def _finish(self, digests: dict[str, str] | None) -> None:
        with transaction.atomic():
            run = _held(self.pk)
            Run.objects.filter(pk=run.pk).update(observed=True, digests=digests)
            wake_task(run)

    async def _lost(self, cause: Cause, *, at: datetime | None = None) -> None:
        """It ended, at this time if that is known, and nobody on its node tells how."""
        await self._mark_lost(cause, at)
        await self._finish(None)

    @DATABASE
    def _mark_lost(self, cause: Cause, at: datetime | None) -> None:
        with transaction.atomic():
            run = _held(self.pk)
            if run.ended is None:
                cause = of_deletion(run.cluster) or cause
                Run.objects.filter(pk=run.pk).update(ended=at or now(), silent_since=None, **cause.fields)
                _outcome(run, Run.Status.FAILED)
            live.ring(*run.live_names())
            wake_task(run)


def _of_head(message: str, evidence: str = "") -> Cause:
    return Cause(message, evidence, "Look at the cluster, repair it, and run the job again.", "head_lost")


@prepared
def _task_to_hold(kind: int, run: int) -> QuerySet[Task]:
    return ledger.to_hold(Task.objects.filter(subject_type=kind, subject_id=run))


@prepared
def _to_hold(run: int) -> QuerySet[Run]:
    return Run.objects.select_for_update(of=("self",), no_key=True).filter(pk=run)


def _held(pk: int) -> Run:
    """Locked to the end of the transaction, after its task: a worker may just write how that has ended."""
    _task_to_hold(ContentType.objects.get_for_model(Run).pk, pk)
    (run,) = _to_hold(pk)
    return run


def _outcome(run: Run, status: Run.Status) -> None:
    """Unless it is being cancelled: then that is what becomes of it, when its task ends."""
    if run.tasks.unfinished().filter(cancel_asked=True).exists():
        return
    if not run.move(status):
        logger.warning("run %s was %s before its node said that it is %s", run.pk, run.status, status)


Message = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class _End:
    """How the keeper says that the command ended, and when by our own clock."""

    words: dict[str, Any]
    at: datetime

    @classmethod
    def of(cls, words: Any) -> _End:
        """Raises `Spoilt` where it makes no sense."""
        try:
            numbers = [words[name] for name in ("status", "signal")]
            ago = float(words["now"]) - float(words["ended"])
            good = all(number is None or (type(number) is int and abs(number) < 2**31) for number in numbers)
            verdict = words.get("verdict")
            if not good or ago != ago or not isinstance(verdict, dict | None):
                raise ValueError(words)
            return cls(
                {**words, "verdict": sound(verdict) if verdict else None},
                now() - timedelta(seconds=min(max(0.0, ago), 10 * 365 * 86400.0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Spoilt("The head node does not say how the run ended.", evidence=str(words)[:200]) from error


def _ended_ranks(told: dict[str, Any]) -> dict[str, Any]:
    """As `Run.ended_ranks`. Raises `Spoilt` where it makes no sense."""
    try:
        latest = now().timestamp()  # whatever its clock says: the last years that there are break pages
        last = [[_count(rank), min(max(0.0, float(at)), latest)] for rank, at in told["last"][:5]]
        return {"count": _count(told["count"]), "of": _count(told["of"]), "last": last}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Spoilt("The head node does not say which ranks have ended.", evidence=str(told)[:200]) from error


def _count(value: Any) -> int:
    number = int(value)
    if not 0 <= number < 2**32:
        raise ValueError(value)
    return number


_NOTHING_YET: Message = ({}, b"")


async def _next(
    messages: asyncio.Queue[Message | PortalError | None], wait: float | None, patience: asyncio.Timeout
) -> Message | PortalError | None:
    """The next message, or `_NOTHING_YET` after `wait` seconds.

    Patience runs here alone: a node is not silent because what it said takes long to be stored.
    """
    if wait == 0.0:
        return _NOTHING_YET if messages.empty() else messages.get_nowait()
    patience.reschedule(asyncio.get_running_loop().time() + SILENCE)
    try:
        async with asyncio.timeout(wait):
            return await messages.get()
    except TimeoutError:
        return _NOTHING_YET
    finally:
        if not patience.expired():
            patience.reschedule(None)


async def _pump(out: Any, messages: asyncio.Queue[Message | PortalError | None]) -> None:
    """Parse what `observe` writes, within bounds. A broken connection ends it with None, nonsense with an error."""
    buffer = bytearray()
    try:
        while block := await out.read(65536):
            buffer += block
            while (at := buffer.find(b"\n")) >= 0:
                word = storable(json.loads(buffer[:at]))
                if not isinstance(word, dict):
                    raise ValueError(f"{str(word)[:40]} in place of words")
                size = word["size"] if "log" in word else 0
                if not isinstance(size, int) or not 0 <= size <= MOST_LINE:
                    raise ValueError(f"a block of {size} bytes")
                if len(buffer) < at + 1 + size:
                    break
                await messages.put((word, bytes(buffer[at + 1 : at + 1 + size])))
                del buffer[: at + 1 + size]
                if word.keys() & {"sha256", "gone"}:
                    out.is_over = not buffer
                    return
            if len(buffer) > 2 * MOST_LINE:
                raise ValueError("a line without an end")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        await messages.put(Refused("The head node says what makes no sense.", evidence=str(error)[:200]))
    except (OSError, ssh.Broken) as error:
        logger.warning("observer's connection: %s", error)
    await messages.put(None)


def wake_task(run: Run) -> None:
    task = run.last_task
    if task:
        ledger.wake(task.pk)
