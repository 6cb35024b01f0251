"""What people do with jobs. Each is one transaction; work is queued on commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Max
from django.urls import reverse
from django.utils.timezone import now

from accounts import audit
from accounts.access import Can
from accounts.holdings import Holding
from accounts.models import Organization, User
from clusters.models import Cluster
from jobs.dispatch import dispatch
from jobs.models import Job, Run
from portal.errors import PortalError
from portal.secrets import redact, seal
from portal.tasks import ledger, live
from portal.tasks.models import Output
from workspaces.models import Workspace


@dataclass(frozen=True)
class Credential:
    """What a private repository asks for. The password may be an access token."""

    username: str
    password: str = field(repr=False)


MOST_WAITING = 100  # runs that may wait for one cluster


@transaction.atomic
def create_job(
    workspace: Workspace,
    *,
    name: str,
    cluster: Cluster,
    git_url: str,
    reference: str,
    command: str,
    by: User,
    time_limit: int | None = None,
    credential: Credential | None = None,
    uuid: UUID | None = None,
) -> tuple[Job, Run]:
    """The job and its first run. Asked twice with one `uuid`, both are made once. Raises `PortalError`.

    `time_limit`: seconds that a run of it may take; None: the portal's own limit.
    """
    if cluster.workspace_id != workspace.pk:
        raise PortalError("That cluster is not in this workspace.")
    job, made = Job.objects.get_or_create(
        uuid=uuid or uuid4(),
        workspace=workspace,
        defaults={
            "name": name,
            "cluster": cluster,
            "git_url": git_url,
            "reference": reference,
            "command": command,
            "time_limit": time_limit,
            "created_by": by,
        },
    )
    if not made:
        return job, job.runs.earliest("number")
    if credential:
        _keep_credential(job, credential)
    after = {"cluster": cluster.name, "source": redact(git_url), "reference": reference, "command": redact(command)}
    if credential:
        after["signs in as"] = credential.username
    audit.record("created", job, organization=workspace.organization, by=by, workspace=workspace, after=after)
    return job, start_run(job, by=by)


@transaction.atomic
def change_credential(job: Job, credential: Credential | None, *, by: User) -> None:
    """What the next run signs in to the repository with; nothing for one that everybody may read."""
    if credential is None and not job.git_password:
        return
    before = {"signs in as": job.git_username} if job.git_password else {}
    _keep_credential(job, credential)
    after = {"signs in as": credential.username} if credential else {}
    organization, workspace = job.workspace.organization, job.workspace
    audit.record(
        "changed credential", job, organization=organization, by=by, workspace=workspace, before=before, after=after
    )


def _keep_credential(job: Job, credential: Credential | None) -> None:
    job.git_username = credential.username if credential else ""
    job.git_password = ""
    if credential:
        seal(job, "git_password", credential.password)
    job.save(update_fields=["git_username", "git_password"])


@transaction.atomic
def start_run(job: Job, *, by: User | None, uuid: UUID | None = None) -> Run:
    """One more execution of the job as it is now. Asked twice with one `uuid`, it starts once. Raises `PortalError`."""
    if uuid and (found := Run.objects.filter(uuid=uuid, job=job).first()):
        return found
    place = ("workspace__organization", "workspace__cloud_config")
    cluster = Cluster.objects.select_related(*place).get(pk=job.cluster_id)
    if cluster.status in (Cluster.Status.TERMINATING, Cluster.Status.TERMINATED):
        raise PortalError(f"{cluster.name} is {cluster.badge.word}. Create a job on another cluster.")
    if cluster.runs.filter(status=Run.Status.NEW).count() >= MOST_WAITING:
        raise PortalError(f"{MOST_WAITING} runs wait for {cluster.name} already.")
    Job.objects.select_for_update().get(pk=job.pk)  # so that two at once get two numbers
    run = Run.objects.create(
        uuid=uuid or uuid4(),
        job=job,
        number=(job.runs.aggregate(last=Max("number"))["last"] or 0) + 1,
        cluster=cluster,
        git_url=job.git_url,
        reference=job.reference,
        command=job.command,
        time_limit=job.time_limit or settings.RUN_SECONDS,
        output=Output.objects.create(),
        started_by=by,
    )
    live.ring(live.WATCH_WAITING, *run.live_names())
    dispatch(cluster.pk)
    _record("started", run, by=by)
    return run


@transaction.atomic
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
    Output.objects.filter(pk=run.output_id).update(ended=True)
    live.ring(*run.live_names(), run.output.live_name)
    return True


def _cancel_begun(run: Run, by: User) -> bool:
    run.refresh_from_db(fields=["status", "turn"])
    task = run.last_task
    if run.is_finished or task is None or not ledger.cancel_task(task):
        return False
    Run.objects.filter(pk=run.pk).update(cancelled_by=by)
    return True


def _record(verb: str, run: Run, *, by: User | None) -> None:
    workspace = run.job.workspace
    audit.record(verb, run, organization=workspace.organization, by=by, workspace=workspace)


def _cancel(run: Run, by: User) -> None:
    cancel_run(run, by=by)


def holdings(
    organization: Organization,
    *,
    seen_by: User | None = None,
    started_by: User | None = None,
    workspace: Workspace | None = None,
) -> list[Holding]:
    """Runs that have not ended."""
    runs = Run.objects.where(seen_by, Can.VIEW) if seen_by else Run.objects.all()
    runs = runs.unfinished().filter(job__workspace__organization=organization)
    if started_by:
        runs = runs.filter(started_by=started_by)
    if workspace:
        runs = runs.filter(job__workspace=workspace)
    return [
        Holding(str(run), run.job.workspace.name, run.badge, reverse("run", args=[run.uuid]), partial(_cancel, run))
        for run in runs.select_related("job__workspace", "cluster").order_by("-pk")
    ]
