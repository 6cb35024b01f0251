"""What people do with jobs. Each is one transaction; work is queued on commit."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import Max

from accounts import audit
from accounts.models import User
from clusters.models import Cluster
from jobs.models import Job, Run
from portal.clouds.errors import PortalError
from portal.secrets import redact
from portal.tasks import ledger
from portal.tasks.models import Output
from workspaces.models import Workspace

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
    uuid: UUID | None = None,
) -> tuple[Job, Run]:
    """The job and its first run. Asked twice with one `uuid`, both are made once. Raises `PortalError`."""
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
            "created_by": by,
        },
    )
    if not made:
        return job, job.runs.earliest("number")
    run = start_run(job, by=by)
    after = {"cluster": cluster, "program": f"{redact(git_url)} {reference}".strip(), "command": redact(command)}
    audit.record("created", job, organization=workspace.organization, workspace=workspace, by=by, after=after)
    return job, run


@transaction.atomic
def start_run(job: Job, *, by: User | None, uuid: UUID | None = None) -> Run:
    """One more execution of the job as it is now. Asked twice with one `uuid`, it starts once. Raises `PortalError`."""
    if uuid and (found := Run.objects.filter(uuid=uuid, job=job).first()):
        return found
    place = ("workspace__organization", "workspace__cloud_config")
    cluster = Cluster.objects.select_related(*place).get(pk=job.cluster_id)
    if cluster.status in (Cluster.Status.TERMINATING, Cluster.Status.TERMINATED):
        raise PortalError(f"{cluster.name} is {cluster.badge.word}. Choose another cluster for this job.")
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
        output=Output.objects.create(),
        started_by=by,
    )
    ledger.start_task(
        run,
        "jobs.run",
        title=f"Run {run.number} of {job.name}",
        by=by,
        cloud=cluster.workspace.cloud_config.kind,
        output=run.output,
    )
    workspace = cluster.workspace
    audit.record("started", run, organization=workspace.organization, workspace=workspace, by=by)
    return run


@transaction.atomic
def cancel_run(run: Run, *, by: User | None = None) -> bool:
    """Ask for it; a worker ends it on every node. False when it had ended."""
    task = run.last_task
    asked = not run.is_finished and task is not None and ledger.cancel_task(task)
    if asked:
        workspace = run.job.workspace
        audit.record("cancelled", run, organization=workspace.organization, workspace=workspace, by=by)
    return asked
