"""When a schedule's time comes: a cron expression by the clock of a place, and what that clock's changes do to it.

`cronsim` says when, as Debian's cron does. A time of day that is left out when clocks go forward is made up for at once
after it; one that comes twice counts the first time. What goes on all day long ("every 30 minutes", "each hour") goes
by time that passes: it runs in both of two equal hours, and not in one that there is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_A_LITTLE = timedelta(seconds=1)
_MOST_LEFT_OUT = 100  # times between two others that are looked at


class NotCron(ValueError):
    """Said as a sentence for whoever typed it."""


@lru_cache(maxsize=1)
def zones() -> list[str]:
    """Those of the IANA database that are places, and UTC; without its names of old and its links to offsets."""
    areas = "Africa America Antarctica Arctic Asia Atlantic Australia Europe Indian Pacific"
    return ["UTC", *sorted(name for name in available_timezones() if name.split("/")[0] in areas.split())]


@dataclass(frozen=True)
class Moment:
    """A time that comes, as the clock there shows it, and what is odd about it, as sentences."""

    at: datetime
    note: str = ""

    def __str__(self) -> str:
        return f"{self.at:%a %-d %b %Y, %H:%M %Z}"


@dataclass(frozen=True)
class Cron:
    """`expression` has five fields; `zone` is a name of the IANA database. See `read`."""

    expression: str
    zone: str

    @classmethod
    def read(cls, expression: str, zone: str) -> Cron:
        """What was typed. Raises `NotCron`."""
        text = " ".join(expression.split())
        text = SHORT.get(text.lower(), text)
        if len(text.split()) != 5:
            raise NotCron(
                "Give five fields: minute, hour, day of the month, month, day of the week. 0 9 * * 1-5 is each weekday"
                " at 09:00."
            )
        try:
            ZoneInfo(zone)
            found = cls(text, zone)
            next(found.after(datetime(2024, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            if "day-of-month" in str(error) and _is_day(text.split()[2]):
                raise NotCron("That time never comes: none of these months has that day.") from error
            raise NotCron(f"{str(error).replace('Bad ', 'This cannot be read: the field ')}.") from error
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise NotCron(f"{zone} is no time zone that this portal knows.") from error
        except StopIteration as error:
            raise NotCron("That time never comes.") from error
        return found

    @cached_property
    def place(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    @property
    def words(self) -> str:
        """For a sentence: “at 09:00 on Monday through Friday, Europe/Berlin”."""
        return f"{_explained(self.expression)}, {self.zone}"

    @property
    def is_by_the_clock(self) -> bool:
        """Whether it names times of the day, and not what goes on all day long."""
        minute, hour, *_ = self.expression.split()
        return not minute.startswith("*") and not hour.startswith("*")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All of its times behind this one, in UTC, each later than the one before."""
        last = moment.astimezone(UTC)
        for found in CronSim(self.expression, last.astimezone(self.place)):
            at = found.astimezone(UTC)  # by the clock there, two times may look alike
            if at > last:
                yield at
                last = at

    def shown(self, at: datetime) -> Moment:
        return Moment(at.astimezone(self.place))

    def next(self, moment: datetime) -> datetime:
        return next(self.after(moment))

    def upcoming(self, moment: datetime, count: int) -> list[Moment]:
        """The next ones, with what the changes of the clock do to them."""
        found, before = [], moment
        for at in islice(self.after(moment), count):
            found.append(Moment(at.astimezone(self.place), self._note(before, at)))
            before = at
        return found

    def _note(self, before: datetime, at: datetime) -> str:
        here = at.astimezone(self.place)
        first, second = here.replace(fold=0), here.replace(fold=1)
        notes = []
        if left_out := self._left_out(before, here):
            times = f"{left_out[0]:%H:%M}" if len(left_out) == 1 else f"{left_out[0]:%H:%M} to {left_out[-1]:%H:%M}"
            do = "does" if len(left_out) == 1 else "do"
            day = f"{left_out[0]:%-d %B}"
            if self.is_by_the_clock:
                notes.append(f"On {day}, {times} {do} not exist, because clocks go forward: it runs at {here:%H:%M}.")
            else:
                notes.append(f"On {day}, {times} {do} not exist, because clocks go forward: nothing runs then.")
        if first.utcoffset() != second.utcoffset() and _exists(first):
            which = "second" if here.fold else "first"
            if self.is_by_the_clock:
                notes.append(f"{here:%H:%M} comes twice, because clocks go back: it runs the first time alone.")
            else:
                notes.append(f"{here:%H:%M} comes twice, because clocks go back: this is the {which} one.")
        return " ".join(notes)

    def _left_out(self, before: datetime, here: datetime) -> list[date]:
        """Times of the expression between the two that no clock there ever shows."""
        start = before.astimezone(self.place)
        if here.utcoffset() == start.utcoffset() and here - start < timedelta(days=1):
            return []
        found: list[date] = []
        end = here.replace(tzinfo=None)
        for naive in islice(CronSim(self.expression, start.replace(tzinfo=None)), _MOST_LEFT_OUT):
            if naive >= end:
                break
            if not _exists(naive.replace(tzinfo=self.place)):
                found.append(naive)
        return found


def _is_day(field: str) -> bool:
    """Whether some month has it."""
    try:
        CronSim(f"0 0 {field} * *", datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _exists(here: datetime) -> bool:
    """Whether the clock of its zone ever shows this."""
    return here.astimezone(UTC).astimezone(here.tzinfo).replace(tzinfo=None) == here.replace(tzinfo=None)


@lru_cache(maxsize=4096)
def _explained(expression: str) -> str:
    minute, hour, day, month, weekday = expression.upper().split()
    if re.fullmatch(r"\d+ \d+", f"{minute} {hour}") and (day, month) == ("*", "*"):
        at = f"at {int(hour):02}:{int(minute):02}"
        if weekday == "*":
            return f"every day {at}"
        if weekday in ("1-5", "MON-FRI"):
            return f"every weekday {at}"
    words = CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)).explain()
    return f"{words[0].lower()}{words[1:]}"
