"""Output: what a task or a run had to say, byte for byte, each with who wrote it and when."""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import F
from django.utils.timezone import now

from portal.tasks import live


class Stream(models.IntegerChoices):
    STDOUT = 1
    STDERR = 2
    PORTAL = 3  # what our worker says
    SETUP = 4  # what was done on the node before the command: clone, packages


NO_RANK = 0xFFFFFFFF  # of what the portal said and of set-up: no rank wrote it
ENTRY = struct.Struct(">BHIII")  # of `Chunk.segments`: stream, world, rank or NO_RANK, size, ms since the chunk's `at`
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # of the year 9999: what a datetime can be


class WrongOffset(Exception):
    """Somebody else has written this part already."""


def rank_name(world: int, rank: int) -> str:
    """What a rank is called: 17, or 1.2 for rank 2 of the first world that MPI_Comm_spawn made."""
    return f"{world}.{rank}" if world else str(rank)


@dataclass(frozen=True)
class Segment:
    """Bytes that one writer wrote at one time. `at` is a datetime, or nanoseconds since 1970 as nodes tell it.

    `world` 0 is what mpiexec started; programs that it spawned have worlds from 1 on. `rank` None: no rank wrote it.
    """

    stream: Stream
    data: bytes
    at: datetime | int
    world: int = 0
    rank: int | None = None

    @property
    def ms(self) -> int:
        """Milliseconds since 1970. A node's clock may say anything, but not what cannot be stored."""
        ms = self.at // 1_000_000 if isinstance(self.at, int) else (self.at - _EPOCH) // timedelta(milliseconds=1)
        return min(max(ms, 0), _LAST_MS)


class Output(models.Model):
    """The output of a task or a run: bytes in order of arrival, each in one stream and of one rank or none.

    A `position` counts all bytes in the order they were stored, and is the cursor of every reader; `head` is the next
    one. A run's output is copied from a log of its node: `log` is how many bytes of that log are stored here, and only
    who knows that number may go on.
    """

    CHUNK = 64 * 1024
    MOST_SEGMENTS = 4096  # of a chunk

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    head = models.BigIntegerField(default=0)
    lines = models.BigIntegerField(default=0)  # newlines stored so far
    stdout = models.BigIntegerField(default=0)
    stderr = models.BigIntegerField(default=0)
    portal = models.BigIntegerField(default=0)
    setup = models.BigIntegerField(default=0)
    log = models.BigIntegerField(default=0)
    nodes = models.JSONField(default=dict)  # {"hosts": [hostname], "of": {rank_name: index in hosts}}, as far as known
    ended = models.BooleanField(default=False)  # nothing more will come
    file = models.CharField(max_length=200, blank=True)  # in STORAGES["outputs"], once compacted
    digests = models.JSONField(default=dict)  # stream name → sha256 of what is stored, in order of arrival
    agrees = models.BooleanField(null=True)  # with the checksums that the node computed; None: not compared

    def __str__(self) -> str:
        return str(self.uuid)

    @property
    def live_name(self) -> str:
        return f"output.{self.uuid}"

    @property
    def is_kept(self) -> bool:
        """Whether all of it is in the metadata store, with its checksums."""
        return bool(self.file) or (self.ended and not self.head)

    def size(self, stream: Stream) -> int:
        return int(getattr(self, stream.name.lower()))

    def node_of(self, world: int, rank: int) -> str:
        """The hostname of the node that a rank ran on; empty when it is not known."""
        index = self.nodes.get("of", {}).get(rank_name(world, rank))
        return "" if index is None else str(self.nodes["hosts"][index])

    def append(self, stream: Stream, data: bytes) -> None:
        """Store bytes of no rank at the end."""
        if data:
            self._store([Segment(stream, data, now())], {}, {})

    def append_log(self, segments: Sequence[Segment], *, offset: int, size: int) -> None:
        """Store what `size` bytes of the node's log say, if it was stored up to `offset`; else raises `WrongOffset`.

        That makes the one who knows the offset the only writer: bytes are stored exactly once, whoever dies.

        Segments are in order of arrival. There may be none: then the log had nothing to show in those bytes.
        """
        self._store(segments, {"log": offset}, {"log": offset + size})

    @transaction.atomic
    def _store(self, segments: Sequence[Segment], fence: dict[str, int], changes: dict[str, Any]) -> None:
        added: Counter[str] = Counter()
        for segment in segments:
            added[segment.stream.name.lower()] += len(segment.data)
            added["lines"] += segment.data.count(b"\n")
        added["head"] = sum(len(segment.data) for segment in segments)
        changes = {**changes, **{name: F(name) + count for name, count in added.items() if count}}
        if not Output.objects.filter(pk=self.pk, **fence).update(**changes):
            raise WrongOffset
        self.refresh_from_db(fields=[*changes])
        if added["head"]:
            position, line = self.head - added["head"], self.lines - added["lines"]
            Chunk.objects.bulk_create(_packed(self, position, line, segments))
            live.ring(self.live_name)


class Chunk(models.Model):
    """Bytes of output in order of arrival, at most 64 KiB of them, and beside them who wrote which.

    `segments` are packed `ENTRY`s, one for each piece of one writer, whose sizes add up to `size`. Once the output is
    compacted, `data` is None and lies in its file; `segments` stay.
    """

    output = models.ForeignKey(Output, models.CASCADE, related_name="chunks")
    position = models.BigIntegerField()
    size = models.PositiveIntegerField()
    line = models.BigIntegerField()  # newlines before it, of all writers
    at = models.DateTimeField()
    segments = models.BinaryField()
    data = models.BinaryField(null=True)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["output", "position"], name="one_chunk_at_a_position")]

    def __str__(self) -> str:
        return f"{self.output_id} at {self.position}"

    @property
    def ms(self) -> int:
        """`at` in milliseconds since 1970."""
        return (self.at - _EPOCH) // timedelta(milliseconds=1)


def _packed(output: Output, position: int, line: int, segments: Iterable[Segment]) -> Iterator[Chunk]:
    """As few chunks as possible. Neighbours of the same writer and millisecond become one entry."""
    data = bytearray()
    entries: list[list[int]] = []  # as in ENTRY, but the time is since 1970

    def chunk() -> Chunk:
        first = min(ms for *_, ms in entries)  # clocks of nodes differ: the first to come need not be the earliest
        packed = b"".join(ENTRY.pack(*entry, min(ms - first, 0xFFFFFFFF)) for *entry, ms in entries)
        at = _EPOCH + timedelta(milliseconds=first)
        made = bytes(data)
        return Chunk(output=output, position=position, size=len(made), line=line, at=at, segments=packed, data=made)

    for segment in segments:
        writer = [segment.stream, segment.world, NO_RANK if segment.rank is None else segment.rank]
        ms, start = segment.ms, 0
        while start < len(segment.data):
            piece = segment.data[start : start + Output.CHUNK - len(data)]
            start += len(piece)
            if entries and entries[-1][:3] == writer and entries[-1][4] == ms:
                entries[-1][3] += len(piece)
            else:
                entries.append([*writer, len(piece), ms])
            data += piece
            if len(data) == Output.CHUNK or len(entries) == Output.MOST_SEGMENTS:
                yield chunk()
                position += len(data)
                line += data.count(b"\n")
                data.clear()
                entries.clear()
    if data:
        yield chunk()
