"""What is done with people and organizations. Each is one transaction."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from django.db import transaction
from django.utils.timezone import now

from accounts import audit
from accounts.access import OrganizationRole
from accounts.models import ApiToken, Invitation, Membership, Organization, SetupLink, User, database_now
from portal.clouds.errors import PortalError


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
def withdraw_invitation(invitation: Invitation, *, by: User) -> None:
    """Its link stops working. Raises `PortalError` where it has been used or withdrawn."""
    if not Invitation.objects.pending().filter(pk=invitation.pk).update(withdrawn=now()):
        raise PortalError(f"The invitation of {invitation.email} has been used or withdrawn.")
    audit.record("withdrew", invitation, organization=invitation.organization, workspace=invitation.workspace, by=by)


@transaction.atomic
def revoke_token(token: ApiToken, *, by: User) -> None:
    """It stops working at once, for good. Raises `PortalError` where that has been done."""
    if not ApiToken.objects.filter(pk=token.pk, revoked=None).update(revoked=now()):
        raise PortalError(f"{token.name} has been revoked already.")
    audit.record("revoked", token, organization=token.organization, workspace=token.workspace, by=by)
