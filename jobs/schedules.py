"""Schedules: what people do with them, and how their times come.

A time is claimed by the UPDATE that moves its schedule on, in the transaction that makes the run: two processes that
come to it at once make one run, and one that dies in between has made none. Whoever changes a schedule, or fires it,
has locked its job before.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any
from uuid import UUID, uuid4

from django.db.models import BooleanField, Count, ExpressionWrapper, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce, Now

from accounts import audit
from accounts.access import Can
from accounts.models import User, database_now
from clusters.life import give_way
from clusters.models import Cluster
from jobs import calendar
from jobs.actions import MOST_WAITING, Program, cancel_run, check_ranks, start_run, values_of_run
from jobs.cron import Cron
from jobs.dispatch import GONE
from jobs.models import Calendar, Firing, Job, Run, Schedule
from portal.bulk import insert, move, primary_keys
from portal.errors import PortalError
from portal.failpoints import failpoint
from portal.once import uuid_for
from portal.prepared import prepared_keys
from portal.tasks import live
from portal.tasks.models import Output
from portal.tasks.pace import Pace
from portal.tasks.threads import DATABASE
from portal.tasks.watch import Bell
from workspaces.models import Workspace

logger = logging.getLogger(__name__)

LATE = timedelta(minutes=5)  # a time that is older when somebody comes to it was missed
MOST_MADE_UP = 10  # runs for times that were missed
MOST_TIMES = 1000  # since somebody looked last; of more, those of the last hours are taken
ABOUT_A_DAY = timedelta(minutes=MOST_TIMES)
MOST_OF_A_JOB = 50  # schedules
MOST_QUEUED = 100  # times of a schedule that wait for room
AT_ONCE = 500  # schedules in one transaction
EVERY = 1.0  # seconds between looks
RAN, QUEUED, SKIPPED, MISSED = Firing.Outcome.RAN, Firing.Outcome.QUEUED, Firing.Outcome.SKIPPED, Firing.Outcome.MISSED


@audit.atomic()
def create_schedule(job: Job, clock: Cron, *, by: User, uuid: UUID | None = None, **rules: Any) -> Schedule:
    """Active, and in the name of who makes it. Asked twice with one `uuid`, it is made once. Raises `PortalError`.

    `rules`: what a `Schedule` has besides.
    """
    found = _locked(job)
    others = found.schedules.live().exclude(uuid=uuid) if uuid else found.schedules.live()
    if others.count() >= MOST_OF_A_JOB:
        raise PortalError(f"{found} has {MOST_OF_A_JOB} schedules already. Delete one of them first.")
    schedule, made = Schedule.objects.get_or_create(
        uuid=uuid_for(Schedule, uuid, job=found),
        job=found,
        defaults={
            "workspace": found.workspace,
            "cron": clock.expression,
            "zone": clock.zone,
            "owner": by,
            "next_at": clock.next(database_now()),
            **rules,
        },
    )
    if made:
        _told("created", schedule, by=by, after=_said(schedule))
    return schedule


@audit.atomic()
def change_schedule(schedule: Schedule, clock: Cron, *, by: User, **rules: Any) -> None:
    """From its next time on, and in the name of who changes it. Raises `PortalError`."""
    found = _held(schedule)
    before = _said(found)
    found.cron, found.zone, found.owner, found.trouble = clock.expression, clock.zone, by, ""
    for name, value in rules.items():
        setattr(found, name, value)
    if found.next_at:
        found.next_at = clock.next(database_now())
    found.save()
    after = _said(found)
    changed = {name for name in after if after[name] != before[name]}
    _told(
        "changed", found, by=by, before={name: before[name] for name in changed}, after={n: after[n] for n in changed}
    )


@audit.atomic()
def switch_schedule(schedule: Schedule, *, on: bool, by: User) -> bool:
    """Activate it, in the name of who does, or deactivate it: what waits for room is left out. False: it was so."""
    found = _held(schedule)
    if (found.next_at is not None) == on:
        return False
    found.next_at = found.clock.next(database_now()) if on else None
    found.trouble = ""
    if on:
        found.owner = by
    else:
        _leave_queued(found, f"Deactivated by {by}.")
    found.save()
    _told("activated" if on else "deactivated", found, by=by)
    return True


@audit.atomic()
def delete_schedule(schedule: Schedule, *, by: User) -> None:
    """No time of it comes any more; its history and its runs stay."""
    found = _held(schedule)
    _leave_queued(found, f"Deleted by {by}.")
    Schedule.objects.filter(pk=found.pk).update(next_at=None, deleted=Now())
    _told("deleted", found, by=by)


@audit.atomic()
def run_now(schedule: Schedule, *, by: User, uuid: UUID | None = None) -> Run:
    """A run of it besides its times, in the name of who asks; whatever its rules are. Raises `PortalError`."""
    found = _held(schedule)
    run = start_run(found.job, by=by, uuid=uuid, schedule=found)
    Firing.objects.get_or_create(
        run=run, defaults={"schedule": found, "due": database_now(), "outcome": RAN, "reason": f"Run now, by {by}."}
    )
    return run


@audit.atomic()
def change_calendar(workspace: Workspace, days: calendar.Days, *, by: User) -> None:
    """The days on which no schedule of the workspace begins a run."""
    found, _ = Calendar.objects.select_for_update(no_key=True).get_or_create(workspace=workspace)
    if found.days == days:
        return
    before, found.days = found.days, days
    found.save()
    audit.record(
        "changed excluded days",
        workspace,
        organization=workspace.organization,
        by=by,
        workspace=workspace,
        before={"days": calendar.written(before)},
        after={"days": calendar.written(days)},
    )


def _locked(job: Job) -> Job:
    place = ("workspace__organization", "workspace__cloud_config")
    found = Job.objects.select_for_update(of=("self",), no_key=True).select_related(*place).get(pk=job.pk)
    if found.deleted:
        raise PortalError(f"{found} was deleted.")
    return found


def _held(schedule: Schedule) -> Schedule:
    job = _locked(schedule.job)
    found = Schedule.objects.get(pk=schedule.pk)
    if found.deleted:
        raise PortalError("This schedule was deleted.")
    found.job = job
    return found


def _leave_queued(schedule: Schedule, why: str) -> None:
    schedule.firings.filter(outcome=QUEUED).update(outcome=SKIPPED, reason=why)


def _said(schedule: Schedule) -> dict[str, Any]:
    return {
        "when": schedule.clock.words,
        "runs at once": schedule.most_runs,
        "overlap": schedule.get_overlap_display(),
        "missed": schedule.get_missed_display(),
        "excluded": calendar.written(schedule.excluded),
        "heeds the workspace's excluded days": "yes" if schedule.heeds_calendar else "no",
        "in the name of": str(schedule.owner or ""),
    }


def _told(verb: str, schedule: Schedule, *, by: User, **said: Any) -> None:
    workspace = schedule.job.workspace
    live.ring(*workspace.live_names())
    audit.record(verb, schedule, organization=workspace.organization, by=by, workspace=workspace, **said)


@dataclass
class Left:
    """Times that bring no run now."""

    outcome: str
    reason: str
    first: datetime
    last: datetime
    count: int = 1


@dataclass
class Turn:
    """What is to be done for a schedule now, and when its next time is."""

    next_at: datetime
    runs: list[datetime] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def turn_of(schedule: Schedule, days: calendar.Days, at: datetime) -> Turn:
    """Of one whose `next_at` has come; `days` are those of its workspace's calendar."""
    assert schedule.next_at
    times, following = _times(schedule.cron, schedule.zone, schedule.next_at, at)
    turn, on_time = Turn(following), times[-1:] if times and times[-1] > at - LATE else []
    missed = times[: len(times) - len(on_time)]
    if heeded := schedule.excluded + (days if schedule.heeds_calendar else []):
        place = schedule.clock.place
        why = {time: calendar.why_excluded(time.astimezone(place).date(), heeded) for time in times}
        missed = [time for time in missed if not why[time]]
        if on_time and (words := why[on_time[0]]):
            turn.left.append(Left(SKIPPED, f"Excluded: {words}.", on_time[0], on_time[0]))
            on_time = []
    away = "The portal was not there at that time"
    match schedule.missed:
        case Schedule.Missed.ONCE if missed and on_time:
            _leave(turn, missed, f"{away}; the next run stands for it.")
        case Schedule.Missed.ONCE if missed:
            _leave(turn, missed[:-1], f"{away}; the next run stands for it.")
            on_time = missed[-1:]
        case Schedule.Missed.ALL:
            _leave(turn, missed[:-MOST_MADE_UP], f"{away}, and no more than {MOST_MADE_UP} are made up for.")
            on_time = missed[-MOST_MADE_UP:] + on_time
        case _:
            _leave(turn, missed, f"{away}.")
    turn.runs = on_time
    return turn


@lru_cache(maxsize=4096)
def _times(expression: str, zone: str, first: datetime, at: datetime) -> tuple[list[datetime], datetime]:
    """Those from `first` until now, and the next one. After a long time, the last `MOST_TIMES` of them."""
    clock = Cron(expression, zone)
    found: deque[datetime] = deque(maxlen=MOST_TIMES)
    for time in clock.after(first - timedelta(microseconds=1)):
        if time > at:
            return list(found), time
        found.append(time)
        if len(found) == MOST_TIMES and at - time > ABOUT_A_DAY:
            return _times(expression, zone, at - ABOUT_A_DAY, at)
    raise RuntimeError("a schedule's times have come to an end")


def _leave(turn: Turn, times: Sequence[datetime], reason: str) -> None:
    if times:
        turn.left.append(Left(MISSED, reason, times[0], times[-1], len(times)))


def fire_due(at: datetime | None = None) -> int:
    """Have all times that have come by now, which is the database's, begin their runs. Returns how many begun.

    What is made one by one (a cluster of its own, an older run to be cancelled) has a transaction each.
    """
    begun = _fire_come(at or database_now()) if at or _due() else 0
    return begun + (_fire_queued() if _queued() else 0)


@prepared_keys
def _due() -> QuerySet[Schedule]:
    return Schedule.objects.filter(next_at__lte=Now())[:1]


@prepared_keys
def _due_soon() -> QuerySet[Schedule]:
    return Schedule.objects.filter(next_at__lte=Now() + timedelta(seconds=EVERY))[:1]


@prepared_keys
def _queued() -> QuerySet[Firing]:
    return Firing.objects.filter(outcome=QUEUED)[:1]


def _fire_come(at: datetime) -> int:
    slow = Q(job__dedicated__isnull=False) | Q(overlap=Schedule.Overlap.CANCEL)
    come: dict[bool, list[int]] = {False: [], True: []}
    due = Schedule.objects.coming().filter(next_at__lte=at).order_by("job__cluster", "next_at", "pk")
    for pk, is_slow in due.values_list("pk", ExpressionWrapper(slow, BooleanField())):
        come[is_slow].append(pk)  # those of a cluster side by side: a transaction has few of them to read and to lock
    begun = 0
    for pks, most in ((come[False], AT_ONCE), (come[True], 1)):
        for start in range(0, len(pks), most):
            begun += _fire_guarded(pks[start : start + most], at)
    return begun


def _fire_guarded(pks: Collection[int], at: datetime) -> int:
    """As `_fire`; where that fails, each alone: whatever is wrong with one schedule, the others begin their runs."""
    try:
        return _fire(pks, at)
    except Exception:
        if len(pks) == 1:
            logger.exception("schedule %s begins no run", *pks)
            return 0
        logger.exception("%s schedules are taken one by one", len(pks))
        return sum(_fire_guarded([pk], at) for pk in pks)


@audit.atomic()
def _fire(pks: Collection[int], at: datetime) -> int:
    claims = _claimable(Schedule.objects.filter(pk__in=pks, next_at__lte=at))
    of = {claim.workspace.pk for claim in claims}
    days = dict(Calendar.objects.filter(workspace__in=of).values_list("workspace", "days"))
    turns = [turn_of(claim.schedule, days.get(claim.workspace.pk, []), at) for claim in claims]
    moves = [(one.schedule.pk, one.schedule.next_at, turn.next_at) for one, turn in zip(claims, turns, strict=True)]
    if move(Schedule, "next_at", moves) != len(claims):
        raise RuntimeError("a schedule was changed by somebody who has not locked its job")
    failpoint("jobs.schedules.claimed")
    firing = _Firing(claims)
    for claim, turn in zip(claims, turns, strict=True):
        firing.take(claim, turn)
    begun = firing.done()
    failpoint("jobs.schedules.made")
    return begun


def _fire_queued() -> int:
    """Times that have waited for room, where there is some now."""
    queued = Schedule.objects.filter(pk__in=Firing.objects.filter(outcome=QUEUED).values("schedule"))
    with_room = queued.annotate(going=_count_of(Run.objects.unfinished())).filter(going__lt=F("most_runs"))
    begun = 0
    for pk in list(with_room.values_list("pk", flat=True)[:AT_ONCE]):
        try:
            begun += _fire_queued_of(pk)
        except Exception:
            logger.exception("schedule %s begins no run that waits for room", pk)
    return begun


@audit.atomic()
def _fire_queued_of(pk: int) -> int:
    claims = _claimable(Schedule.objects.filter(pk=pk))
    firing = _Firing(claims)
    for claim in claims:
        firing.take_queued(claim)
    return firing.done()


@dataclass
class _Claim:
    """A schedule that is ours to change, because nobody else holds its job, and what is known of both."""

    schedule: Schedule
    going: int  # its runs that have not ended
    queued: int  # its times that wait for room
    last_number: int  # of the job's runs
    workspace: Workspace
    job: str
    program: Program


def _claimable(rows: Any) -> list[_Claim]:
    """Those whose jobs nobody else holds, which are locked then."""
    locked = Job.objects.filter(pk__in=rows.values("job")).select_for_update(no_key=True, skip_locked=True)
    # Not as objects: with ten thousand of them, these are a tenth of the time.
    jobs = list(locked.order_by("pk").values("pk", "workspace", "name", *Program.__dataclass_fields__))
    place = ("organization", "cloud_config")
    workspaces = Workspace.objects.select_related(*place).in_bulk({job["workspace"] for job in jobs})
    clusters = Cluster.objects.only("workspace", "name", "status", "node_count", "scale_to", "cores_per_node").in_bulk(
        {job["cluster"] for job in jobs} - {None}
    )
    for cluster in clusters.values():
        cluster.workspace = workspaces[cluster.workspace_id]
    held = {}
    for job in jobs:
        pk, workspace, name = job.pop("pk"), workspaces[job.pop("workspace")], job.pop("name")
        held[pk] = workspace, name, Program(**job | {"cluster": clusters.get(job["cluster"])})
    # The end of an index for each job: MAX of all of them would read every run that they ever had.
    newest = Run.objects.filter(job=OuterRef("job")).order_by("-number").values("number")[:1]
    coming = rows.filter(deleted=None).annotate(
        going=_count_of(Run.objects.unfinished()),
        queued=_count_of(Firing.objects.filter(outcome=QUEUED)),
        last_number=Coalesce(Subquery(newest), 0),
    )
    found = [one for one in coming.defer("uuid", "created", "deleted").order_by("pk") if one.job_id in held]
    owners = User.objects.in_bulk({schedule.owner_id for schedule in found} - {None})
    for schedule in found:
        schedule.owner = owners.get(schedule.owner_id)
    return [_Claim(one, one.going, one.queued, one.last_number, *held[one.job_id]) for one in found]


@dataclass
class _Begin:
    """A run that is to be written down, by its attributes, and the row of its time: a new one, or one that waited."""

    claim: _Claim
    run: dict[str, Any]
    firing: dict[str, Any] | None
    queued: Firing | None


class _Firing:
    """Some schedules at once, whose jobs are locked: their runs are made by a few statements for all of them."""

    def __init__(self, claims: list[_Claim]) -> None:
        self.workspaces = {claim.workspace.pk: claim.workspace for claim in claims}
        self.stores = {pk: workspace.cloud_config.output_store for pk, workspace in self.workspaces.items()}
        self.claims = claims
        self.going = Counter({claim.schedule.pk: claim.going for claim in claims})
        self.queued = Counter({claim.schedule.pk: claim.queued for claim in claims})
        self.numbers = {claim.schedule.job_id: claim.last_number for claim in claims}
        clusters = {claim.program.cluster for claim in claims} - {None}
        waiting = Run.objects.waiting().filter(cluster__in=clusters).order_by().values_list("cluster")
        self.waiting = Counter(dict(waiting.annotate(count=Count("pk"))))
        self.refusals = _refusals(claims)
        self.begins: list[_Begin] = []
        self.outputs: list[dict[str, Any]] = []
        self.firings: list[dict[str, Any]] = []
        self.newest: dict[int, dict[str, Any]] = {}  # of `firings`, by schedule
        self.continued: dict[int, Left] = {}  # what is added to the last row before these, by schedule
        self.troubles: dict[int, str] = {}
        self.begun = 0

    def take(self, claim: _Claim, turn: Turn) -> None:
        schedule = claim.schedule
        for left in turn.left:
            self._note(schedule, left)
        for due in turn.runs:
            queues = schedule.overlap == Schedule.Overlap.QUEUE
            if why := self._refused(claim):
                self._refuse(schedule, due, why)
            elif self._has_room(schedule) and not (queues and self.queued[schedule.pk]):
                self._begin(claim, due)
            elif schedule.overlap == Schedule.Overlap.CANCEL:
                self._cancel_oldest(schedule)
                self._begin(claim, due)
            elif queues and self.queued[schedule.pk] < MOST_QUEUED:
                self.queued[schedule.pk] += 1
                words = f"It waits until fewer than {schedule.most_runs} of its runs go on."
                self._new_firing(schedule, due, QUEUED, words)
            elif queues:
                self._note(schedule, Left(SKIPPED, f"{MOST_QUEUED} times wait already.", due, due))
            else:
                more = "A run of it had" if schedule.most_runs == 1 else f"{schedule.most_runs} runs of it had"
                self._note(schedule, Left(SKIPPED, f"{more} not ended.", due, due))

    def take_queued(self, claim: _Claim) -> None:
        """As many as there is room for, the oldest first."""
        schedule = claim.schedule
        room = schedule.most_runs - self.going[schedule.pk]
        for firing in schedule.firings.filter(outcome=QUEUED).order_by("pk")[: max(0, room)]:
            if why := self._refused(claim):
                self.troubles[schedule.pk] = why
                Firing.objects.filter(pk=firing.pk).update(outcome=SKIPPED, reason=why)
            else:
                self._begin(claim, firing.due, firing)

    def _refused(self, claim: _Claim) -> str:
        """What a person would be told who started a run now, as `start_run` does; a cluster of its own is not made."""
        cluster = claim.program.cluster
        if why := self.refusals.get(claim.schedule.pk):
            return why
        if cluster and cluster.status in GONE:
            return f"{cluster.name} is {cluster.badge.word}. Choose another cluster for the job."
        if cluster and self.waiting[cluster.pk] >= MOST_WAITING:
            return f"{MOST_WAITING} runs wait for {cluster.name} already."
        try:
            check_ranks(claim.program, is_due=True)
        except PortalError as error:
            return str(error.message)
        return ""

    def _has_room(self, schedule: Schedule) -> bool:
        return self.going[schedule.pk] < schedule.most_runs

    def _refuse(self, schedule: Schedule, due: datetime, why: str) -> None:
        self.troubles[schedule.pk] = why
        self._note(schedule, Left(SKIPPED, why, due, due))

    def _note(self, schedule: Schedule, left: Left) -> None:
        """A row of its own; where the last one of the schedule says the same, that goes on."""
        last = self.newest.get(schedule.pk)
        said = (left.outcome, left.reason)
        if last and (last["outcome"], last["reason"]) == said:
            last["until"], last["count"] = left.last, last["count"] + left.count
        elif not last and (before := self.last_before.get(schedule.pk)) and (before.outcome, before.reason) == said:
            already = self.continued.get(schedule.pk)
            count = left.count + already.count if already else left.count
            self.continued[schedule.pk] = replace(left, count=count)
        else:
            until = left.last if left.last != left.first else None
            self._new_firing(schedule, left.first, left.outcome, left.reason, until=until, count=left.count)

    @cached_property
    def last_before(self) -> dict[int, Firing]:
        """The last row of each schedule, of those that are written down."""
        newest = Firing.objects.filter(schedule=OuterRef("pk")).order_by("-pk").values("pk")[:1]
        of = Schedule.objects.filter(pk__in=[claim.schedule.pk for claim in self.claims])
        return {firing.schedule_id: firing for firing in Firing.objects.filter(pk__in=of.values(last=Subquery(newest)))}

    def _new_firing(
        self, schedule: Schedule, due: datetime, outcome: str, reason: str = "", *, count: int = 1, **values: Any
    ) -> dict[str, Any]:
        said = {"due": due, "outcome": outcome, "reason": reason, "count": count, "until": None, "run_id": None}
        self.newest[schedule.pk] = firing = {"uuid": uuid4(), "schedule_id": schedule.pk, **said, **values}
        self.firings.append(firing)
        return firing

    def _cancel_oldest(self, schedule: Schedule) -> None:
        too_many = self.going[schedule.pk] - schedule.most_runs + 1
        of = ("job__workspace__organization", "cluster__workspace__organization", "output")
        for run in schedule.runs.unfinished().select_related(*of).order_by("pk")[:too_many]:
            assert schedule.owner
            cancel_run(run, by=schedule.owner)
            self.going[schedule.pk] -= 1

    def _begin(self, claim: _Claim, due: datetime, queued: Firing | None = None) -> None:
        schedule, program, outcome = claim.schedule, claim.program, RAN
        reason, run = "It has waited for room." if queued else "", None
        if program.dedicated:
            try:
                run = start_run(schedule.job, by=schedule.owner, schedule=schedule)
            except PortalError as error:
                outcome, reason = SKIPPED, str(error.message)
                self.troubles[schedule.pk] = reason
        if outcome == RAN:
            self.going[schedule.pk] += 1
            self.begun += 1
            if schedule.trouble:
                self.troubles[schedule.pk] = ""
        if queued:
            queued.outcome, queued.reason, queued.run = outcome, reason, run
            queued.save()
            firing = None
        else:
            firing = self._new_firing(schedule, due, outcome, reason, run_id=run.pk if run else None)
        if not program.dedicated:
            assert program.cluster
            job, store = schedule.job_id, self.stores[claim.workspace.pk]
            self.numbers[job] += 1
            self.waiting[program.cluster.pk] += 1
            values, output = values_of_run(
                job, self.numbers[job], program.cluster, program, store, by=schedule.owner, uuid=uuid4()
            )
            values["schedule_id"] = schedule.pk
            self.outputs.append(output)
            self.begins.append(_Begin(claim, values, firing, queued))

    def done(self) -> int:
        """Everything that was taken, written down. Returns how many runs have begun."""
        insert(Output, self.outputs)
        for begin, pk in zip(self.begins, primary_keys(Output, self.outputs), strict=True):
            begin.run["output_id"] = pk
        runs = [begin.run for begin in self.begins]
        insert(Run, runs)
        for begin, pk in zip(self.begins, primary_keys(Run, runs), strict=True):
            if begin.firing:
                begin.firing["run_id"] = pk
            elif begin.queued:
                Firing.objects.filter(pk=begin.queued.pk).update(run=pk)
        insert(Firing, self.firings)
        for last, count in {(left.last, left.count) for left in self.continued.values()}:
            of = [pk for pk, left in self.continued.items() if (left.last, left.count) == (last, count)]
            rows = Firing.objects.filter(pk__in=[self.last_before[pk].pk for pk in of])
            rows.update(until=last, count=F("count") + count)
        for why in set(self.troubles.values()):
            of = [pk for pk, trouble in self.troubles.items() if trouble == why]
            Schedule.objects.filter(pk__in=of).update(trouble=why)
        if self.begins:
            Job.objects.filter(pk__in={run["job_id"] for run in runs}).update(ran=Now())
            self._wake_clusters()
            live.ring(live.WATCH_WAITING)
        if self.firings or self.continued or self.begins or self.troubles:
            live.ring(*{name for workspace in self.workspaces.values() for name in workspace.live_names()})
        self._record()
        return self.begun

    def _wake_clusters(self) -> None:
        """As a person's start does: their timers begin again, and a pause by itself gives way."""
        held = Cluster.objects.select_for_update(of=("self",), no_key=True)
        wanted = {begin.run["cluster_id"] for begin in self.begins}
        clusters = list(held.filter(pk__in=wanted).only("status").order_by("pk"))
        Cluster.objects.filter(pk__in=[cluster.pk for cluster in clusters], status__in=Cluster.TIMED).update(
            last_active=Now()
        )
        for cluster in clusters:
            if cluster.status == Cluster.Status.PAUSING:
                give_way(cluster)

    def _record(self) -> None:
        """One entry in each workspace, however many begin there at once: each has its own in the schedule's history."""
        in_it: defaultdict[int, list[_Begin]] = defaultdict(list)
        for begin in self.begins:
            in_it[begin.claim.workspace.pk].append(begin)
        for pk, begins in in_it.items():
            workspace = self.workspaces[pk]
            said: dict[str, Any] = {"organization": workspace.organization, "workspace": workspace}
            if len(begins) == 1:
                (begin,) = begins
                run = Run.objects.select_related("job").get(uuid=begin.run["uuid"])
                schedule = begin.claim.schedule
                audit.record("started", run, by=schedule.owner, after={"by its schedule": schedule.words}, **said)
            else:
                some = ", ".join(f"{begin.claim.job}, run {begin.run['number']}" for begin in begins[:20])
                more = f" and {len(begins) - 20} more" if len(begins) > 20 else ""
                audit.record("started by schedules", workspace, by=None, after={"runs": f"{some}{more}"}, **said)


def _count_of(rows: Any) -> Coalesce:
    """How many of them a schedule has, of rows that name one."""
    of = rows.filter(schedule=OuterRef("pk")).order_by().values("schedule")
    return Coalesce(Subquery(of.annotate(count=Count("pk")).values("count")), 0)


def _refusals(claims: Iterable[_Claim]) -> dict[int, str]:
    """Why those whose owner may not start runs bring none: the same is asked of a person who presses the button."""
    owners: dict[int, User] = {}
    of: defaultdict[int, set[int]] = defaultdict(set)
    found = {}
    for claim in claims:
        owner = claim.schedule.owner
        if owner is None:
            found[claim.schedule.pk] = "Whoever it belonged to is gone. Somebody who may run jobs has to take it over."
        else:
            owners[owner.pk] = owner
            of[owner.pk].add(claim.workspace.pk)
    allowed = {
        pk: set(Workspace.objects.where(owners[pk], Can.RUN_JOBS).filter(pk__in=places).values_list("pk", flat=True))
        for pk, places in of.items()
    }
    for claim in claims:
        whose = claim.schedule.owner
        if whose is not None and claim.workspace.pk not in allowed[whose.pk]:
            if not whose.may_enter:
                found[claim.schedule.pk] = f"{whose} is locked out of the portal, so nothing begins in their name."
            else:
                found[claim.schedule.pk] = f"{whose} may not run jobs in {claim.workspace} any more."
    return found


def next_look() -> float:
    """Seconds until a time comes, or something that waits for room may have it."""
    if not _due_soon():
        return EVERY
    soonest = Schedule.objects.coming().annotate(now=Now()).values_list("next_at", "now").first()
    if soonest is None:
        return EVERY
    next_at, at = soonest
    assert next_at
    return float(min(EVERY, max(0.02, (next_at - at).total_seconds() + 0.005)))


class ScheduleWatcher:
    """Has the times of schedules begin their runs."""

    rung_by = (live.WATCH_WAITING,)  # a run has ended: there may be room for another

    async def run(self, bell: Bell) -> None:
        pace = Pace()
        while True:
            await pace.turn()
            if begun := await DATABASE(fire_due)():
                logger.info("schedules have begun %s runs", begun)
            await bell.wait(await DATABASE(next_look)())
