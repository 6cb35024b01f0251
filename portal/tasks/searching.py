"""Words in all that an output has, a stretch at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from portal.tasks.blocks import Block, Piece, blocks
from portal.tasks.output import Filter, find, plain_text
from portal.tasks.outputs import Output

SCANNED = 16 * 1024 * 1024  # bytes that one search goes through at most
SECONDS = 0.5  # that one search takes, about
AT_ONCE = 1024 * 1024
CARRIED = 1024 * 1024  # bytes of lines without an end that the next search goes through again, at most
MOST_WORDS = 200  # characters
AROUND = 120  # characters of a line that are shown before a hit, and as many after it


class Place(NamedTuple):
    """Where to go on: from a byte on, with the lines after so many."""

    position: int = 0
    line: int = 0

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises ValueError."""
        position, line = (int(word) for word in text.split(":"))
        if position < 0 or line < 0:
            raise ValueError(text)
        return cls(position, line)

    def __str__(self) -> str:
        return f"{self.position}:{self.line}"


class Hit(NamedTuple):
    """A line that has the words. `line` None: it has no end yet."""

    line: int | None
    position: int  # of its first byte, as far as that was looked for
    ms: int
    stream: int
    world: int
    rank: int | None
    text: str  # what is around the first of the words in it


class Found(NamedTuple):
    hits: list[Hit]
    following: Place | None  # None: all of it was looked through
    looked: int  # the position up to which


def search(output: Output, words: str, wanted: Filter | None, after: Place, *, most: int) -> Found:
    """Lines with these words from a place on, in the order in which they end: at most `most` that have ended.

    Capital letters of ASCII are as good as small ones. Colours and other control sequences between the characters do
    not count. At most `SCANNED` bytes are looked through, for about `SECONDS`. A line that is longer than `CARRIED` is
    found by what of it one search sees. Raises `Passing`, as `blocks` does.
    """
    sought = _Sought(words)
    until = time.monotonic() + SECONDS
    at, end = after.position, min(output.head, after.position + SCANNED)
    hits: list[Hit] = []
    line = after.line
    while at < end and len(hits) < most and (at < after.position + 2 * CARRIED or time.monotonic() < until):
        if wanted is None:
            found = blocks(output, at, limit=AT_ONCE, until=output.head)
            more = (hit for block in found for hit in sought.block(block))
            last = found[-1]
            at, line = last.end, last.line + last.data.count(b"\n")
        else:
            pieces, at = find(output, wanted, at, limit=AT_ONCE)
            more = (hit for piece in pieces for hit in sought.piece(piece))
            line = pieces[-1].line + pieces[-1].data.count(b"\n") if pieces else line
        hits += [hit for hit in more if hit.line and hit.line > after.line]
    if len(hits) > most:  # the rest of them is in the same stretch, behind the last of these
        hits = hits[:most]
        return Found(hits, Place(after.position, hits[-1].line or 0), hits[-1].position)
    if at >= output.head:
        return Found(hits + [hit for hit in sought.begun_hits(0) if hit.position >= after.position], None, at)
    # What began in this stretch and has no end in it is looked through again with the next one, whole.
    again = max(sought.first_begun(at), at - CARRIED)
    if again <= after.position and not hits:
        again = at  # a line that is open for so long keeps nobody from what comes behind it
    return Found(hits + list(sought.begun_hits(again)), Place(again, max(line, after.line)), at)


@dataclass
class _Begun:
    """A line without an end."""

    position: int
    ms: int
    data: bytearray = field(default_factory=bytearray)


class _Sought:
    """Puts the lines of each writer together, as far as it must, and looks for words in them."""

    def __init__(self, words: str) -> None:
        self.words = words.encode().lower()
        self.text = self.words.decode()
        self.begun: dict[tuple[int, int, int | None], _Begun] = {}

    def block(self, block: Block) -> Iterator[Hit]:
        if self.begun or self._may_be_in(block.data) or not block.is_whole_lines:
            for piece in block.pieces():
                yield from self.piece(piece)

    def _may_be_in(self, data: bytes) -> bool:
        return b"\x1b" in data or self.words in data.lower()

    def piece(self, piece: Piece) -> Iterator[Hit]:
        data, start = piece.data, 0
        if begun := self.begun.pop(piece.writer, None):
            start = data.find(b"\n") + 1
            begun.data += data[: start or None]
            if not start:
                self.begun[piece.writer] = begun
                return
            yield from self._look(bytes(begun.data), piece, begun.position, begun.ms, piece.line + 1)
        last = data.rfind(b"\n") + 1
        if last > start and self._may_be_in(data[start:last]):
            number = piece.line + data.count(b"\n", 0, start)
            for row in data[start:last].split(b"\n")[:-1]:
                number += 1
                yield from self._look(row, piece, piece.position + start, piece.ms, number)
                start += len(row) + 1
        if max(start, last) < len(data):
            self.begun[piece.writer] = _Begun(piece.position + last, piece.ms, bytearray(data[last:]))

    def _look(self, row: bytes, piece: Piece, position: int, ms: int, number: int | None) -> Iterator[Hit]:
        if not self._may_be_in(row):
            return
        for state in row.split(b"\r") if b"\r" in row else [row]:  # each state of a progress bar
            text = plain_text(state, longest=len(state))
            at = text.encode().lower().decode().find(self.text) if self._may_be_in(state) else -1
            if at >= 0:
                first, last = max(0, at - AROUND), at + len(self.text) + AROUND
                shown = f"{'…' if first else ''}{text[first:last]}{'…' if last < len(text) else ''}"
                yield Hit(number, position, ms, piece.stream, piece.world, piece.rank, shown)
                return

    def first_begun(self, otherwise: int) -> int:
        return min((begun.position for begun in self.begun.values()), default=otherwise)

    def begun_hits(self, before: int) -> Iterator[Hit]:
        """Of lines without an end that began before a position; 0: of all."""
        for (stream, world, rank), begun in self.begun.items():
            if not before or begun.position < before:
                piece = Piece(stream, begun.position, 0, begun.ms, b"", world, rank)
                yield from self._look(bytes(begun.data), piece, begun.position, begun.ms, None)
