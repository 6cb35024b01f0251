"""A worker's lease during one long call."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest

from portal.tasks import ledger
from tests.running import until


@pytest.fixture
def beats(monkeypatch):
    found = []
    monkeypatch.setattr(ledger, "LEASE", timedelta(seconds=0.02))
    monkeypatch.setattr(ledger, "MOST_QUIET", 0.2)
    return SimpleNamespace(found=found, task=SimpleNamespace(pk=77, hold=lambda: found.append(1) or True))


def is_beating():
    return any(thread.name == "lease-77" for thread in threading.enumerate())


def test_a_call_that_gives_signs_of_life_keeps_its_lease_however_long_it_takes(beats):
    with ledger._heartbeat(beats.task) as lives:
        until(lambda: lives() or len(beats.found) > 100, what="a hundred beats")
        assert is_beating()
    assert not is_beating()


def test_a_call_that_gives_none_is_taken_to_be_stuck_after_a_while(beats):
    with ledger._heartbeat(beats.task):
        until(lambda: not is_beating(), what="the lease let go")
    assert beats.found
