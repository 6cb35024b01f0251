from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.db.backends.postgresql import base, operations
from psycopg import adapt
from psycopg.types.string import StrDumper

from portal.text import storable


class StorableDumper(StrDumper):
    """psycopg's, which raises at NUL and at half of a surrogate pair."""

    def dump(self, obj: str) -> Any:
        return super().dump(storable(obj))


@lru_cache
def _adapters(django: adapt.AdaptersMap) -> adapt.AdaptersMap:
    """One for each of Django's, as Django has it: they are compared when a connection is made."""
    ours = adapt.AdaptersMap(django)
    ours.register_dumper(str, StorableDumper)
    return ours


class DatabaseOperations(operations.DatabaseOperations):
    def adapt_json_value(self, value: Any, encoder: Any) -> Any:
        return super().adapt_json_value(storable(value), encoder)


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = DatabaseOperations

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        return {**params, "context": _adapters(params["context"])}
