"""Threads of the watch process: what waits for a database and what waits for a cloud do not wait for each other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import close_old_connections

from portal.errors import Passing

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """As `database_sync_to_async`, but with some threads where that has one: one that waits holds up no other.

    `most` is how many questions there may be at once; more wait for their turn.
    """

    def __init__(self, name: str, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=name)

    def __call__(self, function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: _with_connections(function, *args, **kwargs))

        return call


def _with_connections(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    close_old_connections()
    try:
        return function(*args, **kwargs)
    finally:
        close_old_connections()


DATABASE = Threads("database", 8)  # of the watchers
LEASES = Threads("leases", 2)  # looking what there is, taking and giving: quick, and nothing else is done there
MOST_APART = 180.0  # seconds
SWEEP = Threads("sweep", 1)  # of due tasks


async def apart(function: Callable[[], T]) -> T:
    """What may take a minute, in a thread that nobody waits for when the process ends.

    It must keep no connection to the database: whoever reads or writes rows there gives the connection back each time
    (`portal/clouds/machines/rows.py`).

    Raises `Passing` after `MOST_APART`: the thread may be stuck for ever, but not whoever waits for it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(outcome: Future[T]) -> None:
        if done.done():
            return  # nobody waits any more
        if error := outcome.exception():
            done.set_exception(error)
        else:
            done.set_result(outcome.result())

    def work() -> None:
        outcome: Future[T] = Future()
        try:
            outcome.set_result(function())
        except Exception as error:  # noqa: BLE001 (it is raised where it is waited for)
            outcome.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, outcome)

    threading.Thread(target=work, name="apart", daemon=True).start()
    try:
        async with asyncio.timeout(MOST_APART):
            return await done
    except TimeoutError:
        raise Passing(f"There was no answer within {MOST_APART:.0f} seconds.") from None
