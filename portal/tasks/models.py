"""Tasks and their steps. Output has a file of its own."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Self

from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.timezone import now

from portal.prepared import prepared
from portal.states import Badge, State
from portal.tasks import leases as leases  # its models are found by Django through here
from portal.tasks import live, registry
from portal.tasks.outputs import Chunk, Output, Segment, Stream, WrongOffset

# Django looks for models here, and so do people.
__all__ = ["Chunk", "Output", "Segment", "Stream", "WrongOffset"]

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


class TaskQuerySet(models.QuerySet["Task"]):
    def unfinished(self) -> Self:
        return self.filter(status__in=UNFINISHED, finished=None)  # twice the same: the second is what has an index

    def of(self, model: type[models.Model], rows: models.QuerySet[Any]) -> Self:
        """Those of these subjects."""
        kind = ContentType.objects.get_for_model(model)
        return self.filter(subject_type=kind, subject_id__in=rows.order_by().values("pk"))

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

    def seers(self, people: Collection[Any]) -> set[tuple[int, int]]:
        """Which of these people may see which of the tasks: those who may see their subjects."""
        of: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for pk, kind, subject in self.values_list("pk", "subject_type", "subject_id"):
            of[kind][subject].append(pk)
        found = set()
        for kind, tasks in of.items():
            subjects: Any = ContentType.objects.get_for_id(kind).model_class()
            for subject, person in subjects.objects.filter(pk__in=tasks).seers(people):
                found |= {(task, person) for task in tasks[subject]}
        return found


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
    lease_until = models.DateTimeField(null=True)  # kept of what was broken off while somebody had it
    worker = models.CharField(max_length=80, blank=True)
    resumed = models.PositiveSmallIntegerField(default=0)  # how often it was taken over from a dead worker
    wake_at = models.DateTimeField(default=now)  # by the database's clock, like `lease_until`
    woken = models.BooleanField(default=False)  # since it was claimed: it is to be looked at again at once
    fence = models.BigIntegerField(null=True)  # of the lock in its account's store; see `locks.py`
    ticket = models.CharField(max_length=40, blank=True)  # the hint in the queue
    output = models.ForeignKey(Output, models.PROTECT, related_name="tasks")
    created = models.DateTimeField(default=now)
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)

    taken_over = False  # set by `claim`: the worker before this one went away

    objects = TaskQuerySet.as_manager()

    class Meta:
        indexes = [
            # By what needs no value: SQLite does not see that a parameter of a statement is that of a condition.
            models.Index(fields=["wake_at"], name="task_unfinished", condition=Q(finished=None)),
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
        lapsed = _lapsed_leases(pk)  # most hints that come to nothing are of what has ended, and that is soon read
        if not lapsed:
            return None
        was_left = lapsed != [None]
        lease = uuid.uuid4()
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
        (task,) = _with_output(pk)
        task.taken_over = was_left
        task._fetch_subject()
        return task

    def _fetch_subject(self) -> None:
        """With all that a worker needs of it, in one query."""
        model: Any = ContentType.objects.get_for_id(self.subject_type_id).model_class()
        for subject in _subjects(self.subject_id, model=model):
            subject.fetched()
            self.subject = subject

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
    def short_title(self) -> str:
        """Without its subject's name, for where that is said beside it."""
        plan = registry.plans.get(self.kind)
        return plan.title if plan else self.title

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


@prepared
def _lapsed_leases(pk: int) -> models.QuerySet[Task, datetime | None]:
    """None of a task that nobody has left. Of one that is not due there is none."""
    return Task.objects.due().filter(pk=pk).values_list("lease_until", flat=True)


@prepared
def _with_output(pk: int) -> models.QuerySet[Task]:
    return Task.objects.select_related("output").filter(pk=pk)


@prepared
def _subjects(pk: int, *, model: Any) -> models.QuerySet[Any]:
    rows: models.QuerySet[Any] = model._default_manager.select_related(*getattr(model, "fetched_with", ()))
    return rows.filter(pk=pk)


class StepStatus(models.TextChoices):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"
    LEFT_OUT = "left out"  # it does not apply: its kind of cloud can do without, or cannot do it


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
