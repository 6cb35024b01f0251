"""Who may do what: one table, and the two ways to ask it.

Lists: `Model.objects.where(user, Can.X)`. One row: `get_for(Model.objects.all(), user, Can.X, uuid=…)`, which is 404 to
a stranger (the same as a row that does not exist) and 403 to a member without the right.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Self, TypeVar
from uuid import UUID

from django.apps import apps
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import BooleanField, ExpressionWrapper, Q, Value
from django.http import Http404, HttpRequest
from django.utils.functional import SimpleLazyObject


class OrganizationRole(models.TextChoices):
    ADMIN = "admin"
    MEMBER = "member"


class WorkspaceRole(models.TextChoices):
    ADMIN = "admin"  # the API's BodoAdmin
    USER = "user"
    VIEWER = "viewer"  # the API's BodoViewer


R = TypeVar("R", OrganizationRole, WorkspaceRole)


class Can(StrEnum):
    SEE_ORGANIZATION = "see organization"
    MANAGE_ORGANIZATION = "manage organization"  # workspaces, cloud configurations, people
    INVITE = "invite"  # see and change the people of an organization or of a workspace
    MANAGE_TOKENS = "manage API tokens"
    READ_AUDIT = "read audit"
    SEE_WORKSPACE = "see workspace"  # that it exists, its name and state
    VIEW = "view"  # what is inside a workspace
    RUN_JOBS = "run jobs"
    MANAGE_CLUSTERS = "manage clusters"
    MANAGE_WORKSPACE = "manage workspace"


_ORGANIZATION: dict[Can, frozenset[OrganizationRole]] = {
    Can.SEE_ORGANIZATION: frozenset(OrganizationRole),
    Can.MANAGE_ORGANIZATION: frozenset({OrganizationRole.ADMIN}),
    Can.SEE_WORKSPACE: frozenset({OrganizationRole.ADMIN}),
    Can.INVITE: frozenset({OrganizationRole.ADMIN}),
    Can.MANAGE_TOKENS: frozenset({OrganizationRole.ADMIN}),
    Can.READ_AUDIT: frozenset({OrganizationRole.ADMIN}),
}
_WORKSPACE: dict[Can, frozenset[WorkspaceRole]] = {
    Can.SEE_WORKSPACE: frozenset(WorkspaceRole),
    Can.VIEW: frozenset(WorkspaceRole),
    Can.RUN_JOBS: frozenset({WorkspaceRole.ADMIN, WorkspaceRole.USER}),
    Can.MANAGE_CLUSTERS: frozenset({WorkspaceRole.ADMIN}),
    Can.MANAGE_WORKSPACE: frozenset({WorkspaceRole.ADMIN}),
    Can.INVITE: frozenset({WorkspaceRole.ADMIN}),
    Can.MANAGE_TOKENS: frozenset({WorkspaceRole.ADMIN}),
}

_SENTENCES = {
    Can.VIEW: "See clusters, jobs and output",
    Can.RUN_JOBS: "Run jobs, cancel runs, open terminals",
    Can.MANAGE_CLUSTERS: "Create, repair and delete clusters",
    Can.INVITE: "Invite people, change roles, remove people",
    Can.MANAGE_TOKENS: "Manage API tokens",
    Can.MANAGE_ORGANIZATION: "Create workspaces and cloud configurations",
    Can.READ_AUDIT: "Read the audit",
}


def role_table() -> list[tuple[str, list[bool]]]:
    """What a role may do, for people: organization admin, then a workspace's admin, user and viewer."""
    return [
        (
            sentence,
            [
                OrganizationRole.ADMIN in _ORGANIZATION.get(can, ()),
                *(role in _WORKSPACE.get(can, ()) for role in WorkspaceRole),
            ],
        )
        for can, sentence in _SENTENCES.items()
    ]


def at_most(role: R) -> list[R]:
    """The roles that give no more than this one, the strongest first."""
    roles = list(type(role))
    return roles[roles.index(role) :]


Person = Any  # a User, AnonymousUser or Acting; `accounts.models` imports this module
M = TypeVar("M", bound=models.Model)


class AccessQuerySet(models.QuerySet[M]):
    """A queryset that knows the way from its rows to the workspace and the organization they belong to."""

    workspace_path: str | None = None  # e.g. "cluster__workspace"; "" when the row is the workspace itself
    organization_path: str | None = None
    sees: Can = Can.VIEW  # the right that makes a row exist for a person
    changes: Can = Can.MANAGE_WORKSPACE  # the right to cancel or retry what is done to a row

    def whole(self) -> Self:
        """With what a page of one row says of it, besides its columns."""
        return self

    def where(self, user: Person, can: Can) -> Self:
        """The rows on which this person has this right. Nobody signed in, an inactive or locked account: none."""
        granted = self.granted(user, can)
        return self.none() if granted is None else self.filter(granted)

    def granted(self, user: Person, can: Can) -> Q | None:
        """What is true of the rows on which this person has this right; None for nobody who may enter."""
        if isinstance(user, AnonymousUser) or user is None or not user.may_enter:
            return None
        token = getattr(user, "token", None)  # an `accounts.tokens.Acting` has one, and does no more than it allows
        return self._held((token.owner if token else user).pk, can, token)

    def asked_by(self, person: Any, can: Can) -> Self:
        """What `judged` is given. `person`: the primary key of somebody who may enter, whom it does not look at."""
        return self._asked(self._held(person, self.sees), self._held(person, can), can)

    def _asked(self, sees: Q, may: Q, can: Can) -> Self:
        if can == self.sees:
            return self.filter(sees).annotate(_may=Value(True))
        return self.filter(sees).annotate(_may=ExpressionWrapper(may, BooleanField()))

    def held_by(self, person: Any, can: Can) -> Self:
        """As `where`, by the primary key of somebody who may enter."""
        return self.filter(self._held(person, can))

    def _held(self, person: Any, can: Can, token: Any = None) -> Q:
        allowed = Q(pk__in=[])
        for path, place, members, table in (
            (self.workspace_path, "workspace", "workspaces.WorkspaceMember", _WORKSPACE),
            (self.organization_path, "organization", "accounts.Membership", _ORGANIZATION),
        ):
            if path is None or can not in table or (token and (token.place != place or token.role not in table[can])):
                continue
            at = f"{path}__" if path else ""
            # Subqueries of the person's own few roles: joins to both kinds of members would multiply them.
            roles = apps.get_model(members)._default_manager.filter(user=person, role__in=table[can])
            granted = Q(**{f"{at}pk__in": roles.values(place)})
            if token:
                granted &= Q(**{f"{at}pk": getattr(token, f"{place}_id")})
            allowed |= granted
        return allowed

    def seen_by(self, user: Person, uuid: UUID | str) -> M | None:
        """The row with this uuid if this person may see it."""
        return self.where(user, self.sees).filter(uuid=uuid).first()

    def seers(self, people: Iterable[Person]) -> set[tuple[int, int]]:
        """Which of these people may see which of the rows, as pairs of primary keys: `seen_by` for many at once.

        Not for an `Acting`, who may do less than its owner. Two queries at most.
        """
        entering = [person.pk for person in people if person.may_enter]
        found: set[tuple[int, int]] = set()
        for path, members, table in (
            (self.workspace_path, "members", _WORKSPACE),
            (self.organization_path, "memberships", _ORGANIZATION),
        ):
            if path is not None and self.sees in table:
                at = f"{path}__{members}" if path else members
                rows = self.filter(**{f"{at}__user__in": entering, f"{at}__role__in": table[self.sees]})
                found |= set(rows.order_by().values_list("pk", f"{at}__user"))
        return found

    def may_change(self, user: Person, row: models.Model) -> bool:
        return self.where(user, self.changes).filter(pk=row.pk).exists()


def get_for(queryset: AccessQuerySet[M], user: Person, can: Can, **lookup: Any) -> M:
    """The one row. Raises Http404 where the person may not even see it, PermissionDenied where they may only see it.

    One query, whichever of the two it is.
    """
    sees, granted = queryset.granted(user, queryset.sees), queryset.granted(user, can)
    if sees is None or granted is None:
        raise Http404
    return judged(queryset._asked(sees, granted, can).filter(**lookup)[:1])


def judged(rows: Iterable[M]) -> M:
    """The first of what `asked_by` has found, or what `get_for` raises."""
    row = next(iter(rows), None)
    if row is None:
        raise Http404
    if not row.__dict__.pop("_may"):
        raise PermissionDenied
    return row


def may(request: HttpRequest, can: Can) -> bool:
    """By the person's roles in the organization and the workspace of the page, which has entered them.

    No question to the database but the first one for the roles. Nothing where the page is in no such place.
    """
    organization_role, workspace_role = getattr(request, "roles", (None, None))
    return organization_role in _ORGANIZATION.get(can, ()) or workspace_role in _WORKSPACE.get(can, ())


def gives(role: str | None, can: Can) -> bool:
    """Whether a role in a workspace is enough to have this right there."""
    return role in _WORKSPACE.get(can, ())


def rights(request: HttpRequest) -> dict[str, Any]:
    """For templates: `{% if may.run_jobs %}`. The roles are asked for by the first one that does."""
    return {"may": SimpleLazyObject(lambda: {can.name.lower(): may(request, can) for can in Can})}
