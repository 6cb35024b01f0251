"""What jobs of a workspace sign in to Git servers with. Each action is one transaction and one entry in the audit."""

from __future__ import annotations

from uuid import UUID

from django.db.models.functions import Now

from accounts import audit
from accounts.models import User
from portal.errors import PortalError
from portal.once import uuid_for
from portal.secrets import seal
from workspaces.ending import hold
from workspaces.models import GitCredential, Workspace

MOST = 100  # of a workspace: each is a choice in the form of a job


@audit.atomic()
def create_git_credential(
    workspace: Workspace, *, name: str, server: str, username: str, secret: str, by: User, uuid: UUID | None = None
) -> GitCredential:
    """Asked twice with one `uuid`, it is made once. Raises `PortalError`, and `Taken` for a name."""
    hold(workspace)
    if workspace.git_credentials.live().count() >= MOST:
        raise PortalError(f"A workspace has at most {MOST} Git credentials.", advice="Delete one first.")
    made = GitCredential(
        uuid=uuid_for(GitCredential, uuid, workspace=workspace),
        workspace=workspace,
        name=name,
        server=server,
        username=username,
        created_by=by,
    )
    if found := GitCredential.objects.filter(uuid=made.uuid).first():
        return found
    seal(made, "secret", secret)
    made.save(force_insert=True)
    _record("created", made, by, after={"signs in as": username, "at": server})
    return made


@audit.atomic()
def replace_git_secret(credential: GitCredential, *, username: str, secret: str, by: User) -> None:
    """For its server, as ever: runs that start from now on sign in with this. Raises `PortalError`."""
    hold(credential.workspace)
    found = _held(credential)
    before = {"signs in as": found.username} if found.username != username else {}
    found.username = username
    seal(found, "secret", secret)
    found.replaced = Now()
    found.save(update_fields=["username", "secret", "replaced"])
    _record("replaced", found, by, before=before, after={"signs in as": username} if before else {})


@audit.atomic()
def delete_git_credential(credential: GitCredential, *, by: User) -> None:
    """Its secret is gone, and its name free. Jobs that use it say so when they are to start. Raises `PortalError`."""
    found = _held(credential)
    found.secret, found.deleted, found.deleted_by = "", Now(), by
    found.save(update_fields=["secret", "deleted", "deleted_by"])
    _record("deleted", found, by, before={"signs in as": found.username, "at": found.server})


def _held(credential: GitCredential) -> GitCredential:
    """Locked, as it is now."""
    rows = GitCredential.objects.live().select_for_update(of=("self",), no_key=True)
    found = rows.select_related("workspace__organization").filter(pk=credential.pk).first()
    if found is None:
        raise PortalError(f"{credential} was deleted meanwhile.")
    return found


def _record(
    verb: str,
    credential: GitCredential,
    by: User,
    before: dict[str, str] | None = None,
    after: dict[str, str] | None = None,
) -> None:
    workspace = credential.workspace
    audit.record(
        verb, credential, organization=workspace.organization, workspace=workspace, by=by, before=before, after=after
    )
