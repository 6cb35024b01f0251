"""What is done with people and organizations. Each is one transaction."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from django.db import transaction

from accounts import audit
from accounts.access import OrganizationRole
from accounts.models import Membership, Organization, SetupLink, User


@transaction.atomic
def create_organization(name: str, *, by: User) -> Organization:
    """Whoever makes it is its admin."""
    organization = Organization.objects.create(name=name)
    Membership.objects.create(organization=organization, user=by, role=OrganizationRole.ADMIN)
    audit.record("created", organization, organization=organization, by=by, after={"name": name})
    return organization


@transaction.atomic
def create_first_administrator(*, email: str, name: str, password: str, organization: str) -> User:
    """The one who may also use Django admin, with an organization to begin in."""
    user = User.objects.create_superuser(email, password, name=name)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    audit.record("created", user, organization=create_organization(organization, by=user), by=user)
    SetupLink.objects.all().delete()
    return user


def first_link(url: str) -> str:
    """A new one-time link, as long as nobody can administer this installation; else nothing."""
    if User.objects.filter(is_superuser=True, is_active=True).exists():
        return ""
    return f"{url}/first/{SetupLink.make()}/"
