"""Pages of long lists by cursor: the address names the last row of the page before, so that page 10,000 costs as much
as the first, and rows that come meanwhile move nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db.models import Model, Q, QuerySet, Subquery
from django.http import QueryDict

M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=QuerySet[Any])


@dataclass(frozen=True)
class Page(Generic[M]):
    """`older` is the cursor of the next page, None on the last one; `later`: it is not the first one."""

    rows: list[M]
    older: UUID | None = None
    later: bool = False
    view: str = ""  # the rest of the address, without its cursor

    @property
    def context(self) -> dict[str, Any]:
        """For `_older.html`."""
        return {"older": self.older, "later": self.later, "view": self.view}


def cursor_of(query: QueryDict) -> UUID | None:
    """What `after` in an address names. Something that is no cursor is none."""
    try:
        return UUID(query.get("after", ""))
    except ValueError:
        return None


def behind(rows: R, cursor: UUID | None, *order: str, among: R) -> R:
    """In this order, and only what comes after the row with this uuid. The order names each row once.

    That row may not be among `rows` any more. `among` are those where it is looked for, with what the order names
    besides fields: all of the place that the list is of, and no others, whose names and times it would tell.
    """
    rows = rows.order_by(*order)
    if cursor is None:
        return rows
    here = among.filter(uuid=cursor)
    after, same = Q(), Q()
    for field in order:
        name, value = field.lstrip("-"), Subquery(here.values(field.lstrip("-"))[:1])
        after |= same & Q(**{f"{name}__{'lt' if field[0] == '-' else 'gt'}": value})
        same &= Q(**{name: value})
    first = order[0].lstrip("-")
    edge = Q(**{f"{first}__{'lte' if order[0][0] == '-' else 'gte'}": Subquery(here.values(first)[:1])})
    return rows.filter(edge, after) if len(order) > 1 else rows.filter(after)


def page_of(rows: Iterable[M], most: int, query: QueryDict) -> Page[M]:
    """`rows` are at least `most + 1` where there are so many: the last one tells that the list goes on."""
    found = list(rows)
    view = query.copy()
    view.pop("after", None)
    older = getattr(found[most - 1], "uuid", None) if len(found) > most else None
    return Page(found[:most], older, "after" in query, view.urlencode())
