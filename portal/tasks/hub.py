"""One reader of an output per web process, shared by everybody who watches it there.

200 viewers of one run would otherwise ask the database 2,000 times a second for the same bytes. A `Reader` hears the
doorbell, reads what is new once, and moves its head at a measured pace: so those who are up to date stand at the same
cursor and are handed the same frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections import OrderedDict
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary, ref

from channels.layers import get_channel_layer
from django.db.models import QuerySet

from portal.database import for_sockets
from portal.prepared import prepared
from portal.tasks import output as store
from portal.tasks.blocks import FRAME, MOST_PIECES, Block, blocks
from portal.tasks.outputs import ENTRY, Output
from portal.tasks.pace import Pace

logger = logging.getLogger(__name__)

LOOK = 5.0  # seconds; how often to look without a doorbell, because one may be lost
LOOK_AFTER_END = 60.0  # seconds; an output that is complete may be reopened
KEPT_FRAMES = 32
KEPT_BYTES = 4 * 1024 * 1024  # of the newest output; viewers further behind read the database


class State(NamedTuple):
    """What a viewer has been told, or could be told."""

    head: int
    ended: bool
    kept: bool


class Reader:
    """Knows how far an output has come. Lives as long as somebody holds it."""

    _all: WeakValueDictionary[tuple[int, UUID], Reader] = WeakValueDictionary()

    output: Output  # as it was when the reader looked last

    def __init__(self, uuid: UUID) -> None:
        self.uuid = uuid
        self.state = State(0, False, False)
        self.moved = asyncio.Event()
        self.newest: list[Block] = []
        self.more = False
        self.newest_from = 0  # the position at which `newest` begins
        self.frames: OrderedDict[tuple[int, State], bytes] = OrderedDict()
        self.building = asyncio.Lock()
        self.listener: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, uuid: UUID) -> Reader:
        """The reader of this output in this event loop."""
        key = (id(asyncio.get_running_loop()), uuid)
        reader = cls._all.get(key)
        if reader is None:
            reader = cls._all[key] = cls(uuid)
        return reader

    async def start(self) -> None:
        """Returns when the reader has looked at least once."""
        if self.listener is None or self.listener.done():
            ready = asyncio.Event()
            self.listener = asyncio.create_task(_listen(self, ready))
            await ready.wait()

    def __del__(self) -> None:
        if self.listener and not self.listener.done():
            self.listener.cancel()

    async def look(self) -> None:
        """Read what is new, and let everybody who waits have it."""
        after = self.state.head or None
        self.output, begin, new, self.more = await _news(self.uuid, after)
        if after is None:
            self.newest_from = begin
        self.newest.extend(new)
        gone = bisect_right(self.newest, self.output.head - KEPT_BYTES, key=lambda block: block.position)
        if gone:
            self.newest_from = self.newest[gone - 1].end
            del self.newest[:gone]
        self.state = State(self.output.head, self.output.ended, self.output.is_kept)
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()

    async def beyond(self, told: State) -> None:
        """Wait until there is something that a viewer has not been told. Starts a listener that has failed again."""
        while self.state.head <= told.head and self.state[1:] == told[1:]:
            await self.start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self.moved.wait()

    async def frame(self, after: int) -> bytes:
        key = (after, self.state)
        if key not in self.frames:
            async with self.building:
                if key not in self.frames:
                    self.frames[key] = await self._build(after)
                    while len(self.frames) > KEPT_FRAMES:
                        self.frames.popitem(last=False)
        return self.frames[key]

    async def _build(self, after: int) -> bytes:
        if after < self.newest_from:
            return await _frame(self.output, after)
        found: list[Block] = []
        size = pieces = 0
        for block in islice(self.newest, bisect_right(self.newest, after, key=lambda block: block.end), None):
            new = block.between(after, block.end)
            size += len(new.data)
            pieces += len(new.segments) // ENTRY.size
            if found and (size > FRAME or pieces > MOST_PIECES):
                break
            found.append(new)
        return store.frame(self.output, after, found)


async def _listen(reader: Reader, ready: asyncio.Event) -> None:
    """Not a method, and holding no reader while it waits: a reader that nobody holds must be able to go."""
    layer = get_channel_layer()
    assert layer is not None
    name = f"output.{reader.uuid}"
    rang, pace = asyncio.Event(), Pace()
    channel, hearing = "", None
    try:
        channel = await layer.new_channel()
        await layer.group_add(name, channel)  # before the first look, so that nothing falls between
        hearing = asyncio.create_task(_hear(layer, channel, rang))
        while True:
            rang.clear()  # before looking: what is rung meanwhile is heard afterwards
            await reader.look()
            ready.set()
            waiting, more = ref(reader), reader.more
            pause = LOOK_AFTER_END if reader.state.ended and reader.state.kept else LOOK
            del reader
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await rang.wait()
                await pace.turn()
            held = waiting()
            if held is None:
                return
            reader = held
    except Exception:
        logger.exception("listening to %s failed; viewers start it again", name)
    finally:
        ready.set()  # in any case: whoever waits for the first look must not wait for ever
        if hearing:
            hearing.cancel()
            await layer.group_discard(name, channel)


async def _hear(layer: Any, channel: str, rang: asyncio.Event) -> None:
    """A task of its own, because a `receive` that is cancelled takes its channel away with it."""
    while True:
        await layer.receive(channel)
        rang.set()


@prepared
def _outputs(uuid: UUID) -> QuerySet[Output]:
    return Output.objects.filter(uuid=uuid)


@for_sockets
def _news(uuid: UUID, after: int | None) -> tuple[Output, int, list[Block], bool]:
    """The output, what is new of it and where that begins, and whether there is still more.

    `after` None: what a page opens with. When there is more, the output's `head` is where we have come to.
    """
    (output,) = _outputs(uuid)
    found: list[Block] = []
    at = begin = store.tail_position(output) if after is None else after
    while at < output.head and at - begin < KEPT_BYTES:
        new = blocks(output, at, until=output.head, limit=1024 * 1024)
        found += new
        at = new[-1].end
    more = at < output.head
    output.head = at
    output.ended = output.ended and not more
    return output, begin, found, more


@for_sockets
def _frame(output: Output, after: int) -> bytes:
    return store.frame(output, after, blocks(output, after, until=output.head))
