"""How often news is passed on."""

from __future__ import annotations

import pytest

from portal.tasks import pace
from portal.tasks.pace import AT_ONCE, GAP, Pace


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def spent(clock, seconds):
    """How often somebody goes who always goes as soon as he may."""
    went, end = 0, clock.now + seconds
    of = Pace()
    while clock.now + of.left() < end:
        clock.now += of.left()
        of.spend()
        went += 1
    return went


def test_a_flood_is_joined_to_ten_a_second(clock):
    assert spent(clock, 60) == pytest.approx(60 / GAP, abs=AT_ONCE)


def test_what_comes_after_a_quiet_time_does_not_wait(clock):
    of = Pace()
    for _ in range(3):
        for _ in range(AT_ONCE):
            assert of.left() == pytest.approx(0, abs=1e-6)
            of.spend()
        assert of.left() == pytest.approx(GAP)
        clock.now += 10
