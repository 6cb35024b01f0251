"""Which organization a page is in: the one that the person has chosen, kept in the session.

A form of such a page carries the organization that it was made for (`{% in_organization %}`). Sent after the person
has switched in another tab, nothing is done and a page says so.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from accounts.access import Can, may
from accounts.models import Membership, Organization, User
from portal.prepared import prepared

FIELD = "in_organization"  # of the forms
KEY = "organization"  # of the session


class NoOrganization(Exception):
    """The person is in no organization."""


class Switched(Exception):
    """A page or a form is of another organization than the one that the person is in now."""

    def __init__(self, now: Organization, then: Organization | None) -> None:
        super().__init__(now, then)
        self.now, self.then = now, then


def person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def enter_if_any(request: HttpRequest) -> Organization | None:
    """The organization that the person has chosen, or else their first; for the frame of pages that need none."""
    if isinstance(request.user, AnonymousUser):
        return None
    memberships = _memberships(person(request).pk)
    if not memberships:
        return None
    chosen = request.session.get(KEY)
    active = next((one for one in memberships if str(one.organization.uuid) == chosen), memberships[0])
    if str(active.organization.uuid) != chosen:
        choose(request, active.organization)
    place: Any = request
    place.organization, place.roles = active.organization, (active.role, None)
    place.other_organizations = [one.organization for one in memberships if one is not active]
    return active.organization


@prepared
def _memberships(user: int) -> QuerySet[Membership]:
    return Membership.objects.filter(user=user).select_related("organization").order_by("created", "pk")


def enter_organization(request: HttpRequest, can: Can = Can.SEE_ORGANIZATION) -> Organization:
    """The organization of this page. Raises PermissionDenied without this right in it, NoOrganization, Switched."""
    organization = enter_if_any(request)
    if organization is None:
        raise NoOrganization
    then = request.POST.get(FIELD, "") if request.method == "POST" else ""
    if then and then != str(organization.uuid):
        others: list[Organization] = getattr(request, "other_organizations", [])
        raise Switched(organization, next((one for one in others if str(one.uuid) == then), None))
    if not may(request, can):
        raise PermissionDenied
    return organization


def choose(request: HttpRequest, organization: Organization) -> None:
    request.session[KEY] = str(organization.uuid)


def switch(request: HttpRequest, uuid: UUID) -> Organization | None:
    """Choose one of the person's organizations. None where they are in no such one."""
    organization = Organization.objects.where(request.user, Can.SEE_ORGANIZATION).filter(uuid=uuid).first()
    if organization:
        choose(request, organization)
    return organization


def answer(request: HttpRequest, exception: Exception) -> HttpResponse | None:
    """What a person sees of this module's exceptions. For the middleware."""
    if isinstance(exception, NoOrganization):
        return redirect("organizations")
    if isinstance(exception, Switched):
        return render(request, "accounts/switched.html", {"now": exception.now, "then": exception.then}, status=409)
    return None
