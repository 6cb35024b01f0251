"""From which threads the database is asked, and for how long each keeps its connection.

A request has a thread and a connection to itself until it has been answered (`portal/handler.py`), a worker and the
watch process have one for each piece of work, and what live sockets ask comes from a few threads that are kept for
that: pages and sockets wait for each other at no time. A thread that is started anywhere else closes its connection
before it ends; one that does not takes it away from the process's pool for ever.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import connections

_live = ThreadPoolExecutor(max(2, settings.DATABASE_CONNECTIONS // 4), thread_name_prefix="live")

for_sockets = partial(database_sync_to_async, thread_sensitive=False, executor=_live)


def keep_connection() -> None:
    """For a process whose threads ask again and again. PostgreSQL's pool does so without being told."""
    if not connections.settings["default"].get("OPTIONS", {}).get("pool"):
        connections.settings["default"]["CONN_MAX_AGE"] = None
