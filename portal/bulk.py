"""Many rows of many columns at once.

A model's object for each row, and Django's `bulk_create`, which prepares each value anew, cost a millisecond for a row
of fifty columns. Rows that are made together have most of their values in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Field, Model

_ALIKE = (bool, int, str, datetime, type(None))  # worth to be remembered; what is a key of a dict


def insert(model: type[Model], rows: Sequence[Mapping[str, Any]]) -> None:
    """Values by the names of a model's attributes (`job_id`), the same names in each row.

    What they do not name is as in a new object.
    """
    if not rows:
        return
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    connection, blank = connections[DEFAULT_DB_ALIAS], model()
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields)
    raws = {field: [row[field.attname] for row in rows] for field in fields if field.attname in rows[0]}
    alike = {
        field: field.get_db_prep_save(raws[field][0] if field in raws else field.pre_save(blank, True), connection)
        for field in fields
        if field not in raws or _are_alike(raws[field])
    }
    apart = {field: _prepared(field, raws[field]) for field in fields if field not in alike}
    start = f"INSERT INTO {quote(model._meta.db_table)} ({columns})"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql" and apart:
            # psycopg writes each value as SQL, which takes longer than to store it: what rows have in common, once.
            # A type without its length: a cast to varchar(9)[] would cut what is too long, and the column refuses it.
            types = [str(field.db_type(connection)).partition("(")[0] for field in apart]
            names = {field: f"v{n}" for n, field in enumerate(apart)}
            chosen = ", ".join(names.get(field, "%s") for field in fields)
            arrays = ", ".join(f"%s::{kind}[]" for kind in types)
            cursor.execute(
                f"{start} SELECT {chosen} FROM unnest({arrays}) AS v ({', '.join(names.values())})",  # noqa: S608 (ours)
                [*(alike[field] for field in fields if field in alike), *apart.values()],
            )
        else:
            cursor.executemany(
                f"{start} VALUES ({', '.join(['%s'] * len(fields))})",
                list(zip(*(apart.get(field) or [alike[field]] * len(rows) for field in fields), strict=True)),
            )


def primary_keys(model: type[Model], rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Those of rows that were inserted with a `uuid`, in their order."""
    if not rows:
        return []
    (uuid,) = (field for field in model._meta.concrete_fields if field.name == "uuid")
    uuids = _prepared(uuid, [row["uuid"] for row in rows])
    quote = connections[DEFAULT_DB_ALIAS].ops.quote_name
    table, column, key = (quote(str(word)) for word in (model._meta.db_table, uuid.column, model._meta.pk.column))
    places = ", ".join(["%s"] * len(uuids))
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute(f"SELECT {column}, {key} FROM {table} WHERE {column} IN ({places})", uuids)  # noqa: S608 (ours)
        found = dict(cursor.fetchall())
    return [found[one] for one in uuids]


def _are_alike(raws: Sequence[Any]) -> bool:
    if raws.count(raws[0]) < len(raws):
        return False
    return isinstance(raws[0], _ALIKE) or len(set(map(repr, raws))) == 1  # {"a": 1} is equal to {"a": True}


def _prepared(field: Field[Any, Any], raws: Sequence[Any]) -> list[Any]:
    """As the database takes them: each value once, where they can be told from each other."""
    prepare, connection = field.get_db_prep_save, connections[DEFAULT_DB_ALIAS]
    if all(issubclass(kind, _ALIKE) for kind in set(map(type, raws))):
        known = {raw: prepare(raw, connection) for raw in set(raws)}
        return [known[raw] for raw in raws]
    return [prepare(raw, connection) for raw in raws]


def move(model: type[Model], name: str, moves: Sequence[tuple[int, Any, Any]]) -> int:
    """Have a field another value, each row its own, where it still has the one before: (primary key, before, after).

    Returns how many had.
    """
    if not moves:
        return 0
    (field,) = (field for field in model._meta.concrete_fields if field.name == name)
    connection = connections[DEFAULT_DB_ALIAS]
    quote = connection.ops.quote_name
    table, column, key = (quote(str(word)) for word in (model._meta.db_table, field.column, model._meta.pk.column))
    pks, *values = zip(*moves, strict=True)
    before, after = (_prepared(field, of) for of in values)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {table} SET {column} = %s WHERE {key} = %s AND {column} = %s",  # noqa: S608 (names of ours)
            list(zip(after, pks, before, strict=True)),
        )
        return int(cursor.rowcount)
