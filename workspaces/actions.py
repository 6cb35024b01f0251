"""What people do with cloud configurations and workspaces. Each is one transaction; work is queued on commit."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import transaction

from accounts import audit
from accounts.access import WorkspaceRole
from accounts.models import Organization, User
from portal.clouds.errors import PortalError
from portal.tasks.ledger import start_task
from portal.tasks.models import Task
from workspaces.models import CloudConfig, Workspace, WorkspaceMember, workspace_of


@transaction.atomic
def create_cloud_config(
    organization: Organization, *, name: str, kind: CloudConfig.Kind, by: User | None, uuid: UUID | None = None
) -> CloudConfig:
    """Asked twice with one `uuid` (a form sent twice), the second call returns what the first made."""
    config, made = CloudConfig.objects.get_or_create(
        uuid=uuid or uuid4(), organization=organization, defaults={"name": name, "kind": kind, "created_by": by}
    )
    if made:
        audit.record("created", config, organization=organization, by=by, after={"name": name, "cloud": kind})
    return config


@transaction.atomic
def create_workspace(
    organization: Organization,
    *,
    name: str,
    cloud_config: CloudConfig,
    region: str,
    by: User,
    uuid: UUID | None = None,
) -> Workspace:
    """The workspace and the task that makes it. Whoever makes it is its first admin. Twice with one `uuid`: once."""
    workspace, made = Workspace.objects.get_or_create(
        uuid=uuid or uuid4(),
        organization=organization,
        defaults={"name": name, "cloud_config": cloud_config, "region": region, "created_by": by},
    )
    if made:
        WorkspaceMember.objects.create(workspace=workspace, user=by, role=WorkspaceRole.ADMIN)
        start_task(workspace, "workspaces.create", title=f"Create workspace {name}", by=by, cloud=cloud_config.kind)
        after = {"cloud configuration": cloud_config, "region": region}
        audit.record("created", workspace, organization=organization, workspace=workspace, by=by, after=after)
    return workspace


@transaction.atomic
def delete_workspace(workspace: Workspace, *, by: User) -> Task:
    """Raises `PortalError` where something still lives in it, or it is not in a state to be deleted."""
    if workspace.clusters.live().exists():
        raise PortalError("Delete the clusters of this workspace first.")
    if not workspace.move(Workspace.Status.TERMINATING):
        raise PortalError(f"{workspace.name} cannot be deleted while it is {workspace.badge.word}.")
    task = start_task(
        workspace,
        "workspaces.delete",
        title=f"Delete workspace {workspace.name}",
        by=by,
        cloud=workspace.cloud_config.kind,
    )
    audit.record("deleted", workspace, organization=workspace.organization, workspace=workspace, by=by)
    return task


def record_task(verb: str, task: Task, *, by: User) -> None:
    """That a person cancelled or tried again what is done to something. `settings.AUDIT_TASK` names this."""
    workspace = workspace_of(task.subject)
    audit.record(
        verb,
        task.subject,
        organization=workspace.organization,
        workspace=workspace,
        by=by,
        after={"task": task.title},
    )
