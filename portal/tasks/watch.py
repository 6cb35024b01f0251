"""The watch process: one event loop that looks after everything that runs, so that no worker has to.

Any number may stand by; one leads. The leader queues tasks that are due and that nobody works on, and runs the
watchers named in settings.WATCHERS, each of which looks after one kind of thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import uuid
from datetime import timedelta
from typing import Any, Protocol

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import DatabaseError
from django.db.models import Min
from django.utils.module_loading import import_string
from django.utils.timezone import now
from redis.exceptions import RedisError

from portal.tasks import queue
from portal.tasks.live import WATCH
from portal.tasks.models import Leader, Task

logger = logging.getLogger(__name__)

LONGEST_SLEEP = 1.0  # seconds between looks, when no doorbell is heard


class Bell:
    """Rung when something changed. Each listener waits for the next ring, or for a while."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)


class Watcher(Protocol):
    """Looks after one kind of thing while this process leads. `run` goes on until it is cancelled."""

    async def run(self, bell: Bell) -> None: ...


async def main() -> None:
    """Until SIGTERM or SIGINT."""
    me = uuid.uuid4()
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    bell = Bell()
    listening = asyncio.create_task(_listen(bell))
    leading: asyncio.Task[None] | None = None
    held = 0.0
    clock = asyncio.get_running_loop().time
    try:
        while not stopping.is_set():
            try:
                leader = await database_sync_to_async(Leader.hold)(WATCH, me)
                if leader:
                    held = clock()
            except DatabaseError as error:
                logger.warning("database: %s", error)
                # Without the database nobody else can take over either, until our term is over.
                leader = leading is not None and clock() - held < Leader.TERM.total_seconds() / 2
            if leader and (leading is None or leading.done()):
                logger.info("leading")
                leading = asyncio.create_task(_lead(bell))
            elif not leader and leading:
                logger.warning("standing by")
                await _end(leading)
                leading = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), Leader.TERM.total_seconds() / 6)
    finally:
        await _end(leading)
        await _end(listening)
        with contextlib.suppress(DatabaseError):
            await database_sync_to_async(Leader.step_down)(WATCH, me)


async def _end(task: asyncio.Task[None] | None) -> None:
    if task:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def _listen(bell: Bell) -> None:
    layer = get_channel_layer()
    assert layer is not None
    while True:
        try:
            channel = await layer.new_channel()
            await layer.group_add(WATCH, channel)
            while True:
                await layer.receive(channel)
                bell.ring()
        except (RedisError, OSError) as error:
            logger.warning("doorbell not heard, looking every second: %s", error)
            await asyncio.sleep(1)


async def _lead(bell: Bell) -> None:
    watchers: list[Any] = [import_string(path)() for path in settings.WATCHERS]
    async with asyncio.TaskGroup() as group:
        group.create_task(_sweep(bell))
        for watcher in watchers:
            group.create_task(_keep_up(watcher, bell))


async def _keep_up(watcher: Watcher, bell: Bell) -> None:
    """A bug or a fault in one watcher must not end the others."""
    while True:
        try:
            await watcher.run(bell)
        except Exception:
            logger.exception("%s failed, starting it again", type(watcher).__name__)
        await asyncio.sleep(1)


async def _sweep(bell: Bell) -> None:
    while True:
        pause = LONGEST_SLEEP
        try:
            pause = await database_sync_to_async(queue_due)()
        except (DatabaseError, RedisError, OSError) as error:
            logger.warning("sweep: %s", error)
        await bell.wait(pause)


def queue_due() -> float:
    """Queue what is due and in no queue. Returns after how many seconds to look again."""
    due = list(Task.objects.due().order_by("wake_at")[:500])
    if due and (pushed := queue.push_missing(due)):
        logger.info("queued %s tasks that were due", pushed)
    next_wake = Task.objects.unfinished().filter(lease=None, wake_at__gt=now()).aggregate(at=Min("wake_at"))["at"]
    if next_wake is None:
        return LONGEST_SLEEP
    return float(min(LONGEST_SLEEP, max(0.02, (next_wake - now() + timedelta(milliseconds=5)).total_seconds())))
