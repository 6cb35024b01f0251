"""What the watch process does with what a node tells it."""

from __future__ import annotations

from jobs.watch import Buffer
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
