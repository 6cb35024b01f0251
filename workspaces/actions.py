"""What people do with cloud configurations and workspaces. Each is one transaction; work is queued on commit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.urls import reverse
from django.utils.timezone import now

from accounts import audit
from accounts.access import Can, WorkspaceRole
from accounts.actions import addresses_of, cancel_all, hold, tell
from accounts.holdings import Holding
from accounts.holdings import holdings as all_holdings
from accounts.models import Organization, User
from portal import secrets
from portal.errors import Conflict, PortalError
from portal.once import uuid_for
from portal.tasks.ledger import cancel_task, start_task
from portal.tasks.models import Task
from portal.tasks.plans import Plan
from workspaces import plans, pools
from workspaces.ending import forget_secrets
from workspaces.models import CloudConfig, Workspace, WorkspaceMember


@audit.atomic()
def create_cloud_config(
    organization: Organization,
    *,
    name: str,
    kind: CloudConfig.Kind,
    by: User | None,
    options: Mapping[str, Any] = MappingProxyType({}),
    credentials: str = "",
    uuid: UUID | None = None,
) -> CloudConfig:
    """Asked twice with one `uuid` (a form sent twice), the second call returns what the first made.

    `options` and `credentials` are in the words of its kind of cloud; the second are sealed, and nobody is shown them.
    """
    config, made = CloudConfig.objects.get_or_create(
        uuid=uuid_for(CloudConfig, uuid, organization=organization),
        organization=organization,
        defaults={"name": name, "kind": kind, "options": dict(options), "created_by": by},
    )
    if made:
        if credentials:
            secrets.seal(config, "credentials", credentials)
            config.save(update_fields=["credentials"])
        audit.record("created", config, organization=organization, by=by, after={"cloud": config.get_kind_display()})
    return config


@audit.atomic()
def change_cloud_config(
    config: CloudConfig,
    *,
    name: str,
    by: User,
    options: Mapping[str, Any] = MappingProxyType({}),
    credentials: str = "",
) -> list[str]:
    """What differs from what it has, by value, is changed; options that are not given, and credentials that are empty,
    stay. Returns what changed, in words. Raises `Taken`, or `Conflict` where it was deleted meanwhile.

    Workspaces that use it are asked for under what is so now from their next step on.
    """
    row = CloudConfig.objects.select_for_update(of=("self",), no_key=True).live().filter(pk=config.pk).first()
    if row is None:
        raise Conflict(f"The cloud configuration {config} was deleted.")
    row.organization = config.organization
    others = {key: value for key, value in options.items() if row.options.get(key) != value}
    before = {_words(key): row.options.get(key, "") for key in others}
    after = {_words(key): value for key, value in others.items()}
    if name != row.name:
        before, after = {"name": row.name} | before, {"name": name} | after
    if credentials and not _are(row, credentials):
        secrets.seal(row, "credentials", credentials)
        after["credentials"] = "others"
    if after:
        row.name, row.options = name, row.options | others
        row.save(update_fields=["name", "options", "credentials"])
        config.name, config.options, config.credentials = row.name, row.options, row.credentials
        audit.record("changed", row, organization=row.organization, by=by, before=before, after=after)
    return list(after)


def _words(option: str) -> str:
    return option.replace("_", " ")


def _are(config: CloudConfig, credentials: str) -> bool:
    """Whether its credentials are these. Those that cannot be opened any more are others."""
    try:
        return bool(config.credentials) and secrets.unseal(config, "credentials") == credentials
    except secrets.CannotDecrypt:
        return False


@audit.atomic()
def rename(workspace: Workspace, name: str, *, by: User) -> None:
    """Raises `Taken` where another one has taken the name meanwhile. What is in the cloud is known by its id."""
    before = workspace.name
    if before == name:
        return
    Workspace.objects.filter(pk=workspace.pk).update(name=name)
    workspace.name = name
    audit.record(
        "renamed",
        workspace,
        organization=workspace.organization,
        workspace=workspace,
        by=by,
        before={"name": before},
        after={"name": name},
    )


@audit.atomic()
def delete_cloud_config(config: CloudConfig, *, by: User) -> None:
    """Its name is free then, and its pools are gone; its row stays for what was made by it.

    Raises `PortalError` while a workspace uses it, or a cluster has a computer of it.
    """
    pools.hold(config)
    locked = CloudConfig.objects.select_for_update(no_key=True).live().filter(pk=config.pk).first()
    if locked is None:
        return
    if locked.workspaces.live().exists():
        raise PortalError("Delete the workspaces that use this cloud configuration first.")
    pools.forget(locked)
    locked.deleted = now()
    locked.save(update_fields=["deleted"])
    audit.record("deleted", locked, organization=locked.organization, by=by)


def close(organization: Organization) -> None:
    """At the end of an organization: its pools go with their keys. Raises `Conflict` while a computer is taken."""
    for config in organization.cloud_configs.live().order_by("pk"):
        pools.hold(config)
        pools.forget(config)


@audit.atomic()
def create_workspace(
    organization: Organization,
    *,
    name: str,
    cloud_config: CloudConfig,
    region: str,
    by: User,
    uuid: UUID | None = None,
    choices: Mapping[str, str] = MappingProxyType({}),
    extra_tags: Mapping[str, str] = MappingProxyType({}),
) -> Workspace:
    """The workspace and the task that makes it. Whoever makes it is its first admin. Twice with one `uuid`: once.

    `choices` are in the words of its kind of cloud, as `clouds.WorkspaceSpec` has them.

    Raises `Conflict` where the organization or the cloud configuration was deleted meanwhile.
    """
    hold(organization)
    if not CloudConfig.objects.select_for_update(no_key=True).live().filter(pk=cloud_config.pk).exists():
        raise Conflict(f"The cloud configuration {cloud_config} was deleted. Choose another one.", field="cloud_config")
    known = Workspace.objects.filter(uuid=uuid, organization=organization) if uuid else Workspace.objects.none()
    if not known.exists() and (why := pools.why_not(cloud_config, region)):
        raise Conflict(why, field="region")
    workspace, made = Workspace.objects.get_or_create(
        uuid=uuid_for(Workspace, uuid, organization=organization),
        organization=organization,
        defaults={
            "name": name,
            "cloud_config": cloud_config,
            "region": region,
            "choices": dict(choices),
            "extra_tags": dict(extra_tags),
            "created_by": by,
        },
    )
    if made:
        WorkspaceMember.objects.create(workspace=workspace, user=by, role=WorkspaceRole.ADMIN)
        start_task(workspace, "workspaces.create", by=by, cloud=cloud_config.kind)
        after = {"cloud configuration": cloud_config.name, "region": region, **choices}
        audit.record("created", workspace, organization=organization, by=by, workspace=workspace, after=after)
    return workspace


@audit.atomic()
def update_workspace(workspace: Workspace, *, by: User) -> Task:
    """Its plan is applied anew while it stays in use. Raises `PortalError` where it is not READY, or is worked on."""
    task = start_task(workspace, plans.UPDATE.kind, by=by, cloud=workspace.cloud_config.kind)
    # Looked at once no other task of it goes on: whoever deletes it has begun before, or is refused.
    workspace.refresh_from_db(fields=["status"])
    if workspace.status != Workspace.Status.READY:
        raise Conflict(f"{workspace} cannot be updated while it is {workspace.badge.word}.")
    audit.record("updated", workspace, organization=workspace.organization, by=by, workspace=workspace)
    return task


def alive_in(workspace: Workspace) -> list[Holding]:
    """What has to go before the workspace can: clusters that are there, and runs that have not ended."""
    own = reverse("workspace", args=[workspace.uuid])
    return [one for one in all_holdings(workspace.organization, workspace=workspace) if one.url != own]


@audit.atomic()
def delete_workspace(workspace: Workspace, *, by: User) -> Task:
    """Raises `PortalError` where something still lives in it, or it is not in a state to be deleted."""
    return _end_workspace(workspace, plans.DELETE, by=by)


@audit.atomic()
def forget_workspace(workspace: Workspace, *, by: User) -> Task:
    """It is TERMINATED, and what there is of it stays where it is. Raises `PortalError`.

    Only where its deletion has failed: that would take it away.
    """
    workspace.refresh_from_db(fields=["status"])
    if not workspace.may_be_forgotten:
        raise Conflict(f"{workspace} is forgotten only where its deletion has failed.", advice="Delete it first.")
    return _end_workspace(workspace, plans.FORGET, by=by)


def _end_workspace(workspace: Workspace, plan: Plan, *, by: User) -> Task:
    forget_secrets(workspace)
    task = start_task(workspace, plan.kind, by=by, cloud=workspace.cloud_config.kind)
    # Looked for once the workspace is TERMINATING: whoever makes a cluster meanwhile has made it, or is refused.
    if workspace.clusters.live().exists():
        raise PortalError("Delete the clusters of this workspace first.")
    if alive := alive_in(workspace):
        raise PortalError(f"Something goes on in this workspace: {', '.join(one.name for one in alive[:3])}.")
    audit.record(plan.participle, workspace, organization=workspace.organization, by=by, workspace=workspace)
    return task


def cancel(task: Task, by: User) -> None:
    """Ask for it, and write down who did."""
    if cancel_task(task, by=by):
        record_task("cancelled", task, by=by)


def record_task(verb: str, task: Task, *, by: User) -> None:
    """The audit entry of what a person does with a task itself: of which organization it is, its subject knows."""
    workspace = task.subject.workspace
    organization = (workspace or task.subject.cloud_config).organization
    audit.record(verb, task, organization=organization, by=by, workspace=workspace)


LAST_ADMIN = (
    "The workspace would have no admin left. Make somebody else its admin first, or ask an admin of the organization."
)


def is_last_admin(member: WorkspaceMember) -> bool:
    """Whether nobody else administers the workspace. After `_held`, no other admin goes meanwhile."""
    admins = WorkspaceMember.objects.filter(workspace=member.workspace_id, role=WorkspaceRole.ADMIN)
    return set(admins.values_list("pk", flat=True)) == {member.pk}


def _held(member: WorkspaceMember) -> WorkspaceMember | None:
    """As it is now, locked with all admins of the workspace, in one order; None where it is gone."""
    rows = WorkspaceMember.objects.select_for_update(of=("self",), no_key=True).filter(workspace=member.workspace_id)
    held = rows.filter(Q(role=WorkspaceRole.ADMIN) | Q(pk=member.pk)).select_related("workspace__organization", "user")
    return next((row for row in list(held.order_by("pk")) if row.pk == member.pk), None)


def _keep_an_admin(member: WorkspaceMember, by: User) -> None:
    """Whoever administers the organization can do without: they may give the workspace another admin at any time."""
    organizations = Organization.objects.where(by, Can.MANAGE_ORGANIZATION)
    if is_last_admin(member) and not organizations.filter(pk=member.workspace.organization_id).exists():
        raise PortalError(LAST_ADMIN)


@audit.atomic()
def change_workspace_role(member: WorkspaceMember, role: WorkspaceRole, *, by: User) -> None:
    """Nothing happens where they have that role already, or have been removed meanwhile.

    Raises `PortalError` where no admin would be left, unless an admin of the organization does it.
    """
    found = _held(member)
    if found is None or found.role == role:
        return
    _keep_an_admin(found, by)
    before, found.role = found.role, role
    found.save(update_fields=["role"])
    audit.record(
        "role changed",
        found.user,
        organization=found.workspace.organization,
        workspace=found.workspace,
        by=by,
        before={"role": before},
        after={"role": role},
    )
    tell(found.user, f"You are {role} of the workspace {found.workspace} now, and were {before}.", by=by)


@audit.atomic()
def remove_workspace_member(member: WorkspaceMember, *, by: User) -> None:
    """Their API tokens of the workspace go too, and what they started in it and still runs is cancelled.

    They stay in the organization, and what they made stays. Nothing happens where they have been removed meanwhile.
    Raises `PortalError` where no admin would be left, unless an admin of the organization does it.
    """
    found = _held(member)
    if found is None:
        return
    _keep_an_admin(found, by)
    workspace, user, organization = found.workspace, found.user, found.workspace.organization
    found.delete()
    running = all_holdings(organization, started_by=user, workspace=workspace)
    tokens = workspace.api_tokens.filter(owner=user, revoked=None).update(revoked=now())
    workspace.invitations.pending().filter(email__in=addresses_of(user)).update(withdrawn=now())
    audit.record(
        "removed",
        user,
        organization=organization,
        workspace=workspace,
        by=by,
        before={"role": found.role},
        after={"tokens revoked": tokens, "cancelled": cancel_all(running, of=user, by=by)},
    )
    tell(user, f"You are no longer in the workspace {workspace}.", by=by)


def holdings(
    organization: Organization,
    *,
    seen_by: User | None = None,
    started_by: User | None = None,
    workspace: Workspace | None = None,
) -> list[Holding]:
    """Workspaces that are being made. One that is being deleted goes on, whoever asked for it."""
    found = Workspace.objects.where(seen_by, Can.SEE_WORKSPACE) if seen_by else Workspace.objects.all()
    found = found.filter(organization=organization, status__in=(Workspace.Status.NEW, Workspace.Status.INPROGRESS))
    if workspace:
        found = found.filter(pk=workspace.pk)
    tasks = Task.objects.unfinished().filter(kind="workspaces.create")
    if started_by:
        tasks = tasks.filter(asked_by=started_by)
    return [
        Holding(one.name, one.name, one.badge, reverse("workspace", args=[one.uuid]), partial(_cancel_making, one))
        for one in found.filter(pk__in=tasks.values("subject_id")).order_by("-pk")
    ]


def _cancel_making(workspace: Workspace, by: User) -> None:
    for task in Task.objects.unfinished().filter(kind="workspaces.create", subject_id=workspace.pk):
        cancel(task, by)
