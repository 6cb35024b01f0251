"""Which organization a page is in, for the frame, the crumbs and `{% if may.… %}`."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest

from accounts.access import Can, may
from accounts.models import Membership, Organization, User


def person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def enter_organization(request: HttpRequest, can: Can = Can.SEE_ORGANIZATION) -> Organization:
    """The person's organization. Raises Http404 for somebody who is in none, PermissionDenied without this right."""
    memberships = Membership.objects.filter(user=person(request)).select_related("organization")
    membership = memberships.order_by("created", "pk").first()
    if membership is None:
        raise Http404
    place: Any = request
    place.organization, place.roles = membership.organization, (membership.role, None)
    if not may(request)["may"][can.name.lower()]:
        raise PermissionDenied
    return membership.organization
