"""Months in UTC, as clouds write their bills: a month is the date of its first day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta


def month_of(at: datetime) -> date:
    return at.astimezone(UTC).date().replace(day=1)


def later(month: date, by: int = 1) -> date:
    """So many months after it; before it, where that is negative."""
    years, months = divmod(month.month - 1 + by, 12)
    return date(month.year + years, months + 1, 1)


def whole_minutes(length: timedelta) -> int:
    """To the nearest one; half a minute counts."""
    return int((length.total_seconds() + 30) // 60)


def portions(began: datetime, ended: datetime) -> Iterator[tuple[datetime, datetime, int]]:
    """The time between them, cut where months end: from when, until when, and the minutes of that.

    The minutes of all portions are those of the whole, which is rounded once.
    """
    start, counted = began, 0
    while True:
        turn = datetime.combine(later(month_of(start)), time(), UTC)
        end = min(turn, ended)
        so_far = whole_minutes(end - began)
        yield start, end, so_far - counted
        start, counted = end, so_far
        if end == ended:
            return
