"""Doing a task: its steps in order, each finished once, whatever dies on the way.

A plan is data: its steps, what the subject is meanwhile, what it becomes, and what is destroyed; see
`portal/tasks/plans.py`. A step that must wait calls `work.wait`, which gives the worker back; the watch process has the
task taken up again when it is due.

Rows that several processes write are locked in one order everywhere, so that nobody waits in a ring:

1. people, memberships and invitations; an organization's own row before them;
2. a job before its runs; unfinished tasks (`hold`, `Work.prove`), where there are several by their numbers;
3. the subject: a workspace before a cluster that is made in it, or what was left behind and becomes one again; a run
   that has begun before its cluster;
4. a cluster before the runs that wait for it, which are taken only where nobody else holds them;
5. a new task, its steps; nodes; outputs; records of usage;
6. the audit's chains, last (`accounts.audit.atomic`).

A row is locked without those that it is read with (`of=("self",)`), and without its key (`no_key=True`): what only
refers to it can be written meanwhile.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models import Case, QuerySet, When
from django.db.models.functions import Now
from django.utils.timezone import now

from portal.clouds import Store
from portal.errors import Conflict, Passing, Pending, PortalError, Refused
from portal.failpoints import failpoint
from portal.logs import log_context
from portal.prepared import prepared
from portal.secrets import redact
from portal.tasks import causes, keeping, live, queue, registry
from portal.tasks.locks import Alone, NotAlone, lost
from portal.tasks.models import LEASE, Output, Step, StepStatus, Stream, Task, TaskQuerySet, TaskStatus
from portal.tasks.output import plain_text
from portal.tasks.plans import LEFT, Plan, StepPlan
from portal.tasks.subjects import Subject
from portal.text import storable

logger = logging.getLogger(__name__)

MOST_DEATHS = 6  # of workers in one step, until it is taken for the step's fault
MOST_QUIET = 600.0  # seconds in one call without a sign of life, until a worker is taken to be stuck
SOON = 1.0  # seconds: the watch process looks that often by itself, and need not be told of what comes later


class Cancelled(Exception):
    """A person asked to cancel."""


class LeaseLost(Exception):
    """Another worker has taken the task over. This one must stop, and write nothing more."""


class GivenBack(Exception):
    """The step waits; the worker is free."""


def plan_of(kind: str) -> Plan:
    """Raises `PortalError` for a kind of an older or a newer portal."""
    plan = registry.plans.get(kind)
    if plan is None:
        raise PortalError(
            f"This portal has no plan for “{kind}”.",
            advice="It was asked for before the portal was upgraded. Look at what is there, and start it anew.",
        )
    return plan


def start_task(
    subject: Subject,
    kind: str,
    *,
    by: Any,
    title: str = "",
    cloud: str = "",
    output: Output | None = None,
    wake_at: datetime | None = None,
) -> Task:
    """Make the task and its steps, to be worked on when the transaction commits. Call it inside one.

    A subject in its first status keeps that until a worker begins; any other one is what the plan says from now on.
    Raises `Conflict` where it is in no status for that, or another task of it is unfinished.
    """
    plan = plan_of(kind)
    if plan.during:
        subject.refresh_from_db(fields=["status"])  # a page may have read it a while ago
        if subject.status not in (plan.begins or (subject.first_status, *subject.STATES[plan.during].follows)):
            raise _not_now(subject, plan)
    with transaction.atomic():
        task = _new_task(subject, plan, by, title, cloud, output, wake_at)
        if plan.during and subject.status != subject.first_status:
            _begin(subject, plan)
    queue.enqueue(task, is_new=True)  # before pages are told: who waits for it is not to wait for that
    task.changed()
    return task


def _new_task(
    subject: Subject,
    plan: Plan,
    by: Any,
    title: str,
    cloud: str,
    output: Output | None,
    wake_at: datetime | None,
) -> Task:
    """With its steps. Where another one is just ending, that is waited for."""
    try:
        with transaction.atomic():
            task = Task.objects.create(
                kind=plan.kind,
                title=title or f"{plan.title} {subject}"[:200],
                subject=subject,
                cloud=cloud,
                queue=plan.queue,
                plan=plan.promise,
                asked_by=by,
                output=output or Output.objects.create(),
                wake_at=wake_at or Now(),
                ticket=queue.new_ticket(),
            )
    except IntegrityError as error:  # one unfinished task per subject
        raise Conflict(f"{subject} is being worked on already. Wait for that to end, or cancel it.") from error
    del task.wake_at  # an expression of the database's; who asks for it is given what came of it
    applies = {step.name: step for step in plan.steps}
    if any(step.needs or step.taken for step in plan.steps):
        applies = {step.name: step for step in plan.on(subject.can).steps}
    Step.objects.bulk_create(
        Step(
            task=task,
            position=n,
            name=step.name,
            title=applies.get(step.name, step).title,
            status=StepStatus.WAITING if step.name in applies else StepStatus.LEFT_OUT,
        )
        for n, step in enumerate(plan.steps)
    )
    return task


def _begin(subject: Subject, plan: Plan) -> None:
    """The subject is what the plan says, from now on. Raises `Conflict` where it is in no status for that."""
    if not subject.move(plan.during):
        raise _not_now(subject, plan)


def _not_now(subject: Subject, plan: Plan) -> Conflict:
    busy = subject.last_task is not None and not subject.last_task.is_finished
    return Conflict(
        f"{subject} cannot be {plan.participle} while it is {subject.badge.word}."
        + (" Wait for what is going on to end, or cancel it." if busy else "")
    )


def hold(tasks: TaskQuerySet) -> None:
    """Lock those of the tasks that are unfinished: before their subjects, by whoever may write to both."""
    for _ in to_hold(tasks):
        pass


def to_hold(tasks: TaskQuerySet) -> TaskQuerySet:
    """Whoever reads these has locked them, as `hold` does."""
    return tasks.unfinished().select_for_update(of=("self",), no_key=True).order_by("pk").only("pk")


@transaction.atomic
def cancel_task(task: Task, *, by: Any = None) -> bool:
    """Ask for it. What was begun is undone by a worker. False when it had already ended."""
    asked = Task.objects.unfinished().filter(pk=task.pk).update(cancel_asked=True, woken=True, wake_at=Now())
    if asked:
        task.refresh_from_db()
        if by is not None and task.subject is not None:
            task.subject.remember_who_cancelled(by)
        task.changed()
        queue.enqueue(task)
    return bool(asked)


@transaction.atomic
def break_off(task: Task) -> bool:
    """End it as CANCELLED at once, whatever its worker does: that one has lost its lease, and writes nothing more.

    Nothing is taken back, and its subject stays as it is: for whoever takes all of it away. False when it had ended.
    """
    may_live = Case(When(lease_until__gt=Now(), then="lease_until"))  # in the middle of a call: see `locks.take`
    ended = Task.objects.unfinished().filter(pk=task.pk)
    if not ended.update(
        status=TaskStatus.CANCELLED, finished=Now(), lease=None, lease_until=may_live, cancel_asked=True
    ):
        return False
    task.refresh_from_db()
    task.steps.filter(status=StepStatus.RUNNING).update(status=StepStatus.FAILED, finished=Now())
    task.output.end()
    task.changed()
    return True


def why_not_again(task: Task) -> str:
    """Why this task cannot be tried again, in words; empty where it can."""
    if task.status != TaskStatus.FAILED:
        return "Only a task that failed can be tried again."
    if task.kind not in registry.plans:
        return "It was asked for before the portal was upgraded."
    if task.undoes_on_failure:
        return "What this task had begun was taken back when it failed. Start it anew instead."
    subject = task.subject
    if subject is None or subject.last_task != task:
        return "Something else was done since. Only what was done last can be tried again."
    plan = registry.plans[task.kind]
    if plan.during and subject.status != plan.then[TaskStatus.FAILED]:
        return f"{subject} is {subject.badge.word} since."
    return ""


@transaction.atomic
def retry_task(task: Task, *, by: Any) -> None:
    """Go on from the step that failed; steps that are done stay done. Raises `Conflict`, see `why_not_again`."""
    Task.objects.select_for_update(no_key=True).get(pk=task.pk)
    task.refresh_from_db()
    if refusal := why_not_again(task):
        raise Conflict(refusal)
    plan = plan_of(task.kind)
    if plan.during:
        _begin(task.subject, plan)
    try:
        with transaction.atomic():
            Task.objects.filter(pk=task.pk).update(
                status=TaskStatus.NEW,
                cause="",
                evidence="",
                advice="",
                cancel_asked=False,
                fence=None,
                finished=None,
                asked_by=by,
                wake_at=Now(),
            )
    except IntegrityError as error:
        raise Conflict(f"{task.subject} is being worked on already. Wait for that to end, or cancel it.") from error
    task.refresh_from_db()
    task.output.reopen()
    task.steps.filter(status__in=(StepStatus.FAILED, StepStatus.RUNNING, StepStatus.UNDONE)).update(
        status=StepStatus.WAITING,
        deaths=0,
        faults=0,
        faulty_since=None,
        memo={},
        detail="",
        started=None,
        finished=None,
    )
    task.changed()
    queue.enqueue(task)


def wake(task_pk: int) -> None:
    """Have a waiting task looked at now, or again when it is being looked at. Call it inside a transaction."""
    if Task.objects.unfinished().filter(pk=task_pk).update(woken=True, wake_at=Now()):
        task = Task.objects.get(pk=task_pk)
        if task.lease is None:
            queue.enqueue(task)


def run_task(task_pk: int) -> None:
    """Do a task, or go on with it, until it ends or waits. This is the function that a worker calls."""
    task = Task.claim(task_pk, worker=f"{socket.gethostname()}:{os.getpid()}")
    if task is None:
        return
    with log_context(task=str(task.uuid)), _heartbeat(task) as lives:
        try:
            _run(task, lives)
        except LeaseLost:
            logger.warning("taken over by another worker")


def _run(task: Task, lives: Callable[[], object]) -> None:
    work = Work(task, lives=lives)
    try:
        plan = plan_of(task.kind)
        if task.started is None:
            task.started = work.unproved["started"] = now()  # written with the first step
            if plan.during and task.subject.status != plan.during:
                with transaction.atomic():
                    work.prove()
                    _begin(task.subject, plan)  # pages hear of it with the first step
        steps = work.match(plan)
        failpoint(f"{task.kind}.claimed")
        try:
            if plan.locks:
                work.be_alone(steps)
            if task.cancel_asked or task.cause:
                raise Cancelled
            for record, step in steps:
                work.perform(record, step)
            work.save()
            work.finish(TaskStatus.FINISHED)
        except Cancelled:
            _end(work, steps)
        except (LeaseLost, GivenBack, DatabaseError):
            raise
        except Exception as error:
            if not plan.undoes_on_failure:
                raise
            work.remember_failure(_in_words(task, error))
            _end(work, steps)
    except GivenBack:
        return
    except (LeaseLost, DatabaseError):
        # Neither is a failure of the work. The lease runs out, and whoever can reach the database goes on.
        raise
    except Exception as error:  # noqa: BLE001 (`_in_words` logs what is a bug)
        work.fail(_in_words(task, error))
    finally:
        if work.alone:
            work.alone.stop()


def _end(work: Work, steps: Sequence[tuple[Step, StepPlan]]) -> None:
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
        work.finish(TaskStatus.FAILED, PortalError(task.cause, evidence=task.evidence, advice=task.advice))
    else:
        work.finish(TaskStatus.CANCELLED)


def _storable(text: str) -> str:
    """Without credentials in URLs, and as every database takes it."""
    return str(storable(redact(text)))


def _to_be_read(error: PortalError) -> tuple[str, str, str]:
    """What it says, evidence and advice: lines of others may stand in each, and show nothing that is not there."""
    said = (_storable(text).encode().splitlines() for text in (error.message, error.evidence, error.advice))
    cause, evidence, advice = ("\n".join(map(plain_text, lines)) for lines in said)
    return cause, evidence, advice


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
def _heartbeat(task: Task) -> Iterator[Callable[[], object]]:
    """Renews the lease from a thread, so that a long call is not taken for a death.

    It stops ten minutes after the last sign of life of whoever works. Each call of what is yielded is one.
    """
    over = threading.Event()
    seen = [time.monotonic()]

    def lives() -> None:
        seen[0] = time.monotonic()

    def beat() -> None:
        while not over.wait(LEASE.total_seconds() / 4) and time.monotonic() - seen[0] < MOST_QUIET:
            try:
                if not task.hold():
                    break
            except DatabaseError:
                logger.warning("lease not renewed", exc_info=True)
            finally:
                connections.close_all()  # this thread's own; others may need it until the next beat

    thread = threading.Thread(target=beat, name=f"lease-{task.pk}", daemon=True)
    thread.start()
    try:
        yield lives
    finally:
        over.set()
        thread.join()


@dataclass
class Work:
    """What a step is given to work with."""

    task: Task
    record: Step | None = None
    _step: StepPlan | None = None
    _unsaved: list[str] = field(default_factory=list)
    _done: list[Step] = field(default_factory=list)  # finished, to be saved together with the start of the next one
    _shown: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # of steps, what pages know
    is_ending: bool = False  # it was cancelled, or has failed, and is taken back
    is_left: bool = False  # taking back has failed
    unproved: dict[str, Any] = field(default_factory=dict)  # of the task, written with the next proof that it is ours
    alone: Alone | None = None  # the lock of its account's store, where its plan needs that
    lives: Callable[[], object] = bool  # to be called from time to time by what takes more than minutes in one call

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
        self.lives()
        if not self.task.hold(**self.unproved, **changes):
            raise LeaseLost
        self.unproved = {}

    def save(self, detail: str | None = None) -> None:
        """Write down detail, memo and what was said, together, and prove that the task is still ours."""
        self._prove_alone()
        with transaction.atomic():
            self.prove()
            self._store(detail)
        self.look_for_cancel()

    def be_alone(self, steps: Sequence[tuple[Step, StepPlan]]) -> None:
        """Wait until no other portal works on the subject, and see to it that none begins; where there is a lock."""
        place = self.subject.lock
        if place is None:
            return
        over = (StepStatus.DONE, StepStatus.LEFT_OUT, StepStatus.UNDONE)
        self.record, self._step = next((pair for pair in steps if pair[0].status not in over), steps[-1])
        if self.task.cancel_asked and self.task.fence is None:  # it never was alone, so there is nothing to take back
            self.record.status, self.record.started, self.record.detail = StepStatus.WAITING, None, ""
            self._done.append(self.record)
            self.record = None
            return
        if self.record.status == StepStatus.WAITING:
            self.record.status, self.record.started = StepStatus.RUNNING, now()
        self._call(lambda work: work._take_lock(*place), self._step)
        self.record = None

    def _take_lock(self, store: Store, name: str) -> None:
        had = self.task.fence
        try:
            alone = Alone.take(store, name, self.task)
        except NotAlone as error:
            if had is not None:
                raise lost(name) from error
            self.wait(5, error.message.rstrip("."))
        if had not in (None, alone.lock.fence):
            alone.release()
            raise lost(name)
        self.alone = alone
        self.task.fence = self.unproved["fence"] = alone.lock.fence

    def _prove_alone(self) -> None:
        if self.alone:
            self.alone.prove()

    def _store(self, detail: str | None = None) -> None:
        """Pages are told where there is something new to see, and not of each look that found nothing."""
        if self.record is not None and detail is not None:
            self.record.detail = _storable(detail)[:300]
        records = [*self._done, *([self.record] if self.record is not None else [])]
        news = bool(self._unsaved) or not records
        for record in records:
            record.save()
            looks = (record.status, record.detail, record.started, record.finished)
            news = news or self._shown.get(record.pk) != looks
            self._shown[record.pk] = looks
        self._done = []
        if self._unsaved:
            self.task.output.append(Stream.PORTAL, "".join(f"{line}\n" for line in self._unsaved).encode())
            self._unsaved = []
        if news:
            self.task.changed()

    def look_for_cancel(self) -> None:
        # Only what still goes forward is cancelled; taking back is never interrupted.
        if not self.is_ending and _cancel_asked(self.task.pk):
            self.task.cancel_asked = True
            raise Cancelled

    def ask(self, call: Callable[[str], Pending | None]) -> None:
        """Ask a cloud for something, and return when it is done; until then this step waits and is called again.

        `call` is given the token of the answer before this one. A step asks for one such thing at a time.
        """
        self._prove_alone()
        pending = call(self.memo.get("token", ""))
        if pending is None:
            self.memo.pop("token", None)
            return
        if pending.final:
            raise Refused(pending.detail, code=pending.code)
        self.memo["token"] = pending.token
        self.wait(pending.look_in, pending.detail, starts=pending.starts)

    def wait(
        self,
        seconds: float,
        detail: str | None = None,
        *,
        starts: datetime | None = None,
        evidence: Callable[[], str] = str,
        code: str = "",
    ) -> NoReturn:
        """Give the worker back; this step is called again after so many seconds, or earlier when woken.

        Raises `PortalError` when the step, or its undoing, has waited for longer than its limit; not before `starts`,
        where somebody has said when that will be. `evidence` is asked for then, and not before; `code` is the error's.
        """
        record, step, waited = self.record, self._step, self._waited
        assert record is not None and step is not None  # noqa: PT018
        if waited > step.limit and not (starts and now() < starts):
            what = detail or record.detail or step.title
            minutes = step.limit.total_seconds() / 60
            raise PortalError(f"Gave up after {minutes:.0f} minutes: {what}.", evidence=evidence(), code=code)
        record.deaths, record.faults, record.faulty_since = 0, 0, None
        self._give_back(seconds, detail)

    def soon(self, most: float) -> float:
        """After how many seconds to look again: a fourth of how long this step has waited, but 1 at least and so many
        at most. Who looks like this loses no more than that fourth, and asks little of what takes long.
        """
        return min(most, max(1.0, self._waited.total_seconds() / 4))

    @property
    def _waited(self) -> timedelta:
        """How long this step, or its undoing, goes on already."""
        assert self.record is not None
        undoing = self.record.memo.get("undoing")
        since = datetime.fromisoformat(undoing) if undoing else self.record.started
        return now() - since if since else timedelta()

    def _give_back(self, seconds: float, detail: str | None) -> NoReturn:
        """Somebody may have woken the task since it was claimed: then it is looked at again at once."""
        if self.alone:
            self.alone.wait(seconds)
        with transaction.atomic():
            due = Case(When(woken=True, then=Now()), default=Now() + timedelta(seconds=seconds))
            self.prove(lease=None, lease_until=None, wake_at=due)
            self._store(detail)
            if seconds < SOON or Task.objects.filter(pk=self.task.pk, woken=True).exists():
                live.ring(live.WATCH)
        raise GivenBack

    def match(self, plan: Plan) -> list[tuple[Step, StepPlan]]:
        records = {record.name: record for record in _steps(self.task.pk)}
        if [step.name for step in plan.steps] != list(records):
            raise PortalError(
                "The portal was upgraded in the middle of this task, and its steps have changed.",
                advice="Cancel it or delete what it made, and start again.",
            )
        for record in records.values():
            record.task = self.task
            self._shown[record.pk] = (record.status, record.detail, record.started, record.finished)
        return [(records[step.name], step) for step in plan.steps]

    def perform(self, record: Step, step: StepPlan) -> None:
        if self._done:
            self.look_for_cancel()  # lest a step is begun that nobody wants any more
        self.record, self._step = record, step
        if record.status in (StepStatus.DONE, StepStatus.LEFT_OUT):
            return
        self._count_death(step)
        if record.status != StepStatus.RUNNING:
            record.status, record.started, record.finished = StepStatus.RUNNING, now(), None
        if not step.looks:
            self.save()
        failpoint(f"{self.task.kind}.{step.name}.before")
        self._call(step.do, step)
        failpoint(f"{self.task.kind}.{step.name}.after")
        record.status, record.finished = StepStatus.DONE, now()
        record.deaths, record.faults, record.faulty_since = 0, 0, None
        # What it found, in place of what it waited for.
        record.detail = self._unsaved[-1][:300] if self._unsaved else ""
        self._done.append(record)
        self.record = None

    def take_back(self, steps: Sequence[tuple[Step, StepPlan]]) -> None:
        """Undo every step that was begun, the last one first. Like doing, undoing may be repeated."""
        if not self.task.undoes_on_cancel:
            return
        for record, step in reversed(steps):
            if step.always or record.status in (
                StepStatus.WAITING,
                StepStatus.UNDONE,
                StepStatus.LEFT_OUT,
            ):
                continue
            if record.status == StepStatus.DONE and not step.undo:
                continue
            self.record, self._step = record, step
            if step.undo:
                if "undoing" not in self.memo:
                    record.deaths, record.faults, record.faulty_since = 0, 0, None
                    self.memo["undoing"] = now().isoformat()
                    self.memo.pop("token", None)  # of doing it
                    self.log(f"{step.undo_title or f'Undoing: {step.title}'}.")
                self._count_death(step)
                self.save()
                failpoint(f"{self.task.kind}.{step.name}.undo-before")
                self._call(step.undo, step)
                failpoint(f"{self.task.kind}.{step.name}.undo-after")
            # When it was done, or was cut off, stays true; what it waited for does not.
            if record.status != StepStatus.FAILED:
                record.status = StepStatus.UNDONE
            record.finished, record.deaths = record.finished or now(), 0
            record.detail = ""
            self.save()

    def _count_death(self, step: StepPlan) -> None:
        """Counted before it is called, and taken back when the call returns, in whatever way."""
        assert self.record is not None
        self.record.deaths += 1
        if self.task.taken_over:
            self.task.taken_over = False
            self.log(f"The worker before this one went away; going on at “{step.title}”. Nothing is done twice.")
        if self.record.deaths > MOST_DEATHS + 1:
            raise PortalError(
                f"Stopped at “{step.title}”: it ended our worker {MOST_DEATHS} times.",
                advice="Look at the workers' log before trying again.",
            )

    def _call(self, function: Callable[[Work], None], step: StepPlan) -> None:
        """Call it; a passing fault gives the worker back for 1, 2, 4 … 30 s, as long as the step has patience."""
        record = self.record
        assert record is not None
        try:
            function(self)
        except Passing as error:
            record.faulty_since = record.faulty_since or now()
            if now() - record.faulty_since > step.patience:
                raise
            pause = min(30.0, 2.0**record.faults) * random.uniform(0.8, 1.2)  # noqa: S311
            record.faults, record.deaths = min(record.faults + 1, 10), 0
            self.log(f"{error.message} Trying again in {pause:.0f} s.")
            self._give_back(pause, error.message)

    def remember_failure(self, error: PortalError) -> None:
        """Write down why it failed before what was begun is taken back, so that whoever goes on knows."""
        task, record = self.task, self.record
        self.log(error.message)
        task.cause, task.evidence, task.advice = _to_be_read(error)
        if record is not None:
            record.status, record.finished = StepStatus.FAILED, now()
            record.memo["error"] = causes.remembered(error)
        with transaction.atomic():
            self.prove(cause=task.cause, evidence=task.evidence, advice=task.advice)
            self._store()

    def fail_step(self, error: PortalError) -> None:
        """The step has failed, and the task goes on."""
        assert self.record is not None
        self.log(f"{error.message} {error.advice}".strip())
        self.record.status, self.record.finished = StepStatus.FAILED, now()
        self.record.detail = _to_be_read(error)[0][:300]
        self._done.append(self.record)
        self.record = None

    def fail(self, error: PortalError) -> None:
        """Without taking anything back; or because that has failed."""
        self.log(error.message)
        self.is_left = self.is_ending
        if self.record is not None:
            self.record.memo["error"] = causes.remembered(error)
        cause, evidence, advice = _to_be_read(error)
        first = self.task.cause  # what was taken back for
        if first and first != cause:
            cause, evidence = first, f"{self.task.evidence}\n{cause}\n{evidence}".strip()
        self.finish(TaskStatus.FAILED, PortalError(cause, evidence=evidence, advice=advice))

    def finish(self, status: TaskStatus, error: PortalError | None = None) -> None:
        """Write the task's end and what it means for the subject, together.

        Who asks to cancel before that is written is heard: FINISHED raises `Cancelled` then. Who asks later is late.
        """
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
            if status == TaskStatus.FINISHED:
                self.look_for_cancel()
            if status == TaskStatus.FAILED and self.record and self.record.status == StepStatus.RUNNING:
                self.record.status, self.record.finished = StepStatus.FAILED, task.finished
            self._settle()
            self._store()
            task.changed()
            if not task.output.tasks.unfinished().exclude(pk=task.pk).exists():
                task.output.end()
        failpoint(f"{self.task.kind}.settle.after")
        if self.alone:
            self.alone.release()
        keeping.try_to_keep(task.output)

    def _settle(self) -> None:
        """By what the plan said when the task was made: an upgrade since then leaves no subject without an outcome."""
        task = self.task
        then = task.plan.get("then", {})
        becomes = then.get(LEFT if self.is_left and LEFT in then else task.status)
        if becomes and task.subject is not None and not task.subject.move(becomes):
            logger.warning("%s is %s, and stays so after task %s", task.subject, task.subject.status, task.uuid)
        plan = registry.plans.get(task.kind)
        if plan and plan.settle:
            plan.settle(task)


@prepared
def _cancel_asked(pk: int) -> QuerySet[Task, tuple[int]]:
    return Task.objects.filter(pk=pk, cancel_asked=True).values_list("pk")


@prepared
def _steps(task: int) -> QuerySet[Step]:
    return Step.objects.filter(task=task)
