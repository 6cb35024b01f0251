"""How a workspace is made, and taken apart again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from django.db import transaction

from accounts import audit
from portal import ssh
from portal.clouds import Can
from portal.errors import PortalError, Refused
from portal.secrets import CannotDecrypt
from portal.tasks.ledger import Work
from portal.tasks.models import CANCELLED, FAILED, FINISHED, Task
from portal.tasks.plans import Plan, StepPlan
from workspaces import documents, ending
from workspaces.models import Workspace

Status = Workspace.Status


def check_cloud(work: Work) -> None:
    identity = work.subject.cloud_config.account.check()
    work.log(f"{identity.name}{f', {identity.detail}' if identity.detail else ''}.")


def make_keys(work: Work) -> None:
    workspace: Workspace = work.subject
    if not workspace.login_public:
        private, public = ssh.new_key(f"coxswain {workspace.uuid}")
        with audit.atomic():
            work.prove()
            workspace.keep_login_key(private, public)
            organization = workspace.organization
            audit.record("kept login key of", workspace, organization=organization, workspace=workspace, by=None)
    work.log("The portal's key for the nodes of this workspace is made and kept encrypted.")


def forget_keys(work: Work) -> None:
    """Once more: who had something kept at the moment when the person asked was perhaps not seen then."""
    with transaction.atomic():
        ending.forget_secrets(work.subject)
        work.prove()


def write_document(work: Work) -> None:
    documents.write(work)


def make_network(work: Work) -> None:
    work.ask(lambda token: work.subject.cloud.ensure_network(work.subject.spec, token=token))


def drop_network(work: Work) -> None:
    work.ask(lambda token: work.subject.cloud.delete_network(work.subject.tags(), token=token))


def make_filesystem(work: Work) -> None:
    work.ask(lambda token: work.subject.cloud.ensure_filesystem(work.subject.spec, token=token))


def drop_filesystem(work: Work) -> None:
    work.ask(lambda token: work.subject.cloud.delete_filesystem(work.subject.tags(), token=token))


def check_nothing_is_left(work: Work) -> None:
    cloud = work.subject.cloud
    if left := cloud.leftovers(work.subject.tags()):
        work.wait(max(5, cloud.look_in), f"Still there: {', '.join(map(str, left))}")
    work.log("Confirmed gone: the cloud lists nothing of this workspace any more.")


def check_empty(work: Work) -> None:
    """The rows were checked when the person asked; what really runs is asked now."""
    workspace: Workspace = work.subject
    if workspace.clusters.live().exists():
        raise Refused("There are clusters in this workspace.", advice="Delete them first.")


def detach_roles(work: Work) -> None:
    """Those of the account's owner that are registered in it. They stay in the account."""
    for role in work.subject.instance_roles.live():
        is_free = role.detach()
        with transaction.atomic():
            work.prove()
            if role.move(role.Status.TERMINATED):
                work.log(f"{role}: what the portal gave it is {'taken away' if is_free else 'needed elsewhere'}.")


def look_what_stays(work: Work) -> None:
    """For whoever has to take it away by hand. A cloud that cannot be asked keeps no workspace."""
    try:
        left = work.subject.cloud.leftovers(work.subject.tags())
    except PortalError as error:
        work.log(f"The cloud does not say what is left: {error.message}")
    except CannotDecrypt:
        work.log("The cloud cannot be asked what is left: the credentials of its configuration cannot be opened.")
    else:
        work.log(f"Left where it is: {', '.join(map(str, left))}." if left else "The cloud lists nothing of it.")


def forget(work: Work) -> None:
    with audit.atomic():
        ending.forget_secrets(work.subject)
        work.prove()
        for role in work.subject.instance_roles.live():
            if role.move(role.Status.TERMINATED):
                work.log(f"The instance role {role} keeps what the portal gave it.")


CREATE = Plan(
    "workspaces.create",
    "Create workspace",
    "made",
    [
        StepPlan("check", "Check the cloud configuration", check_cloud, icon="bi-shield-check"),
        StepPlan(
            "keys",
            "Make the portal's key",
            make_keys,
            forget_keys,
            undo_title="Forget the portal's key, passwords and secret variables",
            why="for the nodes of this workspace; it is kept encrypted",
            icon="bi-key",
        ),
        StepPlan(
            "document",
            "Write down what is to be made",
            write_document,
            documents.remove,
            undo_title="Take away what was written down",
            why="in the cloud configuration's own store, for whoever owns the account",
            icon="bi-list-ol",
            needs=Can.STORE,
        ),
        StepPlan(
            "network",
            "Make the network",
            make_network,
            drop_network,
            undo_title="Take the network away",
            needs=Can.NETWORK,
            icon="bi-diagram-3",
        ),
        StepPlan(
            "filesystem",
            "Make the shared filesystem",
            make_filesystem,
            drop_filesystem,
            undo_title="Delete the shared filesystem",
            needs=Can.FILESYSTEM,
            why="every node of every cluster in here sees it as /shared",
            icon="bi-folder2",
            taken="Make its folder on the shared path",
            why_taken="for the workspace's files; only what has its mark is ever deleted",
            undo_taken="Delete its folder on the shared path",
        ),
    ],
    queue="provision",
    locks=True,
    during=Status.INPROGRESS,
    then={FINISHED: Status.READY, FAILED: Status.FAILED, CANCELLED: Status.TERMINATED},
)


def is_there_again(task: Task) -> None:
    if task.status == FINISHED:
        Workspace.objects.filter(pk=task.subject_id).update(missing_since=None)


# The same steps: each finds what is there, and makes what is missing. The workspace stays READY, and in use.
UPDATE = replace(
    CREATE,
    kind="workspaces.update",
    title="Update infrastructure of",
    participle="updated",
    steps=[replace(step, undo=None, undo_title="") for step in CREATE.steps],
    during="",
    then={},
    settle=is_there_again,
    undoes_on_cancel=False,
)

# Gone from the moment when a person asks, however it ends: what is to be deleted is never READY again.
_SECRETS = "Saved Git credentials; passwords, access tokens and secret variables of its jobs"

DELETE = Plan(
    "workspaces.delete",
    "Delete workspace",
    "deleted",
    [
        StepPlan("empty", "Check that the workspace is empty", check_empty, icon="bi-search"),
        StepPlan(
            "roles",
            "Take from instance roles what the portal gave them",
            detach_roles,
            icon="bi-person-dash",
            needs=Can.ROLE,
        ),
        *CREATE.teardown(),
        StepPlan(
            "gone",
            "Ask the cloud what is left",
            check_nothing_is_left,
            icon="bi-check2-all",
            limit=timedelta(minutes=30),
        ),
    ],
    queue="teardown",
    locks=True,
    during=Status.TERMINATING,
    then={FINISHED: Status.TERMINATED, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    undoes_on_cancel=False,
    undoes=CREATE,
    destroys=("The shared filesystem and everything in it", "The network and the portal's key", _SECRETS),
    gives_back=("Its folder on the shared path, with everything in it", "The portal's key", _SECRETS),
    spares=("Jobs, runs and their output", "The audit"),
)

# Of one whose deletion has failed: see `actions.forget_workspace`. What stays is a stray that the portal leaves alone.
FORGET = Plan(
    "workspaces.forget",
    "Forget workspace",
    "forgotten",
    [
        StepPlan("look", "Ask the cloud what is there", look_what_stays, icon="bi-search"),
        StepPlan("forget", "Forget the portal's key", forget, icon="bi-eraser"),
    ],
    queue="teardown",
    during=Status.TERMINATING,
    begins={Status.FAILED},
    then={FINISHED: Status.TERMINATED, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    undoes_on_cancel=False,
    undoes=CREATE,
    destroys=(
        "The workspace in the portal: nobody can enter it any more, or bring it back",
        "The portal's key",
        _SECRETS,
    ),
    spares=(
        "Whatever of it is in the cloud: nobody takes it away, and the account goes on paying for it",
        "Jobs, runs and their output",
        "The audit",
    ),
)
