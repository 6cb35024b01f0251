"""What is done with people and organizations. Each is one transaction."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from django.db import transaction
from django.db.models import Exists, OuterRef

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


@transaction.atomic
def change_profile(
    user: User, *, name: str, time_zone: str, theme: str, notify_dormancy: bool, notify_membership: bool
) -> None:
    wanted = {
        "name": name, "time_zone": time_zone, "theme": theme, "notify_dormancy": notify_dormancy,
        "notify_membership": notify_membership,
    }  # fmt: skip
    before = {field: getattr(user, field) for field, value in wanted.items() if getattr(user, field) != value}
    if not before:
        return
    for field, value in wanted.items():
        setattr(user, field, value)
    user.save(update_fields=list(wanted))
    audit.record_of_person("changed profile", user, by=user, before=before, after={f: wanted[f] for f in before})


def needs_somebody_else(user: User) -> list[Organization]:
    """The organizations that would be without an admin if this person went, though others or work are left in them."""
    admins = Membership.objects.filter(organization=OuterRef("pk"), role=OrganizationRole.ADMIN).exclude(user=user)
    led = Organization.objects.filter(
        ~Exists(admins), memberships__user=user, memberships__role=OrganizationRole.ADMIN
    ).order_by("name")
    return [
        organization
        for organization in led
        if organization.memberships.exclude(user=user).exists() or organization.workspaces.live().exists()
    ]


@transaction.atomic
def delete_account(user: User) -> None:
    """With memberships, API tokens and sessions. Audit entries stay, with the address as it was.

    Raises `StillNeeded` for the last admin of an organization that others are in, or that still has workspaces.
    """
    list(Organization.objects.select_for_update().filter(memberships__user=user))  # two admins may go at once
    if organizations := needs_somebody_else(user):
        raise StillNeeded(organizations)
    audit.record_of_person("deleted", user, by=user)
    user.delete()


class StillNeeded(Exception):
    def __init__(self, organizations: list[Organization]) -> None:
        self.organizations = organizations
        super().__init__(", ".join(organization.name for organization in organizations))
