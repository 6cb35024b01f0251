"""Output: what a task or a run had to say, byte for byte, each with who wrote it and when."""

from __future__ import annotations

import os
import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now
from django.utils.timezone import now

from portal.tasks import live


class Stream(models.IntegerChoices):
    STDOUT = 1
    STDERR = 2
    PORTAL = 3  # what our worker says
    SETUP = 4  # what was done on the node before the command: clone, packages


NO_RANK = 0xFFFFFFFF  # of what the portal said and of set-up: no rank wrote it
ENTRY = struct.Struct(">BHIII")  # of `Chunk.segments`: stream, world, rank or NO_RANK, size, ms since the chunk's `at`
BLOCK = struct.Struct(">IIQIB")  # of `Part.directory`: size, newlines, ms since 1970, size of its segments, streams
LONGEST_SPAN = 0xFFFFFFFF  # ms between the times of one chunk
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_128_000_000  # two days before the end of the year 9999: a datetime, in any time zone


def time_of(ms: int) -> datetime:
    """Of milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=ms)


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

    New bytes lie in chunks, in the database. They move to parts, in the store: `kept` is how many have, from the
    beginning, and only who knows that number may add a part. `store` names where the parts lie: the portal's own, an
    entry of settings.STORAGES, or the store of the account that `registry.store` knows by that name; and `folder` is
    what their names begin with there. Neither changes while there are parts.
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
    cut = models.BigIntegerField(default=0)  # bytes of the log that were not stored, because it is too long
    nodes = models.JSONField(default=dict)  # {"hosts": [hostname], "of": {rank_name: index in hosts}}, as far as known
    ended = models.BooleanField(default=False)  # nothing more will come, unless it is reopened
    store = models.CharField(max_length=40, default="outputs")
    folder = models.CharField(max_length=120, blank=True)
    kept = models.BigIntegerField(default=0)
    digested = models.BigIntegerField(default=0)  # bytes from the beginning that `digests` are of
    digests = models.JSONField(default=dict)  # stream name → sha256 of what is kept, in order of arrival
    expected = models.JSONField(null=True)  # the checksums that the node computed of its files, by stream name
    agrees = models.BooleanField(null=True)  # `digests` with `expected`; None: not compared
    loose = models.IntegerField(default=0)  # chunks that came since small ones were last joined
    keep_at = models.DateTimeField(null=True)  # when to try to keep it; None: there is nothing to keep
    keep_tries = models.PositiveSmallIntegerField(default=0)  # that failed, one after another
    file = models.CharField(max_length=200, blank=True)  # of chunks without data, see `Chunk`

    class Meta:
        indexes = [models.Index(fields=["keep_at"], name="output_to_keep", condition=Q(keep_at__isnull=False))]

    def __str__(self) -> str:
        return str(self.uuid)

    @property
    def live_name(self) -> str:
        return f"output.{self.uuid}"

    @property
    def is_kept(self) -> bool:
        """Whether it has ended, and all of it is in the store, with its checksums."""
        return self.ended and self.kept == self.digested == self.head

    @property
    def is_late(self) -> bool:
        """Whether it has ended, and its store does not take it: all of it is in the database until it does."""
        return self.ended and bool(self.keep_tries) and not self.is_kept

    def size(self, stream: Stream) -> int:
        return int(getattr(self, stream.name.lower()))

    def node_of(self, world: int, rank: int) -> str:
        """The hostname of the node that a rank ran on; empty when it is not known."""
        index = self.nodes.get("of", {}).get(rank_name(world, rank))
        return "" if index is None else str(self.nodes["hosts"][index])

    def end(self) -> None:
        """Nothing more will come. Call it inside a transaction."""
        Output.objects.filter(pk=self.pk).update(ended=True)
        self.ended = True
        live.ring(self.live_name)

    def reopen(self) -> None:
        """More will come: what it belongs to is tried again. What was kept stays kept. Call it inside a transaction."""
        Output.objects.filter(pk=self.pk).update(ended=False)
        self.ended = False
        live.ring(self.live_name)

    def append(self, stream: Stream, data: bytes) -> None:
        """Store bytes of no rank at the end."""
        if data:
            self._store([Segment(stream, data, now())], {}, {})

    def append_log(self, segments: Sequence[Segment], *, offset: int, size: int) -> None:
        """Store what `size` bytes of the node's log say, if it was stored up to `offset`; else raises `WrongOffset`.

        That makes the one who knows the offset the only writer: bytes are stored exactly once, whoever dies.

        Segments are in order of arrival. There may be none: then the log had nothing to show in those bytes. What goes
        beyond settings.OUTPUT_GIB, or would take the last of the portal's own disk, is counted in `cut` and not stored,
        and the output says so where it is cut.
        """
        if self.log != offset:
            self.refresh_from_db()  # what is stored up to this offset decides what still fits
        fitting, cut = self._fitting(segments)
        changes: dict[str, Any] = {"log": offset + size}
        if cut:
            changes["cut"] = F("cut") + cut
        self._store(fitting, {"log": offset}, changes)

    def _fitting(self, segments: Sequence[Segment]) -> tuple[Sequence[Segment], int]:
        """What may be stored of these, and how many bytes may not."""
        size = sum(len(segment.data) for segment in segments)
        if self.cut:
            return [], size
        most = int(settings.OUTPUT_GIB * 1024**3)
        room = max(0, most - self.stdout - self.stderr - self.setup) if most else size
        why = f"it is more than {settings.OUTPUT_GIB:g} GiB, the most that this portal stores of one run"
        mends = "raise PORTAL_OUTPUT_GIB"
        if size and _disk_is_full():
            room, why, mends = 0, "the portal's own disk is nearly full", "make room on it"
        if size <= room:
            return segments, 0
        fitting: list[Segment] = []
        for segment in segments:
            if not room:
                break
            fitting.append(replace(segment, data=segment.data[:room]))
            room -= len(fitting[-1].data)
        words = (
            f"The output is cut here: {why}. What follows is counted and not stored. Let the program write less, or "
            f"into files on /shared; whoever runs the portal can {mends}.\n"
        )
        fitting.append(Segment(Stream.PORTAL, words.encode(), now()))
        return fitting, size - sum(len(segment.data) for segment in fitting[:-1])

    @transaction.atomic
    def _store(self, segments: Sequence[Segment], fence: dict[str, int], changes: dict[str, Any]) -> None:
        added: Counter[str] = Counter()
        for segment in segments:
            added[segment.stream.name.lower()] += len(segment.data)
            added["lines"] += segment.data.count(b"\n")
        added["head"] = sum(len(segment.data) for segment in segments)
        packed = list(_packed(segments))
        added["loose"] = len(packed)
        changes = {**changes, **{name: F(name) + count for name, count in added.items() if count}}
        if packed:
            changes["keep_at"] = Coalesce("keep_at", Now())
        if not Output.objects.filter(pk=self.pk, **fence).update(**changes):
            raise WrongOffset
        self.refresh_from_db(fields=[*changes])
        if packed:
            position, line = self.head - added["head"], self.lines - added["lines"]
            for chunk in packed:
                chunk.output, chunk.position, chunk.line = self, chunk.position + position, chunk.line + line
            Chunk.objects.bulk_create(packed)
            live.ring(self.live_name)


def _disk_is_full() -> bool:
    """Whether half of what nodes of this computer leave free is gone: soon the database takes nothing from anybody."""
    disk = os.statvfs(settings.VAR)
    of: dict[str, Any] = settings.LOCAL_NODES
    left: int = min(of["free_mib"] << 20, disk.f_blocks * disk.f_frsize * of["free_percent"] // 100)
    return disk.f_bavail * disk.f_frsize < left // 2


class Chunk(models.Model):
    """Bytes of output in order of arrival, at most 64 KiB of them, and beside them who wrote which.

    `segments` are packed `ENTRY`s, one for each piece of one writer, whose sizes add up to `size`. Chunks may be joined
    at any time, and are deleted once their bytes lie in a part. `data` is None for what an earlier version has kept,
    until it lies in a part too: the bytes are in `Output.file`, at `position`.
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

    @property
    def end(self) -> int:
        return self.position + self.size


class Part(models.Model):
    """A piece of an output that lies in the store, and never changes: some MiB, or what there was.

    Its object holds `size` bytes of output as they are, and behind them the segments of each block of up to 64 KiB,
    compressed. `directory` says where the blocks are: packed `BLOCK`s, one for each.

    The row is written before the object, with `size` 0, so that an object which nobody was left to finish is found;
    -1: it is being deleted.
    """

    output = models.ForeignKey(Output, models.CASCADE, related_name="parts")
    file = models.CharField(max_length=200)
    position = models.BigIntegerField()
    size = models.BigIntegerField(default=0)
    line = models.BigIntegerField(default=0)  # newlines before it, of all writers
    directory = models.BinaryField(default=b"")
    begun = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(
                fields=["output", "position"], name="one_part_at_a_position", condition=Q(size__gt=0)
            )
        ]
        indexes = [models.Index(fields=["size", "begun"], name="part_not_written")]

    def __str__(self) -> str:
        return f"{self.output_id} at {self.position}"


def _packed(segments: Iterable[Segment]) -> Iterator[Chunk]:
    """As few chunks as possible, from position 0. Neighbours of the same writer and millisecond become one entry."""
    data = bytearray()
    entries: list[list[int]] = []  # as in ENTRY, but the time is since 1970
    position = line = 0

    def chunk() -> Chunk:
        first = min(ms for *_, ms in entries)  # clocks of nodes differ: the first to come need not be the earliest
        packed = b"".join(ENTRY.pack(*entry, min(ms - first, LONGEST_SPAN)) for *entry, ms in entries)
        made = bytes(data)
        return Chunk(position=position, size=len(made), line=line, at=time_of(first), segments=packed, data=made)

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
