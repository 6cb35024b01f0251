"""An output by one HTTP request, from its beginning on to its end, for programs: `curl -N …/download/?follow=1`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from channels.db import database_sync_to_async

from portal.tasks.blocks import Piece
from portal.tasks.hub import Reader, State
from portal.tasks.output import Filter, next_pieces
from portal.tasks.outputs import Output

RECHECK = 3.0  # seconds that a permission is believed
NOT_YOURS = b"\nThis output is not for you any more.\n"


async def follow(
    output: Output,
    wanted: Filter | None,
    form: Callable[[Iterable[Piece]], bytes],
    end: Callable[[], bytes],
    allowed: Callable[[], Awaitable[bool]],
) -> AsyncIterator[bytes]:
    """What is wanted of an output as it comes, until it has ended, or is not allowed any more, which is said.

    `form` makes bytes of pieces, `end` what is left then. One read at a time, and none before the last one is sent: a
    reader who is slow costs no memory. Raises `Passing`, as `blocks` does.
    """
    reader = Reader.of(output.uuid)
    await reader.start()
    loop = asyncio.get_running_loop()
    position, checked = 0, loop.time()
    while True:
        if loop.time() - checked >= RECHECK:
            if not await allowed():
                yield NOT_YOURS
                return
            checked = loop.time()
        state = reader.state
        if position < state.head:
            pieces, after = await database_sync_to_async(next_pieces)(reader.output, wanted, position)
            position = max(position, after)
            if data := form(pieces):
                yield data
        elif state.ended:
            if data := end():
                yield data
            return
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK):
                    await reader.beyond(State(position, state.ended, state.kept))
