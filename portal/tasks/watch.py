"""The watch process: one event loop that looks after everything that runs, so that no worker has to.

Any number of them share what there is: each thing is looked after by the one that holds its lease (`leases.py`). What
only one may do is a thing like the others. When a process goes, the others have its things within a term and a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, Protocol
from uuid import UUID

from channels.layers import get_channel_layer
from django.db import DatabaseError, close_old_connections
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from redis.exceptions import RedisError

from portal.prepared import prepared_keys
from portal.tasks import leases, live, queue, registry
from portal.tasks.leases import TERM, Lease, WatchProcess
from portal.tasks.models import Task
from portal.tasks.pace import Pace
from portal.tasks.threads import LEASES, SWEEP

logger = logging.getLogger(__name__)

LONGEST_SLEEP = 1.0  # seconds between looks, when no doorbell is heard
RENEW_EVERY = TERM.total_seconds() / 6
MARGIN = 0.5  # seconds that we think ourselves dead before others do
MOST_STUCK = 30.0  # seconds that our event loop may do one thing, before others take over
MOST_HANDED_OVER = 64  # at one look: whoever gets them has to connect to as many nodes
FORGET_EVERY = 60.0


class Bell:
    """Rung when something changed. It has one listener: what rings while that looks is heard when it waits again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Until it has rung since the last wait has ended, or for a while."""
        # Not `wait_for`, which in Python 3.11 returns what is there already in the place of being cancelled.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()


class Watcher(Protocol):
    """Does what only one process may do. `run` goes on until it is cancelled.

    `bell` is rung with the doorbells that its `rung_by` names, if it has that.
    """

    async def run(self, bell: Bell) -> None: ...


class SharingWatcher(ABC):
    """Looks after things of one kind, of which each process has a share."""

    kind: ClassVar[str]  # in the names of their leases
    rung_by: ClassVar[tuple[str, ...]]  # the doorbells after which others may be wanted

    @abstractmethod
    async def wanted(self) -> set[int]:
        """All that there is to look after, whoever does it: primary keys."""

    @abstractmethod
    async def look_after(self, pk: int) -> None:
        """Goes on until the thing is over. Cancelled when the lease is lost or given away, or the thing not wanted."""

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """Nothing is looked after any more."""


class _Only(SharingWatcher):
    """One thing that only one process may do: its lease stands for the right to do it."""

    def __init__(self, watcher: Watcher, bell: Bell) -> None:
        self.watcher, self.bell = watcher, bell
        self.kind = type(watcher).__name__  # type: ignore[misc]
        self.rung_by = ()  # type: ignore[misc]

    async def wanted(self) -> set[int]:
        return {1}

    async def look_after(self, pk: int) -> None:
        await self.watcher.run(self.bell)


class State(NamedTuple):
    """What a life knew when it was renewed last. `at` and `until` are of `time.monotonic`."""

    pk: UUID
    living: frozenset[UUID]
    held: frozenset[str]
    at: float
    until: float


class Life:
    """This process among those that live.

    Renewed by a thread and a connection of its own, so that nothing that the process does for anybody can delay it. A
    process whose event loop is stuck does not renew: what it holds would be looked after by nobody.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        """`changed` is called, in the thread, when there is another state than before."""
        self.beat = time.monotonic()  # when the event loop was last known to go round
        self._state: State | None = None
        self._changed = changed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="life", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def state(self) -> State | None:
        """None while this process must not look after anything, because others may do so."""
        state = self._state
        return state if state and time.monotonic() < state.until else None

    def stop(self, *, patience: float = 5.0) -> None:
        """Give everything away."""
        self._stopping.set()
        self._thread.join(patience)

    def _go_on(self) -> None:
        while not self._stopping.is_set():
            try:
                self._renew()
            except DatabaseError as error:
                logger.warning("this process could not be renewed: %s", error)
            except Exception:
                logger.exception("this process could not be renewed")
            close_old_connections()
            self._stopping.wait(RENEW_EVERY)
        state, self._state = self._state, None
        if state:
            with contextlib.suppress(DatabaseError):
                WatchProcess.end(state.pk)
        close_old_connections()

    def _renew(self) -> None:
        began = time.monotonic()
        before = self._state
        if began - self.beat > MOST_STUCK:
            logger.error("the event loop has been busy with one thing for %.0f s", began - self.beat)
            return
        pk = before.pk if before and began < before.until and WatchProcess.renew(before.pk) else None
        # By our own clock too, because others may have seen it run out while the statement was under way.
        if before and (pk is None or time.monotonic() > before.until):
            logger.warning("this process was not heard of for too long; it begins again, with nothing")
            self._state = pk = None
            WatchProcess.end(before.pk)
        if pk is None:
            began = time.monotonic()
            pk = WatchProcess.begin()
        until = began + TERM.total_seconds() - MARGIN
        at = time.monotonic()
        self._state = State(pk, leases.living(), leases.held_by(pk), at, until)
        if before is None or before[:3] != self._state[:3]:
            self._changed()


class Keeper:
    """Looks after this process's share of the things of one kind."""

    def __init__(self, watcher: SharingWatcher, life: Life, bell: Bell) -> None:
        self.watcher, self.life, self.bell = watcher, life, bell
        self.pace = Pace()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.taken: dict[str, float] = {}  # when each lease was known to be ours, by time.monotonic
        self.life_of: UUID | None = None  # the life in which all of them were
        self.not_before: dict[str, float] = {}  # of things whose work has ended too early

    async def run(self) -> None:
        """Until it is cancelled. Rung often, it looks ten times a second at most; not rung, once."""
        try:
            while True:
                try:
                    await self.look()
                except DatabaseError as error:
                    logger.warning("%s: %s", self.watcher.kind, error)
                except Exception:
                    logger.exception("%s: one look failed", self.watcher.kind)
                await self.bell.wait(LONGEST_SLEEP)
                await self.pace.turn()
        finally:
            await _end(self.tasks.values())
            self.watcher.close()

    async def look(self) -> None:
        """1. End what is not ours any more. 2. Ask what is wanted. 3. Give away, forget and take."""
        state = self.life.state
        await self._end_lost(state)
        if state is None:
            return
        wanted = {f"{self.watcher.kind}.{pk}": pk for pk in await self.watcher.wanted()}
        self._collect()
        over = self.taken.keys() - wanted.keys()
        others = [one for one in self.taken if one in wanted and leases.owner_of(one, state.living) != state.pk]
        if over:
            await self._let_go(over)
            await LEASES(Lease.drop)(over, state.pk)
        if given := others[:MOST_HANDED_OVER]:
            await self._let_go(given)
            await LEASES(Lease.release)(given, state.pk)
            await live.send(live.WATCH_LEASES)
        mine = {one for one in wanted if leases.owner_of(one, state.living) == state.pk}
        if new := mine - self.taken.keys():
            got = await LEASES(Lease.take)(new, state.pk)
            # Known since now: what the life found a moment ago may lack it, and it is not lost for that.
            self.taken |= dict.fromkeys(got, time.monotonic())
            self.life_of = state.pk
        for one in self.taken.keys() & wanted.keys():
            if one not in self.tasks and self.not_before.get(one, 0) <= time.monotonic():
                self.tasks[one] = asyncio.create_task(self.watcher.look_after(wanted[one]), name=one)

    async def _end_lost(self, state: State | None) -> None:
        if state is None or self.life_of not in (None, state.pk):
            lost = list(self.taken)
        else:
            lost = [one for one, at in self.taken.items() if at < state.at and one not in state.held]
        if lost:
            logger.warning("%s: %s leases were lost", self.watcher.kind, len(lost))
            await self._let_go(lost)

    async def _let_go(self, things: Iterable[str]) -> None:
        ending = [task for thing in things if (task := self.tasks.pop(thing, None))]
        for thing in list(things):
            self.taken.pop(thing, None)
            self.not_before.pop(thing, None)
        await _end(ending)

    def _collect(self) -> None:
        for thing, task in list(self.tasks.items()):
            if not task.done():
                continue
            del self.tasks[thing]
            self.not_before[thing] = time.monotonic() + LONGEST_SLEEP
            if not task.cancelled() and (error := task.exception()):
                logger.error("%s failed, starting it again", thing, exc_info=error)


class Watch:
    """All that one process does. `run` until it is cancelled, and everything is given away."""

    def __init__(self, watchers: Iterable[Any]) -> None:
        self.bells: defaultdict[str, list[Bell]] = defaultdict(list)
        self.loop = asyncio.get_running_loop()
        self.life = Life(lambda: self.loop.call_soon_threadsafe(self.rang, live.WATCH_LEASES))
        self.keepers = [self._keeper(watcher) for watcher in watchers]

    def _keeper(self, watcher: Any) -> Keeper:
        if not isinstance(watcher, SharingWatcher):
            watcher = _Only(watcher, self._bell(*getattr(watcher, "rung_by", ())))
        return Keeper(watcher, self.life, self._bell(live.WATCH_LEASES, *watcher.rung_by))

    def _bell(self, *names: str) -> Bell:
        bell = Bell()
        for name in names:
            self.bells[name].append(bell)
        return bell

    def rang(self, name: str) -> None:
        for bell in self.bells.get(name, ()):
            bell.ring()

    async def run(self) -> None:
        self.life.start()
        tasks = [asyncio.create_task(keeper.run()) for keeper in self.keepers]
        tasks.append(asyncio.create_task(_listen(set(self.bells), self.rang)))
        try:
            while True:
                self.life.beat = time.monotonic()
                await asyncio.sleep(0.25)
        finally:
            await _end(tasks)
            await asyncio.to_thread(self.life.stop)
            await live.send(live.WATCH_LEASES)


async def main() -> None:
    """Until SIGTERM or SIGINT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection a node
    logger.info("%s descriptors may be open (%s before)", hard, soft)
    watch = Watch([make() for make in registry.watchers])
    running = asyncio.create_task(watch.run())
    for name in (signal.SIGTERM, signal.SIGINT):
        watch.loop.add_signal_handler(name, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    for outcome in await asyncio.gather(*ending, return_exceptions=True):
        if isinstance(outcome, Exception):
            logger.error("ended with an error", exc_info=outcome)


async def _listen(names: set[str], rang: Callable[[str], None]) -> None:
    layer = get_channel_layer()
    assert layer is not None
    while True:
        try:
            channel = await layer.new_channel()
            for name in sorted(names):
                await layer.group_add(name, channel)
            while True:
                rang((await layer.receive(channel))["name"])
        except (RedisError, OSError) as error:
            logger.warning("doorbell not heard, looking every second: %s", error)
            await asyncio.sleep(1)


class TaskWatcher:
    """Queues what is due and in no queue, and sweeps up after watch processes that died."""

    rung_by = (live.WATCH,)

    async def run(self, bell: Bell) -> None:
        pace, forgot = Pace(), 0.0
        while True:
            pause = LONGEST_SLEEP
            try:
                pause = await SWEEP(queue_due)()
                if time.monotonic() - forgot > FORGET_EVERY:
                    forgot = time.monotonic()
                    await LEASES(leases.forget_the_dead)()
            except (DatabaseError, RedisError, OSError) as error:
                logger.warning("sweep: %s", error)
            await bell.wait(pause)
            await pace.turn()


@prepared_keys
def _waiting() -> QuerySet[Task]:
    """For a worker, or for their time."""
    return Task.objects.unfinished().filter(Q(lease_until=None) | Q(lease_until__lt=Now()) | Q(lease=None))[:1]


def queue_due() -> float:
    """Queue what is due and in no queue. Returns after how many seconds to look again."""
    if not _waiting():
        return LONGEST_SLEEP
    due = list(Task.objects.due().order_by("wake_at")[:500])
    if due and (pushed := queue.push_missing(due)):
        logger.info("queued %s tasks that were due", pushed)
    waiting = Task.objects.unfinished().filter(lease=None, wake_at__gt=Now()).order_by("wake_at")
    following = waiting.annotate(now=Now()).values_list("wake_at", "now").first()
    if following is None:
        return LONGEST_SLEEP
    wake_at, at = following
    return float(min(LONGEST_SLEEP, max(0.02, (wake_at - at).total_seconds() + 0.005)))
