"""One reader of an output per web process, shared by everybody who watches it there.

200 viewers of one run would otherwise ask the database 2,000 times a second for the same bytes. A `Reader` hears the
doorbell once, reads what is new once, and hands the same frame to all who stand at the same cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from weakref import WeakValueDictionary

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer

from portal.tasks import output as store
from portal.tasks.models import Output

LOOK = 5.0  # seconds; how often to look without a doorbell, because one may be lost
KEPT_FRAMES = 8


class Reader:
    """Knows how far an output has come. Lives as long as somebody holds it."""

    _all: WeakValueDictionary[tuple[int, int], Reader] = WeakValueDictionary()

    def __init__(self, output: Output) -> None:
        self.output = output
        self.moved = asyncio.Event()
        self.frames: OrderedDict[tuple[int, int, bool, bool], bytes] = OrderedDict()
        self.reading = asyncio.Lock()
        self.listener: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, output: Output) -> Reader:
        """The reader of this output in this event loop."""
        key = (id(asyncio.get_running_loop()), output.pk)
        reader = cls._all.get(key)
        if reader is None:
            reader = cls._all[key] = cls(output)
        return reader

    async def start(self) -> None:
        if self.listener is None or self.listener.done():
            ready = asyncio.Event()
            self.listener = asyncio.create_task(self._listen(ready))
            await ready.wait()

    def stop(self) -> None:
        if self.listener:
            self.listener.cancel()
            self.listener = None

    async def _listen(self, ready: asyncio.Event) -> None:
        layer = get_channel_layer()
        assert layer is not None
        channel = await layer.new_channel()
        await layer.group_add(self.output.live_name, channel)  # before the first look, so that nothing falls between
        try:
            await self._look()
            ready.set()
            while not (self.output.ended and self.output.is_kept):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(layer.receive(channel), LOOK)
                await self._look()
        finally:
            ready.set()
            await layer.group_discard(self.output.live_name, channel)

    async def _look(self) -> None:
        self.output = await _fetch(self.output.pk)
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()

    async def beyond(self, after: int, *, ended: bool, kept: bool) -> None:
        """Wait until there is something that a viewer at this cursor has not been told."""
        while self.output.head <= after and self.output.ended == ended and self.output.is_kept == kept:
            await self.moved.wait()

    async def frame(self, after: int) -> bytes:
        now = self.output
        key = (after, now.head, now.ended, now.is_kept)
        if key not in self.frames:
            async with self.reading:
                if key not in self.frames:
                    self.frames[key] = await _frame(now, after)
                    while len(self.frames) > KEPT_FRAMES:
                        self.frames.popitem(last=False)
        return self.frames[key]


@database_sync_to_async
def _fetch(pk: int) -> Output:
    return Output.objects.get(pk=pk)


@database_sync_to_async
def _frame(output: Output, after: int) -> bytes:
    return store.frame(output, after, store.read(output, after, until=output.head))
