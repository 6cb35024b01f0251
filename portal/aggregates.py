"""What a database adds up by itself: of several rows, or of two times, which take long to read."""

from __future__ import annotations

from typing import Any

from django.db.models import Aggregate, FloatField, Func, JSONField


class Pairs(Aggregate):
    """Of two columns without NULL, the second by the first, which is text then. In no order; None of no rows."""

    function = "JSONB_OBJECT_AGG"
    output_field = JSONField()

    def as_sqlite(self, *args: Any, **kwargs: Any) -> Any:
        return super().as_sql(*args, **kwargs, function="JSON_GROUP_OBJECT")


class Seconds(Func):
    """From the first of two times to the second."""

    template = "EXTRACT(EPOCH FROM %(expressions)s)::float8"
    arg_joiner = " - "
    output_field = FloatField()

    def __init__(self, start: str, end: str) -> None:
        super().__init__(end, start)

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> Any:
        end, start = (compiler.compile(time) for time in self.get_source_expressions())
        sql = f"ROUND((JULIANDAY({end[0]}) - JULIANDAY({start[0]})) * 86400, 3)"
        return sql, [*end[1], *start[1]]
