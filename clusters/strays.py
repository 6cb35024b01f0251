"""What people do with what was left behind in a cloud: destroy it, or make it a cluster again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.db.models.functions import Now

from accounts import audit
from accounts.models import User
from clusters import life, plans, reconcile
from clusters.models import Cluster
from portal.clouds import Can
from portal.errors import Conflict, Refused, Taken
from portal.tasks import live
from portal.tasks.ledger import Work, start_task
from portal.tasks.models import CANCELLED, FAILED, FINISHED, Task
from portal.tasks.plans import Plan, StepPlan
from portal.text import uuid_in
from workspaces.models import Stray, Workspace

Status = Stray.Status


def look(work: Work) -> None:
    """Nothing is destroyed that a row accounts for by now."""
    stray: Stray = work.subject
    if reconcile.is_accounted_for(stray):
        raise Refused("It is not left behind any more: a row of the portal accounts for it.")
    left = stray.cloud.leftovers(stray.tags)
    work.log(f"There: {', '.join(map(str, left))}." if left else "Nothing of it is there.")


def drop_nodes(work: Work) -> None:
    work.ask(lambda token: work.subject.cloud.delete_nodes(work.subject.tags, token=token))


def drop_filesystem(work: Work) -> None:
    work.ask(lambda token: work.subject.cloud.delete_filesystem(work.subject.tags, token=token))


def drop_network(work: Work) -> None:
    work.ask(lambda token: work.subject.cloud.delete_network(work.subject.tags, token=token))


def check_nothing_is_left(work: Work) -> None:
    stray: Stray = work.subject
    cloud = stray.cloud
    if left := [one for one in cloud.leftovers(stray.tags) if not one.is_looked_after]:
        work.wait(max(2, cloud.look_in), f"Still there: {', '.join(map(str, left))}")
    work.log("Confirmed gone: the cloud lists nothing of it any more.")


def write_end(task: Task) -> None:
    if task.status == FINISHED:
        Stray.objects.filter(pk=task.subject_id).update(ended=Now(), trouble="")


def _plan(kind: str, steps: list[StepPlan], destroys: Sequence[str], gives_back: Sequence[str]) -> Plan:
    return Plan(
        f"strays.destroy-{kind}",
        "Destroy",
        "destroyed",
        [
            StepPlan("look", "Look what is there", look, icon="bi-search"),
            *steps,
            StepPlan(
                "gone",
                "Ask the cloud what is left",
                check_nothing_is_left,
                icon="bi-check2-all",
                limit=timedelta(minutes=30),
            ),
        ],
        queue="teardown",
        during=Status.ENDING,
        begins={Status.THERE, Status.FAILED},
        then={FINISHED: Status.GONE, FAILED: Status.FAILED, CANCELLED: Status.THERE},
        settle=write_end,
        undoes_on_cancel=False,
        destroys=destroys,
        gives_back=gives_back,
        spares=("Whatever does not carry its tags",),
    )


DESTROY_CLUSTER = _plan(
    "cluster",
    [
        StepPlan(
            "nodes",
            "Stop the nodes, and delete them",
            drop_nodes,
            icon="bi-hdd-stack",
            taken="End what runs on the computers, and give them back",
        )
    ],
    ("Its nodes, and what is on their own disks",),
    plans.GIVEN_BACK,
)
DESTROY_WORKSPACE = _plan(
    "workspace",
    [
        StepPlan(
            "filesystem", "Delete the shared filesystem", drop_filesystem, needs=Can.FILESYSTEM, icon="bi-folder2"
        ),
        StepPlan("network", "Take the network away", drop_network, needs=Can.NETWORK, icon="bi-diagram-3"),
    ],
    ("Its shared filesystem with everything in it, and its network",),
    ("Its folder on the shared path, with everything in it",),
)
PLANS = (DESTROY_CLUSTER, DESTROY_WORKSPACE)


def plan_for(stray: Stray) -> Plan:
    return DESTROY_WORKSPACE if stray.is_workspace else DESTROY_CLUSTER


def _held(stray: Stray) -> Stray:
    """As it is now; who wants to do something else with it waits. Raises `Conflict` where it is gone, or not stray."""
    row = Stray.objects.select_for_update(of=("self",), no_key=True).get(pk=stray.pk)
    if row.ended:
        raise Conflict("It is gone already.")
    if reconcile.is_accounted_for(row):
        raise Conflict("It is not left behind any more: a row of the portal accounts for it.")
    return row


def _hold_workspace(stray: Stray) -> None:
    """Whoever deletes the workspace that it is of waits until we have ended, or has ended."""
    if uuid := uuid_in(stray.workspace_tag):
        Workspace.objects.select_for_update(of=("self",), no_key=True).filter(uuid=uuid).first()


@audit.atomic()
def destroy(stray: Stray, *, by: User | None) -> Task:
    """Take away all that carries its tags. Raises `PortalError`."""
    row = _held(stray)
    config = row.cloud_config
    title = f"Destroy {row.kind.lower()} {row.subject[:8]}"
    task = start_task(row, plan_for(row).kind, by=by, title=title, cloud=config.kind)
    before = {"what": row.name, "with": ", ".join(row.things)}
    audit.record("destroyed what was left behind in", config, organization=config.organization, by=by, before=before)
    return task


@audit.atomic()
def adopt(stray: Stray, *, by: User | None) -> Task:
    """Its cluster is there again, with the nodes that were found; what is missing is made. Raises `PortalError`."""
    _hold_workspace(stray)
    row = _held(stray)
    if row.tasks.unfinished().exists():
        raise Conflict("It is being destroyed.")
    if why := reconcile.why_not_adopted(row):
        raise Conflict(f"It cannot be adopted. {why}")
    cluster = Cluster.objects.select_related("workspace__organization").get(uuid=row.subject)
    workspace = cluster.workspace
    if workspace.clusters.live().filter(name=cluster.name).exclude(pk=cluster.pk).exists():
        raise Taken(f"There is another cluster called {cluster.name} in {workspace} by now.")
    plan = life.START if cluster.status == Cluster.Status.STOPPED else life.ADOPT
    task = start_task(cluster, plan.kind, by=by, cloud=row.cloud_config.kind)
    if row.move(Status.GONE, ended=Now()):
        live.ring(*row.live_names())
    audit.record("adopted", cluster, organization=workspace.organization, by=by, workspace=workspace)
    return task
