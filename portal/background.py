"""One event loop in a thread of its own, for synchronous code that keeps connections open (SSH, doorbells)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_guard = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pid = 0


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Have the coroutine run in the background loop of this process."""
    global _loop, _pid
    with _guard:
        if _loop is None or _pid != os.getpid():  # a forked child has no copy of the thread
            _loop, _pid = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name="background-loop", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, _loop)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine in the background loop and return its result. Never call it from an event loop."""
    return submit(work).result()
