"""Questions that the watch process asks the database every second, and that mostly have no answer.

Django takes ten times as long to write such a statement down as SQLite to answer it: so these are written once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import QuerySet

P = ParamSpec("P")


def asked_often(rows: Callable[P, QuerySet[Any]]) -> Callable[P, set[int]]:
    """The primary keys of the rows that there are now.

    `rows` is called once for each value that it is given, and goes by nothing else that changes: the time that it
    compares with is the database's, `Now()`.
    """

    @lru_cache
    def statement(*given: Any) -> tuple[str, Any]:
        anything: Callable[..., QuerySet[Any]] = rows
        return anything(*given).values_list("pk").query.sql_with_params()

    @wraps(rows)
    def ask(*given: P.args, **_: P.kwargs) -> set[int]:
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute(*statement(*given))
            return {pk for (pk,) in cursor.fetchall()}

    return ask
