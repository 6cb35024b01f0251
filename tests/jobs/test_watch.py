"""What the watch process does with what a node tells it."""

from __future__ import annotations

from jobs.watch import HOLD_SETUP, Buffer
from portal.tasks.models import Stream


def test_a_whole_line_does_not_wait_for_the_beginning_of_another():
    buffer = Buffer()
    buffer.add(Stream.STDERR, b"reading ")
    assert buffer.hold() == 0
    assert buffer.take(everything=False) == []
    assert buffer.hold() > 0
    buffer.add(Stream.STDOUT, b"one\n")
    assert buffer.hold() == 0
    assert buffer.take(everything=False) == [(Stream.STDOUT, b"one\n")]
    assert buffer.hold() > 0
    assert buffer.take(everything=True) == [(Stream.STDERR, b"reading ")]


def test_what_was_prepared_waits_a_moment_for_the_first_line_and_not_for_ever():
    buffer = Buffer()
    assert buffer.hold() is None
    buffer.add(Stream.SETUP, b"At 1234\n")
    assert 0 < buffer.hold() <= HOLD_SETUP
    buffer.add(Stream.STDOUT, b"first\n")
    assert buffer.hold() == 0
    assert buffer.take(everything=False) == [(Stream.SETUP, b"At 1234\n"), (Stream.STDOUT, b"first\n")]
    assert buffer.hold() is None
