"""What people do with templates. Each is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from accounts import audit
from accounts.models import User
from clusters.models import Cluster
from jobs.models import Template
from jobs.parameters import Parameter
from portal.errors import PortalError
from portal.once import uuid_for
from portal.secrets import redact
from portal.tasks import live
from workspaces.models import Workspace


@audit.atomic()
def create_template(
    workspace: Workspace,
    *,
    name: str,
    description: str,
    parameters: Sequence[Parameter],
    program: dict[str, Any],
    cluster: Cluster | None,
    by: User,
    uuid: UUID | None = None,
) -> Template:
    """Asked twice with one `uuid`, it is made once. `cluster`: that its jobs are offered first."""
    template, made = Template.objects.get_or_create(
        uuid=uuid_for(Template, uuid, workspace=workspace),
        workspace=workspace,
        defaults={
            "name": name,
            "description": description,
            "parameters": [one.kept for one in parameters],
            "program": program,
            "cluster": cluster,
            "created_by": by,
        },
    )
    if made:
        _told("created", template, by=by, after=_said(template))
    return template


@audit.atomic()
def change_template(
    template: Template,
    *,
    name: str,
    description: str,
    parameters: Sequence[Parameter],
    program: dict[str, Any],
    by: User,
) -> bool:
    """For jobs that are made of it from now on. Says whether anything changed. Raises `PortalError`."""
    found = _held(template)
    before = _said(found) | {"of a job": found.program}
    found.name, found.description = name, description
    found.parameters, found.program = [one.kept for one in parameters], program
    after = _said(found) | {"of a job": found.program}
    changed = [key for key in after if after[key] != before[key]]
    if not changed:
        return False
    found.save()
    said = [key for key in changed if key != "of a job"]  # in which somebody may have typed a password
    _told("changed", found, by=by, before={key: before[key] for key in said}, after={key: after[key] for key in said})
    return True


@audit.atomic()
def delete_template(template: Template, *, by: User) -> None:
    """No job is made of it any more; those that were stay as they are. Raises `PortalError`."""
    found = _held(template)
    Template.objects.filter(pk=found.pk).update(deleted=Now())
    _told("deleted", found, by=by)


def _held(template: Template) -> Template:
    found = Template.objects.select_for_update(of=("self",), no_key=True).get(pk=template.pk)
    found.workspace = template.workspace
    if found.deleted:
        raise PortalError(f"{found} was deleted.")
    return found


def _said(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "description": template.description,
        "parameters": ", ".join(one["name"] for one in template.parameters),
        "command": redact(template.program["command"]),
        "source": redact(template.program["git_url"]),
    }


def _told(verb: str, template: Template, *, by: User, **said: Any) -> None:
    workspace = template.workspace
    live.ring(*workspace.live_names())
    audit.record(verb, template, organization=workspace.organization, by=by, workspace=workspace, **said)
