"""Times without activity, as people say them: so many minutes, hours or days, or never. Kept in minutes; 0: never."""

from __future__ import annotations

NEVER = "never"
UNITS: dict[str, int] = {"minutes": 1, "hours": 60, "days": 24 * 60}
MOST_DAYS = 60
MOST = MOST_DAYS * UNITS["days"]


def split(minutes: int) -> tuple[int | None, str]:
    """A number and its unit, the largest one that needs no fraction: 120 are 2 hours, 90 are 90 minutes."""
    if not minutes:
        return None, NEVER
    unit = next(unit for unit in reversed(UNITS) if minutes % UNITS[unit] == 0)
    return minutes // UNITS[unit], unit


def in_words(minutes: int) -> str:
    """1 hour, 90 minutes, never."""
    number, unit = split(minutes)
    if number is None:
        return NEVER
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}"
