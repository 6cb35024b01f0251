"""What is done with people and organizations. Each is one transaction."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from django.db import transaction

from accounts import audit
from accounts.access import OrganizationRole
from accounts.models import Membership, Organization, SetupLink, User, database_now


@transaction.atomic
def create_organization(name: str, *, by: User) -> Organization:
    """Whoever makes it is its admin."""
    organization = Organization.objects.create(name=name)
    Membership.objects.create(organization=organization, user=by, role=OrganizationRole.ADMIN)
    return organization


@transaction.atomic
def create_first_administrator(*, email: str, name: str, password: str, organization: str) -> User:
    """The one who may also use Django admin, with an organization to begin in."""
    user = User.objects.create_superuser(email, password, name=name)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    create_organization(organization, by=user)
    SetupLink.objects.all().delete()
    return user


def first_link(url: str) -> str:
    """A new one-time link, as long as nobody can administer this installation; else nothing."""
    if User.objects.filter(is_superuser=True, is_active=True).exists():
        return ""
    return f"{url}/first/{SetupLink.make()}/"


@transaction.atomic
def unlock_user(user: User, *, by: User | None, reason: str, organization: Organization | None = None) -> None:
    """The days without signing in are counted anew from now. By nobody: from the command line."""
    was_locked = user.is_locked
    user.unlocked_at = database_now()
    user.warned_days = 0
    user.save(update_fields=["unlocked_at", "warned_days"])
    audit.record(
        "unlocked", user, organization=organization, by=by, before={"locked": was_locked}, after={"reason": reason}
    )


@transaction.atomic
def make_administrator(user: User) -> None:
    """For the command line alone: the way back when nobody can administer this installation any more."""
    before = {"active": user.is_active, "administrator": user.is_superuser}
    user.is_active = user.is_staff = user.is_superuser = True
    user.save(update_fields=["is_active", "is_staff", "is_superuser"])
    after = {"active": True, "administrator": True}
    audit.record("made administrator", user, organization=None, by=None, before=before, after=after)
