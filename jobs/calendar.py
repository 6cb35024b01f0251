"""Days on which schedules begin no runs: one or several a line, with what they are, as people type them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

Days = list[list[str]]  # of each line: the first day, the last one, what it is

MOST_LINES = 200
_DAY = r"\d{4}-\d\d-\d\d"
_LINE = re.compile(rf"(?P<first>{_DAY})(?:\s*(?:to|-|\.\.)\s*(?P<last>{_DAY}))?(?:[\s,:]+(?P<what>.*))?")


class NoDays(ValueError):
    """Said as a sentence for whoever typed it."""


def read(text: str) -> Days:
    """Raises `NoDays`."""
    found: Days = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), 1):
        match = _LINE.fullmatch(line)
        try:
            first = date.fromisoformat(match["first"]) if match else None
            last = date.fromisoformat(match["last"]) if match and match["last"] else first
        except ValueError:
            first = last = None
        if match is None or first is None or last is None:
            raise NoDays(f"Line {number} is no day. Write 2026-12-25 Christmas, or 2026-12-24 to 2027-01-01 Holidays.")
        if last < first:
            raise NoDays(f"Line {number} ends before it begins.")
        found.append([first.isoformat(), last.isoformat(), (match["what"] or "").strip()[:80]])
    if len(found) > MOST_LINES:
        raise NoDays(f"More than {MOST_LINES} lines are not kept.")
    return found


def written(days: Iterable[list[str]]) -> str:
    """As `read` takes it."""
    return "\n".join(f"{first}{f' to {last}' if last != first else ''} {what}".strip() for first, last, what in days)


def why_excluded(day: date, days: Iterable[list[str]]) -> str:
    """As words; empty where the day is not among them."""
    text = day.isoformat()
    for first, last, what in days:
        if first <= text <= last:
            span = first if first == last else f"{first} to {last}"
            return f"{what or 'Excluded'} ({span})"
    return ""
