"""Times without activity, as people say them: so many minutes, hours or days, or never. Kept in minutes; 0: never."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

LEAD = timedelta(minutes=10)  # between the warning and what it warns of
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


def shutdown(gives_back: bool) -> str:
    """What auto shutdown is called."""
    return "give back" if gives_back else "auto shutdown"


@dataclass(frozen=True)
class Timer:
    """What will be done to a cluster on which nothing goes on, and when: paused, or deleted."""

    verb: str  # of the plan
    minutes: int
    since: datetime  # when it was last active
    warned: datetime | None  # when people were told of this, if they were
    gives_back: bool = False  # its nodes are computers that others wait for: to delete it is to give them back

    @property
    def lead(self) -> timedelta:
        """Half of a short timer."""
        return min(LEAD, timedelta(minutes=self.minutes) / 2)

    @property
    def warns_at(self) -> datetime:
        return self.since + timedelta(minutes=self.minutes) - self.lead

    @property
    def acts_at(self) -> datetime:
        """Never earlier after the warning than it says, even where nobody looked when the warning was due."""
        due = self.since + timedelta(minutes=self.minutes)
        return max(due, self.warned + self.lead) if self.warned else due

    @property
    def is_due_at(self) -> datetime:
        """When there is something to do: to warn, or what it warned of."""
        return self.acts_at if self.warned else self.warns_at

    @property
    def does(self) -> str:
        """The end of “it …”."""
        return "pauses" if self.verb == "pause" else "is given back" if self.gives_back else "is deleted"

    @property
    def why(self) -> str:
        return f"{self.name} after {in_words(self.minutes)} without activity"

    @property
    def name(self) -> str:
        return "auto pause" if self.verb == "pause" else shutdown(self.gives_back)
