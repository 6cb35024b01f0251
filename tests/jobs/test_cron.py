"""When a schedule's time comes, by clocks that change in three places."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import islice, pairwise

import pytest

from jobs import calendar
from jobs.calendar import NoDays
from jobs.cron import Cron, NotCron, zones

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def times(expression, zone, after, count):
    """As its clock shows them, with how far it is from UTC."""
    found = Cron.read(expression, zone).upcoming(datetime.fromisoformat(f"{after}Z"), count)
    return [f"{moment.at:%d %H:%M %z}" for moment in found], [moment.note for moment in found]


@pytest.mark.parametrize(
    ("expression", "zone", "after", "found", "says"),
    [
        ("30 2 * * *", BERLIN, "2026-03-28T00:00", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"], "03:00"),
        ("30 2 * * *", NEW_YORK, "2026-03-07T00:00", ["07 02:30 -0500", "08 03:00 -0400", "09 02:30 -0400"], "03:00"),
        ("15 2 * * *", LORD_HOWE, "2026-10-02T12:00", ["03 02:15 +1030", "04 02:30 +1100", "05 02:15 +1100"], "02:30"),
    ],
)
def test_a_time_that_clocks_leave_out_is_made_up_for_at_once_and_said(expression, zone, after, found, says):
    shown, notes = times(expression, zone, after, 3)
    assert shown == found
    assert "does not exist, because clocks go forward" in notes[1]
    assert notes[1].endswith(f"it runs at {says}.")
    assert notes[0] == notes[2] == ""


@pytest.mark.parametrize(
    ("expression", "zone", "after", "found"),
    [
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["25 02:30 +0200", "26 02:30 +0100"]),
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00", ["01 01:30 -0400", "02 01:30 -0500"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-04T12:00", ["05 01:45 +1100", "06 01:45 +1030"]),
    ],
)
def test_a_time_that_comes_twice_runs_once_and_says_so(expression, zone, after, found):
    shown, notes = times(expression, zone, after, 2)
    assert shown == found
    assert "comes twice, because clocks go back: it runs the first time alone." in notes[0]
    assert not notes[1]


def test_between_two_equal_times_the_first_one_is_over():
    """Somebody looks in the second of two equal hours: the time of the day has been."""
    in_the_second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    assert f"{Cron('30 2 * * *', BERLIN).next(in_the_second):%d %H:%M}" == "26 01:30"


@pytest.mark.parametrize(
    ("zone", "after", "found"),
    [
        (BERLIN, "2026-10-24T23:45", ["02:00 +0200", "02:30 +0200", "02:00 +0100", "02:30 +0100", "03:00 +0100"]),
        (BERLIN, "2026-03-29T00:15", ["01:30 +0100", "03:00 +0200", "03:30 +0200"]),
        (NEW_YORK, "2026-11-01T04:45", ["01:00 -0400", "01:30 -0400", "01:00 -0500", "01:30 -0500", "02:00 -0500"]),
        (LORD_HOWE, "2026-04-04T14:15", ["01:30 +1100", "01:30 +1030", "02:00 +1030"]),
    ],
)
def test_what_goes_on_all_day_goes_by_time_that_passes(zone, after, found):
    shown, notes = times("*/30 * * * *", zone, after, len(found))
    assert [time.split(" ", 1)[1] for time in shown] == found
    second = [time for time, note in zip(found, notes, strict=True) if "this is the second one" in note]
    assert second == [time for number, time in enumerate(found) if time[:5] in {other[:5] for other in found[:number]}]


def test_times_in_an_hour_that_there_is_not_are_said_not_to_run():
    shown, notes = times("*/10 2 * * *", BERLIN, "2026-03-28T01:45", 2)
    assert shown == ["28 02:50 +0100", "30 02:00 +0200"]
    assert notes[1] == "On 29 March, 02:00 to 02:50 do not exist, because clocks go forward: nothing runs then."


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE])
@pytest.mark.parametrize("expression", ["0,30 1-3 * * *", "*/20 * * * *", "15 2,3 * * *", "*/10 1,2 * * *"])
@pytest.mark.parametrize("month", [3, 10])
def test_times_only_grow_while_clocks_change(zone, expression, month):
    found = list(islice(Cron(expression, zone).after(datetime(2026, month, 20, tzinfo=UTC)), 200))
    assert all(one < other for one, other in pairwise(found))


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("0 9 * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("61 * * * *", "the field minute"),
        ("0 0 32 * *", "day-of-month"),
        ("0 0 32 2 *", "day-of-month"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("0 0 * * 1#6", "day-of-week"),
        ("; rm -rf /", "five fields"),
    ],
)
def test_what_is_no_cron_is_said_in_words(typed, says):
    with pytest.raises(NotCron, match=says):
        Cron.read(typed, BERLIN)


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../../etc/passwd", "", "Etc"])
def test_a_zone_that_there_is_not_is_said(zone):
    with pytest.raises(NotCron, match="no time zone"):
        Cron.read("0 9 * * *", zone)


def test_words_are_what_a_person_would_say():
    assert Cron.read("0 9 * * 1-5", BERLIN).words == "every weekday at 09:00, Europe/Berlin"
    assert Cron.read("@daily", "UTC").words == "every day at 00:00, UTC"
    assert Cron.read("*/15 * * * *", "UTC").words == "every 15th minute of every hour, UTC"
    assert {BERLIN, NEW_YORK, LORD_HOWE, "UTC"} <= set(zones())


def test_days_are_read_as_people_write_them():
    days = calendar.read("2026-12-25 Christmas\n\n 2026-12-28 to 2027-01-02: between the years\n2027-05-01")
    assert days[0] == ["2026-12-25", "2026-12-25", "Christmas"]
    assert calendar.why_excluded(date(2026, 12, 25), days) == "Christmas (2026-12-25)"
    assert calendar.why_excluded(date(2027, 1, 2), days) == "between the years (2026-12-28 to 2027-01-02)"
    assert calendar.why_excluded(date(2027, 1, 3), days) == ""
    assert calendar.read(calendar.written(days)) == days


@pytest.mark.parametrize("text", ["Christmas", "2026-02-30", "2026-12-26 to 2026-12-25", "2026-12-25\n25.12.2026"])
def test_days_that_are_none_are_said_with_their_line(text):
    with pytest.raises(NoDays, match="Line"):
        calendar.read(text)
