"""What the portal knows of databases that Django does not: threads, and names that are taken.

From which threads the database is asked, and for how long each keeps its connection.

A request has a thread and a connection of its own until it has been answered (Django's), a worker and the watch process
have one for each piece of work, and what live sockets ask comes from a few threads that are kept for that: pages and
sockets wait for each other at no time. A thread that is started anywhere else closes its connection before it ends;
one that does not takes it away from the process's pool for ever.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from channels.db import database_sync_to_async
from django.apps import apps
from django.conf import settings
from django.db import IntegrityError, connections
from django.db.models import F, UniqueConstraint

from portal.errors import Taken

_live = ThreadPoolExecutor(max(2, settings.DATABASE_CONNECTIONS // 4), thread_name_prefix="live")

for_sockets = partial(database_sync_to_async, thread_sensitive=False, executor=_live)


def keep_connection() -> None:
    """For a process in which one thread asks all the time. PostgreSQL's pool does so without being told."""
    if not connections.settings["default"].get("OPTIONS", {}).get("pool"):
        connections.settings["default"]["CONN_MAX_AGE"] = None


def taken(error: IntegrityError) -> Taken | None:
    """In words, where another row has this name. Forms look before; two at once see nothing of each other then."""
    found = _violated(error)
    if found is None or "name" not in _columns(found):
        return None
    return Taken("There is one of this name already.", field="name")


def _violated(error: IntegrityError) -> UniqueConstraint | None:
    """The constraint of a model that the database has refused a row for. SQLite may name its columns instead."""
    said = getattr(getattr(error.__cause__, "diag", None), "constraint_name", None)
    name = said or next(iter(re.findall(r"^UNIQUE constraint failed: index '(\w+)'", str(error))), None)
    columns = re.findall(r"(\w+)\.(\w+)", str(error)) if str(error).startswith("UNIQUE constraint failed: ") else []
    for model in apps.get_models():
        for constraint in model._meta.constraints:
            if not isinstance(constraint, UniqueConstraint):
                continue
            own = [(model._meta.db_table, f"{one.column}") for one in map(model._meta.get_field, constraint.fields)]  # type: ignore[union-attr]
            if constraint.name == name or (own and own == columns):
                return constraint
    return None


def _columns(constraint: UniqueConstraint) -> set[str]:
    """The fields that it is of, in whatever way it compares them."""
    found = set(constraint.fields)
    expressions: list[Any] = [*constraint.expressions]
    while expressions:
        one = expressions.pop()
        if isinstance(one, F):
            found.add(str(vars(one)["name"]))
        expressions += one.get_source_expressions() if hasattr(one, "get_source_expressions") else []
    return found
