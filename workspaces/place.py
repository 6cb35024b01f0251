"""Where a page inside a workspace is; for the frame, the crumbs and `{% if may.… %}`. See also `accounts.place`."""

from __future__ import annotations

from typing import Any, TypeVar, cast
from uuid import UUID

from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts.access import AccessQuerySet, Can, judged
from accounts.models import Membership
from accounts.place import Switched, enter_organization, person
from portal.aggregates import Pairs
from portal.prepared import prepared
from workspaces.models import CloudConfig, Workspace, WorkspaceMember, WorkspaceQuerySet

M = TypeVar("M", bound=Model)


def enter(request: HttpRequest, workspace: Workspace) -> Workspace:
    """Remember that the page is in this workspace, which the caller has fetched with `get_for`: see `row_for`."""
    place: Any = request
    place.organization, place.workspace = workspace.organization, workspace
    # Both are for the template: what only answers with another address asks for neither, unless it knows them.
    place.roles = SimpleLazyObject(lambda: workspace.__dict__.get("_roles") or _roles_of(request, workspace))
    place.other_workspaces = SimpleLazyObject(lambda: _others(request, workspace))
    return workspace


def _others(request: HttpRequest, workspace: Workspace) -> list[tuple[UUID, str]]:
    """The first by their names; uuid and name."""
    names: dict[str, str] | None
    if "_others" in vars(workspace):
        names = vars(workspace)["_others"]
    else:
        mine = Workspace.objects.where(request.user, Can.VIEW)
        names = next((row["pairs"] for row in _names(mine, workspace.organization_id)), None)
    others = [(UUID(uuid), name) for uuid, name in (names or {}).items()]
    return sorted((one for one in others if one[0] != workspace.uuid), key=lambda one: one[1])[:8]


def _names(workspaces: WorkspaceQuerySet, organization: Any) -> Any:
    """Of those that are there, by uuid: one row, or none."""
    there = workspaces.filter(organization=organization).live()
    return there.order_by().values("organization").annotate(pairs=Pairs("uuid", "name"))


def _roles_of(request: HttpRequest, workspace: Workspace) -> tuple[str | None, str | None]:
    """The person's, in the organization and in the workspace. Whoever is inside is a member of both."""
    inside = WorkspaceMember.objects.filter(user=OuterRef("user"), workspace=workspace).values("role")
    mine = Membership.objects.filter(user=person(request), organization=workspace.organization_id)
    return mine.values_list("role", Subquery(inside)).first() or (None, None)


@prepared
def _rows(uuid: UUID, user: int, *, model: type[Model], of: tuple[str, ...], can: Can, framed: bool) -> QuerySet[Any]:
    rows: AccessQuerySet[Any] = cast("Any", model)._default_manager.all().whole()
    at = f"{rows.workspace_path}__" if rows.workspace_path else ""
    of_organization = Membership.objects.filter(organization=OuterRef(f"{at}organization"), user=user)
    of_workspace = WorkspaceMember.objects.filter(workspace=OuterRef(f"{at}pk"), user=user)
    asked = rows.select_related(f"{at}organization", *of).annotate(
        _organization_role=Subquery(of_organization.values("role")),
        _workspace_role=Subquery(of_workspace.values("role")),
    )
    if framed:
        others = _names(Workspace.objects.held_by(user, Can.VIEW), OuterRef(f"{at}organization"))
        asked = asked.annotate(_others=Subquery(others.values("pairs")))
    return asked.asked_by(user, can).filter(uuid=uuid)


def row_for(request: HttpRequest, model: type[M], uuid: UUID, can: Can, *of: str, framed: bool = True) -> M:
    """The row of the address, read with what is named; its workspace is entered. Raises Http404 or PermissionDenied.

    One query, also for what the frame says of the workspace, where the answer is a whole page.
    """
    user = person(request)
    found: Any = judged(_rows(uuid, user.pk, model=model, of=of, can=can, framed=framed) if user.may_enter else [])
    workspace = found.workspace
    workspace._roles = found._organization_role, found._workspace_role
    if framed:
        workspace._others = found._others
    enter(request, workspace)
    return cast("M", found)


def workspace_for(request: HttpRequest, uuid: UUID, can: Can, *more: str) -> Workspace:
    """The workspace of the address, entered; read with what else is named. Raises Http404 or PermissionDenied."""
    return row_for(request, Workspace, uuid, can, "cloud_config", *more)


def enter_subject(request: HttpRequest, subject: Any) -> None:
    """For a page of a task: the workspace of what it was done to, or else the organization. Raises `Switched`."""
    if subject.workspace is not None:
        enter(request, subject.workspace)
    else:
        enter_of(request, subject.cloud_config)


def enter_of(request: HttpRequest, config: CloudConfig) -> None:
    """The page is in the organization of this cloud configuration. Raises `Switched` where the person is in another."""
    if (active := enter_organization(request)) != config.organization:
        raise Switched(active, config.organization)
