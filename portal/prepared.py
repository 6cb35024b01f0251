"""Queries that are built and compiled once in a process, and then asked with other values each time.

Django takes several times longer to build and compile the query of a page than the database takes to answer it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import connection, connections
from django.db.models import DateTimeField, Expression, Model, QuerySet, UUIDField
from django.db.transaction import TransactionManagementError

P = ParamSpec("P")
R = TypeVar("R")
_OF_ONE = re.compile(r"\d{4}-\d\d|[0-9a-f]{8}")  # a time, or a uuid


class Given(Expression):
    """Stands in a query for a value that is given when it is asked; behind `__in`, for a list of them.

    Of an empty list no row is one: it is behind no `exclude`.
    """

    def __init__(self, place: int, key: Any = None) -> None:
        super().__init__()
        self.place, self.key = place, key

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self]

    def of(self, values: tuple[Any, ...]) -> Any:
        value = values[self.place]
        return value if self.key is None else value[self.key]


def prepared(build: Callable[P, QuerySet[Any, R]]) -> Callable[P, list[R]]:
    """What `build` takes by position are values: it is called with a `Given` for each, and never sees one of them.

    So nothing that belongs to one person or to one moment stays in a query by which others are answered. It sees what
    decides the query's shape: what it takes by name, that a value is None, and the keys of a dict and the length of a
    tuple, whose values are a `Given` each. There is a query for each shape; those that were asked last are kept.

    Whatever else it reads (a setting, a content type, a variable around it) stays in the query as it was then: nothing
    of a person may be among that, and no time but the database's, `Now()`.
    """

    @lru_cache(maxsize=200)
    def compiled(forms: tuple[Any, ...], **shape: Any) -> tuple[QuerySet[Any, R], Any, list[str], list[Any]] | None:
        holes: Any = [_hole(place, form) for place, form in enumerate(forms)]
        rows = build(*holes, **shape)
        compiler: Any = rows.query.get_compiler(connection=connections[rows.db])
        try:
            sql, params = compiler.as_sql()
        except EmptyResultSet:
            return None
        pieces = sql.split("%s")
        assert len(pieces) == len(params) + 1
        kept = [str(value) for value in params if not isinstance(value, Given)]
        assert not any(map(_OF_ONE.search, kept)), f"somebody's, or of one moment: {kept}"
        compiler.connection = None  # of this thread, and not to be kept when that has ended
        return rows, compiler, pieces, list(params)

    @wraps(build)
    def ask(*values: P.args, **shape: P.kwargs) -> list[R]:
        found = compiled(tuple(map(_form, values)), **cast("dict[str, Any]", shape))
        if found is None:
            return []
        rows, made, pieces, holes = found
        sql, params = [pieces[0]], []
        for hole, piece in zip(holes, pieces[1:], strict=True):
            value = hole.of(values) if isinstance(hole, Given) else hole
            several = value if isinstance(value, list) else [value]
            params += [_adapted(one) for one in several] if isinstance(hole, Given) else several
            sql += [", ".join(["%s"] * len(several)) or "NULL", piece]
        compiler = copy(made)
        compiler.connection = connections[rows.db]
        if rows.query.select_for_update and compiler.connection.get_autocommit():
            raise TransactionManagementError("Rows are locked within a transaction alone.")
        compiler.as_sql = lambda: ("".join(sql), params)
        asked: Any = rows.all()
        asked.query.get_compiler = lambda *_, **__: compiler
        return list(asked)

    return ask


def prepared_keys(build: Callable[P, QuerySet[Any, Any]]) -> Callable[P, set[int]]:
    """As `prepared`, of the rows' primary keys alone: for questions that mostly find nothing."""

    @prepared
    def keys(*given: P.args, **shape: P.kwargs) -> QuerySet[Any, int]:
        return build(*given, **shape).values_list("pk", flat=True)

    @wraps(build)
    def ask(*values: P.args, **shape: P.kwargs) -> set[int]:
        return set(keys(*values, **shape))

    return ask


def reread(instance: Model) -> None:
    """Have what the database has of it now. What it refers to stays as it was read, unless it refers to another.

    Raises the model's `DoesNotExist`.
    """
    model = type(instance)
    for row in _rows(instance.pk, model=model):
        for field in model._meta.concrete_fields:
            setattr(instance, field.attname, getattr(row, field.attname))
        return
    raise model.DoesNotExist  # type: ignore[attr-defined]


@prepared
def _rows(pk: int, *, model: type[Model]) -> QuerySet[Model]:
    return model._base_manager.filter(pk=pk)


def _form(value: Any) -> Any:
    match value:
        case dict():
            return tuple(value)
        case tuple():
            return len(value)
    return None if value is None else "one"


def _hole(place: int, form: Any) -> Any:
    match form:
        case tuple():
            return {key: Given(place, key) for key in form}
        case int():
            return tuple(Given(place, n) for n in range(form))
    return form and Given(place)


def _adapted(value: Any) -> Any:
    match value:
        case UUID():
            return UUIDField().get_db_prep_value(value, connection)
        case datetime():
            return DateTimeField().get_db_prep_value(value, connection)
    return value
