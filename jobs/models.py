"""Jobs (what a person defines) and runs (one execution each)."""

from __future__ import annotations

import shlex
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

from django.contrib.contenttypes.models import ContentType
from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q, Subquery, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.timezone import localtime, now

from accounts.access import AccessQuerySet, Can
from accounts.models import User
from clusters import ceiling
from clusters.life import PAUSE, RESUME
from clusters.models import Cluster, Node
from clusters.specification import Specification
from jobs import rules
from jobs.cron import Cron, Moment
from portal import mail, secrets
from portal.forms import version_of
from portal.prepared import prepared
from portal.states import Badge, State
from portal.tasks.models import Chunk, Output, Step, StepStatus, Task, TaskStatus
from portal.tasks.outputs import rank_name
from portal.tasks.subjects import Subject
from workspaces.models import GitCredential, Workspace

_ANY = -1  # stands for an owner's key in `newest_of_each`; no row has it
QUIET = timedelta(minutes=1)  # without output, after which a page says so
_SAME_AGAIN = {
    "cluster_gone",
    "cluster_failed",
    "credential",
    "ranks",
    "secrets",
}  # codes of causes that time does not mend


# What no row of a list says. Reading it takes as long as all that a row does say.
_IN_NO_ROW_OF_JOBS = (
    *("cluster__description", "cluster__instance_type", "cluster__scale_to", "cluster__engine_version"),
    *("cluster__auto_pause", "cluster__auto_shutdown", "cluster__last_active", "cluster__warned", "cluster__zone"),
    *("cluster__role", "cluster__extra_tags", "cluster__key_public", "cluster__key_private"),
    *("cluster__note", "cluster__auto_repair", "cluster__hostfile_is_old", "cluster__kept_until"),
    *("cluster__created_by", "cluster__created"),
)
_IN_NO_ROW_OF_RUNS = (
    *("git_url", "reference", "time_limit", "commit", "commit_subject", "exit_status", "exit_signal", "is_on_node"),
    *("may_be_left", "observed", "ended_ranks", "failures", "digests", "evidence", "advice", "silent_since"),
    *("head_rank", "place", "cancelled_by", "ranks", "ranks_per_node", "environment", "schedule"),
    *("kind", "retries", "retry_delay", "retry_on_timeout", "attempt", "retry_of", "retry_at", "packages", "hosts"),
    *("pauses", "paused", "job__pauses"),
    *("job__git_url", "job__reference", "job__command", "job__time_limit", "job__git_username", "job__git_password"),
    *("job__created", "job__created_by", "job__ran", "job__deleted_by", "job__dedicated", "job__environment"),
    *("job__ranks", "job__ranks_per_node", "job__resumes", "job__mail_failure", "job__mail_success", "job__mail_slow"),
    *("job__secret_values", "job__secret_names", "job__tags", "job__git_credential"),
    *("job__template", "job__template_values"),
    *("job__kind", "job__retries", "job__retry_delay", "job__retry_on_timeout"),
    *("started_by__password", "started_by__last_login", "started_by__date_joined", "started_by__unlocked_at"),
    *("started_by__is_superuser", "started_by__is_staff", "started_by__is_active", "started_by__warned_days"),
    *("started_by__time_zone", "started_by__theme", "started_by__notify_dormancy", "started_by__notify_membership"),
    *("started_by__notify_idleness", "started_by__notify_runs"),
    *_IN_NO_ROW_OF_JOBS,
)


class JobQuerySet(AccessQuerySet["Job"]):
    workspace_path = "workspace"
    changes = Can.RUN_JOBS

    def live(self) -> JobQuerySet:
        return self.filter(deleted=None)

    def tagged(self, workspace: int, word: str) -> JobQuerySet:
        """Those of the workspace that have this tag."""
        return self.filter(pk__in=Tag.objects.filter(workspace=workspace, word=word).values("job"))

    def for_lists(self) -> JobQuerySet:
        """With their clusters and when a schedule runs them next, and without what is in no row of a list."""
        mine = ("git_url", "reference", "time_limit", "git_username", "git_password", "created_by", "deleted_by")
        more = ("dedicated", "ranks", "ranks_per_node", "environment", "kind", "secret_values", "secret_names")
        of = ("template", "template_values", "git_credential")
        again = ("pauses", "retries", "retry_delay", "retry_on_timeout", "mail_failure", "mail_success", "mail_slow")
        coming = Schedule.objects.coming().filter(job=OuterRef("pk")).values("next_at")[:1]
        rows = self.select_related("cluster").annotate(next_at=Subquery(coming))
        return rows.defer(*mine, *more, *of, *again, *_IN_NO_ROW_OF_JOBS)


class Kind(models.TextChoices):
    """What the command of a job is."""

    PYTHON = "python", "Python program"
    SHELL = "shell", "Shell command"
    NOTEBOOK = "ipynb", "Notebook"

    @property
    def is_once(self) -> bool:
        """It is run by one rank, unless something else is asked for."""
        return self != Kind.PYTHON


class Job(models.Model):
    """A program from a Git repository, run on the cores of a cluster: one that is there, or one for each run.

    A deleted one is kept for its runs; its name is free again.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    workspace = models.ForeignKey(Workspace, models.PROTECT, related_name="jobs")
    cluster = models.ForeignKey(Cluster, models.PROTECT, null=True, related_name="jobs")
    dedicated = models.JSONField(null=True)  # a `Specification`, by which each run has a cluster made for it alone
    name = models.CharField(max_length=80)
    git_url = models.CharField(max_length=500)
    reference = models.CharField(max_length=200, blank=True)  # empty: the repository's default branch
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.PYTHON)
    command = models.TextField()
    time_limit = models.PositiveIntegerField(null=True)  # seconds; None: the portal's own, settings.RUN_SECONDS
    retries = models.PositiveSmallIntegerField(
        default=0
    )  # how often a run that failed is tried again: see `retries.py`
    retry_delay = models.PositiveIntegerField(default=60)  # seconds from its end to the next attempt
    retry_on_timeout = models.BooleanField(default=False)  # also when it was ended by its time limit
    ranks = models.PositiveIntegerField(null=True)  # how many; None: one on each core, or one of what `is_once`
    ranks_per_node = models.PositiveIntegerField(null=True)  # in place of `ranks`
    environment = models.JSONField(default=dict)  # of the program, besides the portal's own
    # Secret variables, as JSON: each run has those that are here when it starts. Only their names are ever shown.
    secret_values = secrets.EncryptedField(blank=True, editable=False)
    secret_names = models.JSONField(default=list)
    resumes = models.BooleanField(default=False)  # a run of it has its cluster resumed, if that is PAUSED
    pauses = models.BooleanField(default=False)  # a run of it has its cluster paused when it has ended
    # Of what the person who made it is mailed.
    mail_failure = models.BooleanField(default=True)
    mail_success = models.BooleanField(default=False)
    mail_slow = models.BooleanField(default=False)
    # Of a private repository; each run signs in with what is here when it starts.
    git_username = models.CharField(max_length=200, blank=True)
    git_password = secrets.EncryptedField(blank=True, editable=False)
    git_credential = models.ForeignKey(GitCredential, models.PROTECT, null=True, related_name="jobs")  # or one saved
    template = models.ForeignKey("Template", models.PROTECT, null=True, related_name="jobs")  # that it was made of
    template_values = models.JSONField(default=dict)  # of its parameters, as text; none of the secret ones
    tags = models.JSONField(default=list)  # as `rules.tags` gives them; found by the `Tag`s, which `actions` keeps
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)
    ran = models.DateTimeField(default=now)  # when a run of it was last asked for, or it was made
    deleted = models.DateTimeField(null=True)
    deleted_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")

    objects = JobQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["workspace", "ran", "id"], name="job_ran_last", condition=Q(deleted=None))]
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "name"], condition=Q(deleted=None), name="live_job_names_unique"
            ),
            models.CheckConstraint(
                condition=Q(cluster__isnull=False, dedicated__isnull=True)
                | Q(cluster__isnull=True, dedicated__isnull=False),
                name="job_has_one_cluster",
            ),
            models.CheckConstraint(
                condition=Q(git_credential__isnull=True) | Q(git_password=""), name="job_signs_in_with_one"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("job", args=[self.uuid])

    def belongs_to(self, field: str) -> str:
        """For `secrets.seal`: swapped between two rows, a ciphertext does not open."""
        return f"{self.workspace.organization.uuid}/job/{self.uuid}/{field}"

    @property
    def is_copied(self) -> bool:
        """From the workspace's filesystem or a bucket, and of no repository."""
        return rules.is_copied(self.git_url)

    @property
    def signs_in_as(self) -> str:
        """In words; empty where everybody may read its repository."""
        saved = self.git_credential
        return f"{saved.username}, with {saved}" if saved else self.git_username

    @property
    def signs_in_at(self) -> str:
        """The address of whose server alone its password is for; empty where it has none."""
        if self.git_credential:
            return self.git_credential.server
        return self.git_url if self.git_password else ""

    @property
    def tries_again(self) -> str:
        """In words; empty where it does not."""
        return again(self.retries, self.retry_delay, self.retry_on_timeout)

    @property
    def may_find_asleep(self) -> str:
        """What whoever makes a schedule should know of its cluster's timers; empty where they are in nobody's way."""
        cluster = self.cluster
        if cluster is None:
            return ""
        if cluster.auto_shutdown:
            return f"{cluster} is deleted by its timer when nobody uses it: times after that bring no run."
        if cluster.auto_pause and not self.resumes:
            return f"{cluster} is paused by its timer when nobody uses it: runs then wait until somebody resumes it."
        return ""

    @property
    def version(self) -> str:
        """Another one whenever its form would be filled in otherwise."""
        of = ("name", "cluster_id", "dedicated", "git_url", "reference", "kind", "command", "time_limit", "retries")
        more = ("retry_delay", "retry_on_timeout", "ranks", "ranks_per_node", "environment", "secret_names", "resumes")
        return version_of(*(getattr(self, name) for name in (*of, *more, "pauses", "tags")))

    @property
    def specification(self) -> Specification | None:
        """Of the cluster that each run of it has for itself."""
        return Specification.read(self.dedicated) if self.dedicated else None

    @property
    def last_run(self) -> Run | None:
        return self.runs.order_by("-number").first()


class TemplateQuerySet(AccessQuerySet["Template"]):
    workspace_path = "workspace"
    changes = Can.RUN_JOBS

    def live(self) -> TemplateQuerySet:
        return self.filter(deleted=None)


class Template(models.Model):
    """What jobs are made of, again and again, with other values of its parameters each time: see `parameters`.

    A deleted one is kept for its jobs; its name is free again.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    workspace = models.ForeignKey(Workspace, models.PROTECT, related_name="templates")
    name = models.CharField(max_length=80)
    description = models.TextField(blank=True)
    parameters = models.JSONField(default=list)
    program = models.JSONField()  # what a job has, by the names of its attributes, but for its cluster
    cluster = models.ForeignKey(Cluster, models.PROTECT, null=True, related_name="+")  # that its jobs are offered first
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)
    deleted = models.DateTimeField(null=True)

    objects = TemplateQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "name"], condition=Q(deleted=None), name="live_template_names_unique"
            )
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("template", args=[self.uuid])

    @property
    def version(self) -> str:
        """Another one whenever a job of it would be another."""
        return version_of(self.parameters, self.program)

    @property
    def whole_version(self) -> str:
        """Another one whenever its form would be filled in otherwise."""
        return version_of(self.version, self.name, self.description)

    @property
    def job(self) -> Job:
        """What a form of a job is filled in with; not saved."""
        return Job(workspace=self.workspace, name=self.name, cluster=self.cluster, **self.program)


class Tag(models.Model):
    """By which a job is found: a row for each of its `tags`, the same on every database."""

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="+", db_index=False)  # its job's
    job = models.ForeignKey(Job, models.CASCADE, related_name="+")
    word = models.CharField(max_length=30)

    class Meta:
        indexes = [models.Index(fields=["workspace", "word", "job"], name="job_by_tag")]

    def __str__(self) -> str:
        return self.word


class ScheduleQuerySet(AccessQuerySet["Schedule"]):
    workspace_path = "workspace"
    changes = Can.RUN_JOBS

    def live(self) -> ScheduleQuerySet:
        return self.filter(deleted=None)

    def coming(self) -> ScheduleQuerySet:
        """Those that are active, the one whose time comes first in front."""
        return self.filter(next_at__isnull=False).order_by("next_at", "pk")


class Schedule(models.Model):
    """When runs of a job begin by themselves, again and again. A deleted one is kept for its history.

    Each of its times is claimed by the UPDATE that moves `next_at` on, in the transaction that makes the run.
    """

    class Overlap(models.TextChoices):
        SKIP = "skip", "Skip this time"
        QUEUE = "queue", "Wait until there is room"
        CANCEL = "cancel", "Cancel the oldest run"

    class Missed(models.TextChoices):
        SKIP = "skip", "Leave it out"
        ONCE = "once", "Run once for all of them"
        ALL = "all", "Run for each of them, at most 10"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    workspace = models.ForeignKey(Workspace, models.PROTECT, related_name="schedules", db_index=False)  # its job's
    job = models.ForeignKey(Job, models.PROTECT, related_name="schedules")
    cron = models.CharField(max_length=200)
    zone = models.CharField(max_length=60)  # a name of the IANA database
    most_runs = models.PositiveSmallIntegerField(default=1)  # of it that have not ended
    overlap = models.CharField(max_length=6, choices=Overlap, default=Overlap.SKIP)
    missed = models.CharField(max_length=4, choices=Missed, default=Missed.SKIP)
    excluded = models.JSONField(default=list)  # days, as `jobs.calendar.read` gives them
    heeds_calendar = models.BooleanField(default=True)  # that of the workspace
    owner = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")  # in whose name its runs begin
    next_at = models.DateTimeField(null=True)  # None: it is not active
    trouble = models.TextField(blank=True)  # why its last time brought no run; empty when it did
    created = models.DateTimeField(auto_now_add=True)
    deleted = models.DateTimeField(null=True)

    objects = ScheduleQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["next_at"], name="schedule_next", condition=Q(next_at__isnull=False)),
            models.Index(
                fields=["workspace", "next_at"], name="schedule_next_there", condition=Q(next_at__isnull=False)
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(most_runs__gte=1, most_runs__lte=10), name="schedule_most_runs"),
            models.CheckConstraint(condition=Q(deleted=None) | Q(next_at=None), name="deleted_schedule_sleeps"),
        ]

    def __str__(self) -> str:
        return f"{self.job.name}, {self.clock.words}"

    def get_absolute_url(self) -> str:
        return reverse("schedule", args=[self.uuid])

    @property
    def version(self) -> str:
        """Another one whenever its form would be filled in otherwise."""
        rules = (self.most_runs, self.overlap, self.missed, self.excluded, self.heeds_calendar)
        return version_of(self.cron, self.zone, *rules)

    @property
    def clock(self) -> Cron:
        return Cron(self.cron, self.zone)

    @property
    def words(self) -> str:
        return self.clock.words

    @property
    def state(self) -> str:
        if self.deleted:
            return "Deleted"
        return f"Active. Next: {self.next_there}" if self.next_at else "Not active: none of its times brings a run"

    @property
    def next_there(self) -> Moment | None:
        """By the clock of its zone."""
        return self.clock.shown(self.next_at) if self.next_at else None


class Firing(models.Model):
    """What became of a time of a schedule; of several that became the same in a row, one row."""

    class Outcome(models.TextChoices):
        RAN = "ran"
        QUEUED = "queued"
        SKIPPED = "skipped"
        MISSED = "missed"

    LOOKS: ClassVar[Mapping[str, Badge]] = {
        Outcome.RAN: Badge.good("RAN"),
        Outcome.QUEUED: Badge.waiting("QUEUED"),
        Outcome.SKIPPED: Badge.gone("SKIPPED"),
        Outcome.MISSED: Badge.bad("MISSED"),
    }

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    schedule = models.ForeignKey(Schedule, models.PROTECT, related_name="firings", db_index=False)
    due = models.DateTimeField()
    until = models.DateTimeField(null=True)  # the last of several times
    count = models.PositiveIntegerField(default=1)
    outcome = models.CharField(max_length=7, choices=Outcome)
    reason = models.TextField(blank=True)
    run = models.OneToOneField("Run", models.PROTECT, null=True, related_name="firing")

    class Meta:
        indexes = [
            models.Index(fields=["schedule", "id"], name="firing_of_schedule"),
            models.Index(fields=["outcome", "schedule", "id"], name="firing_by_outcome"),
        ]
        constraints = [models.UniqueConstraint(fields=["schedule", "due"], name="a_time_fires_once")]

    def __str__(self) -> str:
        return f"{self.schedule} at {self.due:%Y-%m-%d %H:%M %Z}"

    @property
    def badge(self) -> Badge:
        return self.LOOKS[self.outcome]

    @property
    def due_there(self) -> Moment:
        return self.schedule.clock.shown(self.due)

    @property
    def until_there(self) -> Moment | None:
        return self.schedule.clock.shown(self.until) if self.until else None


class Calendar(models.Model):
    """Days on which no schedule of a workspace begins a run, unless it does not heed them."""

    workspace = models.OneToOneField(Workspace, models.CASCADE, related_name="calendar")
    days = models.JSONField(default=list)  # as `jobs.calendar.read` gives them

    def __str__(self) -> str:
        return f"excluded days of {self.workspace}"


class RunQuerySet(AccessQuerySet["Run"]):
    workspace_path = "workspace"
    changes = Can.RUN_JOBS

    def unfinished(self) -> RunQuerySet:
        return self.filter(status__in=(Run.Status.NEW, Run.Status.INPROGRESS))

    def waiting(self) -> RunQuerySet:
        """For their turn on their cluster, the one that has waited longest first. They have no task yet."""
        return self.filter(status=Run.Status.NEW, turn=None).order_by("pk")

    def due(self) -> RunQuerySet:
        """Whose time has come."""
        return self.filter(Q(due=None) | Q(due__lte=Now()))

    def without_cluster(self) -> RunQuerySet:
        """Those whose time has come, and whose own cluster is not begun; the one that has waited longest first."""
        return self.waiting().due().filter(cluster__in=Cluster.objects.not_begun())

    def since(self, moment: datetime) -> RunQuerySet:
        """Asked for then or later. They are numbered as they come, and one number is quicker found than many times."""
        first = Run.objects.filter(created__gte=moment).order_by("created").values("pk")[:1]
        return self.filter(pk__gte=Subquery(first))

    def around(self, cluster: Cluster, most: int) -> list[Run]:
        """Of this cluster's: the newest, those that are on it or wait, and the one that has it for itself.

        At most so many of each, the newest first, as `explained`.
        """
        return explained(_around(cluster.pk, cluster.occupied_by, most=most))

    def for_lists(self) -> RunQuerySet:
        """With what a row of a list says of them: their badges cost no query each."""
        of_runs = ContentType.objects.get_for_model(Run)
        cancelling = Task.objects.unfinished().filter(
            subject_type=of_runs, subject_id=OuterRef("pk"), cancel_asked=True
        )
        rows = self.annotate(_is_cancelling=Exists(cancelling)).select_related("job", "cluster", "started_by")
        return rows.defer(*_IN_NO_ROW_OF_RUNS)


def explained(runs: list[Run]) -> list[Run]:
    """Those that wait say why, in `waits_for`."""
    why = reasons(runs)
    for run in runs:
        run.waits_for = why.get(run.pk, "")
    return runs


@prepared
def _around(cluster: int, on: uuid.UUID | None, *, most: int) -> RunQuerySet:
    # In the order of an index: to find the oldest few, SQLite would read all that the cluster ever had.
    parts = [Run.objects.all(), Run.objects.unfinished().order_by("status", "pk")]
    if on:
        parts.append(Run.objects.filter(uuid=on))
    return newest_of_each("cluster", [cluster], most, *parts).for_lists().order_by("-pk")


def newest_of_each(
    owner: str, owners: Collection[int], most: int, *parts: RunQuerySet, of_all: bool = False
) -> RunQuerySet:
    """Of each part, the `most` newest runs of each owner (a job, a workspace); or, of these, as many `of_all` owners.

    A part that is ordered by its primary key is about the oldest.

    A SELECT for each, one behind the other, which ends after so many steps of an index. No planner finds that way when
    it is asked for the newest of all of them: it sorts everything, or walks through what is others'.
    """
    if not owners:
        return Run.objects.none()
    sqls: list[str] = []
    params: list[Any] = []
    for part in parts:
        one = part.filter(**{owner: _ANY})
        one = one if one.ordered else one.order_by("-pk")
        sql, values = one.values("pk")[:most].query.sql_with_params()
        each = " UNION ALL ".join([f"SELECT newest.pk FROM ({sql}) AS newest"] * len(owners))  # noqa: S608 (Django's)
        if of_all:
            way = "DESC" if one.query.order_by == ("-pk",) else "ASC"
            some = f"SELECT found.pk FROM ({each}) AS found ORDER BY found.pk {way} LIMIT {most}"  # noqa: S608
            each = f"SELECT newest.pk FROM ({some}) AS newest"  # noqa: S608
        sqls.append(each)
        params += [pk if value == _ANY else value for pk in owners for value in values]
    return Run.objects.filter(pk__in=RawSQL(" UNION ALL ".join(sqls), params))  # noqa: S611


class Run(Subject):
    """One execution of a job. What ran is copied from the job, so that changing the job changes no history."""

    runs_programs = True
    fetched_with = (
        "job",
        "cluster__workspace__organization",
        "cluster__workspace__cloud_config",
        "cluster__engine_version",
    )

    class Status(models.TextChoices):
        NEW = "new"
        INPROGRESS = "inprogress"
        FINISHED = "finished"
        FAILED = "failed"
        CANCELLED = "cancelled"

    STATES: ClassVar[Mapping[str, State]] = {
        Status.NEW: State(Badge.waiting("NEW"), "PENDING"),
        Status.INPROGRESS: State(Badge.working("INPROGRESS"), "RUNNING", follows={Status.NEW}),
        Status.FINISHED: State(Badge.good("FINISHED"), "SUCCEEDED", follows={Status.INPROGRESS}),
        Status.FAILED: State(Badge.bad("FAILED"), follows={Status.NEW, Status.INPROGRESS}),
        Status.CANCELLED: State(Badge.gone("CANCELLED"), follows={Status.NEW, Status.INPROGRESS}),
    }

    # The indexes of these three are below: each is for a list, the newest first.
    workspace = models.ForeignKey(Workspace, models.PROTECT, related_name="runs", db_index=False)  # its job's
    job = models.ForeignKey(Job, models.PROTECT, related_name="runs", db_index=False)
    cluster = models.ForeignKey(Cluster, models.PROTECT, related_name="runs", db_index=False)
    number = models.PositiveIntegerField()
    git_url = models.CharField(max_length=500)
    reference = models.CharField(max_length=200, blank=True)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.PYTHON)
    command = models.TextField()
    time_limit = models.PositiveIntegerField(null=True)  # seconds, kept by the node itself
    retries = models.PositiveSmallIntegerField(default=0)
    retry_delay = models.PositiveIntegerField(default=60)
    retry_on_timeout = models.BooleanField(default=False)
    attempt = models.PositiveSmallIntegerField(default=1)
    retry_of = models.OneToOneField("self", models.SET_NULL, null=True, related_name="retried_as")
    retry_at = models.DateTimeField(
        null=True
    )  # it failed, and is tried again then; by one UPDATE, which takes this away
    resumes = models.BooleanField(default=False)  # as its job had it; see `dispatch.resume_for`
    pauses = models.BooleanField(default=False)  # as its job had it; see `dispatch.pause_clusters`
    paused = models.CharField(max_length=400, blank=True)  # what became of that, in a sentence; empty: not decided
    ranks = models.PositiveIntegerField(null=True)
    ranks_per_node = models.PositiveIntegerField(null=True)
    environment = models.JSONField(default=dict)
    due = models.DateTimeField(null=True)  # it begins then or later
    schedule = models.ForeignKey(  # whose time it was; it has no index but the one below
        "Schedule", models.PROTECT, null=True, related_name="runs", db_index=False
    )
    cores = models.PositiveIntegerField(null=True)  # the cluster's real size when it started
    status = models.CharField(max_length=10, choices=Status, default=Status.NEW)
    phase = models.CharField(max_length=10, blank=True)  # clone, packages, run: what the head node does now
    commit = models.CharField(max_length=40, blank=True)
    commit_subject = models.CharField(max_length=200, blank=True)
    exit_status = models.IntegerField(null=True)
    exit_signal = models.IntegerField(null=True)
    is_on_node = models.BooleanField(default=False)  # the head node has said that it started it
    may_be_left = models.BooleanField(default=False)  # something of it may run on a node; no other run starts there
    observed = models.BooleanField(default=False)  # the watch process has seen it to its end
    ended_ranks = models.JSONField(default=dict)  # while others go on: {"count", "of", "last": [[rank, time], …]}
    failures = models.JSONField(default=list)  # of ranks, the first one first: see `Launcher.verdict` on the node
    digests = models.JSONField(null=True)  # the node's own checksums, by stream
    cause = models.TextField(blank=True)
    evidence = models.TextField(blank=True)
    advice = models.TextField(blank=True)
    code = models.CharField(max_length=40, blank=True)  # of the cause, for programs: see `jobs/causes.py`
    silent_since = models.DateTimeField(null=True)  # when the head node stopped to answer, while it does not
    output = models.OneToOneField(Output, models.PROTECT, related_name="run")
    notebook = models.OneToOneField(Output, models.PROTECT, null=True, related_name="+")  # as it was executed
    started_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    cancelled_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)
    turn = models.DateTimeField(null=True)  # when it got its cluster, and the task that runs it
    started = models.DateTimeField(null=True)  # when the node was asked
    ended = models.DateTimeField(null=True)
    # The last one of its job that failed, until a later one is FINISHED or somebody is done with it.
    needs_you = models.BooleanField(default=False)
    packages = models.JSONField(default=list)  # `name==version` of what it could import: see `jobs/record.py`
    hosts = models.TextField(blank=True)  # its hostfile
    head_rank = models.PositiveSmallIntegerField(default=0)  # of the node that keeps it, where it was started; and …
    place = models.CharField(max_length=400, blank=True)  # … its folder there. Empty: not started, or by an old portal

    waits_for = ""  # why it is NEW, where a list has it `explained`

    objects = RunQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["workspace", "id"], name="run_of_workspace"),
            models.Index(fields=["workspace", "status", "id"], name="run_of_workspace_by_status"),
            models.Index(fields=["workspace", "started_by", "id"], name="run_of_workspace_by_person"),
            models.Index(fields=["job", "id"], name="run_of_job"),
            models.Index(fields=["job", "status", "id"], name="run_of_job_by_status"),
            models.Index(fields=["cluster", "id"], name="run_of_cluster"),
            models.Index(fields=["cluster", "status", "id"], name="run_of_cluster_by_status"),
            models.Index(fields=["workspace", "id"], name="run_needs_you", condition=Q(needs_you=True)),
            models.Index(fields=["created"], name="run_by_time"),
            # No condition names a status: SQLite does not see that a parameter of a statement is the same.
            models.Index(fields=["status", "cluster", "id"], name="run_waiting", condition=Q(turn=None)),
            models.Index(fields=["id"], name="run_to_observe", condition=Q(started__isnull=False, observed=False)),
            models.Index(fields=["cluster"], name="run_may_be_left", condition=Q(may_be_left=True)),
            models.Index(fields=["id"], name="run_to_pause_after", condition=Q(pauses=True, paused="")),
            models.Index(fields=["retry_at"], name="run_retry_at", condition=Q(retry_at__isnull=False)),
            models.Index(
                fields=["schedule", "status"], name="run_of_schedule_by_status", condition=Q(schedule__isnull=False)
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="run_numbers_unique_in_a_job"),
            models.CheckConstraint(
                condition=Q(status__in=["new", "inprogress", "finished", "failed", "cancelled"]),
                name="run_status_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.job.name}, run {self.number}"

    def get_absolute_url(self) -> str:
        return reverse("run", args=[self.uuid])

    def crumbs(self) -> list[tuple[str, str]]:
        return [("Jobs", reverse("jobs", args=[self.workspace.uuid])), (str(self), self.get_absolute_url())]

    @property
    def is_copied(self) -> bool:
        """See `Job`. Its `commit` is then the start of the SHA-256 of what was copied."""
        return rules.is_copied(self.git_url)

    @property
    def is_waiting(self) -> bool:
        """For its turn: see `RunQuerySet.waiting`."""
        return self.status == self.Status.NEW and self.turn is None

    @property
    def badge(self) -> Badge:
        return Badge.working("CANCELLING") if self.is_cancelling else self.STATES[self.status].badge

    @property
    def is_cancelling(self) -> bool:
        """Whether somebody wants it to end; asked of the database, unless that is known."""
        if self.is_finished or self.is_waiting:
            return False
        if "_is_cancelling" in self.__dict__:  # `for_lists` has asked, or a page knows its last task
            return bool(self.__dict__["_is_cancelling"])
        task = self.last_task
        return bool(task and task.is_cancelling)

    def know_task(self, last: Task | None) -> None:
        """Its badge, which a page shows more than once, does not ask for it again."""
        self.__dict__["_is_cancelling"] = bool(last and last.is_cancelling)

    @property
    def is_finished(self) -> bool:
        return self.status not in (self.Status.NEW, self.Status.INPROGRESS)

    @property
    def command_line(self) -> str:
        """What is typed to have the same by hand."""
        if self.kind == Kind.SHELL:
            return self.command
        if self.kind == Kind.NOTEBOOK:
            path, *parameters = shlex.split(self.command)
            return shlex.join(["papermill", *parameters, path, "executed.ipynb"])
        return f"mpiexec -n {self.cores or 'CORES'} python {self.command}"

    @property
    def attempts(self) -> int:
        return self.retries + 1

    @property
    def elapsed(self) -> timedelta | None:
        return (self.ended or now()) - self.started if self.started else None

    @property
    def cost(self) -> Decimal | None:
        """Of the cluster's nodes while it was on them, in US dollars; None where they have no price."""
        price, took = self.cluster.hourly_price, self.elapsed
        if price is None or took is None:
            return None
        return price * self.cluster.node_count * Decimal(max(0.0, took.total_seconds())) / 3600

    def fetched(self) -> None:
        """Job and cluster are in one workspace, which is read once."""
        self.workspace = self.job.workspace = self.cluster.workspace

    def folder(self, shared: str) -> str:
        """Where it is to be started on the nodes."""
        return f"{shared}/.runs/{self.uuid}"

    def kept_at(self) -> tuple[Node, str]:
        """The node that keeps it, and its folder there."""
        node = self.cluster.nodes.get(rank=self.head_rank)
        return node, self.place or self.folder(node.shared)

    @property
    def quiet_since(self) -> datetime | None:
        """When it printed last, or began, if that is a while ago and it goes on."""
        if self.status != self.Status.INPROGRESS or self.started is None:
            return None
        chunks = Chunk.objects.filter(output=self.output_id)
        last = chunks.order_by("-position").values_list("at", flat=True).first()
        since = max(self.started, last or self.started)
        return since if now() - since > QUIET else None

    @property
    def last_ended_rank(self) -> tuple[int, datetime] | None:
        """The rank that ended last while others go on, and when."""
        last = self.ended_ranks.get("last")
        return (last[-1][0], datetime.fromtimestamp(last[-1][1], UTC)) if last else None

    @property
    def first_failed_rank(self) -> str:
        """Its name, where a rank failed."""
        first = self.failures[0] if self.failures else {}
        return rank_name(first.get("world", 0), first["rank"]) if "rank" in first else ""

    @property
    def doing(self) -> str:
        """What the head node does now, for a sentence."""
        return {"clone": "cloning the source", "packages": "installing packages"}.get(self.phase, "running")

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.workspace_id:
            self.workspace_id = self.job.workspace_id
        super().save(*args, **kwargs)

    def move(self, to: str, **fields: Any) -> bool:
        """As that of every subject; and whether a run of the job needs somebody changes with it, or is tried again."""
        others = Run.objects.filter(job=self.job_id)
        if to == self.Status.FAILED:
            fields["retry_at"] = self._tried_again_at(fields)
            last = not others.filter(pk__gt=self.pk, status__in=("failed", "finished")).exists()
            fields["needs_you"] = last and fields["retry_at"] is None
        moved = super().move(to, **fields)
        if moved and to in (self.Status.FAILED, self.Status.FINISHED):
            others.filter(pk__lt=self.pk, needs_you=True).update(needs_you=False)
            # Two that end at once do not see each other: whoever is committed last sees both.
            transaction.on_commit(partial(_only_the_last_needs_you, self.job_id), robust=True)
            if fields.get("retry_at") is None:
                Letter.objects.write(self, Letter.Kind(to))
        return moved

    def _tried_again_at(self, fields: Mapping[str, Any]) -> datetime | None:
        """When the next attempt begins, now that this one has FAILED; None where there is none."""
        if self.attempt > self.retries or self.job.deleted:
            return None
        code = fields["code"] if "code" in fields else Run.objects.values_list("code", flat=True).get(pk=self.pk)
        if code in _SAME_AGAIN or (code == "time_limit" and not self.retry_on_timeout):
            return None
        return now() + timedelta(seconds=self.retry_delay)

    def remember_who_cancelled(self, by: User) -> None:
        Run.objects.filter(pk=self.pk).update(cancelled_by=by)

    def wakes(self, last: Task | None) -> bool:
        """Whether its cluster, which is PAUSED, is resumed for it. `last` is the last task of the cluster.

        Where its job says so, and no person has said otherwise since. And where a timer has paused it while the run
        waited for its time: nobody may be there then who could resume it.
        """
        by_timer = last is not None and last.kind == PAUSE.kind and last.asked_by_id is None
        if by_timer and last and self.due and last.created > self.created:
            return True
        return self.resumes and not self.stays_asleep(last)

    def stays_asleep(self, last: Task | None) -> bool:
        """Whether a person has paused its cluster since it was asked for, or taken back that it resumes.

        `last`: the last task of its cluster, which is PAUSED.
        """
        if last is None or last.created < self.created:
            return False
        return last.status == TaskStatus.CANCELLED if last.kind == RESUME.kind else last.asked_by_id is not None

    def live_names(self) -> list[str]:
        return [f"run.{self.uuid}", *self.cluster.live_names()]

    @property
    def follows(self) -> str:
        """What its page listens to: while it waits for a cluster of its own, how far that is, or its place."""
        names = self.live_names()
        if self.cluster.dedicated and self.is_waiting:
            return " ".join(names if self.cluster.status == Cluster.Status.NEW else names[:2])
        return names[0]


def again(retries: int, delay: int, on_timeout: bool) -> str:
    """How often a run that has failed is tried again, and when, for a sentence. Empty: never."""
    if not retries:
        return ""
    often = "once" if retries == 1 else f"up to {retries} times"
    wait = "at once" if not delay else f"{delay // 60} minute{'' if delay == 60 else 's'} later"
    return f"{often}, {wait}{', also after its time limit' if on_timeout else ''}"


class LetterManager(models.Manager["Letter"]):
    def write(self, run: Run, kind: str, words: str = "") -> None:
        """To whoever made its job, where mail leaves this portal and they want to hear of this. Once."""
        wants = {Letter.Kind.FAILED: "failure", Letter.Kind.FINISHED: "success"}.get(Letter.Kind(kind), "slow")
        to = run.job.created_by_id
        if to and mail.goes_out() and getattr(run.job, f"mail_{wants}"):
            self.bulk_create([Letter(to_id=to, run=run, kind=kind, words=words)], ignore_conflicts=True)


class Letter(models.Model):
    """That somebody is to be mailed about a run. Written with what it tells; sent by `jobs.mail`, many as one."""

    class Kind(models.TextChoices):
        FAILED = "failed"
        FINISHED = "finished"
        SLOW = "slow"

    to = models.ForeignKey(User, models.CASCADE, related_name="+")
    run = models.ForeignKey(Run, models.CASCADE, related_name="letters")
    kind = models.CharField(max_length=8, choices=Kind)
    words = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    sent = models.DateTimeField(null=True)  # or given up

    objects = LetterManager()

    class Meta:
        indexes = [
            models.Index(fields=["to"], name="letter_to_be_sent", condition=Q(sent=None)),
            models.Index(fields=["to", "sent"], name="letter_sent_last"),
        ]
        constraints = [models.UniqueConstraint(fields=["run", "to", "kind"], name="one_letter_of_a_kind")]

    def __str__(self) -> str:
        return f"{self.run}: {self.kind}"


def _only_the_last_needs_you(job: int) -> None:
    """Of a job's runs; unless one was finished since."""
    ended = Run.objects.filter(job=job, status__in=("failed", "finished")).order_by("-pk").values("pk")[:1]
    Run.objects.filter(job=job, needs_you=True, pk__lt=Subquery(ended)).update(needs_you=False)


def reasons(runs: Collection[Run]) -> dict[int, str]:
    """Why each of those that wait does so, as half a sentence, by the run's number in the database.

    One query for all of them; one more where some of them have a cluster resumed that is PAUSED, or one made for them.
    """
    waiting = [run for run in runs if run.is_waiting]
    if not waiting:
        return {}
    clusters = {run.cluster_id: run.cluster for run in waiting}
    made = _being_made([cluster for cluster in clusters.values() if cluster.dedicated])
    made |= _not_begun([run for run in waiting if run.cluster.dedicated and run.cluster.status == Cluster.Status.NEW])
    at = now()
    paused = [
        run.cluster for run in waiting if (run.resumes or run.due) and run.cluster.status == Cluster.Status.PAUSED
    ]
    last = Cluster.objects.last_tasks(paused)
    before: Counter[int] = Counter()
    found = {}
    wanted = {run.pk for run in waiting}
    resuming = {run.pk for run in waiting if run.cluster in paused and run.wakes(last.get(run.cluster_id))}
    on: dict[uuid.UUID, str] = {}
    left: dict[int, str] = {}
    lost: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    occupied = [cluster.occupied_by for cluster in clusters.values() if cluster.occupied_by]
    free = [cluster.pk for cluster in clusters.values() if cluster.is_free]
    waits = []
    for part, pk, cluster_pk, run_uuid, name, number in _in_the_way(list(clusters), occupied, free):
        if part == "on":
            on[run_uuid] = f"{name}, run {number}"
        elif part == "left":
            left[cluster_pk] = f"{name}, run {number}"
        elif part == "lost":
            lost[cluster_pk].append((number, name))
        else:
            waits.append((pk, cluster_pk))
    later = {run.pk for run in waiting if run.due and run.due > at}
    for run in waiting:
        if run.pk in later:
            assert run.due
            found[run.pk] = f"its time is {localtime(run.due):%-d %B %Y, %H:%M %Z}"
    for pk, cluster_pk in sorted(waits):
        if pk in later:
            continue
        if pk in wanted and (words := made.get(cluster_pk)):
            found[pk] = words
        elif pk in wanted:
            names = [name for _, name in sorted(lost[cluster_pk])]
            others = before[cluster_pk]
            found[pk] = _reason(clusters[cluster_pk], others, on, names, left.get(cluster_pk), pk in resuming)
        before[cluster_pk] += 1
    return found


@prepared
def _in_the_way(clusters: list[int], occupied: list[uuid.UUID], free: list[int]) -> models.QuerySet[Any, Any]:
    """What is on these clusters, what may be left there, what waits, and which nodes of the `free` ones are lost."""
    parts: list[Any] = [
        rows.annotate(part=Value(part)).values_list("part", "pk", "cluster", "uuid", "job__name", "number")
        for part, rows in (
            ("on", Run.objects.filter(uuid__in=occupied)),
            ("left", Run.objects.filter(cluster__in=clusters, may_be_left=True)),
            ("waits", Run.objects.waiting().due().filter(cluster__in=clusters).order_by()),
        )
    ]
    lost = Node.objects.lost().filter(cluster__in=free).order_by().annotate(part=Value("lost"))
    parts.append(lost.values_list("part", "pk", "cluster", "cluster__uuid", "hostname", "rank"))
    found: models.QuerySet[Any, Any] = parts[0].union(*parts[1:], all=True)
    return found


def _being_made(clusters: Collection[Cluster]) -> dict[int, str]:
    """Of clusters that are made for one run each, and are not there yet: how far that is, in words."""
    coming = {cluster.pk: cluster for cluster in clusters if cluster.status in _COMING}
    if not coming:
        return {}
    of = {"task__subject_type": ContentType.objects.get_for_model(Cluster), "task__subject_id__in": coming}
    steps = Step.objects.filter(**of, status=StepStatus.RUNNING).order_by("pk")
    found = {pk: f"its cluster {cluster.name} is about to be made" for pk, cluster in coming.items()}
    for pk, title, detail in steps.values_list("task__subject_id", "title", "detail"):
        step = f"{title[0].lower()}{title[1:]}"
        found[pk] = f"its cluster {coming[pk].name} is being made: {step}{f', {detail}' if detail else ''}"
    return found


def _not_begun(runs: Collection[Run]) -> dict[int, str]:
    """Why nothing is made yet of these runs' own clusters, where their time has come: by the cluster, in words."""
    if not runs:
        return {}
    queues: dict[int, list[int]] = {}
    due = Run.objects.without_cluster().filter(workspace__in={run.workspace_id for run in runs})
    for workspace_pk, cluster_pk in due.values_list("workspace", "cluster"):
        queues.setdefault(workspace_pk, []).append(cluster_pk)
    workspaces = list(Workspace.objects.filter(pk__in=queues).select_related("organization"))
    left = ceiling.left(workspaces)
    found = {}
    for workspace in workspaces:
        queue, room = queues[workspace.pk], left[workspace.pk]
        if workspace.status != Workspace.Status.READY:
            why = f"{workspace} is {workspace.badge.word}, and its cluster is made once that is READY"
            found.update(dict.fromkeys(queue, why))
            continue
        for before, cluster_pk in enumerate(queue[room.places :]):
            others = f"{before} run{' waits' if before == 1 else 's wait'} before it" if before else "it is the next"
            found[cluster_pk] = f"{room.full or 'others are begun first'}; {others}"
    return found


_COMING = (Cluster.Status.NEW, Cluster.Status.INPROGRESS)
_ASLEEP: dict[str, str] = {Cluster.Status.PAUSED: "resumes", Cluster.Status.STOPPED: "starts"}  # until somebody does


def _reason(
    cluster: Cluster, before: int, on: dict[uuid.UUID, str], lost: Sequence[str], left: str | None, resumes: bool
) -> str:
    wait = "waits" if before == 1 else "wait"
    others = f", and {before} more {wait} before it" if before else ""
    if resumes or cluster.status == Cluster.Status.RESUMING:
        return f"{cluster.name} resumes{others}"
    if does := _ASLEEP.get(cluster.status):
        return f"{cluster.name} is {cluster.badge.word}, and the run begins once somebody {does} it{others}"
    if cluster.status != Cluster.Status.RUNNING:
        return f"{cluster.name} is {cluster.badge.word}{others}"
    if cluster.occupied_by and (holder := on.get(cluster.occupied_by)):
        return f"{holder} is on {cluster.name}{others}"
    if lost:
        return f"{cluster.name} is DEGRADED, {', '.join(lost)} cannot be reached; it begins when that is repaired"
    if left:
        return f"the portal looks whether something of {left} is left on {cluster.name}"
    return f"{before} {wait} before it on {cluster.name}" if before else f"{cluster.name} is about to take it"
