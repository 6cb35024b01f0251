"""What was used in a month, and in the months around it: for the pages of a workspace and of an organization."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any
from uuid import UUID

from usage.amounts import Amount
from usage.models import RecordQuerySet
from usage.months import later, month_of

MONTHS = 12  # of the chart
MOST = 100  # lines of a table; the others are in the file
_SLOT, _BAR, _HEIGHT, _TOP = 30, 20, 96, 4  # of the chart, in its own units


@dataclass(frozen=True)
class Line:
    """A line of a table: of one workspace, cluster or person."""

    uuid: UUID | None
    name: str
    about: str = ""
    amount: Amount = field(default_factory=Amount)


@dataclass(frozen=True)
class Table:
    """The lines that used the most, and what is not among them."""

    lines: list[Line]
    others: int = 0
    rest: Amount = field(default_factory=Amount)


@dataclass(frozen=True)
class Month:
    first: date
    amount: Amount = field(default_factory=Amount)


@dataclass(frozen=True)
class Bar:
    """Of the chart, from its left and from its top."""

    month: Month
    left: int
    top: str
    height: str

    @property
    def middle(self) -> int:
        return self.left + _BAR // 2


@dataclass(frozen=True)
class Report:
    chosen: Month
    months: list[Month]  # the last one first
    is_empty: bool  # nothing was used in any of them, or goes on
    workspaces: Table
    clusters: Table
    people: Table

    @property
    def has_prices(self) -> bool:
        """Whether anything in these months has one; where nothing has, pages are silent of money."""
        return any(month.amount.cost is not None for month in self.months)

    @property
    def used_months(self) -> list[Month]:
        """Those to look at: where something was used, and the chosen one."""
        return [month for month in self.months if month.amount.node_minutes or month == self.chosen]

    @property
    def highest(self) -> Month:
        return max(self.months, key=self._measure)

    @property
    def bars(self) -> list[Bar]:
        """From left to right; the highest one is as high as the chart. By cost where there is any, or by node-hours."""
        most = self._measure(self.highest) or Decimal(1)
        bars = []
        for place, month in enumerate(reversed(self.months)):
            height = _HEIGHT * self._measure(month) / most
            left = place * _SLOT + (_SLOT - _BAR) // 2
            bars.append(Bar(month, left, f"{_TOP + _HEIGHT - height:.1f}", f"{height:.1f}"))
        return bars

    def _measure(self, month: Month) -> Decimal:
        return (month.amount.cost or Decimal()) if self.has_prices else month.amount.node_hours


def report(records: RecordQuerySet, chosen: date, *, now: datetime) -> Report:
    """Of these records: the chosen month, and the twelve that end now, or with the chosen one where that is earlier.

    Two queries, however many records there are.
    """
    this_month = month_of(now)
    last = this_month if chosen > later(this_month, -MONTHS) else chosen
    first = later(last, 1 - MONTHS)
    months = {later(last, -back): Amount() for back in range(MONTHS)}
    is_empty = True
    for _, month, _, amount in records.between(first, last).amounts(until=now):
        if month in months:
            is_empty = False
            months[month] += amount
    columns = ("workspace", "workspace_name", "cluster", "cluster_name", "person", "person_name")
    found = records.between(chosen, chosen).amounts(*columns, until=now)
    used = [
        (latest, amount, dict(zip(columns, values, strict=True)))
        for values, month, latest, amount in found
        if month == chosen
    ]
    used.sort(key=lambda one: one[0])  # the last name that it had counts
    return Report(
        Month(chosen, months[chosen]),
        [Month(month, amount) for month, amount in months.items()],
        is_empty,
        workspaces=_table(used, lambda row: Line(row["workspace"], row["workspace_name"])),
        clusters=_table(used, lambda row: Line(row["cluster"], row["cluster_name"], row["workspace_name"])),
        people=_table(used, lambda row: Line(row["person"], row["person_name"])),
    )


def _table(used: Iterable[tuple[int, Amount, dict[str, Any]]], line_of: Callable[[dict[str, Any]], Line]) -> Table:
    """What cost the most first, and then what was used the most."""
    amounts: dict[UUID | None, Amount] = {}
    lines: dict[UUID | None, Line] = {}
    for _, amount, row in used:
        line = line_of(row)
        amounts[line.uuid] = amounts.get(line.uuid, Amount()) + amount
        lines[line.uuid] = line
    found = [Line(uuid, line.name, line.about, amounts[uuid]) for uuid, line in lines.items()]
    found.sort(key=attrgetter("name"))
    found.sort(key=lambda line: (line.amount.cost or 0, line.amount.node_minutes), reverse=True)
    rest = sum((line.amount for line in found[MOST:]), Amount())
    return Table(found[:MOST], max(0, len(found) - MOST), rest)
