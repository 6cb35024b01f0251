"""What the watch process does with what a node tells it."""

from __future__ import annotations

import asyncio
import json
import struct

import pytest

from jobs.watch import HOLD_SETUP, MOST_LINE, Buffer, _pump
from portal.errors import Refused
from portal.tasks.models import Stream


def frame(kind, rank, data, at=5_000_000):
    return struct.pack(">cHIIQ", kind, 0, rank, len(data), at) + data


def test_a_line_does_not_wait_and_its_rank_is_known():
    buffer = Buffer()
    log = frame(b"e", 1, b"reading ") + frame(b"o", 3, b"one\n")
    buffer.add(log)
    assert buffer.hold() == 0
    segments, size = buffer.take()
    assert [(s.stream, s.rank, s.data) for s in segments] == [
        (Stream.STDERR, 1, b"reading "), (Stream.STDOUT, 3, b"one\n")
    ]  # fmt: skip
    assert size == len(log)
    assert buffer.hold() is None


def test_what_was_prepared_waits_a_moment_for_the_first_line_and_not_for_ever():
    buffer = Buffer()
    assert buffer.hold() is None
    buffer.add(frame(b"s", 0xFFFFFFFF, b"At 1234\n"))
    assert 0 < buffer.hold() <= HOLD_SETUP
    buffer.add(frame(b"o", 0, b"first\n"))
    assert buffer.hold() == 0
    segments, _ = buffer.take()
    assert [(s.stream, s.rank) for s in segments] == [(Stream.SETUP, None), (Stream.STDOUT, 0)]


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_frame_that_comes_in_pieces_is_stored_when_it_is_whole(cut):
    buffer = Buffer()
    log = frame(b"o", 3, b"one\n") + frame(b"o", 4, b"two\n")
    buffer.add(log[:cut])
    first, size = buffer.take()
    buffer.add(log[cut:])
    rest, more = buffer.take()
    assert b"".join(s.data for s in first + rest) == b"one\ntwo\n"
    assert size + more == len(log)


@pytest.mark.parametrize("log", [b"\0" * 40, frame(b"x", 0, b""), struct.pack(">cHIIQ", b"o", 0, 0, 1 << 31, 1)])
def test_a_log_that_makes_no_sense_is_refused(log):
    with pytest.raises(Refused, match="makes no sense"):
        Buffer().add(log)


class Node:
    """What a node sends: these bytes, and then zeros without end."""

    def __init__(self, data, *, endless=False):
        self.data, self.endless, self.sent = data, endless, 0

    async def read(self, most):
        block, self.data = self.data[:most], self.data[most:]
        block = block or (b"0" * most if self.endless else b"")
        self.sent += len(block)
        return block


def pumped(node):
    async def go():
        messages = asyncio.Queue()
        await _pump(node, messages)
        return [messages.get_nowait() for _ in range(messages.qsize())]

    return asyncio.run(go())


def test_words_and_the_bytes_that_follow_them_are_told_apart():
    node = Node(b'{"log": 0, "size": 5}\n{"a"}{"beat": 1}\n')
    assert pumped(node) == [({"log": 0, "size": 5}, b'{"a"}'), ({"beat": 1}, b""), None]


@pytest.mark.parametrize(
    "said",
    [
        json.dumps({"log": 0, "size": 999_999_999_999}).encode() + b"\n",
        b'{"log": 0, "size": -1}\n',
        b'{"log": 0, "size": "5"}\n',
        b'{"log": 0}\n',
        b"no json\n",
        b"[1]\n",
        b"",
    ],
)
def test_a_node_that_sends_without_end_is_refused_before_much_of_it_is_kept(said):
    node = Node(said, endless=True)
    *_, error, end = pumped(node)
    assert isinstance(error, Refused)
    assert end is None
    assert node.sent <= 3 * MOST_LINE
