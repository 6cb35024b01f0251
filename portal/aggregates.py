"""What several rows say, as one value of another query."""

from __future__ import annotations

from typing import Any

from django.db.models import Aggregate, JSONField


class Pairs(Aggregate):
    """Of two columns without NULL, the second by the first, which is text then. In no order; None of no rows."""

    function = "JSONB_OBJECT_AGG"
    output_field = JSONField()

    def as_sqlite(self, *args: Any, **kwargs: Any) -> Any:
        return super().as_sql(*args, **kwargs, function="JSON_GROUP_OBJECT")
