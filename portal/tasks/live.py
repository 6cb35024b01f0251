"""Doorbells: telling open pages and the watch process that something changed. The news is read from the database."""

from __future__ import annotations

import asyncio
import logging

from channels.layers import get_channel_layer
from django.db import transaction

from portal import background

logger = logging.getLogger(__name__)

# What the watch processes listen to. Each ring is heard by those alone who would find something new.
WATCH = "watch"  # tasks: there is something to do
WATCH_RUNS = "watch.runs"  # a run is to be observed
WATCH_WAITING = "watch.waiting"  # a run waits for its cluster, or something that was in its way has gone
WATCH_CLUSTERS = "watch.clusters"  # a cluster runs, has lost a node or has ended
WATCH_CHECKS = "watch.checks"  # somebody wants to know what a cloud account says now
WATCH_LEASES = "watch.leases"  # a watch process came, went or gave something away

_rings: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


def ring(*names: str) -> None:
    """Ring after commit. Never raises: a ring that is lost costs a few seconds, and no data."""
    if names:
        transaction.on_commit(lambda: _ring_now(names), robust=True)


def _ring_now(names: tuple[str, ...]) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        background.submit(send(*names))
    else:
        task = loop.create_task(send(*names))
        _rings.add(task)
        task.add_done_callback(_rings.discard)


async def send(*names: str) -> None:
    layer = get_channel_layer()
    assert layer is not None
    try:
        for name in dict.fromkeys(names):
            await layer.group_send(name, {"type": "rang", "name": name})
    except Exception as error:  # noqa: BLE001 (Redis may be away in many ways; the database is the truth)
        logger.warning("doorbell not rung: %s", error)
