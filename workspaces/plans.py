"""How a workspace is made, and taken apart again."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction

from accounts import audit
from portal import ssh
from portal.clouds.errors import PortalError, Refused
from portal.tasks.ledger import Plan, StepPlan, Work
from portal.tasks.models import Task, TaskStatus
from workspaces.models import Workspace


def check_cloud(work: Work) -> None:
    identity = work.subject.cloud.check()
    work.log(f"{identity.name}{f', {identity.detail}' if identity.detail else ''}.")


def make_keys(work: Work) -> None:
    workspace: Workspace = work.subject
    if not workspace.login_public:
        private, public = ssh.new_key(f"coxswain {workspace.uuid}")
        with transaction.atomic():
            work.prove()
            workspace.keep_login_key(private, public)
            organization = workspace.organization
            audit.record("kept login key of", workspace, organization=organization, workspace=workspace, by=None)
    work.log("The portal's key for the nodes of this workspace is made and kept encrypted.")


def make_network(work: Work) -> None:
    work.subject.cloud.ensure_network(work.subject.tags())


def drop_network(work: Work) -> None:
    work.subject.cloud.delete_network(work.subject.tags())


def make_filesystem(work: Work) -> None:
    work.subject.cloud.ensure_filesystem(work.subject.tags())


def drop_filesystem(work: Work) -> None:
    work.subject.cloud.delete_filesystem(work.subject.tags())


def check_nothing_is_left(work: Work) -> None:
    left = work.subject.cloud.leftovers(work.subject.tags())
    if left:
        raise PortalError(
            f"Still there: {', '.join(f'{r.kind} {r.id}' for r in left)}.",
            advice="Try again. If it stays, delete it in the cloud's own console.",
        )
    work.log("Confirmed gone: the cloud lists nothing of this workspace any more.")


def check_empty(work: Work) -> None:
    """The rows were checked when the person asked; what really runs is asked now."""
    workspace: Workspace = work.subject
    if workspace.clusters.live().exists():
        raise Refused("There are clusters in this workspace.", advice="Delete them first.")


def begin_create(task: Task) -> None:
    task.subject.move(Workspace.Status.INPROGRESS)


def settle_create(task: Task) -> None:
    to = {TaskStatus.FINISHED: Workspace.Status.READY, TaskStatus.CANCELLED: Workspace.Status.TERMINATED}
    task.subject.move(to.get(TaskStatus(task.status), Workspace.Status.FAILED))


def begin_delete(task: Task) -> None:
    task.subject.move(Workspace.Status.TERMINATING)


def settle_delete(task: Task) -> None:
    done = task.status == TaskStatus.FINISHED
    task.subject.move(Workspace.Status.TERMINATED if done else Workspace.Status.FAILED)


CREATE = Plan(
    [
        StepPlan("check", "Check the cloud configuration", check_cloud),
        StepPlan("keys", "Make the portal's key", make_keys),
        StepPlan("network", "Make the network", make_network, undo=drop_network),
        StepPlan("filesystem", "Make the shared filesystem", make_filesystem, undo=drop_filesystem),
    ],
    queue="provision",
    begin=begin_create,
    settle=settle_create,
)

DELETE = Plan(
    [
        StepPlan("empty", "Check that the workspace is empty", check_empty),
        *CREATE.teardown(),
        StepPlan("gone", "Ask the cloud what is left", check_nothing_is_left, limit=timedelta(minutes=30)),
    ],
    queue="teardown",
    begin=begin_delete,
    settle=settle_delete,
    undo_on_cancel=False,
)
