"""Reading output: by position, for live pages, polls, downloads and pages without JavaScript; and compacting it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO, Any

from channels.db import database_sync_to_async
from django.core.files.base import File
from django.core.files.storage import storages
from django.db import transaction
from django.db.models import Subquery
from django.db.models.functions import Coalesce

from portal.failpoints import failpoint
from portal.tasks import live
from portal.tasks.models import Chunk, Output, Stream

FRAME = 256 * 1024  # bytes of output in one frame
MOST_CHUNKS = 1000  # read at once
TAIL = 256 * 1024  # bytes of output that a page opens with


@dataclass(frozen=True)
class Piece:
    """Bytes of one stream, beginning at a position."""

    stream: int
    position: int
    line: int  # newlines before it, in all streams
    at: datetime
    data: bytes

    def since(self, position: int) -> Piece:
        cut = position - self.position
        if cut <= 0:
            return self
        return Piece(self.stream, position, self.line + self.data.count(b"\n", 0, cut), self.at, self.data[cut:])


def read(output: Output, after: int, *, limit: int = FRAME, until: int | None = None) -> list[Piece]:
    """What is stored from position `after` on: at most `limit` bytes, but at least one piece if there is any."""
    first = output.chunks.filter(position__lte=after).order_by("-position").values("position")[:1]
    # An upper bound on the position, not only on the number: each row brings up to 64 KiB with it.
    end = after + limit if until is None else min(until, after + limit)
    chunks = output.chunks.filter(position__gte=Coalesce(Subquery(first), 0), position__lt=end)
    pieces: list[Piece] = []
    total = 0
    with _File(output) as file:
        for chunk in chunks.order_by("position")[:MOST_CHUNKS]:
            if chunk.position + chunk.size <= after:
                continue
            piece = Piece(chunk.stream, chunk.position, chunk.line, chunk.at, file.data_of(chunk)).since(after)
            if until is not None and piece.position + len(piece.data) > until:
                piece = Piece(piece.stream, piece.position, piece.line, piece.at, piece.data[: until - piece.position])
            if pieces and total + len(piece.data) > limit:
                break
            pieces.append(piece)
            total += len(piece.data)
    return pieces


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


def frame(output: Output, after: int, pieces: Iterable[Piece]) -> bytes:
    """One frame: the header's length (4 bytes, big endian), the header in JSON, the bytes of its pieces.

    Header: `after`, `next` (the cursor to ask with), `head`, `lines`, `ended`, `agrees`, `sha256` by stream, and
    `pieces` as [stream, position, size, line, time in ms]. Live pages, polls and `--follow` all read this.
    """
    pieces = list(pieces)
    header = {
        "after": after,
        "next": pieces[-1].position + len(pieces[-1].data) if pieces else after,
        "head": output.head,
        "lines": output.lines,
        "ended": output.ended,
        "kept": output.is_kept,
        "agrees": output.agrees,
        "sha256": output.digests,
        "pieces": [[p.stream, p.position, len(p.data), p.line, int(p.at.timestamp() * 1000)] for p in pieces],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack(">I", len(text)) + text + b"".join(p.data for p in pieces)


def tail_position(output: Output) -> int:
    """Where a page begins to show: at the start, or at the start of a chunk not far from the end."""
    if output.head <= TAIL:
        return 0
    chunk = output.chunks.filter(position__gte=output.head - TAIL).order_by("position").first()
    return chunk.position if chunk else max(0, output.head - TAIL)


def stream_bytes(output: Output, stream: Stream | None) -> Iterator[bytes]:
    """All bytes of one stream, or of all in the order they were stored; for downloads and checksums."""
    position = 0
    while True:
        pieces = read(output, position, limit=1024 * 1024)
        if not pieces:
            return
        for piece in pieces:
            if stream is None or piece.stream == stream:
                yield piece.data
        position = pieces[-1].position + len(pieces[-1].data)


async def stream_bytes_async(output: Output, stream: Stream | None) -> AsyncIterator[bytes]:
    """`stream_bytes` for a server that is asynchronous: one read at a time, none of it kept."""
    position = 0
    while pieces := await database_sync_to_async(read)(output, position, limit=1024 * 1024):
        for piece in pieces:
            if stream is None or piece.stream == stream:
                yield piece.data
        position = pieces[-1].position + len(pieces[-1].data)


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
        position = pieces[-1].position + len(pieces[-1].data)
    file.seek(0)
    return file


@dataclass(frozen=True)
class Row:
    """A line as a page without JavaScript shows it."""

    number: int
    at: datetime
    stream: str
    text: str


# CSI and OSC sequences, and what is left of control characters. Pages with JavaScript show SGR colours; this one none.
_CONTROL = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\].*?(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.S)
_LONGEST = 8 * 1024


def rows(pieces: Iterable[Piece]) -> list[Row]:
    """Lines, in the order in which they begin. A carriage return overwrites, as on a terminal."""
    done: list[tuple[int, datetime, int, bytearray]] = []
    open_rows: dict[int, bytearray] = {}
    for piece in pieces:
        number = piece.line + 1
        for part in re.findall(rb"[^\n]*\n|[^\n]+", piece.data):
            row = open_rows.get(piece.stream)
            if row is None:
                row = bytearray()
                open_rows[piece.stream] = row
                done.append((number, piece.at, piece.stream, row))
            row += part
            if part.endswith(b"\n"):
                del open_rows[piece.stream]
                number += 1
    return [Row(n, at, Stream(stream).name.lower(), plain_text(bytes(raw))) for n, at, stream, raw in done]


def plain_text(raw: bytes) -> str:
    """A line as text: wrong UTF-8 replaced, overwritten parts and control sequences dropped, cut when very long."""
    text = raw.decode(errors="replace").rstrip("\r\n")
    text = _CONTROL.sub("", text.rsplit("\r", 1)[-1])
    if len(text) > _LONGEST:
        return f"{text[:_LONGEST]} … {len(text) - _LONGEST:,} more characters, whole in the download"
    return text
