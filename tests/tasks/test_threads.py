from __future__ import annotations

import asyncio
import threading

import pytest

from portal.errors import Passing
from portal.tasks import threads


def test_whoever_waits_for_a_cloud_that_never_answers_is_told_so(monkeypatch):
    monkeypatch.setattr(threads, "MOST_APART", 0.05)
    never = threading.Event()
    try:
        with pytest.raises(Passing, match="no answer"):
            asyncio.run(threads.apart(never.wait))
    finally:
        never.set()


def test_what_is_asked_apart_is_answered_or_raised():
    assert asyncio.run(threads.apart(lambda: 7)) == 7
    with pytest.raises(KeyError):
        asyncio.run(threads.apart(lambda: {}["nothing"]))
