"""Where the bytes of an output lie: in chunks, in the database, or in parts, in the store.

Every byte is in one or the other at any time, and for a while in both: a part is there before its chunks are deleted.
So a reader that finds nothing in one looks into the other, and again into the first.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

from django.db.models import QuerySet, Subquery
from django.db.models.functions import Coalesce

from portal.errors import Passing
from portal.prepared import prepared
from portal.tasks.outputs import BLOCK, ENTRY, LONGEST_SPAN, NO_RANK, Chunk, Output, Part
from portal.tasks.stores import Store

FRAME = 256 * 1024  # bytes of output in one frame
MOST_PIECES = 8 * 1024  # in one frame, as far as chunks can be had singly: many small ones must not make it large
MOST_CHUNKS = 1000  # read at once


class Takes(Protocol):
    """What a filter must be able to say."""

    def takes_entry(self, entry: tuple[int, ...]) -> bool: ...


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

    def pieces(self, wanted: Takes | None = None) -> Iterator[Piece]:
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
            f"{stream},{rank_text(world, rank)},{size},{later}"
            for stream, world, rank, size, later in ENTRY.iter_unpack(self.segments)
        )

    @property
    def is_whole_lines(self) -> bool:
        """Whether each of its segments ends where a line does."""
        ends = accumulate(entry[3] for entry in ENTRY.iter_unpack(self.segments))
        return all(self.data[end - 1] == 10 for end in ends)

    @property
    def streams(self) -> int:
        """The streams that it has bytes of, as a bit each."""
        found = 0
        for stream in {entry[0] for entry in ENTRY.iter_unpack(self.segments)}:
            found |= 1 << stream
        return found


def rank_text(world: int, rank: int) -> str:
    return "" if rank == NO_RANK else f"{world}.{rank}" if world else str(rank)


def joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same bytes in as few blocks as chunks could hold; neighbours must touch. No segment is changed."""
    group: list[Block] = []
    size = entries = 0
    low = high = 0  # times of the group
    for block in blocks:
        count = len(block.segments) // ENTRY.size
        last = block.ms + max((entry[4] for entry in ENTRY.iter_unpack(block.segments)), default=0)
        if group and (
            size + len(block.data) > Output.CHUNK
            or entries + count > Output.MOST_SEGMENTS
            or max(high, last) - min(low, block.ms) > LONGEST_SPAN
        ):
            yield _one(group, low)
            group, size, entries = [], 0, 0
        low, high = (min(low, block.ms), max(high, last)) if group else (block.ms, last)
        group.append(block)
        size += len(block.data)
        entries += count
    if group:
        yield _one(group, low)


def _one(group: Sequence[Block], ms: int) -> Block:
    if len(group) == 1:
        return group[0]
    segments = []
    for block in group:
        if block.ms == ms:
            segments.append(block.segments)
        else:
            for *writer, later in ENTRY.iter_unpack(block.segments):
                segments.append(ENTRY.pack(*writer, later + block.ms - ms))
    return Block(group[0].position, group[0].line, ms, b"".join(segments), b"".join(block.data for block in group))


@dataclass(frozen=True)
class Stub:
    """A block that is not read yet: where it is, and what is known of it."""

    position: int
    size: int
    line: int
    ms: int
    segments: bytes | None  # None: in the store, not read
    streams: int | None  # that it has bytes of, as a bit each; None: `segments` say it
    chunk: int | None = None  # its key, of a chunk
    part: Part | None = None
    index: int = 0  # where its segments begin in the part's object
    index_size: int = 0

    @property
    def end(self) -> int:
        return self.position + self.size


class Moved(Exception):
    """Chunks that were there a moment ago are joined or lie in a part now: look again."""


def missing(output: Output, position: int) -> Passing:
    return Passing(
        "A part of this output cannot be found.",
        evidence=f"output {output.uuid}, byte {position:,} of {output.head:,}",
        advice="Give this line to whoever runs the portal.",
    )


def blocks(output: Output, after: int, *, limit: int = FRAME, until: int | None = None) -> list[Block]:
    """What is stored from position `after` on: at most `limit` bytes, but at least one block if there is any.

    All but the first and the last are whole, so that readers who are behind soon stand at the same positions. Raises
    `Passing` when the store does not answer, and for bytes that are nowhere.
    """
    end = after + limit if until is None else min(until, after + limit)
    if end <= after:
        return []
    places = (_part_blocks, _chunk_blocks) if after < output.kept else (_chunk_blocks, _part_blocks)
    for place in (*places, places[0]):
        if found := place(output, after, end, limit, until):
            return found
    if after < output.head:
        raise missing(output, after)
    return []


def _chunk_blocks(output: Output, after: int, end: int, limit: int, until: int | None) -> list[Block]:
    found: list[Block] = []
    total = entries = 0
    at = after
    for chunk in _some_chunks(output.pk, after, end):
        if not chunk.position <= at < chunk.end:
            break  # before the first: moved; later: what is missing is said to who asks for it
        at = chunk.end
        block = Block(chunk.position, chunk.line, chunk.ms, bytes(chunk.segments), _data_of(output, chunk))
        block = block.between(after, block.end if until is None else until)
        total += len(block.data)
        entries += len(block.segments) // ENTRY.size
        if found and (total > limit or entries > MOST_PIECES):
            break
        found.append(block)
    return found


def _part_blocks(output: Output, after: int, end: int, limit: int, until: int | None) -> list[Block]:
    stubs = with_segments(output, _part_stubs(output, after, end, MOST_CHUNKS))
    wanted: list[Stub] = []
    total = entries = 0
    for stub in stubs:
        total += min(stub.end, until or stub.end) - max(stub.position, after)
        entries += len(stub.segments or b"") // ENTRY.size
        if wanted and (total > limit or entries > MOST_PIECES):
            break
        wanted.append(stub)
    return [block.between(after, block.end if until is None else until) for block in load(output, wanted)]


def _chunks(output: int, after: int, end: int) -> QuerySet[Chunk]:
    """Those of an output that hold what lies between two positions."""
    of_it = Chunk.objects.filter(output=output)
    # An upper bound on the position, not only on the number: each row brings up to 64 KiB with it.
    first = of_it.filter(position__lte=after).order_by("-position").values("position")[:1]
    return of_it.filter(position__gte=Coalesce(Subquery(first), 0), position__lt=end).order_by("position")


@prepared
def _some_chunks(output: int, after: int, end: int) -> QuerySet[Chunk]:
    return _chunks(output, after, end)[:MOST_CHUNKS]


def _data_of(output: Output, chunk: Chunk) -> bytes:
    if chunk.data is not None:
        return bytes(chunk.data)
    if not output.file:
        raise missing(output, chunk.position)
    return Store(output.store).read(output.file, chunk.position, chunk.size)


def outline(output: Output, after: int, end: int, most: int) -> list[Stub]:
    """What lies between two positions, at most so many blocks, unread. Raises `Passing` for bytes that are nowhere."""
    places = (_part_stubs, _chunk_stubs) if after < output.kept else (_chunk_stubs, _part_stubs)
    for place in (*places, places[0]):
        if found := place(output, after, end, most):
            return found
    if after < min(end, output.head):
        raise missing(output, after)
    return []


def _chunk_stubs(output: Output, after: int, end: int, most: int) -> list[Stub]:
    found: list[Stub] = []
    at = after
    for chunk in _chunks(output.pk, after, end).defer("data")[:most]:
        if not chunk.position <= at < chunk.end:
            break
        at = chunk.end
        found.append(_stub_of(chunk))
    return found


def _stub_of(chunk: Chunk) -> Stub:
    segments = bytes(chunk.segments)
    return Stub(chunk.position, chunk.size, chunk.line, chunk.ms, segments, None, chunk=chunk.pk)


def _part_stubs(output: Output, after: int, end: int, most: int) -> list[Stub]:
    """Of the part that holds position `after`."""
    directory = _directory_with(output, after)
    return directory.between(after, end, most) if directory else []


def _directory_with(output: Output, position: int) -> _Directory | None:
    for part in _some_parts(output.pk, position):
        if position < part.position + part.size:
            return _directory(part.pk, part.file)
    return None


@prepared
def _some_parts(output: int, position: int) -> QuerySet[Part]:
    """The last one that begins there or before."""
    parts = Part.objects.filter(output=output, size__gt=0, position__lte=position)
    return parts.only("file", "position", "size").order_by("-position")[:1]


@lru_cache(maxsize=256)  # some 50 KiB each; parts never change, and no two have an object of the same name
def _directory(pk: int, file: str) -> _Directory | None:
    """None of a part that is deleted by now."""
    return next(map(_Directory, _parts(pk, file)), None)


@prepared
def _parts(pk: int, file: str) -> QuerySet[Part]:
    return Part.objects.filter(pk=pk, file=file)


class _Directory:
    """The blocks of a part, in order: where each begins, what comes before it, and what is known of it."""

    def __init__(self, part: Part) -> None:
        self._part = part
        sizes, lines, times, packed, self._streams = zip(*BLOCK.iter_unpack(bytes(part.directory)), strict=True)
        self._times = array("q", times)
        # Each with the end of the last block: an entry more than there are blocks.
        self._positions = array("q", accumulate(sizes, initial=part.position))
        self._lines = array("q", accumulate(lines, initial=part.line))
        self._indexes = array("q", accumulate(packed, initial=part.size))

    def between(self, after: int, end: int, most: int) -> list[Stub]:
        """From the block that holds position `after` on."""
        first, last = bisect_right(self._positions, after) - 1, bisect_left(self._positions, end)
        return [self._stub(n) for n in range(first, min(first + most, last, len(self._times)))]

    def before(self, end: int, most: int) -> list[Stub]:
        """Up to the block that holds the byte before position `end`, the last one first."""
        last = bisect_left(self._positions, end)
        return [self._stub(n) for n in range(last - 1, max(-1, last - 1 - most), -1)]

    def with_line(self, line: int) -> Stub:
        """The one in which a line ends."""
        return self._stub(bisect_left(self._lines, line, hi=len(self._times)) - 1)

    def _stub(self, n: int) -> Stub:
        begin, index = self._positions[n], self._indexes[n]
        size, packed = self._positions[n + 1] - begin, self._indexes[n + 1] - index
        known = (begin, size, self._lines[n], self._times[n], None, self._streams[n])
        return Stub(*known, part=self._part, index=index, index_size=packed)


def stub_with_line(output: Output, line: int) -> Stub | None:
    """The block in which a line ends, by its number in the download, unread; None where no such line has ended yet."""
    if not 0 < line <= output.lines:
        return None
    chunk = output.chunks.filter(line__lt=line).order_by("-position").defer("data").first()
    if chunk is not None:
        return _stub_of(chunk)
    part = output.parts.filter(size__gt=0, line__lt=line).only("file").order_by("-position").first()
    directory = part and _directory(part.pk, part.file)
    return directory.with_line(line) if directory else None


def outline_before(output: Output, before: int, most: int) -> list[Stub]:
    """What lies before a position, at most so many blocks, unread and the last one first."""
    places = (_part_stubs_before, _chunk_stubs_before)
    if before > output.kept:
        places = (_chunk_stubs_before, _part_stubs_before)
    for place in (*places, places[0]):
        if found := place(output, before, most):
            return found
    raise missing(output, before - 1)


def _chunk_stubs_before(output: Output, before: int, most: int) -> list[Stub]:
    found: list[Stub] = []
    at = before
    for chunk in output.chunks.filter(position__lt=before).order_by("-position").defer("data")[:most]:
        if chunk.end < at:
            break
        at = chunk.position
        found.append(_stub_of(chunk))
    return found


def _part_stubs_before(output: Output, before: int, most: int) -> list[Stub]:
    directory = _directory_with(output, before - 1)
    return directory.before(before, most) if directory else []


def with_segments(output: Output, stubs: Sequence[Stub], streams: int | None = None) -> list[Stub]:
    """The same with their segments, read at once from where they lie; `streams`: only of those that have bytes of one.

    Stubs are of one `outline`, so of one part when they are of any.
    """
    unread = [
        stub
        for stub in stubs
        if stub.segments is None and (streams is None or stub.streams is None or stub.streams & streams)
    ]
    if not unread:
        return list(stubs)
    part = unread[0].part
    assert part is not None
    start = min(stub.index for stub in unread)
    read = Store(output.store).read(part.file, start, max(stub.index + stub.index_size for stub in unread) - start)
    found = {
        stub.position: zlib.decompress(read[stub.index - start : stub.index - start + stub.index_size])
        for stub in unread
    }
    return [replace(stub, segments=found.get(stub.position, stub.segments)) for stub in stubs]


def load(output: Output, stubs: Sequence[Stub]) -> list[Block]:
    """The blocks of stubs whose segments are known. Raises `Moved`."""
    found = []
    for stub, data in zip(stubs, read_data(output, stubs), strict=True):
        assert stub.segments is not None
        found.append(Block(stub.position, stub.line, stub.ms, stub.segments, data))
    return found


def read_data(output: Output, stubs: Sequence[Stub]) -> list[bytes]:
    """The bytes of each. Of those that touch in one part, with one read. Raises `Moved`."""
    keys = [stub.chunk for stub in stubs if stub.chunk is not None]
    chunks = {chunk.pk: chunk for chunk in output.chunks.filter(pk__in=keys)} if keys else {}
    if len(chunks) < len(keys):
        raise Moved
    found: list[bytes] = []
    for run in _touching(stubs):
        first, part = run[0], run[0].part
        if part is None:
            found += [_data_of(output, chunks[stub.chunk]) for stub in run if stub.chunk is not None]
        else:
            read = Store(output.store).read(part.file, first.position - part.position, run[-1].end - first.position)
            found += [read[stub.position - first.position : stub.end - first.position] for stub in run]
    return found


def _touching(stubs: Sequence[Stub]) -> Iterator[list[Stub]]:
    run: list[Stub] = []
    for stub in stubs:
        if run and not (run[-1].end == stub.position and run[-1].part is stub.part):
            yield run
            run = []
        run.append(stub)
    if run:
        yield run
