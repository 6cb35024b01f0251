"""Observing runs: output into the store by offset, and the end, exactly once, whatever dies in between."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from channels.db import database_sync_to_async
from django.db import transaction
from django.utils.timezone import now

from clusters.models import Node
from jobs.models import Run
from jobs.plans import wake_next
from portal import detached, ssh
from portal.clouds.errors import Passing, PortalError
from portal.failpoints import failpoint
from portal.tasks import ledger, live, output
from portal.tasks.models import Output, Stream, WrongOffset
from portal.tasks.pace import Pace
from portal.tasks.watch import Bell

logger = logging.getLogger(__name__)

HOLD_PARTIAL = 0.3  # seconds that the beginning of a line is held back, hoping for its end
HOLD_SETUP = 0.05  # seconds that what was prepared is held back, hoping for the command's first line
MOST_BUFFERED = 1024 * 1024
SILENCE = 10.0  # seconds without a beat before a head node counts as silent
STREAMS = {"out": Stream.STDOUT, "err": Stream.STDERR, "setup": Stream.SETUP}


class RunWatcher:
    """Starts an observer for each run that is on a node and not seen to its end."""

    def __init__(self) -> None:
        self.connections = ssh.Connections()
        self.observers: dict[int, asyncio.Task[None]] = {}

    async def run(self, bell: Bell) -> None:
        try:
            while True:
                for pk in await _to_observe():
                    if pk not in self.observers:
                        self.observers[pk] = asyncio.create_task(Observer(pk, self.connections).run())
                for pk, task in list(self.observers.items()):
                    if task.done():
                        del self.observers[pk]
                        if not task.cancelled() and (error := task.exception()):
                            logger.error("observer of run %s failed, starting it again", pk, exc_info=error)
                await bell.wait(1)
        finally:
            for task in self.observers.values():
                task.cancel()
            self.connections.close()


@database_sync_to_async
def _to_observe() -> list[int]:
    return list(Run.objects.filter(started__isnull=False, observed=False).values_list("pk", flat=True))


@dataclass
class Buffer:
    """What was received and not stored, in the order it came, runs of one stream joined."""

    pieces: list[tuple[Stream, bytearray]] = field(default_factory=list)
    size: int = 0
    new: bool = False  # output of the command has come since the last `take`
    setup_since: float | None = None  # what was said of its preparation waits since then
    partial_since: float | None = None  # when all that was left was the beginning of a line

    def hold(self) -> float | None:
        """Seconds until it is worth to `take`. None: until more comes."""
        if self.new:
            return 0.0
        due = [self.setup_since + HOLD_SETUP] if self.setup_since is not None else []
        if self.partial_since is not None:
            due.append(self.partial_since + HOLD_PARTIAL)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def note(self) -> None:
        """There is news of the preparation, in these bytes or elsewhere."""
        self.setup_since = self.setup_since or time.monotonic()

    def add(self, stream: Stream, data: bytes) -> None:
        if self.pieces and self.pieces[-1][0] == stream:
            self.pieces[-1][1].extend(data)
        else:
            self.pieces.append((stream, bytearray(data)))
        self.size += len(data)
        if stream == Stream.SETUP:
            self.note()
        else:
            self.new = True

    def take(self, *, everything: bool) -> list[tuple[Stream, bytes]]:
        """What may be stored now. The unended last line of a stream stays a moment, lest streams mix in it."""
        taken: list[tuple[Stream, bytes]] = []
        left: dict[Stream, bytearray] = {}
        patient = not everything and (
            self.partial_since is None or time.monotonic() - self.partial_since < HOLD_PARTIAL
        )
        for stream, data in self.pieces:
            held = left.pop(stream, bytearray())
            held.extend(data)
            cut = held.rfind(b"\n") + 1 if patient and len(held) < Output.CHUNK else len(held)
            if cut:
                taken.append((stream, bytes(held[:cut])))
            if cut < len(held):
                left[stream] = held[cut:]
        self.new, self.setup_since = False, None
        self.pieces = list(left.items())
        self.size = sum(len(data) for data in left.values())
        if not self.pieces:
            self.partial_since = None
        elif self.partial_since is None or taken:
            self.partial_since = time.monotonic()
        return taken


class Observer:
    """One run, from wherever its output was last stored up to, to its end."""

    def __init__(self, pk: int, connections: ssh.Connections) -> None:
        self.pk = pk
        self.connections = connections
        self.buffer = Buffer()
        self.facts: dict[str, Any] = {}
        self.news = False  # facts that are not written down
        self.silent = False
        self.pace = Pace()

    async def run(self) -> None:
        missing = 0
        pause = 0.2
        while True:
            target = await self._target()
            if target is None:
                return
            host = target[0]
            self.buffer = Buffer()
            try:
                telling = detached.observe(self.connections, *target)
                async with asyncio.timeout(None) as patience, telling as out:
                    if await self._receive(out, patience):
                        return
                missing, pause = 0, 0.2
            except WrongOffset:
                logger.warning("run %s: another observer was here; going on from what it stored", self.pk)
            except TimeoutError:
                await self._mark_silent(f"{host.name} sent nothing for {SILENCE:.0f} s.")
                self.connections.drop(host)
            except Passing as error:
                await self._mark_silent(error.message)
                # Only the cloud can say that a node is gone for good. Ask twice, some time apart.
                missing = missing + 1 if not await self._head_runs() else 0
                if missing >= 3:
                    await self._lost("The head node went away while the run was on it.", error.evidence)
                    return
            except PortalError as error:
                await self._lost(error.message, error.evidence)
                return
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    @database_sync_to_async
    def _target(self) -> tuple[ssh.Host, str, str, dict[str, int]] | None:
        run = Run.objects.select_related("cluster__workspace__organization", "output").get(pk=self.pk)
        if run.observed:
            return None
        # Anew each time: while the connection was away, another observer may have stored something.
        self.output, self.silent, self.names = run.output, run.silent_since is not None, run.live_names()
        self.offsets = {stream: run.output.size(stream) for stream in STREAMS.values()}
        head = run.cluster.nodes.get(rank=0)
        offsets = {name: self.offsets[stream] for name, stream in STREAMS.items()}
        return head.host, head.shared, run.folder(head.shared), offsets

    async def _receive(self, out: Any, patience: asyncio.Timeout) -> bool:
        """Take in what the node tells. True when the run was seen to its end."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[tuple[dict[str, Any], bytes] | None] = asyncio.Queue(maxsize=16)
        pump = asyncio.create_task(_pump(out, messages))
        try:
            while True:
                patience.reschedule(loop.time() + SILENCE)
                wait = self.buffer.hold()
                if wait is not None:
                    wait = max(wait, self.pace.left())
                try:
                    message = messages.get_nowait() if wait == 0.0 else await asyncio.wait_for(messages.get(), wait)
                except (TimeoutError, asyncio.QueueEmpty):
                    await self._store()
                    continue
                if message is None:
                    return False
                word, data = message
                if self.silent:
                    await self._heard()
                if "stream" in word:
                    self.buffer.add(STREAMS[word["stream"]], data)
                    if self.buffer.size >= MOST_BUFFERED:
                        await self._store()
                elif "facts" in word:
                    self.facts, self.news = word["facts"], True
                    self.buffer.note()
                elif "exit" in word:
                    await self._store(everything=True)
                    failpoint("jobs.watch.exit.before")
                    await self._ended(word["exit"])
                    failpoint("jobs.watch.exit.after")
                elif "sha256" in word:
                    await self._finish(digests=word["sha256"])
                    return True
                elif "gone" in word:
                    await self._store(everything=True)
                    await self._lost(
                        "The run disappeared without an exit status.",
                        "Its keeper on the head node is gone.",
                        "It was killed from outside, ran out of memory, or its node was started again. Run it again.",
                    )
                    return True
        finally:
            pump.cancel()

    async def _store(self, *, everything: bool = False) -> None:
        pieces = self.buffer.take(everything=everything)
        if pieces or self.news:
            self.pace.spend()
            failpoint("jobs.watch.store.before")
            await self._append(pieces)
            failpoint("jobs.watch.store.after")

    @database_sync_to_async
    def _append(self, pieces: list[tuple[Stream, bytes]]) -> None:
        """What was received of output and facts, in one transaction."""
        new = dict(self.offsets)
        with transaction.atomic():
            for stream, data in pieces:
                self.output.append(stream, data, offset=new[stream])
                new[stream] += len(data)
            if self.news:
                Run.objects.filter(pk=self.pk).update(
                    phase=str(self.facts.get("phase", ""))[:10],
                    commit=str(self.facts.get("commit", ""))[:40],
                    commit_subject=str(self.facts.get("subject", ""))[:200].replace("\0", ""),
                )
                live.ring(*self.names)
        self.offsets, self.news = new, False

    @database_sync_to_async
    def _heard(self) -> None:
        self.silent = False
        if Run.objects.filter(pk=self.pk, silent_since__isnull=False).update(silent_since=None):
            live.ring(*self.names)

    @database_sync_to_async
    def _mark_silent(self, why: str) -> None:
        logger.warning("run %s: %s", self.pk, why)
        if Run.objects.filter(pk=self.pk, silent_since=None).update(silent_since=now()):
            live.ring(*self.names)

    @database_sync_to_async
    def _head_runs(self) -> bool:
        head = Node.objects.select_related("cluster__workspace__cloud_config").get(cluster__runs__pk=self.pk, rank=0)
        try:
            seen = head.cluster.workspace.cloud.nodes(head.cluster.tags)
        except PortalError as error:
            logger.warning("run %s: the cloud does not say whether its node runs: %s", self.pk, error)
            return True
        return any(node.rank == 0 and node.running for node in seen)

    @database_sync_to_async
    def _ended(self, end: dict[str, Any]) -> None:
        """All of its output is stored; write down how it ended. The outcome is the run's, not the task's."""
        with transaction.atomic():
            run = Run.objects.select_for_update().select_related("output", "cluster", "job").get(pk=self.pk)
            if run.ended is None:
                cause, evidence, advice = explain(run, end, self.facts.get("failure"))
                Run.objects.filter(pk=run.pk).update(
                    ended=datetime.fromtimestamp(end["ended"], UTC),
                    exit_status=end["status"],
                    exit_signal=end["signal"],
                    cause=cause,
                    evidence=evidence,
                    advice=advice,
                    silent_since=None,
                )
                if not run.tasks.unfinished().filter(cancel_asked=True).exists():
                    run.move(Run.Status.FAILED if cause else Run.Status.FINISHED)
            live.ring(*self.names)  # before the worker is woken, which is not what the person waits for
            wake_task(run)

    @database_sync_to_async
    def _finish(self, digests: dict[str, str] | None) -> None:
        with transaction.atomic():
            run = Run.objects.select_for_update().get(pk=self.pk)
            Run.objects.filter(pk=run.pk).update(observed=True, digests=digests)
            wake_task(run)

    async def _lost(self, cause: str, evidence: str = "", advice: str = "") -> None:
        await self._mark_lost(cause, evidence, advice or "Look at the cluster, repair it, and run the job again.")
        await self._finish(None)

    @database_sync_to_async
    def _mark_lost(self, cause: str, evidence: str, advice: str) -> None:
        with transaction.atomic():
            run = Run.objects.select_for_update().get(pk=self.pk)
            if run.ended is None:
                Run.objects.filter(pk=run.pk).update(
                    ended=now(), cause=cause, evidence=evidence, advice=advice, silent_since=None
                )
                if not run.tasks.unfinished().filter(cancel_asked=True).exists():
                    run.move(Run.Status.FAILED)
            live.ring(*self.names)
            wake_task(run)


async def _pump(out: Any, messages: asyncio.Queue[tuple[dict[str, Any], bytes] | None]) -> None:
    """Parse what `observe` writes. A broken connection ends it with None."""
    try:
        while line := await out.readline():
            word = json.loads(line)
            data = await out.readexactly(word["size"]) if "stream" in word else b""
            await messages.put((word, data))
    except (asyncio.IncompleteReadError, ValueError, OSError, ssh.Broken) as error:
        logger.warning("observer's connection: %s", error)
    await messages.put(None)


def wake_task(run: Run) -> None:
    task = run.last_task
    if task:
        ledger.wake(task.pk)
    wake_next(run)


_BANNER = re.compile(r"^=|^\s*$|BAD TERMINATION|CLEANING UP|YOUR APPLICATION TERMINATED|^This typically refers")


def explain(run: Run, end: dict[str, Any], failure: dict[str, str] | None) -> tuple[str, str, str]:
    """Cause, evidence and advice of a run that ended; three empty strings when it ended well."""
    if failure:
        return failure["message"], failure.get("evidence", ""), failure.get("advice", "")
    if end.get("fault"):
        return "The command could not be started on the head node.", end["fault"], ""
    if end["status"] == 0:
        return "", "", ""
    evidence = "\n".join(_last_words(run.output))
    first = (end.get("notes") or "").splitlines()[:1]
    if first and len(parts := first[0].split()) == 3:
        rank, status, node = parts
        return f"Rank {rank} on {node} {_how(int(status))}.", evidence, ""
    if end["signal"] is not None:
        return f"mpiexec was ended by {signal.Signals(end['signal']).name}.", evidence, ""
    return f"The command {_how(end['status'])}.", evidence, ""


def _how(status: int) -> str:
    if status > 128:
        try:
            name = signal.Signals(status - 128).name
        except ValueError:
            return f"ended with exit status {status}"
        return f"was ended by {name}{', probably for want of memory' if name == 'SIGKILL' else ''}"
    return f"ended with exit status {status}"


def _last_words(stored: Output) -> list[str]:
    pieces = output.tail(stored, output.Filter(frozenset({Stream.STDERR})))
    text = b"".join(piece.data for piece in pieces)
    lines = [output.plain_text(line) for line in text.splitlines()]
    return [line for line in lines if not _BANNER.search(line)][-5:]
