"""Tasks, their steps, and output: what a task or a run had to say, byte for byte."""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.timezone import now

from portal.states import Badge, State
from portal.tasks import leases as leases  # its models are found by Django through here
from portal.tasks import live

# A worker that has not been heard of for this long is taken to be dead. It says so every LEASE / 4, from a thread.
LEASE = timedelta(seconds=10)


class TaskStatus(models.TextChoices):
    """The ledger's words. `STATES` has the two vocabularies they are shown in."""

    NEW = "new"
    INPROGRESS = "inprogress"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED, FAILED, CANCELLED = TaskStatus.FINISHED, TaskStatus.FAILED, TaskStatus.CANCELLED
UNFINISHED = (TaskStatus.NEW, TaskStatus.INPROGRESS)

STATES: dict[str, State] = {
    TaskStatus.NEW: State(Badge.waiting("NEW"), "PENDING"),
    TaskStatus.INPROGRESS: State(Badge.working("INPROGRESS"), "RUNNING"),
    TaskStatus.FINISHED: State(Badge.good("FINISHED"), "SUCCEEDED"),
    TaskStatus.FAILED: State(Badge.bad("FAILED"), "FAILED"),
    TaskStatus.CANCELLED: State(Badge.gone("CANCELLED"), "CANCELLED"),
}


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

    def reopen(self) -> None:
        """More will come, after it had ended."""
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


class TaskQuerySet(models.QuerySet["Task"]):
    def unfinished(self) -> Self:
        return self.filter(status__in=UNFINISHED)

    def due(self) -> Self:
        """What somebody should be working on, and nobody is."""
        free = Q(lease_until=None) | Q(lease_until__lt=Now())
        return self.unfinished().filter(free, wake_at__lte=Now())

    def seen_by(self, user: Any, uuid: Any) -> Task | None:
        """The task, if this person may see its subject."""
        task = self.filter(uuid=uuid).select_related("subject_type", "output", "asked_by").first()
        if task is None:
            return None
        subjects: Any = task.subject_type.model_class()
        assert subjects is not None
        queryset = subjects.objects
        return task if queryset.where(user, queryset.all().sees).filter(pk=task.subject_id).exists() else None


class Task(models.Model):
    """A piece of work that we do for a subject (a workspace, a cluster, a run), and can go on with after any crash."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    kind = models.CharField(max_length=40)  # a key of `registry.plans`
    title = models.CharField(max_length=200)
    subject_type = models.ForeignKey(ContentType, models.PROTECT, related_name="+")
    subject_id = models.BigIntegerField()
    subject: Any = GenericForeignKey("subject_type", "subject_id")
    cloud = models.CharField(max_length=20, blank=True)  # for the history of step durations
    queue = models.CharField(max_length=20)
    plan = models.JSONField(default=dict)  # `Plan.promise`, as it was when the task was made
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    status = models.CharField(max_length=10, choices=TaskStatus, default=TaskStatus.NEW)
    cause = models.TextField(blank=True)  # why it failed, as a sentence
    evidence = models.TextField(blank=True)
    advice = models.TextField(blank=True)
    cancel_asked = models.BooleanField(default=False)
    lease = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    worker = models.CharField(max_length=80, blank=True)
    resumed = models.PositiveSmallIntegerField(default=0)  # how often it was taken over from a dead worker
    wake_at = models.DateTimeField(default=now)  # by the database's clock, like `lease_until`
    woken = models.BooleanField(default=False)  # since it was claimed: it is to be looked at again at once
    ticket = models.CharField(max_length=40, blank=True)  # the hint in the queue
    output = models.ForeignKey(Output, models.PROTECT, related_name="tasks")
    created = models.DateTimeField(default=now)
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)

    taken_over = False  # set by `claim`: the worker before this one went away

    objects = TaskQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["wake_at"], name="task_unfinished", condition=Q(status__in=["new", "inprogress"])),
            models.Index(fields=["subject_type", "subject_id", "-id"], name="task_subject"),
            models.Index(fields=["kind", "cloud", "-id"], name="task_history"),
            models.Index(fields=["created"], name="task_by_time"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subject_type", "subject_id"],
                condition=Q(status__in=["new", "inprogress"]),
                name="one_unfinished_task_per_subject",
            ),
            models.CheckConstraint(condition=Q(status__in=TaskStatus.values), name="task_status_known"),
        ]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("task", args=[self.uuid])

    @classmethod
    def claim(cls, pk: int, *, worker: str) -> Task | None:
        """Take the task for this worker, or return None if it is finished, not due, or another's."""
        lease = uuid.uuid4()
        was_left = cls.objects.filter(pk=pk, lease_until__lt=Now()).exists()
        claimed = (
            cls.objects.due()
            .filter(pk=pk)
            .update(
                status=TaskStatus.INPROGRESS,
                lease=lease,
                lease_until=Now() + LEASE,
                worker=worker,
                ticket="",
                woken=False,
                resumed=F("resumed") + int(was_left),
            )
        )
        if not claimed:
            return None
        task = cls.objects.select_related("output", "subject_type").get(pk=pk)
        task.taken_over = was_left
        return task

    @classmethod
    def release(cls, *, worker: str) -> None:
        """Let go of what a worker holds that is known to be dead."""
        if cls.objects.unfinished().filter(worker=worker, lease__isnull=False).update(lease_until=Now()):
            live.ring(live.WATCH)

    def hold(self, **changes: Any) -> bool:
        """Write to the task while it is ours, renewing the lease. False: another worker has it, write nothing."""
        ours = Task.objects.filter(pk=self.pk, lease=self.lease, status=TaskStatus.INPROGRESS)
        return bool(ours.update(**{"lease_until": Now() + LEASE, **changes}))

    @property
    def undoes_on_cancel(self) -> bool:
        return bool(self.plan.get("undoes_on_cancel"))

    @property
    def undoes_on_failure(self) -> bool:
        return bool(self.plan.get("undoes_on_failure"))

    @property
    def destroys(self) -> bool:
        """Whether its subject is gone when it has finished."""
        return bool(self.plan.get("destroys"))

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED

    @property
    def is_cancelling(self) -> bool:
        return self.cancel_asked and not self.is_finished

    @property
    def badge(self) -> Badge:
        return Badge.working("CANCELLING") if self.is_cancelling else STATES[self.status].badge

    @property
    def elapsed(self) -> timedelta | None:
        return (self.finished or now()) - self.started if self.started else None

    def live_names(self) -> list[str]:
        return [f"task.{self.uuid}", *(self.subject.live_names() if self.subject else [])]

    def changed(self) -> None:
        """Tell open pages, once what was written is there to read."""
        live.ring(*self.live_names())


class StepStatus(models.TextChoices):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


class Step(models.Model):
    task = models.ForeignKey(Task, models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=40)
    title = models.CharField(max_length=120)
    status = models.CharField(max_length=10, choices=StepStatus, default=StepStatus.WAITING)
    detail = models.CharField(max_length=300, blank=True)  # what it waits for, or what it found
    deaths = models.PositiveSmallIntegerField(default=0)  # of workers, at this step, one after the other
    faults = models.PositiveSmallIntegerField(default=0)  # that passed, one after the other
    faulty_since = models.DateTimeField(null=True)  # when the first of those was
    memo = models.JSONField(default=dict)  # what the step must remember if it is interrupted
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["task", "name"], name="step_names_unique_in_a_task")]

    def __str__(self) -> str:
        return self.title

    @property
    def elapsed(self) -> timedelta | None:
        if not self.started:
            return None
        end: datetime = self.finished or self.task.finished or now()
        return end - self.started
