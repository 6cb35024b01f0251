"""Reading output: filters, frames for live pages and polls, downloads, and rows for pages without JavaScript."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

from channels.db import database_sync_to_async

from portal.tasks.blocks import (
    FRAME,
    MOST_PIECES,
    Block,
    Moved,
    Piece,
    Stub,
    blocks,
    load,
    outline,
    outline_before,
    rank_text,
    with_segments,
)
from portal.tasks.outputs import ENTRY, NO_RANK, Output, Stream, rank_name

MOST_CHUNKS = 1000  # that one `reach` looks at
TAIL = 256 * 1024  # bytes of output that a page opens with
SCANNED = 8 * 1024 * 1024  # bytes of output that one filtered read goes through at most
MOST_SEGMENTS = 500_000  # that one filtered read looks at, about
AT_ONCE = 32  # chunks that a filtered read looks at together


@dataclass(frozen=True)
class Filter:
    """Which writers are wanted. `ranks` are (world, first, last) each; None: all of them, and what no rank wrote."""

    streams: frozenset[int] = frozenset(Stream)
    ranks: tuple[tuple[int, int, int], ...] | None = None
    _known: dict[tuple[int, ...], bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, output: Output, *, stream: str = "", rank: str = "") -> Filter | None:
        """As people write it: `stderr` or `portal,setup`; `3`, `0-7,12`, `1.2` (of a spawned world), a node's name.

        None: everything is wanted. Raises ValueError, in words for the person.
        """
        names, words = _words(stream.upper()), _words(rank)
        if not set(names) <= set(Stream.names):
            raise ValueError("There is no such stream.")
        if not names and not words:
            return None
        streams = frozenset(Stream[name] for name in names) if names else frozenset(Stream)
        return cls(streams, tuple(found for word in words for found in _ranks(output, word)) if words else None)

    @property
    def one_writer(self) -> bool:
        """Whether all that is taken is of one rank, so that its bytes may be given as they are."""
        return self.ranks is not None and len(self.ranks) == 1 and self.ranks[0][1] == self.ranks[0][2]

    @cached_property
    def mask(self) -> int:
        """The wanted streams, as a bit each."""
        return sum(1 << stream for stream in self.streams)

    def takes_entry(self, entry: tuple[int, ...]) -> bool:
        """Whether an `ENTRY` is of a wanted writer."""
        writer = (stream, world, rank) = entry[:3]
        if (known := self._known.get(writer)) is None:
            known = self._known[writer] = stream in self.streams and (
                self.ranks is None or any(world == of and first <= rank <= last for of, first, last in self.ranks)
            )
        return known


# Nine digits are less than NO_RANK.
_RANKS = re.compile(r"(?:(\d{1,5})\.)?(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_MOST_WORDS = 500  # of a filter: they are compared with every writer


def _words(text: str) -> list[str]:
    words = text.replace(",", " ").split()
    if len(words) > _MOST_WORDS:
        raise ValueError(f"At most {_MOST_WORDS} ranks can be named one by one. Write ranges, like 0-499.")
    return words


def _ranks(output: Output, word: str) -> list[tuple[int, int, int]]:
    hosts = output.nodes.get("hosts", [])
    if word in hosts:
        names = [name for name, index in output.nodes["of"].items() if hosts[index] == word]
        return [found for name in names for found in _ranks(output, name)]
    match = _RANKS.fullmatch(word)
    if match is None:
        raise ValueError(f"“{word[:40]}” is no rank. Write 3, or 0-7,12, or the name of a node.")
    world, first, last = (int(number or 0) for number in match.groups())
    return [(world, first, last if match[3] else first)]


def read(output: Output, after: int, *, limit: int = FRAME, until: int | None = None) -> list[Piece]:
    """The pieces of `blocks`."""
    return [piece for block in blocks(output, after, limit=limit, until=until) for piece in block.pieces()]


def find(
    output: Output, wanted: Filter, after: int, *, limit: int = FRAME, until: int | None = None
) -> tuple[list[Piece], int]:
    """What is stored from position `after` on and wanted: at most `limit` bytes, but one piece if there is any.

    Also how far it has looked, which is where to go on: one call goes through `SCANNED` bytes at most. Only blocks that
    hold something wanted are read whole, and only the segments of those that may. Raises `Passing`, as `blocks` does.
    """
    end = min(output.head if until is None else until, after + SCANNED)
    pieces: list[Piece] = []
    total = segments = 0
    looked = after
    while looked < end and segments < MOST_SEGMENTS:
        start = looked
        page = with_segments(output, outline(output, start, end, AT_ONCE), wanted.mask)
        if not page:
            break
        segments += sum(len(stub.segments or b"") // ENTRY.size for stub in page)
        try:
            for block in _wanted_blocks(output, wanted, page, limit - total):
                for piece in block.between(start, end).pieces(wanted):
                    if pieces and (total + len(piece.data) > limit or len(pieces) == MOST_PIECES):
                        return pieces, piece.position
                    pieces.append(piece)
                    total += len(piece.data)
                looked = min(end, block.end)
        except Moved:
            continue
        looked = min(end, page[-1].end)
    return pieces, looked


def _wanted_blocks(output: Output, wanted: Filter, page: Sequence[Stub], enough: int) -> Iterator[Block]:
    """Those that hold something wanted, not many more at once than make `enough` bytes of it. May raise `Moved`."""
    group: list[Stub] = []
    size = 0
    for stub in page:
        found = sum(entry[3] for entry in ENTRY.iter_unpack(stub.segments or b"") if wanted.takes_entry(entry))
        if found:
            group.append(stub)
            size += found
        if group and size >= enough:
            yield from load(output, group)
            group, size = [], 0
    if group:
        yield from load(output, group)


def reach(output: Output, wanted: Filter, before: int, *, enough: int = TAIL) -> tuple[int, int]:
    """From which position on there are `enough` wanted bytes before position `before`, and how many bytes it found.

    When fewer: how far it has looked, which is 0 if there are no more. One call looks at `MOST_CHUNKS` blocks at most,
    and at their segments alone. Raises `Passing`, as `blocks` does.
    """
    found = looked = segments = 0
    at = before
    while at > 0 and looked < MOST_CHUNKS and segments < MOST_SEGMENTS:
        page = outline_before(output, at, min(AT_ONCE, MOST_CHUNKS - looked))
        for stub in with_segments(output, page, wanted.mask):
            looked += 1
            packed = stub.segments or b""
            segments += len(packed) // ENTRY.size
            at = stub.end if packed else stub.position
            for entry in reversed(list(ENTRY.iter_unpack(packed))):
                length = entry[3]
                at -= length
                if at < before and wanted.takes_entry(entry):
                    found += min(length, before - at)
                    if found >= enough:
                        return at, found
    return at, found


def tail(output: Output, wanted: Filter, *, enough: int = TAIL) -> list[Piece]:
    """The last `enough` bytes that are wanted, as far back as one `reach` looks; a little more, as pieces are whole."""
    at, _ = reach(output, wanted, output.head, enough=enough)
    return find_all(output, wanted, at, output.head)


def find_all(output: Output, wanted: Filter, start: int, end: int) -> list[Piece]:
    """What is wanted between these positions, however many pieces it is in: for places that `reach` has found."""
    pieces: list[Piece] = []
    while start < end:
        found, start = find(output, wanted, start, limit=TAIL, until=end)
        pieces += found
    return pieces


def frame(output: Output, after: int, found: Sequence[Block]) -> bytes:
    """One frame: the header's length (4 bytes, big endian), the header in JSON, the bytes of its pieces.

    Header: `after`, `next` (the cursor to ask with), `head`, `lines`, `ended`, `kept`, `late` (the store does not
    take it), `agrees`, `cut` (bytes that were not stored, because there were too many), `sha256` by stream, `ranks` (of
    how many it is known on which node they are), `line` (newlines before its first piece), and `pieces`:
    `stream,rank,size,ms` each, with `;` between them. The rank is empty, a number, or `1.2` for rank 2 of the first
    spawned world. `@N` in their place says that the `ms` that follow are counted from N, in ms since 1970. Pieces lie
    one after the other from `after` on. It is one string because most are read by many who need not look into it.

    Live pages, polls and `--follow` all read this.
    """
    following = found[-1].end if found else after
    line = found[0].line if found else output.lines
    return _frame(output, after, following, line, [block.text for block in found], [block.data for block in found])


def filtered_frame(output: Output, after: int, following: int, pieces: Iterable[Piece]) -> bytes:
    """A frame of what `find` gave. Its pieces do not touch, and each says where it lies:
    `stream,rank,size,ms,position,line`."""
    pieces = list(pieces)
    at = pieces[0].ms if pieces else 0
    texts = [f"@{at}"]
    for piece in pieces:
        rank = rank_text(piece.world, NO_RANK if piece.rank is None else piece.rank)
        texts.append(f"{piece.stream},{rank},{len(piece.data)},{piece.ms - at},{piece.position},{piece.line}")
    return _frame(output, after, following, 0, texts, [piece.data for piece in pieces])


def _frame(output: Output, after: int, following: int, line: int, texts: list[str], data: list[bytes]) -> bytes:
    header = {
        "after": after,
        "next": following,
        "head": output.head,
        "lines": output.lines,
        "ended": output.ended,
        "kept": output.is_kept,
        "late": output.is_late,
        "agrees": output.agrees,
        "cut": output.cut,
        "sha256": output.digests,
        "ranks": len(output.nodes.get("of", ())),
        "line": line,
        "pieces": ";".join(texts),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack(">I", len(text)) + text + b"".join(data)


def tail_position(output: Output) -> int:
    """Where a page begins to show: at the start, or at the start of a block not far from the end."""
    at = output.head - TAIL
    if at <= 0:
        return 0
    holding = outline(output, at, output.head, 1)[0]
    return at if holding.position == at else holding.end


def bytes_of(pieces: Iterable[Piece]) -> bytes:
    """As they were stored. Those of one stream have its checksum in `Output.digests`."""
    return b"".join(piece.data for piece in pieces)


def stream_bytes(output: Output, wanted: Filter | None = None) -> Iterator[bytes]:
    """All bytes that are wanted, in order of arrival."""
    for pieces in _all(output, wanted):
        yield bytes_of(pieces)


def stream_lines(output: Output, wanted: Filter | None = None, lines: Lines | None = None) -> Iterator[bytes]:
    """The same bytes as whole lines, see `Lines`."""
    lines = lines or Lines()
    for pieces in _all(output, wanted):
        yield lines.feed(pieces)
    yield lines.end()


async def stream_bytes_async(output: Output, wanted: Filter | None = None) -> AsyncIterator[bytes]:
    """`stream_bytes` for a server that is asynchronous: one read at a time, none of it kept."""
    async for pieces in _all_async(output, wanted):
        yield bytes_of(pieces)


async def stream_lines_async(
    output: Output, wanted: Filter | None = None, lines: Lines | None = None
) -> AsyncIterator[bytes]:
    lines = lines or Lines()
    async for pieces in _all_async(output, wanted):
        yield lines.feed(pieces)
    yield lines.end()


def next_pieces(output: Output, wanted: Filter | None, position: int) -> tuple[list[Piece], int]:
    """Some of what is wanted from a position on, and where to go on; the position itself where there is no more."""
    if wanted is not None:
        return find(output, wanted, position, limit=1024 * 1024)
    pieces = read(output, position, limit=1024 * 1024)
    return pieces, pieces[-1].end if pieces else position


def _all(output: Output, wanted: Filter | None) -> Iterator[list[Piece]]:
    position = -1
    after = 0
    while after > position:
        position = after
        pieces, after = next_pieces(output, wanted, position)
        yield pieces


async def _all_async(output: Output, wanted: Filter | None) -> AsyncIterator[list[Piece]]:
    position = -1
    after = 0
    while after > position:
        position = after
        pieces, after = await database_sync_to_async(next_pieces)(output, wanted, position)
        yield pieces


class Lines:
    """Makes whole lines of what writers wrote in pieces: a line is given out when its writer has ended it.

    Each writer's bytes stay as they are and in order. Lines that are never ended come last, each with a line end if
    another follows. At most `MOST` bytes wait: when more would, the longest line is cut, with a line end.

    With `tags`, each line begins with who wrote it, which no program can write in another's name: `[17] `, `[1.2] ` of
    a spawned one, `[17 stderr] `, `[portal] `, `[setup] `. With `times`, with when its first byte was written, in UTC.
    """

    MOST = 64 * 1024 * 1024

    def __init__(self, *, tags: bool = False, times: bool = False) -> None:
        self.tags, self.times = tags, times
        self.begun: dict[tuple[int, int, int | None], bytearray] = {}  # in the order in which the lines began
        self.waiting = 0

    def feed(self, pieces: Iterable[Piece]) -> bytes:
        whole = bytearray()
        for piece in pieces:
            cut = piece.data.rfind(b"\n") + 1
            if cut:
                begun = self.begun.pop(piece.writer, b"")
                self.waiting -= len(begun)
                whole += begun
                whole += self._tagged(piece, piece.data[:cut], begins=not begun)
            if cut < len(piece.data):
                rest = self._tagged(piece, piece.data[cut:], begins=piece.writer not in self.begun)
                self.begun.setdefault(piece.writer, bytearray()).extend(rest)
                self.waiting += len(rest)
                if self.waiting > self.MOST:
                    longest = max(self.begun, key=lambda writer: len(self.begun[writer]))
                    self.waiting -= len(self.begun[longest])
                    whole += self.begun.pop(longest) + b"\n"
        return bytes(whole)

    def _tagged(self, piece: Piece, data: bytes, *, begins: bool) -> bytes:
        """`begins`: its first line begins with it."""
        if not (self.tags or self.times):
            return data
        tag = b""
        if self.times:
            tag = f"{datetime.fromtimestamp(piece.ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{piece.ms % 1000:03}Z ".encode()
        if self.tags:
            name = Stream(piece.stream).name.lower()
            if piece.rank is not None:
                name = rank_name(piece.world, piece.rank) + (" stderr" if piece.stream == Stream.STDERR else "")
            tag += f"[{name}] ".encode()
        return (tag if begins else b"") + data[:-1].replace(b"\n", b"\n" + tag) + data[-1:]

    def end(self) -> bytes:
        return b"\n".join(self.begun.values())


class Row(NamedTuple):
    """A line as a page without JavaScript shows it."""

    number: int | None  # which line of the whole-line download it is; None: it has no end
    at: datetime
    stream: str
    rank: str  # as `rank_name`; empty: of no rank
    node: str
    text: str


# CSI and OSC sequences, what is left of control characters, and those that turn the order of others round: a name could
# be read as another. Pages with JavaScript show SGR colours; this one none.
# None of it looks twice at a character, as a title up to its end would, of which a line may begin thousands.
_CONTROL = re.compile(
    r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]",
    re.S,
)
_LONGEST = 8 * 1024


def rows(output: Output, pieces: Iterable[Piece]) -> list[Row]:
    """Lines, each of one writer, in the order in which they begin. A carriage return overwrites, as on a terminal."""
    done: list[tuple[Piece, bytearray]] = []
    numbers: dict[int, int] = {}
    begun: dict[tuple[int, int, int | None], int] = {}  # writer → which of `done` has no end yet
    for piece in pieces:
        number = piece.line
        for part in re.findall(rb"[^\n]*\n|[^\n]+", piece.data):
            index = begun.get(piece.writer)
            if index is None:
                index = begun[piece.writer] = len(done)
                done.append((piece, bytearray()))
            done[index][1].extend(part)
            if part.endswith(b"\n"):
                number += 1
                numbers[index] = number
                del begun[piece.writer]
    return [
        Row(
            numbers.get(index),
            datetime.fromtimestamp(piece.ms / 1000, UTC),
            Stream(piece.stream).name.lower(),
            "" if piece.rank is None else rank_name(piece.world, piece.rank),
            "" if piece.rank is None else output.node_of(piece.world, piece.rank),
            plain_text(bytes(raw)),
        )
        for index, (piece, raw) in enumerate(done)
    ]


def first_lines(pieces: Iterable[Piece], most: int) -> list[Piece]:
    """What of these lies before so many newlines have come."""
    kept: list[Piece] = []
    for piece in pieces:
        at = _after_newline(piece.data, most)
        if at is not None:
            return [*kept, piece._replace(data=piece.data[:at])]
        most -= piece.data.count(b"\n")
        kept.append(piece)
    return kept


def last_lines(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """What of these comes after all newlines but so many."""
    kept: list[Piece] = []
    for piece in reversed(pieces):
        count = piece.data.count(b"\n")
        if count > most:
            at = _after_newline(piece.data, count - most) or 0
            if at < len(piece.data):
                moved = {"position": piece.position + at, "line": piece.line + count - most}
                kept.append(piece._replace(data=piece.data[at:], **moved))
            break
        most -= count
        kept.append(piece)
    return kept[::-1]


def _after_newline(data: bytes, number: int) -> int | None:
    """Where the newline of this number, from 1 on, ends; None where there are fewer."""
    parts = data.split(b"\n", number)
    return len(data) - len(parts[-1]) if len(parts) > number else None


def plain_text(raw: bytes, *, longest: int = _LONGEST) -> str:
    """A line as text: wrong UTF-8 replaced, overwritten parts and control sequences dropped, cut when very long."""
    text = raw.decode(errors="replace").rstrip("\r\n")
    text = _CONTROL.sub("", text.rsplit("\r", 1)[-1])
    if len(text) > longest:
        return f"{text[:longest]} … {len(text) - longest:,} more characters, whole in the download"
    return text
