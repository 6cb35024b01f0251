"""How times and states are written on pages."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.utils.timezone import now

from portal.states import Badge
from portal.templatetags.portal import clock, duration, in_words, short


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (735, "12 min 15 s"), (3599, "59 min 59 s"), (7512, "2 h 05 min")],
)
def test_durations_have_one_form(seconds, said):
    assert duration(timedelta(seconds=seconds)) == said


@time_machine.travel("2026-11-24 15:42:07+00:00", tick=False)
@pytest.mark.parametrize(
    ("ago", "at", "column"),
    [
        (timedelta(), "15:42:07 UTC", "24 Nov 15:42"),
        (timedelta(days=1), "23 Nov 2026, 15:42 UTC", "23 Nov 15:42"),
        (timedelta(days=400), "20 Oct 2025, 15:42 UTC", "20 Oct 2025 15:42"),
    ],
)
def test_what_was_not_today_has_its_day_and_what_was_another_year_its_year(ago, at, column):
    assert f">{at}</time>" in clock(now() - ago)
    assert f">{column}</time>" in short(now() - ago)


def test_titles_say_states_as_people_do():
    assert [in_words(look) for look in (Badge.working("INPROGRESS"), Badge.bad("FAILED"))] == ["In progress", "Failed"]
