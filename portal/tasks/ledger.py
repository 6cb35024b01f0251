"""Doing a task: its steps in order, each finished once, whatever dies on the way.

A plan is data: a list of steps, each a function that may be called again. A step that must wait calls `work.wait`,
which gives the worker back; the watch process has the task taken up again when it is due.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

from django.conf import settings
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.utils.module_loading import import_string
from django.utils.timezone import now

from portal.clouds.errors import Passing, PortalError
from portal.failpoints import failpoint
from portal.logs import log_context
from portal.secrets import redact
from portal.tasks import live, output, queue
from portal.tasks.models import LEASE, Output, Step, StepStatus, Stream, Task, TaskStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepPlan:
    """One step. `do` and `undo` must be safe to call again: they find before they make."""

    name: str  # kept in the database; renaming one needs a migration
    title: str
    do: Callable[[Work], None]
    undo: Callable[[Work], None] | None = None
    undoing: str = ""  # what is said when it is undone, if not “Undoing: TITLE”
    tries: int = 6
    limit: timedelta = timedelta(minutes=20)  # how long it may wait in all
    looks: bool = False  # it only looks and changes nothing: its start need not be stored before it is called
    always: bool = False  # also after the others were taken back, by a cancel or a failure


@dataclass(frozen=True)
class Plan:
    steps: Sequence[StepPlan]
    queue: str
    begin: Callable[[Task], None]  # in the transaction of the first claim
    settle: Callable[[Task], None]  # what the outcome means for the subject; in the transaction that writes it
    undo_on_cancel: bool = True
    undo_on_failure: bool = False

    def teardown(self) -> list[StepPlan]:
        """The steps that take apart whatever this plan built, in reverse."""
        return [
            StepPlan(f"undo-{step.name}"[:40], f"Undo: {step.title[0].lower()}{step.title[1:]}", step.undo)
            for step in reversed(self.steps)
            if step.undo
        ]


class Cancelled(Exception):
    """A person asked to cancel."""


class LeaseLost(Exception):
    """Another worker has taken the task over. This one must stop, and write nothing more."""


class GivenBack(Exception):
    """The step waits; the worker is free."""


def plan_of(kind: str) -> Plan:
    plan: Plan = import_string(settings.PLANS[kind])
    return plan


def start_task(
    subject: Any,
    kind: str,
    *,
    title: str,
    by: Any,
    cloud: str = "",
    output: Output | None = None,
    wake_at: datetime | None = None,
) -> Task:
    """Make the task and its steps, to be worked on when the transaction commits. Call it inside one.

    Raises `PortalError` while another task of this subject is unfinished.
    """
    plan = plan_of(kind)
    try:
        with transaction.atomic():
            task = Task.objects.create(
                kind=kind,
                title=title,
                subject=subject,
                cloud=cloud,
                queue=plan.queue,
                asked_by=by,
                output=output or Output.objects.create(),
                wake_at=wake_at or now(),
            )
    except IntegrityError as error:  # one unfinished task per subject
        raise PortalError(f"{subject} is being worked on already. Wait for that to end, or cancel it.") from error
    Step.objects.bulk_create(
        Step(task=task, position=n, name=step.name, title=step.title) for n, step in enumerate(plan.steps)
    )
    task.changed()
    queue.enqueue(task)
    return task


@transaction.atomic
def cancel_task(task: Task) -> bool:
    """Ask for it. What was begun is undone by a worker. False when it had already ended."""
    asked = bool(Task.objects.unfinished().filter(pk=task.pk).update(cancel_asked=True, wake_at=now()))
    if asked:
        task.refresh_from_db()
        task.changed()
        queue.enqueue(task)
    return asked


@transaction.atomic
def retry_task(task: Task, *, by: Any) -> None:
    """Go on from the step that failed; steps that are done stay done. Raises `PortalError`."""
    if plan_of(task.kind).undo_on_failure:
        raise PortalError("What this task had begun was taken back when it failed. Start it anew instead.")
    again = Task.objects.filter(pk=task.pk, status=TaskStatus.FAILED).update(
        status=TaskStatus.NEW,
        cause="",
        evidence="",
        advice="",
        cancel_asked=False,
        finished=None,
        asked_by=by,
        wake_at=now(),
    )
    if not again:
        raise PortalError("Only a task that failed can be tried again.")
    task.refresh_from_db()
    task.steps.filter(status__in=(StepStatus.FAILED, StepStatus.RUNNING, StepStatus.UNDONE)).update(
        status=StepStatus.WAITING, attempts=0, memo={}, detail="", started=None, finished=None
    )
    plan_of(task.kind).begin(task)
    task.changed()
    queue.enqueue(task)


def wake(task_pk: int) -> None:
    """Have a waiting task looked at now. Call it inside a transaction."""
    if Task.objects.unfinished().filter(pk=task_pk, lease=None).update(wake_at=now()):
        queue.enqueue(Task.objects.get(pk=task_pk))


def run_task(task_pk: int) -> None:
    """Do a task, or go on with it, until it ends or waits. This is the function that a worker calls."""
    task = Task.claim(task_pk, worker=f"{socket.gethostname()}:{os.getpid()}")
    if task is None:
        return
    with log_context(task=str(task.uuid)), _heartbeat(task):
        try:
            _run(task)
        except LeaseLost:
            logger.warning("taken over by another worker")


def _run(task: Task) -> None:
    work = Work(task)
    try:
        plan = plan_of(task.kind)
        if task.started is None:
            with transaction.atomic():
                task.started = now()
                work.prove(started=task.started)
                plan.begin(task)  # pages hear of it with the first step
        steps = work.match(plan)
        failpoint(f"{task.kind}.claimed")
        try:
            if task.cancel_asked or task.cause:
                raise Cancelled
            for record, step in steps:
                work.perform(record, step)
            work.save()
        except Cancelled:
            _end(work, plan, steps)
        except (LeaseLost, GivenBack, DatabaseError):
            raise
        except Exception as error:
            if not plan.undo_on_failure:
                raise
            work.remember_failure(_in_words(task, error))
            _end(work, plan, steps)
        else:
            work.finish(plan, TaskStatus.FINISHED)
    except GivenBack:
        return
    except (LeaseLost, DatabaseError):
        # Neither is a failure of the work. The lease runs out, and whoever can reach the database goes on.
        raise
    except Exception as error:  # noqa: BLE001 (`_in_words` logs what is a bug)
        work.fail(_in_words(task, error))


def _end(work: Work, plan: Plan, steps: Sequence[tuple[Step, StepPlan]]) -> None:
    """Take back what was done, do what is always done, and end as it was asked for or as it failed."""
    work.is_ending = True
    work.take_back(steps)
    for record, step in steps:
        if step.always and record.status != StepStatus.FAILED:
            try:
                work.perform(record, step)
            except PortalError as error:  # the others are to be done all the same, and the outcome is known
                work.fail_step(error)
    work.save()
    task = work.task
    if task.cause and not task.cancel_asked:
        work.finish(plan, TaskStatus.FAILED, PortalError(task.cause, evidence=task.evidence, advice=task.advice))
    else:
        work.finish(plan, TaskStatus.CANCELLED)


def _storable(text: str) -> str:
    """Without credentials in URLs, and without NUL, which machines may say and PostgreSQL does not take."""
    return redact(text).replace("\0", "")


def _in_words(task: Task, error: Exception) -> PortalError:
    if isinstance(error, PortalError):
        return error
    logger.error("a bug in a step of task %s", task.pk, exc_info=error)
    return PortalError(
        f"Something went wrong on our side. Ask about task {task.uuid}.",
        evidence=f"{type(error).__name__}, in the portal's log under this task",
        advice="Try again; if it fails in the same way, send the task's number to whoever runs this portal.",
    )


@contextmanager
def _heartbeat(task: Task) -> Iterator[None]:
    """Renews the lease from a thread, so that a long call is not taken for a death. Stops after ten minutes."""
    over = threading.Event()

    def beat() -> None:
        quiet = LEASE.total_seconds() / 4
        for _ in range(int(600 / quiet)):
            if over.wait(quiet):
                break
            try:
                if not task.hold():
                    break
            except DatabaseError:
                logger.warning("lease not renewed", exc_info=True)
        connections.close_all()  # this thread's own

    thread = threading.Thread(target=beat, name=f"lease-{task.pk}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class Work:
    """What a step is given to work with."""

    task: Task
    record: Step | None = None
    _unsaved: list[str] = field(default_factory=list)
    _done: list[Step] = field(default_factory=list)  # finished, to be saved together with the start of the next one
    is_ending: bool = False  # it was cancelled, or has failed, and is taken back

    @property
    def subject(self) -> Any:
        return self.task.subject

    @property
    def memo(self) -> dict[str, Any]:
        """What this step remembers between its calls. Saved with the next `save`, `wait` or the step's end."""
        assert self.record is not None
        memo: dict[str, Any] = self.record.memo
        return memo

    def log(self, text: str) -> None:
        """A sentence for the person. Credentials in URLs are taken out."""
        self._unsaved.append(_storable(text))

    def prove(self, **changes: Any) -> None:
        """Write to the task if it is still ours; else raise `LeaseLost`."""
        if not self.task.hold(**changes):
            raise LeaseLost

    def save(self, detail: str | None = None) -> None:
        """Write down detail, memo and what was said, together, and prove that the task is still ours."""
        with transaction.atomic():
            self.prove()
            self._store(detail)
        self.look_for_cancel()

    def _store(self, detail: str | None = None) -> None:
        for record in self._done:
            record.save()
        self._done = []
        if self.record is not None:
            if detail is not None:
                self.record.detail = _storable(detail)[:300]
            self.record.save()
        if self._unsaved:
            self.task.output.append(Stream.PORTAL, "".join(f"{line}\n" for line in self._unsaved).encode())
            self._unsaved = []
        self.task.changed()

    def look_for_cancel(self) -> None:
        # Only what still goes forward is cancelled; taking back is never interrupted.
        if not self.is_ending and Task.objects.filter(pk=self.task.pk, cancel_asked=True).exists():
            self.task.cancel_asked = True
            raise Cancelled

    def wait(self, seconds: float, detail: str | None = None) -> NoReturn:
        """Give the worker back; this step is called again after so many seconds, or earlier when woken."""
        assert self.record is not None
        step = next(s for s in plan_of(self.task.kind).steps if s.name == self.record.name)
        since = self.record.started or now()
        undoing = self.task.cancel_asked
        if now() - since > step.limit and not self.is_ending:
            what = detail or self.record.detail or step.title
            raise PortalError(f"Gave up after {step.limit.total_seconds() / 60:.0f} minutes: {what}.")
        with transaction.atomic():
            self.record.attempts = 0
            self.prove(lease=None, lease_until=None, wake_at=now() + timedelta(seconds=seconds))
            self._store(detail)
            # A cancel that came since the claim has set wake_at, which was overwritten just now.
            Task.objects.filter(pk=self.task.pk, cancel_asked=True).exclude(cancel_asked=undoing).update(wake_at=now())
            live.ring(live.WATCH)
        raise GivenBack

    def match(self, plan: Plan) -> list[tuple[Step, StepPlan]]:
        records = {record.name: record for record in self.task.steps.all()}
        if [step.name for step in plan.steps] != list(records):
            raise PortalError(
                "The portal was upgraded in the middle of this task, and its steps have changed.",
                advice="Cancel it or delete what it made, and start again.",
            )
        for record in records.values():
            record.task = self.task
        return [(records[step.name], step) for step in plan.steps]

    def perform(self, record: Step, step: StepPlan) -> None:
        if self._done:
            self.look_for_cancel()  # lest a step is begun that nobody wants any more
        self.record = record
        if record.status == StepStatus.DONE:
            return
        self._count_attempt(step)
        if record.status != StepStatus.RUNNING:
            record.status, record.started, record.finished = StepStatus.RUNNING, now(), None
        if not step.looks:
            self.save()
        failpoint(f"{self.task.kind}.{step.name}.before")
        self._call(step.do, step)
        failpoint(f"{self.task.kind}.{step.name}.after")
        record.status, record.finished, record.attempts = StepStatus.DONE, now(), 0
        # What it found, in place of what it waited for.
        record.detail = self._unsaved[-1][:300] if self._unsaved else ""
        self._done.append(record)
        self.record = None

    def take_back(self, steps: Sequence[tuple[Step, StepPlan]]) -> None:
        """Undo every step that was begun, the last one first. Like doing, undoing may be repeated."""
        if not plan_of(self.task.kind).undo_on_cancel:
            return
        for record, step in reversed(steps):
            if step.always or record.status in (StepStatus.WAITING, StepStatus.UNDONE):
                continue
            if record.status == StepStatus.DONE and not step.undo:
                continue
            self.record = record
            if step.undo:
                if not self.memo.get("undoing"):
                    record.attempts = 0
                    self.memo["undoing"] = True
                    self.log(f"{step.undoing or f'Undoing: {step.title}'}.")
                self._count_attempt(step)
                self.save()
                failpoint(f"{self.task.kind}.{step.name}.undo-before")
                self._call(step.undo, step)
                failpoint(f"{self.task.kind}.{step.name}.undo-after")
            # When it was done, or was cut off, stays true; what it waited for does not.
            if record.status != StepStatus.FAILED:
                record.status = StepStatus.UNDONE
            record.finished, record.attempts = record.finished or now(), 0
            record.detail = ""
            self.save()

    def _count_attempt(self, step: StepPlan) -> None:
        assert self.record is not None
        self.record.attempts += 1
        if self.task.taken_over:
            self.task.taken_over = False
            self.log(f"The worker before this one went away; going on at “{step.title}”. Nothing is done twice.")
        if self.record.attempts > step.tries + 1:
            raise PortalError(
                f"Stopped at “{step.title}”: it ended our worker {step.tries} times.",
                advice="Look at the workers' log before trying again.",
            )

    def _call(self, function: Callable[[Work], None], step: StepPlan) -> None:
        """Call it; a passing fault gives the worker back for 1, 2, 4 … 30 s, so often as the step has tries."""
        assert self.record is not None
        try:
            function(self)
        except Passing as error:
            if self.record.attempts >= step.tries:
                raise
            pause = min(30.0, 2.0 ** (self.record.attempts - 1)) * random.uniform(0.8, 1.2)  # noqa: S311
            self.log(f"{error.message} Trying again in {pause:.0f} s.")
            with transaction.atomic():
                self.prove(lease=None, lease_until=None, wake_at=now() + timedelta(seconds=pause))
                self._store(error.message)
            raise GivenBack from error

    def remember_failure(self, error: PortalError) -> None:
        """Write down why it failed before what was begun is taken back, so that whoever goes on knows."""
        task, record = self.task, self.record
        self.log(error.message)
        task.cause, task.evidence, task.advice = map(_storable, (error.message, error.evidence, error.advice))
        if record is not None:
            record.status, record.finished = StepStatus.FAILED, now()
        with transaction.atomic():
            self.prove(cause=task.cause, evidence=task.evidence, advice=task.advice)
            self._store()

    def fail_step(self, error: PortalError) -> None:
        """The step has failed, and the task goes on."""
        assert self.record is not None
        self.log(f"{error.message} {error.advice}".strip())
        self.record.status, self.record.finished = StepStatus.FAILED, now()
        self.record.detail = redact(error.message)[:300]
        self._done.append(self.record)
        self.record = None

    def fail(self, error: PortalError) -> None:
        """Without taking anything back; or because that has failed."""
        self.log(error.message)
        cause, evidence, advice = map(_storable, (error.message, error.evidence, error.advice))
        first = self.task.cause  # what was taken back for
        if first and first != cause:
            cause, evidence = first, f"{self.task.evidence}\n{cause}\n{evidence}".strip()
        self.finish(plan_of(self.task.kind), TaskStatus.FAILED, PortalError(cause, evidence=evidence, advice=advice))

    def finish(self, plan: Plan, status: TaskStatus, error: PortalError | None = None) -> None:
        failpoint(f"{self.task.kind}.settle.before")
        with transaction.atomic():
            task = self.task
            task.status, task.finished = status, now()
            task.cause, task.evidence, task.advice = (
                (error.message, error.evidence, error.advice) if error else ("", "", "")
            )
            self.prove(
                status=status,
                finished=task.finished,
                cause=task.cause,
                evidence=task.evidence,
                advice=task.advice,
                lease=None,
                lease_until=None,
            )
            if status == TaskStatus.FAILED and self.record and self.record.status == StepStatus.RUNNING:
                self.record.status, self.record.finished = StepStatus.FAILED, task.finished
            plan.settle(task)
            self._store()
            if not task.output.tasks.unfinished().exclude(pk=task.pk).exists():
                Output.objects.filter(pk=task.output_id).update(ended=True)
                live.ring(task.output.live_name)
        failpoint(f"{self.task.kind}.settle.after")
        output.compact(task.output)
