"""Reading output: by position, for live pages, polls, downloads and pages without JavaScript; and compacting it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from channels.db import database_sync_to_async
from django.core.files.base import File
from django.core.files.storage import storages
from django.db import transaction
from django.db.models import QuerySet, Subquery
from django.db.models.functions import Coalesce

from portal.failpoints import failpoint
from portal.tasks import live
from portal.tasks.outputs import ENTRY, NO_RANK, Chunk, Output, Stream, rank_name

FRAME = 256 * 1024  # bytes of output in one frame
MOST_PIECES = 8 * 1024  # in one frame, as far as chunks can be had singly: many small ones must not make it large
MOST_CHUNKS = 1000  # read at once
TAIL = 256 * 1024  # bytes of output that a page opens with
SCANNED = 8 * 1024 * 1024  # bytes of output that one filtered read goes through at most
MOST_SEGMENTS = 500_000  # that one filtered read looks at, about
AT_ONCE = 32  # chunks that a filtered read fetches together


class Piece(NamedTuple):
    """Bytes that one writer wrote at one time, beginning at a position."""

    stream: int
    position: int
    line: int  # newlines before it, of all writers
    ms: int  # since 1970
    data: bytes
    world: int = 0
    rank: int | None = None  # None: the portal's words, and set-up

    @property
    def end(self) -> int:
        return self.position + len(self.data)

    @property
    def writer(self) -> tuple[int, int, int | None]:
        return self.stream, self.world, self.rank


@dataclass(frozen=True)
class Block:
    """What a chunk holds, or a part of it: bytes in order of arrival, and packed beside them who wrote which."""

    position: int
    line: int  # newlines before it, of all writers
    ms: int  # since 1970: what the times of `segments` are counted from
    segments: bytes  # as in `Chunk`
    data: bytes

    @property
    def end(self) -> int:
        return self.position + len(self.data)

    def between(self, begin: int, end: int) -> Block:
        """The part of it that lies between two positions."""
        if begin <= self.position and self.end <= end:
            return self
        first = max(0, begin - self.position)
        last = max(first, min(len(self.data), end - self.position))
        kept = []
        start = 0
        for *writer, size, later in ENTRY.iter_unpack(self.segments):
            left = min(start + size, last) - max(start, first)
            if left > 0:
                kept.append(ENTRY.pack(*writer, left, later))
            start += size
        line = self.line + self.data.count(b"\n", 0, first)
        return Block(self.position + first, line, self.ms, b"".join(kept), self.data[first:last])

    def pieces(self, wanted: Filter | None = None) -> Iterator[Piece]:
        line, start, counted = self.line, 0, 0
        for stream, world, rank, size, later in ENTRY.iter_unpack(self.segments):
            if wanted is None or wanted.takes_entry((stream, world, rank)):
                line += self.data.count(b"\n", counted, start)
                counted = start
                part = self.data[start : start + size]
                who = None if rank == NO_RANK else rank
                yield Piece(stream, self.position + start, line, self.ms + later, part, world, who)
            start += size

    @cached_property
    def text(self) -> str:
        """Its segments as they are written in a frame's header. Made once, for all frames that it is in."""
        return f"@{self.ms};" + ";".join(
            f"{stream},{_rank_text(world, rank)},{size},{later}"
            for stream, world, rank, size, later in ENTRY.iter_unpack(self.segments)
        )


def _rank_text(world: int, rank: int) -> str:
    return "" if rank == NO_RANK else f"{world}.{rank}" if world else str(rank)


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


def blocks(output: Output, after: int, *, limit: int = FRAME, until: int | None = None) -> list[Block]:
    """What is stored from position `after` on: at most `limit` bytes, but at least one block if there is any.

    All but the first and the last are whole chunks, so that readers who are behind soon stand at the same positions.
    """
    # An upper bound on the position, not only on the number: each row brings up to 64 KiB with it.
    end = after + limit if until is None else min(until, after + limit)
    found: list[Block] = []
    total = entries = 0
    with _File(output) as file:
        for chunk in _chunks(output, after, end)[:MOST_CHUNKS]:
            block = file.block_of(chunk)
            block = block.between(after, block.end if until is None else until)
            if not block.data:
                continue
            total += len(block.data)
            entries += len(block.segments) // ENTRY.size
            if found and (total > limit or entries > MOST_PIECES):
                break
            found.append(block)
    return found


def read(output: Output, after: int, *, limit: int = FRAME, until: int | None = None) -> list[Piece]:
    """The pieces of `blocks`."""
    return [piece for block in blocks(output, after, limit=limit, until=until) for piece in block.pieces()]


def find(
    output: Output, wanted: Filter, after: int, *, limit: int = FRAME, until: int | None = None
) -> tuple[list[Piece], int]:
    """What is stored from position `after` on and wanted: at most `limit` bytes, but one piece if there is any.

    Also how far it has looked, which is where to go on: one call goes through `SCANNED` bytes at most. Only chunks that
    hold something wanted are read whole.
    """
    end = min(output.head if until is None else until, after + SCANNED)
    pieces: list[Piece] = []
    total = segments = 0
    looked = after
    with _File(output) as file:
        while looked < end and segments < MOST_SEGMENTS:
            page = list(_chunks(output, looked, end).defer("data")[:AT_ONCE])
            if not page:
                break
            segments += sum(len(chunk.segments) // ENTRY.size for chunk in page)
            holds = [chunk.pk for chunk in page if any(map(wanted.takes_entry, ENTRY.iter_unpack(chunk.segments)))]
            for chunk in output.chunks.filter(pk__in=holds) if holds else ():
                for piece in file.block_of(chunk).between(after, end).pieces(wanted):
                    if pieces and (total + len(piece.data) > limit or len(pieces) == MOST_PIECES):
                        return pieces, piece.position
                    pieces.append(piece)
                    total += len(piece.data)
            looked = min(end, page[-1].position + page[-1].size)
    return pieces, looked


def reach(output: Output, wanted: Filter, before: int, *, enough: int = TAIL) -> tuple[int, int]:
    """From which position on there are `enough` wanted bytes before position `before`, and how many bytes it found.

    When fewer: how far it has looked, which is 0 if there are no more. One call looks at `MOST_CHUNKS` chunks at most,
    and at their segments alone.
    """
    found = chunks = segments = 0
    at = before
    while at > 0 and chunks < MOST_CHUNKS and segments < MOST_SEGMENTS:
        page = output.chunks.filter(position__lt=at).order_by("-position").values_list("position", "size", "segments")
        for position, size, packed in page[: min(AT_ONCE, MOST_CHUNKS - chunks)]:
            chunks += 1
            segments += len(packed) // ENTRY.size
            at = position + size
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
    pieces: list[Piece] = []
    while at < output.head:
        found, at = find(output, wanted, at, limit=enough)
        pieces += found
    return pieces


def _chunks(output: Output, after: int, end: int) -> QuerySet[Chunk]:
    """Those that hold what lies between two positions."""
    first = output.chunks.filter(position__lte=after).order_by("-position").values("position")[:1]
    return output.chunks.filter(position__gte=Coalesce(Subquery(first), 0), position__lt=end).order_by("position")


class _File:
    """Chunks whose bytes were moved to the output's file are read from there."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.opened: IO[bytes] | None = None

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        if self.opened:
            self.opened.close()

    def block_of(self, chunk: Chunk) -> Block:
        return Block(chunk.position, chunk.line, chunk.ms, bytes(chunk.segments), self.data_of(chunk))

    def data_of(self, chunk: Chunk) -> bytes:
        if chunk.data is not None:
            return bytes(chunk.data)
        if self.opened is None:
            if not self.output.file:
                self.output.refresh_from_db()  # compacted since we looked
            self.opened = storages["outputs"].open(self.output.file, "rb").file
        assert self.opened is not None
        self.opened.seek(chunk.position)
        return self.opened.read(chunk.size)


def frame(output: Output, after: int, found: Sequence[Block]) -> bytes:
    """One frame: the header's length (4 bytes, big endian), the header in JSON, the bytes of its pieces.

    Header: `after`, `next` (the cursor to ask with), `head`, `lines`, `ended`, `kept`, `agrees`, `sha256` by stream,
    `ranks` (of how many it is known on which node they are), `line` (newlines before its first piece), and `pieces`:
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
        rank = _rank_text(piece.world, NO_RANK if piece.rank is None else piece.rank)
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
        "agrees": output.agrees,
        "sha256": output.digests,
        "ranks": len(output.nodes.get("of", ())),
        "line": line,
        "pieces": ";".join(texts),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack(">I", len(text)) + text + b"".join(data)


def tail_position(output: Output) -> int:
    """Where a page begins to show: at the start, or at the start of a chunk not far from the end."""
    if output.head <= TAIL:
        return 0
    chunk = output.chunks.filter(position__gte=output.head - TAIL).order_by("position").first()
    return chunk.position if chunk else max(0, output.head - TAIL)


def stream_bytes(output: Output, wanted: Filter | None = None) -> Iterator[bytes]:
    """All bytes that are wanted, in order of arrival. Those of one stream have its checksum in `Output.digests`."""
    for pieces in _all(output, wanted):
        yield b"".join(piece.data for piece in pieces)


def stream_lines(output: Output, wanted: Filter | None = None) -> Iterator[bytes]:
    """The same bytes as whole lines, see `Lines`."""
    lines = Lines()
    for pieces in _all(output, wanted):
        yield lines.feed(pieces)
    yield lines.end()


async def stream_bytes_async(output: Output, wanted: Filter | None = None) -> AsyncIterator[bytes]:
    """`stream_bytes` for a server that is asynchronous: one read at a time, none of it kept."""
    async for pieces in _all_async(output, wanted):
        yield b"".join(piece.data for piece in pieces)


async def stream_lines_async(output: Output, wanted: Filter | None = None) -> AsyncIterator[bytes]:
    lines = Lines()
    async for pieces in _all_async(output, wanted):
        yield lines.feed(pieces)
    yield lines.end()


def _next(output: Output, wanted: Filter | None, position: int) -> tuple[list[Piece], int]:
    if wanted is not None:
        return find(output, wanted, position, limit=1024 * 1024)
    pieces = read(output, position, limit=1024 * 1024)
    return pieces, pieces[-1].end if pieces else position


def _all(output: Output, wanted: Filter | None) -> Iterator[list[Piece]]:
    position = -1
    after = 0
    while after > position:
        position = after
        pieces, after = _next(output, wanted, position)
        yield pieces


async def _all_async(output: Output, wanted: Filter | None) -> AsyncIterator[list[Piece]]:
    position = -1
    after = 0
    while after > position:
        position = after
        pieces, after = await database_sync_to_async(_next)(output, wanted, position)
        yield pieces


class Lines:
    """Makes whole lines of what writers wrote in pieces: a line is given out when its writer has ended it.

    Each writer's bytes stay as they are and in order. Lines that are never ended come last, each with a line end if
    another follows. At most `MOST` bytes wait: when more would, the longest line is cut, with a line end.
    """

    MOST = 64 * 1024 * 1024

    def __init__(self) -> None:
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
                whole += piece.data[:cut]
            if cut < len(piece.data):
                self.begun.setdefault(piece.writer, bytearray()).extend(piece.data[cut:])
                self.waiting += len(piece.data) - cut
                if self.waiting > self.MOST:
                    longest = max(self.begun, key=lambda writer: len(self.begun[writer]))
                    self.waiting -= len(self.begun[longest])
                    whole += self.begun.pop(longest) + b"\n"
        return bytes(whole)

    def end(self) -> bytes:
        return b"\n".join(self.begun.values())


def compact(output: Output, expected: dict[str, str] | None = None) -> None:
    """Move the bytes into one file in the metadata store, with their checksums. May be called again.

    `expected` are checksums that the node computed of its files, by stream name; `agrees` says whether they match.
    """
    output.refresh_from_db()
    if not output.file and output.head:
        sums = {stream: sha256() for stream in Stream}
        storage = storages["outputs"]
        name = f"{output.uuid.hex[:2]}/{output.uuid}"
        storage.delete(name)  # of an attempt that was cut off
        with _spooled(output, sums) as file:
            saved = storage.save(name, File(file, name=name))
        failpoint("output.compacted")
        with transaction.atomic():
            digests = {s.name.lower(): d.hexdigest() for s, d in sums.items() if output.size(s)}
            Output.objects.filter(pk=output.pk).update(file=saved, digests=digests)
            output.chunks.update(data=None)
        output.file, output.digests = saved, digests
    if expected is not None:
        empty = sha256(b"").hexdigest()
        output.agrees = all(output.digests.get(name, empty) == digest for name, digest in expected.items())
        Output.objects.filter(pk=output.pk).update(agrees=output.agrees)
    live.ring(output.live_name)


def _spooled(output: Output, sums: Mapping[Stream, Any]) -> IO[bytes]:
    file = TemporaryFile()  # noqa: SIM115 (the caller closes it)
    position = 0
    while position < output.head:
        pieces = read(output, position, limit=1024 * 1024, until=output.head)
        for piece in pieces:
            file.write(piece.data)
            sums[Stream(piece.stream)].update(piece.data)
        position = pieces[-1].end
    file.seek(0)
    return file


class Row(NamedTuple):
    """A line as a page without JavaScript shows it."""

    number: int | None  # which line of the whole-line download it is; None: it has no end
    at: datetime
    stream: str
    rank: str  # as `rank_name`; empty: of no rank
    node: str
    text: str


# CSI and OSC sequences, and what is left of control characters. Pages with JavaScript show SGR colours; this one none.
_CONTROL = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\].*?(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.S)
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


def plain_text(raw: bytes) -> str:
    """A line as text: wrong UTF-8 replaced, overwritten parts and control sequences dropped, cut when very long."""
    text = raw.decode(errors="replace").rstrip("\r\n")
    text = _CONTROL.sub("", text.rsplit("\r", 1)[-1])
    if len(text) > _LONGEST:
        return f"{text[:_LONGEST]} … {len(text) - _LONGEST:,} more characters, whole in the download"
    return text
