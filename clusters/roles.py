"""Instance roles: what people do with them, and how one gets what every node needs in its account."""

from __future__ import annotations

from uuid import UUID

from accounts import audit
from accounts.models import User
from clusters.models import InstanceRole
from portal.clouds import Can
from portal.clouds.types import not_here
from portal.errors import Conflict, PortalError, Refused
from portal.once import uuid_for
from portal.tasks.ledger import Work, start_task
from portal.tasks.models import CANCELLED, FAILED, FINISHED, Task
from portal.tasks.plans import Plan, StepPlan
from workspaces.models import Workspace

Status = InstanceRole.Status


def look(work: Work) -> None:
    role: InstanceRole = work.subject
    found = role.workspace.cloud_config.account.check_role(role.arn)
    work.log(f"{found.detail or found.name} is there, and trusts EC2.")


def attach(work: Work) -> None:
    role: InstanceRole = work.subject
    role.workspace.cloud_config.account.attach_role(role.arn)
    work.log("It has the policy that every node needs, and an instance profile by which nodes get it.")


def detach(work: Work) -> None:
    role: InstanceRole = work.subject
    if role.detach():
        work.log("What the portal gave it is taken away. The role stays in the account.")
    else:
        work.log("It is registered in another workspace too, and keeps what the portal gave it.")


ATTACH = Plan(
    "roles.attach",
    "Validate instance role",
    "validated",
    [
        StepPlan("look", "Look for the role", look, why="that it is in this account, and trusts EC2", icon="bi-search"),
        StepPlan(
            "attach",
            "Give it what every node needs",
            attach,
            why="one policy, and an instance profile where it has none",
            icon="bi-person-badge",
        ),
    ],
    queue="provision",
    during=Status.INPROGRESS,
    then={FINISHED: Status.ACTIVE, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    needs=Can.ROLE,
    undoes_on_cancel=False,
)

DETACH = Plan(
    "roles.detach",
    "Remove instance role",
    "removed",
    [StepPlan("detach", "Take away what the portal gave it", detach, icon="bi-person-dash")],
    queue="teardown",
    during=Status.TERMINATING,
    then={FINISHED: Status.TERMINATED, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    needs=Can.ROLE,
    undoes_on_cancel=False,
    destroys=("Its entry here: no cluster can be given it any more", "The policy that the portal gave it"),
    spares=("The role in the account, with its own policies",),
)
PLANS = (ATTACH, DETACH)


@audit.atomic()
def register(
    workspace: Workspace, *, name: str, arn: str, description: str = "", by: User | None, uuid: UUID | None = None
) -> InstanceRole:
    """The role and the task that validates it. Asked twice with one `uuid`, it is made once. Raises `PortalError`."""
    workspace = Workspace.objects.select_for_update(of=("self",), no_key=True).get(pk=workspace.pk)
    if Can.ROLE not in workspace.can:
        raise not_here(Can.ROLE, workspace.cloud_config.name)
    if workspace.status != Workspace.Status.READY:
        raise PortalError(f"{workspace.name} is {workspace.badge.word}. Roles can be registered once it is READY.")
    role, made = InstanceRole.objects.get_or_create(
        uuid=uuid_for(InstanceRole, uuid, workspace=workspace),
        workspace=workspace,
        defaults={"name": name, "arn": arn, "description": description, "created_by": by},
    )
    if made:
        _start(role, ATTACH, by=by)
        _record("registered", role, by=by, after={"role": arn, "description": description})
    return role


@audit.atomic()
def validate(role: InstanceRole, *, by: User) -> Task:
    """Look for it again, and attach what it lacks. Clusters that have it go on. Raises `PortalError`."""
    task = _start(role, ATTACH, by=by)
    _record("validated", role, by=by)
    return task


@audit.atomic()
def remove(role: InstanceRole, *, by: User) -> Task:
    """Raises `PortalError`, also while a live cluster has it: who makes one meanwhile has made it, or is refused."""
    Workspace.objects.select_for_update(of=("self",), no_key=True).get(pk=role.workspace_id)
    if user := role.clusters.order_by("name").first():
        raise Conflict(f"{role} is in use by the cluster {user}.", advice="Delete that cluster first.")
    task = _start(role, DETACH, by=by)
    _record("removed", role, by=by, after={"role": role.arn})
    return task


@audit.atomic()
def forget(role: InstanceRole, *, by: User) -> None:
    """It is TERMINATED, and what the portal gave the account's role stays with it. Raises `PortalError`.

    Only where its removal has failed: that would take it away.
    """
    Workspace.objects.select_for_update(of=("self",), no_key=True).get(pk=role.workspace_id)
    if not may_be_forgotten(role) or not role.move(Status.TERMINATED):
        raise Conflict(f"{role} is forgotten only where its removal has failed.", advice="Remove it first.")
    _record("forgot", role, by=by, after={"role": role.arn})


def may_be_forgotten(role: InstanceRole) -> bool:
    last = role.last_task
    return role.status == Status.FAILED and last is not None and last.kind == DETACH.kind


def role_for(workspace: Workspace, arn: str) -> InstanceRole:
    """The one that a cluster of the workspace can be given. Raises `Refused`."""
    found = InstanceRole.objects.staying().filter(workspace=workspace, arn=arn).first()
    if found is None:
        raise Refused(f"No instance role of {workspace} is {arn}.", advice="Create it under Instance roles first.")
    if found.status != Status.ACTIVE:
        raise Refused(
            f"The instance role {found} is {found.badge.word}. Clusters can have it once it is ACTIVE.",
            advice="Validate it on its page.",
        )
    return found


def _start(role: InstanceRole, plan: Plan, *, by: User | None) -> Task:
    return start_task(role, plan.kind, by=by, cloud=role.workspace.cloud_config.kind)


def _record(verb: str, role: InstanceRole, *, by: User | None, after: dict[str, str] | None = None) -> None:
    organization = role.workspace.organization
    audit.record(verb, role, organization=organization, workspace=role.workspace, by=by, after=after or {})
