"""A page of a list that may be long: read without counting what is on the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from django.db.models import Model, QuerySet

M = TypeVar("M", bound=Model)
MOST = 100_000  # pages; a database cannot skip any number of rows


class Page(Generic[M]):
    """So many rows of a queryset that has an order. What was asked for in an address may be anything."""

    def __init__(self, rows: QuerySet[M], asked: str | None, size: int) -> None:
        digits = (asked or "")[:9]
        self.number = max(1, min(int(digits), MOST)) if digits.isascii() and digits.isdigit() else 1
        before = (self.number - 1) * size
        found = list(rows[before : before + size + 1])
        self.rows, self.has_next = found[:size], len(found) > size
        # How many rows there are in all. Known on the last page alone.
        self.total = None if self.has_next or (before and not found) else before + len(found)

    def __iter__(self) -> Iterator[M]:
        return iter(self.rows)

    def __bool__(self) -> bool:
        return bool(self.rows)
