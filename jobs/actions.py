"""What people do with jobs. Each is one transaction; work is queued on commit."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, Self
from uuid import UUID, uuid4

from django.conf import settings
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.timezone import now

from accounts import audit
from accounts.access import Can
from accounts.holdings import Holding
from accounts.models import Organization, User
from clusters.actions import create_cluster, locked
from clusters.life import give_way
from clusters.models import Cluster
from clusters.specification import Specification
from jobs import rules
from jobs.causes import span
from jobs.dispatch import GONE, dispatch, resume_for
from jobs.models import Firing, Job, Kind, Run, Schedule, Tag, Template
from portal.errors import PortalError
from portal.once import uuid_for
from portal.prepared import prepared
from portal.secrets import CannotDecrypt, redact, seal, unseal
from portal.tasks import ledger, live
from portal.tasks.models import Output, Task
from workspaces.ending import hold
from workspaces.models import GitCredential, Workspace


@dataclass(frozen=True)
class Credential:
    """What a private repository asks for. The password may be an access token."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Program:
    """What one run runs, and where. `time_limit` is in seconds; None: the portal's own limit.

    It has either a `cluster` that is there, or one made for it alone, as `dedicated` says: see `Specification.kept`.
    """

    cluster: Cluster | None
    git_url: str
    reference: str
    command: str
    time_limit: int | None
    resumes: bool = False  # whether its cluster is resumed for it, if that is PAUSED
    pauses: bool = False  # whether its cluster, which is not its own, is paused when it has ended
    dedicated: Mapping[str, Any] | None = None
    ranks: int | None = None  # None: one on each core, or so many on each node
    ranks_per_node: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    kind: str = Kind.PYTHON  # what `command` is
    retries: int = 0  # how often a run that failed is tried again, so many seconds after its end
    retry_delay: int = 60
    retry_on_timeout: bool = False

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(**{name: getattr(job, name) for name in cls.__dataclass_fields__})

    @classmethod
    def of_run(cls, run: Run) -> Self:
        """The same again, on a cluster like that of the run where that was its own."""
        same = {name: getattr(run, name) for name in cls.__dataclass_fields__ if name not in ("cluster", "dedicated")}
        if not run.cluster.dedicated:
            return cls(cluster=run.cluster, **same)
        return cls(cluster=None, dedicated=Specification.of_cluster(run.cluster).kept, **same)


SignIn = Credential | GitCredential | None  # typed for one job, or saved in its workspace
_COPIED = tuple(Program.__dataclass_fields__.keys() - {"cluster", "dedicated", "time_limit", "environment"})
_copied_of = attrgetter(*_COPIED)
MOST_WAITING = 100  # runs that may wait for one cluster
_NOTHING_SECRET = {"git_username": "", "git_password": "", "git_credential": None, "secret_values": ""}
CLUSTER_GONE = "cluster_gone"  # the code of an error that another cluster mends


@audit.atomic()
def create_job(
    workspace: Workspace,
    *,
    name: str,
    git_url: str,
    reference: str,
    command: str,
    by: User,
    cluster: Cluster | None = None,
    dedicated: Mapping[str, Any] | None = None,
    time_limit: int | None = None,
    resumes: bool = False,
    pauses: bool = False,
    ranks: int | None = None,
    ranks_per_node: int | None = None,
    environment: Mapping[str, str] | None = None,
    kind: str = Kind.PYTHON,
    retries: int = 0,
    retry_delay: int = 60,
    retry_on_timeout: bool = False,
    tags: Collection[str] = (),
    due: datetime | None = None,
    secrets: Mapping[str, str | None] | None = None,
    credential: SignIn = None,
    template: Template | None = None,
    template_values: Mapping[str, str] | None = None,
    uuid: UUID | None = None,
) -> tuple[Job, Run]:
    """The job and its first run. Asked twice with one `uuid`, both are made once. Raises `PortalError`.

    As for `Program`. `due`: when the run begins, at the earliest. `template`: what it was made of, with which values.
    """
    _check_cluster(workspace, cluster, dedicated)
    job, made = Job.objects.get_or_create(
        uuid=uuid_for(Job, uuid, workspace=workspace),
        workspace=workspace,
        defaults={
            "name": name,
            "cluster": cluster,
            "dedicated": dedicated,
            "git_url": git_url,
            "reference": reference,
            "command": command,
            "time_limit": time_limit,
            "resumes": resumes,
            "pauses": pauses,
            "ranks": ranks,
            "ranks_per_node": ranks_per_node,
            "environment": dict(environment or {}),
            "kind": kind,
            "retries": retries,
            "retry_delay": retry_delay,
            "retry_on_timeout": retry_on_timeout,
            "template": template,
            "template_values": dict(template_values or {}),
            "tags": list(tags),
            "created_by": by,
        },
    )
    if not made:
        return job, job.runs.earliest("number")
    _index_tags(job)
    if credential:
        _keep_credential(job, credential)
    if secrets:
        _keep_secrets(job, {name: value for name, value in secrets.items() if value is not None})
    after = {_WORDS[name]: _in_words(name, getattr(job, name)) for name in ("git_url", "reference", "command")}
    for name in (
        "cluster",
        "dedicated",
        "resumes",
        "pauses",
        "ranks",
        "ranks_per_node",
        "environment",
        "retries",
        "tags",
    ):
        if value := getattr(job, name):
            after[_WORDS[name]] = _in_words(name, value)
    if secrets:
        after["secret variables"] = ", ".join(job.secret_names)
    if template:
        after["template"] = str(template)
    if credential:
        after["signs in as"] = job.signs_in_as
    _record_job("created", job, by=by, after=after)
    return job, start_run(job, by=by, due=due)


def _index_tags(job: Job) -> None:
    Tag.objects.filter(job=job).delete()
    Tag.objects.bulk_create(Tag(workspace_id=job.workspace_id, job=job, word=word) for word in job.tags)


def _check_cluster(workspace: Workspace, cluster: Cluster | None, dedicated: Mapping[str, Any] | None) -> None:
    """Raises `PortalError`."""
    if (cluster is None) == (dedicated is None):
        raise PortalError("Choose a cluster.", field="cluster")
    if cluster and cluster.workspace_id != workspace.pk:
        raise PortalError("That cluster is not in this workspace.")
    if cluster and cluster.dedicated:
        raise PortalError(f"{cluster.name} belongs to one run. Choose another cluster.", code=CLUSTER_GONE)


@audit.atomic()
def change_credential(job: Job, credential: SignIn, *, by: User) -> None:
    """What the next run signs in to the repository with, which is where it is in `job`; nothing for one that everybody
    may read.

    Raises `PortalError` where it is for another server, or was deleted; and where the job is, or has another source by
    now: whoever gave a password was asked for that of the one before.
    """
    if credential is None and not job.signs_in_at:
        return
    if credential and (found := _held(job)).git_url != job.git_url:
        raise PortalError(
            f"The source of {found} was changed meanwhile, to {found.git_url}. What you gave is not kept.",
            advice="Give what the job is to sign in with there.",
        )
    before = {"signs in as": job.signs_in_as} if job.signs_in_at else {}
    _keep_credential(job, credential)
    after = {"signs in as": job.signs_in_as} if credential else {}
    _record_job("changed credential", job, by=by, before=before, after=after)


def _keep_credential(job: Job, credential: SignIn) -> None:
    job.git_username, job.git_password, job.git_credential = "", "", None
    if isinstance(credential, GitCredential):
        if why := rules.why_not_with(credential.server, job.git_url, str(credential)):
            raise PortalError(why, field="git_credential")
        job.git_credential = GitCredential.objects.live().filter(pk=credential.pk, workspace=job.workspace).first()
        if job.git_credential is None:
            raise PortalError(f"{credential} was deleted. Choose another.", field="git_credential")
    elif credential:
        job.git_username = credential.username
        seal(job, "git_password", credential.password)
    job.save(update_fields=["git_username", "git_password", "git_credential"])
    if credential:
        hold(job.workspace)


@audit.atomic()
def change_secrets(job: Job, secrets: Mapping[str, str | None], *, by: User) -> bool:
    """These are its secret variables, for runs that start from now on; None: as it was. Says whether any changed.

    Raises `PortalError` where what is to stay cannot be decrypted.
    """
    found = _held(job)
    had = job.secret_names = found.secret_names
    job.secret_values = found.secret_values  # somebody may just have given others
    if list(secrets) == had and not any(secrets.values()):
        return False
    try:
        old = json.loads(unseal(job, "secret_values")) if job.secret_values else {}
    except CannotDecrypt as error:
        if any(value is None for value in secrets.values()):
            raise PortalError(
                "The secret variables cannot be decrypted with this portal's keys. Give each one its value again.",
                field="secrets",
            ) from error
        old = {}
    new = {name: old.get(name, "") if value is None else value for name, value in secrets.items()}
    _keep_secrets(job, {name: value for name, value in new.items() if value})
    given = ", ".join(name for name, value in secrets.items() if value)
    after = {"secret variables": ", ".join(job.secret_names), **({"given anew": given} if given else {})}
    _record_job("changed secret variables", job, by=by, before={"secret variables": ", ".join(had)}, after=after)
    return True


def _keep_secrets(job: Job, values: Mapping[str, str]) -> None:
    job.secret_names, job.secret_values = list(values), ""
    if values:
        seal(job, "secret_values", json.dumps(values))
    job.save(update_fields=["secret_names", "secret_values"])
    if values:
        hold(job.workspace)


def forget_secrets(workspace: Workspace) -> None:
    """At its end: what its jobs have, as if each were deleted."""
    kept = ~Q(git_username="", git_password="", secret_values="", git_credential=None)
    Job.objects.filter(kept, workspace=workspace).update(**_NOTHING_SECRET)


@audit.atomic()
def change_job(job: Job, *, by: User, **changes: Any) -> bool:
    """Its name, its tags, or what `Program` has: what is given, for runs from now on.

    Runs that wait keep what they were asked for with. A password goes to no other server than the one that it was
    given for: with an address of another one it is taken away. Says whether anything changed. Raises `PortalError`.
    """
    found = _held(job)
    if {"cluster", "dedicated"} & changes.keys():
        one = {name: changes.setdefault(name, None) for name in ("cluster", "dedicated")}
        _check_cluster(found.workspace, **one)
    changed = [name for name, value in changes.items() if getattr(found, name) != value]
    if not changed:
        return False
    before = {_WORDS[name]: _in_words(name, getattr(found, name)) for name in changed}
    signing = ("git_username", "git_password", "git_credential")
    if found.signs_in_at and not rules.same_server(changes.get("git_url", found.git_url), found.signs_in_at):
        before["signs in as"] = found.signs_in_as
        found.git_username, found.git_password, found.git_credential = "", "", None
    for name in changed:
        setattr(found, name, changes[name])
    found.save(update_fields=[*changed, *signing])
    if "tags" in changed:
        _index_tags(found)
    for name in (*changed, *signing):
        setattr(job, name, getattr(found, name))
    live.ring(*job.workspace.live_names())
    after = {_WORDS[name]: _in_words(name, changes[name]) for name in changed}
    _record_job("changed", job, by=by, before=before, after=after)
    return True


def _held(job: Job) -> Job:
    """Locked, as it is now. Raises `PortalError` where it was deleted."""
    rows = Job.objects.select_for_update(of=("self",), no_key=True)
    found = rows.select_related("cluster", "git_credential").get(pk=job.pk)
    if found.deleted:
        raise PortalError(f"{found} was deleted.")
    return found


_WORDS = {
    "name": "name",
    "cluster": "cluster",
    "dedicated": "a cluster of its own",
    "git_url": "source",
    "reference": "reference",
    "command": "command",
    "time_limit": "time limit",
    "resumes": "resumes a paused cluster",
    "pauses": "pauses the cluster when finished",
    "ranks": "ranks",
    "ranks_per_node": "ranks on each node",
    "environment": "environment",
    "kind": "type",
    "retries": "retries",
    "retry_delay": "seconds to the next attempt",
    "retry_on_timeout": "retries after the time limit",
    "tags": "tags",
}


@audit.atomic()
def change_mail(job: Job, *, by: User, failure: bool, success: bool, slow: bool) -> None:
    """Of what the person who made it is mailed."""
    wanted = {"mail_failure": failure, "mail_success": success, "mail_slow": slow}
    before = {name: getattr(job, name) for name, value in wanted.items() if getattr(job, name) != value}
    if before:
        Job.objects.filter(pk=job.pk).update(**wanted)
        _record_job("changed mail", job, by=by, before=before, after={name: wanted[name] for name in before})


def _in_words(field: str, value: Any) -> str:
    match field:
        case "cluster":
            return str(value) if value else ""
        case "dedicated":
            return str(Specification.read(value)) if value else ""
        case "ranks" | "ranks_per_node" | "retries" | "retry_delay":
            return value or ""
        case "kind":
            return str(Kind(value).label)
        case "tags":
            return " ".join(value)
        case "environment":  # what they are may be a secret
            return ", ".join(value)
        case "time_limit":
            return span(value or settings.RUN_SECONDS)
        case "resumes" | "pauses" | "retry_on_timeout":
            return "yes" if value else "no"
    return redact(value)


@audit.atomic()
def delete_job(job: Job, *, by: User) -> int:
    """It starts no more runs, its name is free, its password and secret variables are gone; its runs and output stay.

    Runs of it that have not ended are cancelled. Returns how many. Nothing happens where it was deleted already.
    """
    changes: dict[str, Any] = {"deleted": Now(), "deleted_by": by, **_NOTHING_SECRET}
    if not Job.objects.live().filter(pk=job.pk).update(**changes):
        return 0
    job.refresh_from_db(fields=[*changes])
    job.schedules.live().update(deleted=Now(), next_at=None)
    queued = Firing.objects.filter(schedule__job=job, outcome=Firing.Outcome.QUEUED)
    queued.update(outcome=Firing.Outcome.SKIPPED, reason="The job was deleted.")
    place = ("job__workspace__organization", "cluster__workspace__organization", "output")
    unfinished = job.runs.unfinished().select_related(*place).order_by("pk")
    ledger.hold(Task.objects.of(Run, unfinished))
    cancelled = [run for run in unfinished if _cancel_waiting(run, by) or _cancel_begun(run, by)]
    job.runs.filter(needs_you=True).update(needs_you=False)
    job.runs.filter(retry_at__isnull=False).update(retry_at=None)
    live.ring(*job.workspace.live_names())
    for run in cancelled:
        _record("cancelled", run, by=by)
    _record_job("deleted", job, by=by, after={"cancelled": len(cancelled)} if cancelled else {})
    return len(cancelled)


def _record_job(verb: str, job: Job, *, by: User, **said: dict[str, Any]) -> None:
    audit.record(verb, job, organization=job.workspace.organization, by=by, workspace=job.workspace, **said)


@prepared
def _to_hold(job: int) -> QuerySet[Job]:
    return Job.objects.select_for_update(of=("self",), no_key=True).select_related("cluster").filter(pk=job)


@prepared
def _last_number(job: int) -> QuerySet[Run, int]:
    return Run.objects.filter(job=job).order_by("-number").values_list("number", flat=True)[:1]


@prepared
def _waiting_for(cluster: int) -> QuerySet[Run, int]:
    """As many as matter."""
    return Run.objects.filter(cluster=cluster, status=Run.Status.NEW).values_list("pk", flat=True)[:MOST_WAITING]


@audit.atomic()
def start_run(
    job: Job,
    *,
    by: User | None,
    uuid: UUID | None = None,
    program: Program | None = None,
    due: datetime | None = None,
    retry_of: Run | None = None,
    schedule: Schedule | None = None,
) -> Run:
    """One more execution of the job as it is now, or once with another program. Raises `PortalError`.

    Asked twice with one `uuid`, it starts once. The error's code is `CLUSTER_GONE` where another cluster would do.
    `due`: it begins then, or when its cluster is free later. A cluster of its own is made then, and not before.
    `retry_of`: the attempt before.
    """
    # Locked, so that two at once get two numbers, or one run, and none is started of a job that is being deleted.
    (now_so,) = _to_hold(job.pk)
    now_so.workspace = job.workspace
    if uuid and (found := Run.objects.filter(uuid=uuid, job=job).first()):
        return found
    if now_so.deleted:
        raise PortalError(f"{now_so} was deleted. Create a job anew to run it.")
    program = program or Program.of(now_so)
    _check_cluster(job.workspace, program.cluster, program.dedicated)
    number = sum(_last_number(job.pk)) + 1
    is_due = due is None or due <= now()
    check_ranks(program, is_due)
    if program.dedicated:
        cluster = _cluster_for(now_so, number, Specification.read(program.dedicated), by)
    else:
        cluster = _cluster_of(now_so, program)
    store = cluster.workspace.cloud_config.output_store
    key = uuid_for(Run, uuid, job=now_so)
    values, of_output = values_of_run(now_so.pk, number, cluster, program, store, by=by, uuid=key)
    run = Run(**values, output=Output(**of_output), due=due, schedule=schedule)
    run.workspace, run.job, run.cluster, run.started_by = job.workspace, now_so, cluster, by
    if retry_of:
        run.retry_of, run.attempt = retry_of, retry_of.attempt + 1
    run.output.save()
    run.save(force_insert=True)
    Job.objects.filter(pk=job.pk).update(ran=Now())
    begun = None
    if is_due and not program.dedicated:  # its own cluster is begun by the watch process, in the order of all of them
        begun = dispatch(cluster.pk, fresh=run)
        if begun is None:
            _look_at_cluster(run)
    if begun is None:
        live.ring(live.WATCH_WAITING)
    if begun != run:  # else its task has rung
        live.ring(*run.live_names())
    changed = [name for name in program.__dataclass_fields__ if getattr(program, name) != getattr(now_so, name)]
    after: dict[str, Any] = {_WORDS[name]: _in_words(name, getattr(program, name)) for name in changed}
    if due:
        after["not before"] = due.isoformat()
    if retry_of:
        after["attempt"] = run.attempt
    if schedule:
        after["by its schedule"] = schedule.clock.words
    _record("started", run, by=by, after=after)
    return run


def check_ranks(program: Program, is_due: bool) -> None:
    """Raises `PortalError` where no cluster that it may find has so many cores: one that is there may be scaled."""
    cluster = program.cluster
    if program.dedicated:
        wanted = Specification.read(program.dedicated)
        nodes, cores, where = wanted.node_count, wanted.instance_type.cores, f"a cluster of {wanted.nodes}"
    elif cluster and is_due:
        nodes, cores, where = max(cluster.node_count, cluster.scale_to or 0), cluster.cores_per_node, cluster.name
    else:
        return
    size: dict[str, Any] = {"nodes": nodes, "cores_per_node": cores, "where": where}
    if why := rules.too_many_ranks(program.ranks, program.ranks_per_node, **size):
        raise PortalError(why, advice="Ask for fewer ranks, or choose a larger cluster.", field="ranks", code="ranks")


def values_of_run(
    job: int, number: int, cluster: Cluster, program: Program, store: str, *, by: User | None, uuid: UUID
) -> tuple[dict[str, Any], dict[str, Any]]:
    """By the names of attributes, of a new run and of its output: what a run has of its job is copied here alone.

    `job`: its primary key. The cluster is in its workspace.
    """
    run = {
        **dict(zip(_COPIED, _copied_of(program), strict=True)),
        "uuid": uuid,
        "workspace_id": cluster.workspace_id,
        "job_id": job,
        "number": number,
        "cluster_id": cluster.pk,
        "time_limit": program.time_limit or settings.RUN_SECONDS,
        "environment": dict(program.environment),
        "pauses": program.pauses and not program.dedicated,
        "started_by_id": by.pk if by else None,
    }
    return run, {"uuid": uuid4(), "store": store, "folder": f"outputs/{cluster.workspace.uuid}/{uuid}"}


def _cluster_of(job: Job, program: Program) -> Cluster:
    """That of the program, as it is now, where it may take one more run. Raises `PortalError`."""
    assert program.cluster is not None
    cluster = job.cluster
    if cluster is None or program.cluster != cluster:
        cluster = Cluster.objects.get(pk=program.cluster.pk)
    cluster.workspace = job.workspace
    if cluster.status in GONE:
        raise PortalError(f"{cluster.name} is {cluster.badge.word}. Choose another cluster.", code=CLUSTER_GONE)
    if len(_waiting_for(cluster.pk)) >= MOST_WAITING:
        raise PortalError(f"{MOST_WAITING} runs wait for {cluster.name} already.")
    return cluster


def _cluster_for(job: Job, number: int, wanted: Specification, by: User | None) -> Cluster:
    """One that is dedicated to this run, called after it; nothing of it is made yet. Raises `PortalError`."""
    locked(job.workspace)  # two jobs whose names differ in letters alone would have clusters of one name
    coming = Cluster.objects.live().filter(workspace=job.workspace, dedicated=True, status=Cluster.Status.NEW)
    if coming.filter(runs__job=job).count() >= MOST_WAITING:
        raise PortalError(f"{MOST_WAITING} runs of {job} wait for their time already.")
    plain = unicodedata.normalize("NFKD", job.name).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:28].rstrip("-")
    stem = stem if stem[:1].isalpha() else f"job-{stem}".rstrip("-")
    name = f"{stem}-{number}"
    if job.workspace.clusters.live().filter(name=name).exists():
        name = f"{name}-{uuid4().hex[:6]}"
    return create_cluster(
        job.workspace, name=name, **wanted.chosen, description="", auto_repair=True, dedicated=True, by=by
    )


def _look_at_cluster(run: Run) -> None:
    """It has to wait, perhaps because a timer was a moment earlier: a pause gives way, a deletion is said. A cluster
    that is PAUSED is resumed, where that is wanted.

    One that comes later finds that somebody was active: others do not see yet that the run waits.
    """
    cluster = run.cluster
    if resume_for(run) or cluster.note_activity():
        return
    cluster.refresh_from_db(fields=["status"])
    if cluster.status in GONE:
        raise PortalError(f"{cluster.name} is {cluster.badge.word}. Choose another cluster.", code=CLUSTER_GONE)
    if cluster.status == Cluster.Status.PAUSING:
        give_way(cluster)


def repeat_run(run: Run, *, by: User, uuid: UUID | None = None) -> Run:
    """The same once more: of the same commit, on the same cluster or on one like it. Raises `PortalError`."""
    if not run.commit:
        raise PortalError("It did not come so far that its commit is known. Run the job again.")
    program = replace(Program.of_run(run), reference=run.commit)
    return start_run(run.job, by=by, uuid=uuid, program=program)


@audit.atomic()
def dismiss_run(run: Run, *, by: User) -> bool:
    """Nobody needs to be told any more that it failed, and it is not tried again. False when that was so already."""
    open_ones = Run.objects.filter(Q(needs_you=True) | Q(retry_at__isnull=False), pk=run.pk)
    if not open_ones.update(needs_you=False, retry_at=None):
        return False
    live.ring(*run.live_names())
    _record("dismissed", run, by=by)
    return True


@audit.atomic()
def cancel_run(run: Run, *, by: User) -> bool:
    """Ask for it; a worker ends it on every node. One that still waits has ended at once. False when it had ended."""
    now_or_later = _cancel_waiting(run, by) or _cancel_begun(run, by)
    if now_or_later:
        _record("cancelled", run, by=by)
    return now_or_later


def _cancel_waiting(run: Run, by: User) -> bool:
    waiting = Run.objects.waiting().filter(pk=run.pk)
    changes = {"status": Run.Status.CANCELLED, "turn": now(), "ended": now(), "cause": f"Cancelled by {by}."}
    if not waiting.update(**changes, cancelled_by=by):
        return False
    run.output.end()
    live.ring(live.WATCH_WAITING, *run.live_names())  # a cluster of its own is to be ended
    return True


def _cancel_begun(run: Run, by: User) -> bool:
    run.refresh_from_db(fields=["status", "turn"])
    task = run.last_task
    return not run.is_finished and task is not None and ledger.cancel_task(task, by=by)


def _record(verb: str, run: Run, *, by: User | None, after: dict[str, Any] | None = None) -> None:
    workspace = run.job.workspace
    audit.record(verb, run, organization=workspace.organization, by=by, workspace=workspace, after=after)


def _cancel(pk: int, by: User) -> None:
    cancel_run(Run.objects.select_related("job__workspace__organization", "cluster", "output").get(pk=pk), by=by)


def holdings(
    organization: Organization,
    *,
    seen_by: User | None = None,
    started_by: User | None = None,
    workspace: Workspace | None = None,
) -> list[Holding]:
    """Runs that have not ended."""
    runs = Run.objects.where(seen_by, Can.VIEW) if seen_by else Run.objects.all()
    runs = runs.unfinished().filter(workspace__organization=organization)
    if started_by:
        runs = runs.filter(started_by=started_by)
    if workspace:
        runs = runs.filter(workspace=workspace)
    said = runs.for_lists().select_related(None).select_related("job", "workspace")
    return [
        Holding(str(run), run.workspace.name, run.badge, reverse("run", args=[run.uuid]), partial(_cancel, run.pk))
        for run in said.only("uuid", "number", "status", "turn", "job__name", "workspace__name").order_by("-pk")
    ]
