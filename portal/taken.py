"""Names that are taken: what a database refuses because of another row, in words."""

from __future__ import annotations

import re
from typing import Any

from django.apps import apps
from django.db import IntegrityError
from django.db.models import F, UniqueConstraint

from portal.errors import Taken


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
