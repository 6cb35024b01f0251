"""What is done with people and organizations. Each is one transaction."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.mail import send_mail
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.timezone import now

from accounts import audit
from accounts.access import Can, OrganizationRole, WorkspaceRole
from accounts.holdings import Holding, closers, holdings
from accounts.models import ApiToken, Invitation, Membership, Organization, SetupLink, User, database_now, digest
from portal import mail
from portal.errors import Conflict, PortalError
from portal.once import uuid_for
from portal.tasks import ledger, live
from portal.tasks.models import Task

logger = logging.getLogger(__name__)

LAST_ADMIN = "This is the last admin of the organization. Make somebody else an admin first."


@audit.atomic()
def create_organization(name: str, *, by: User) -> Organization:
    """Whoever makes it is its admin."""
    organization = Organization.objects.create(name=name)
    Membership.objects.create(organization=organization, user=by, role=OrganizationRole.ADMIN)
    audit.record("created", organization, organization=organization, by=by, after={"name": name})
    return organization


@audit.atomic()
def change_organization(organization: Organization, *, name: str, second_factor_required: bool, by: User) -> None:
    wanted = {"name": name, "second_factor_required": second_factor_required}
    before = {field: getattr(organization, field) for field in wanted if getattr(organization, field) != wanted[field]}
    if not before:
        return
    organization.name, organization.second_factor_required = name, second_factor_required
    organization.save(update_fields=list(wanted))
    after = {field: wanted[field] for field in before}
    verb = "renamed" if "name" in before else "changed"
    audit.record(verb, organization, organization=organization, by=by, before=before, after=after)
    live.ring(*organization.live_names())


def why_not_deletable(organization: Organization) -> list[str]:
    """What must go first, as sentences; empty where the organization may be deleted."""
    people = organization.memberships.count() - 1
    workspaces = list(organization.workspaces.live().order_by("name"))
    found = [f"Workspace {workspace.name} is still there." for workspace in workspaces]
    used = organization.cloud_configs.filter(workspaces__in=workspaces).distinct().order_by("name")
    found += [f"Cloud configuration {config.name} is in use." for config in used]
    if people:
        found.append(f"{people} other {'person is' if people == 1 else 'people are'} in it.")
    return found


@audit.atomic()
def delete_organization(organization: Organization, *, by: User) -> None:
    """Nobody is in it any more. Its row stays, for its audit and the history of its runs. Raises `PortalError`."""
    organization = _locked(organization)
    if reasons := why_not_deletable(organization):
        raise PortalError(" ".join(reasons))
    for close in closers:
        close(organization)
    organization.cloud_configs.filter(workspaces=None).delete()
    organization.cloud_configs.filter(deleted=None).update(deleted=now())  # nobody signs in to its accounts any more
    organization.invitations.pending().update(withdrawn=now())
    organization.api_tokens.filter(revoked=None).update(revoked=now())
    for workspace in organization.workspaces.all():
        workspace.members.all().delete()
    organization.memberships.all().delete()
    organization.deleted = now()
    organization.save(update_fields=["deleted"])
    audit.record("deleted", organization, organization=organization, by=by, before={"name": organization.name})


def hold(organization: Organization) -> None:
    """It stays to the end of the transaction. Raises `Conflict` where it was deleted meanwhile."""
    if _locked(organization).deleted:
        raise Conflict(f"{organization} was deleted.")


def _locked(organization: Organization) -> Organization:
    """What changes who the admins are waits here, so that two at once cannot take away the last one."""
    return Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)


def is_last_admin(membership: Membership) -> bool:
    admins = Membership.objects.filter(organization=membership.organization_id, role=OrganizationRole.ADMIN)
    return membership.role == OrganizationRole.ADMIN and not admins.exclude(pk=membership.pk).exists()


def _fresh(membership: Membership) -> Membership:
    """As it is now that nobody else can change it. Raises `PortalError` where it has gone."""
    _locked(membership.organization)
    found = Membership.objects.select_related("organization", "user").filter(pk=membership.pk).first()
    if found is None:
        raise PortalError(f"{membership.user} is no longer in {membership.organization}.")
    return found


@audit.atomic()
def change_role(membership: Membership, role: OrganizationRole, *, by: User) -> None:
    """Raises `PortalError` where nobody would be left to administer the organization."""
    membership = _fresh(membership)
    before = membership.role
    if before == role:
        return
    if is_last_admin(membership):
        raise PortalError(LAST_ADMIN)
    membership.role = role
    membership.save(update_fields=["role"])
    audit.record(
        "role changed",
        membership.user,
        organization=membership.organization,
        by=by,
        before={"role": before},
        after={"role": role},
    )
    tell(membership.user, f"You are {role} of {membership.organization} now, and were {before}.", by=by)


def tell(user: User, sentence: str, *, by: User) -> None:
    """Mails after the commit what somebody else has changed for this person, if they want to know."""
    if by == user or not user.notify_membership or not mail.goes_out():
        return
    subject = f"{settings.ACCOUNT_EMAIL_SUBJECT_PREFIX}Your roles have changed"
    text = f"{sentence}\n\nIt was done by {by} ({by.email}).\n\n{settings.PORTAL_URL}\n"
    transaction.on_commit(lambda: send_mail(subject, text, None, [user.email]), robust=True)


@audit.atomic()
def remove_member(membership: Membership, *, by: User) -> None:
    """Also what somebody does who leaves. Raises `PortalError` for the last admin.

    With it go their roles in workspaces, their API tokens, invitations to their address, and what they started and
    still runs is cancelled. What they made stays.
    """
    membership = _fresh(membership)
    if is_last_admin(membership):
        raise PortalError(LAST_ADMIN)
    organization, user = membership.organization, membership.user
    inside = user.workspace_memberships.filter(workspace__organization=organization)
    before = {
        "role": membership.role,
        "workspaces": dict(inside.order_by("workspace__name").values_list("workspace__name", "role")),
    }
    running = holdings(organization, started_by=user)
    inside.delete()
    membership.delete()
    tokens = organization.api_tokens.filter(owner=user, revoked=None).update(revoked=now())
    organization.invitations.pending().filter(email__in=addresses_of(user)).update(withdrawn=now())
    audit.record(
        "left" if by == user else "removed",
        user,
        organization=organization,
        by=by,
        before=before,
        after={"tokens revoked": tokens, "cancelled": cancel_all(running, of=user, by=by)},
    )
    tell(user, f"You are no longer in {organization}, nor in its workspaces.", by=by)
    live.ring(*organization.live_names())


def cancel_all(running: Iterable[Holding], *, of: User, by: User) -> list[str]:
    """What this person had started. Returns the names."""
    ledger.hold(Task.objects.filter(asked_by=of))
    names = []
    for holding in running:
        holding.cancel(by)
        names.append(holding.name)
    return names


def addresses_of(user: User) -> set[str]:
    """Every address that is known to be this person's, in lower case."""
    verified = EmailAddress.objects.filter(user=user, verified=True).values_list("email", flat=True)
    return {user.email.lower(), *(email.lower() for email in verified)}


def _has_address(email: str, path: str = "") -> Q:
    verified = {f"{path}emailaddress__email__iexact": email, f"{path}emailaddress__verified": True}
    return Q(**{f"{path}email__iexact": email}) | Q(**verified)


def has_account(email: str) -> bool:
    return User.objects.filter(_has_address(email)).exists()


@dataclass(frozen=True)
class Invited:
    """What came of inviting one address: an invitation and its token, which is known only now; or why there is none."""

    email: str
    invitation: Invitation | None = None
    token: str = ""
    sentence: str = ""


@audit.atomic()
def invite_people(
    organization: Organization,
    emails: Iterable[str],
    *,
    by: User,
    role: OrganizationRole = OrganizationRole.MEMBER,
    workspace: Any = None,
    workspace_role: WorkspaceRole | str = "",
) -> list[Invited]:
    """Into the organization or, with `workspace`, into that. Whoever is in there already is not invited: it says so.

    Addresses are compared without regard to the case of their letters. One that has an invitation waiting gets no
    second one; one whose invitation has expired gets a new one.
    """
    return [
        _invite(organization, email, by, role, workspace, workspace_role)
        for email in dict.fromkeys(email.strip().lower() for email in emails)
    ]


def _invite(
    organization: Organization, email: str, by: User, role: str, workspace: Any, workspace_role: str
) -> Invited:
    place = workspace or organization
    people = workspace.members if workspace else organization.memberships
    already = people.filter(_has_address(email, "user__")).first()
    if already:
        return Invited(email, sentence=f"is in {place} already, as {already.get_role_display().lower()}.")
    waiting = organization.invitations.pending().filter(email=email, workspace=workspace).first()
    if waiting and waiting.expires > now():
        return Invited(email, sentence="has an invitation already. It can be sent again from the list.")
    token = secrets.token_urlsafe(32)
    invitation = waiting or Invitation(organization=organization, email=email, workspace=workspace)
    invitation.organization_role = role
    invitation.workspace_role = workspace_role if workspace else ""
    _renew(invitation, token, by)
    try:
        with transaction.atomic():
            invitation.save()
    except IntegrityError:  # somebody else invites the same address at this moment
        return Invited(email, sentence="has an invitation already. It can be sent again from the list.")
    audit.record("sent", invitation, organization=organization, workspace=workspace, by=by, after=_said(invitation))
    return Invited(email, invitation, token)


def _renew(invitation: Invitation, token: str, by: User) -> None:
    invitation.token_hash = digest(token)
    invitation.invited_by = by
    invitation.expires = now() + timedelta(days=settings.INVITATION_DAYS)


def _said(invitation: Invitation) -> dict[str, Any]:
    role = invitation.workspace_role if invitation.workspace else invitation.organization_role
    return {"email": invitation.email, "role": role, "expires": f"{invitation.expires:%Y-%m-%d %H:%M} UTC"}


def _waiting(invitation: Invitation, by: User) -> Invitation:
    """For this person to change: one that makes an admin of the organization is not for those who are none."""
    organization = invitation.organization
    if invitation.organization_role == OrganizationRole.ADMIN:
        administers = Organization.objects.where(by, Can.MANAGE_ORGANIZATION).filter(pk=organization.pk)
        if not administers.exists():
            raise PortalError(
                f"{invitation.email} is invited as an admin of {organization}, and only admins of it may change that."
            )
    found = Invitation.objects.pending().select_for_update(no_key=True).filter(pk=invitation.pk).first()
    if found is None:
        raise PortalError(f"The invitation of {invitation.email} has been used or withdrawn.")
    return found


@audit.atomic()
def resend_invitation(invitation: Invitation, *, by: User) -> Invited:
    """A new token: the one before stops working. It is now whoever sends it again who invites. Raises `PortalError`."""
    invitation = _waiting(invitation, by)
    token = secrets.token_urlsafe(32)
    _renew(invitation, token, by)
    invitation.save()
    audit.record(
        "sent again",
        invitation,
        organization=invitation.organization,
        workspace=invitation.workspace,
        by=by,
        after=_said(invitation),
    )
    return Invited(invitation.email, invitation, token)


@audit.atomic()
def withdraw_invitation(invitation: Invitation, *, by: User) -> None:
    """Raises `PortalError` where it has been used or withdrawn."""
    invitation = _waiting(invitation, by)
    invitation.withdrawn = now()
    invitation.save(update_fields=["withdrawn"])
    audit.record(
        "withdrew",
        invitation,
        organization=invitation.organization,
        workspace=invitation.workspace,
        by=by,
        before=_said(invitation),
    )


INVITED_BY = "invitation"  # of the session: the hash of the token that was shown


def open_invitation(token_hash: str) -> Invitation | None:
    """The invitation of a token that may still be accepted.

    It is worth as much as its inviter: somebody who may no longer invite to that place (another role, removed, locked)
    has no invitations any more, and neither has a workspace that is being deleted.
    """
    related = ("organization", "workspace", "invited_by")
    waiting = Invitation.objects.pending().select_related(*related).filter(expires__gt=now())
    found = waiting.filter(token_hash=token_hash).first()
    if found is None or found.invited_by is None:
        return None
    place: Any = found.workspace or found.organization
    may_invite = type(place).objects.where(found.invited_by, Can.INVITE).filter(pk=place.pk)
    if found.workspace:
        may_invite = may_invite.staying()
    if found.organization_role == OrganizationRole.ADMIN:
        administers = Organization.objects.where(found.invited_by, Can.MANAGE_ORGANIZATION)
        if not administers.filter(pk=found.organization_id).exists():
            return None
    return found if may_invite.exists() else None


GONE = "This invitation has been used or withdrawn, or it has expired."


@audit.atomic()
def accept_invitation(token_hash: str, *, by: User) -> Invitation:
    """Their roles are raised to what the invitation says, never lowered. Works once. Raises `PortalError`."""
    invitation = open_invitation(token_hash)
    if invitation is None:
        raise PortalError(GONE)
    if invitation.email not in addresses_of(by):
        raise PortalError(f"This invitation is for {invitation.email}.")
    organization, workspace = _locked(invitation.organization), invitation.workspace
    mine = Invitation.objects.pending().filter(pk=invitation.pk, token_hash=token_hash)
    if not mine.update(accepted=now(), accepted_by=by):
        raise PortalError(GONE)
    membership, _ = Membership.objects.get_or_create(
        organization=organization, user=by, defaults={"role": invitation.organization_role}
    )
    if invitation.organization_role == OrganizationRole.ADMIN != membership.role:
        membership.role = OrganizationRole.ADMIN
        membership.save(update_fields=["role"])
    after = {"organization": membership.role}
    if workspace:
        member, _ = workspace.members.get_or_create(user=by, defaults={"role": invitation.workspace_role})
        order = WorkspaceRole.values  # from the one who may most
        if order.index(invitation.workspace_role) < order.index(member.role):
            member.role = invitation.workspace_role
            member.save(update_fields=["role"])
        after["workspace"] = member.role
    audit.record("accepted", invitation, organization=organization, workspace=workspace, by=by, after=after)
    live.ring(*organization.live_names())
    return invitation


def join(token_hash: str, *, name: str, password: str, time_zone: str = "UTC") -> tuple[User, Invitation]:
    """An account for the address of the invitation, which the link has proved; and accepted.

    Raises `PortalError`, and `Busy` before anything was done.
    """
    hashed = make_password(password)  # takes its time, in which no transaction must hold up others
    with audit.atomic():
        return _join(token_hash, name=name, hashed=hashed, time_zone=time_zone)


def _join(token_hash: str, *, name: str, hashed: str, time_zone: str) -> tuple[User, Invitation]:
    invitation = open_invitation(token_hash)
    if invitation is None:
        raise PortalError(GONE)
    if has_account(invitation.email):
        raise PortalError(f"There is an account with the address {invitation.email}. Sign in with it.")
    user = User.objects.create_user(invitation.email, name=name, time_zone=time_zone)
    user.password = hashed
    user.save(update_fields=["password"])
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    audit.record("created", user, organization=invitation.organization, by=user, after={"email": user.email})
    return user, accept_invitation(token_hash, by=user)


def link_of(token: str) -> str:
    return f"{settings.PORTAL_URL}{reverse('invitation-link', args=[token])}"


def mail_invitation(invited: Invited) -> bool:
    """Called after the transaction. False where the link has to be passed on by hand."""
    if not mail.goes_out():
        return False
    invitation = invited.invitation
    context = {
        "invitation": invitation,
        "link": link_of(invited.token),
        "portal_name": settings.PORTAL_NAME,
        "has_account": has_account(invited.email),
    }
    place = invitation and (invitation.workspace or invitation.organization)
    subject = " ".join(f"{settings.ACCOUNT_EMAIL_SUBJECT_PREFIX}You are invited to {place}".split())
    try:
        send_mail(subject, render_to_string("accounts/mail/invitation.txt", context), None, [invited.email])
    except OSError:  # SMTP's errors are of this kind
        logger.exception("an invitation could not be mailed")
        return False
    return True


@audit.atomic()
def create_first_administrator(
    *, email: str, name: str, password: str, organization: str, time_zone: str = "UTC"
) -> User:
    """The one who may also use Django admin, with an organization to begin in."""
    user = User.objects.create_superuser(email, password, name=name, time_zone=time_zone)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    audit.record("created", user, organization=None, by=None, after={"administrator": True})
    create_organization(organization, by=user)
    SetupLink.objects.all().delete()
    return user


def first_link(url: str) -> str:
    """A new one-time link, as long as nobody can administer this installation; else nothing."""
    if User.objects.filter(is_superuser=True, is_active=True).exists():
        return ""
    return f"{url}/first/{SetupLink.make()}/"


@audit.atomic()
def unlock_user(user: User, *, by: User | None, reason: str, organization: Organization | None = None) -> None:
    """The days without signing in are counted anew from now. By nobody: from the command line."""
    was_locked = user.is_locked
    user.unlocked_at = database_now()
    user.warned_days = 0
    user.save(update_fields=["unlocked_at", "warned_days"])
    audit.record(
        "unlocked", user, organization=organization, by=by, before={"locked": was_locked}, after={"reason": reason}
    )


@audit.atomic()
def make_administrator(user: User) -> None:
    """For the command line alone: the way back when nobody can administer this installation any more."""
    before = {"active": user.is_active, "administrator": user.is_superuser}
    user.is_active = user.is_staff = user.is_superuser = True
    user.save(update_fields=["is_active", "is_staff", "is_superuser"])
    after = {"active": True, "administrator": True}
    audit.record("made administrator", user, organization=None, by=None, before=before, after=after)


@audit.atomic()
def change_profile(
    user: User,
    *,
    name: str,
    time_zone: str,
    theme: str,
    notify_dormancy: bool,
    notify_membership: bool,
    notify_idleness: bool,
    notify_runs: bool,
) -> None:
    wanted = {
        "name": name, "time_zone": time_zone, "theme": theme, "notify_dormancy": notify_dormancy,
        "notify_membership": notify_membership, "notify_idleness": notify_idleness,
        "notify_runs": notify_runs,
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


def started_by(user: User) -> list[Holding]:
    """What runs now, in all organizations, because this person started it."""
    places = Organization.objects.filter(memberships__user=user).order_by("name")
    return [holding for organization in places for holding in holdings(organization, started_by=user)]


@audit.atomic()
def delete_account(user: User) -> None:
    """With memberships, API tokens and sessions; what they started and still runs is cancelled.

    What they made stays, and so do audit entries, with the address as it was.

    Raises `StillNeeded` for the last admin of an organization that others are in, or that still has workspaces.
    """
    theirs = Organization.objects.select_for_update(of=("self",), no_key=True).filter(memberships__user=user)
    list(theirs.order_by("pk"))  # two admins may go at once
    if organizations := needs_somebody_else(user):
        raise StillNeeded(organizations)
    cancel_all(started_by(user), of=user, by=user)
    audit.record_of_person("deleted", user, by=user)
    places = list(Organization.objects.filter(memberships__user=user))
    user.delete()
    for organization in places:
        live.ring(*organization.live_names())


class StillNeeded(Exception):
    def __init__(self, organizations: list[Organization]) -> None:
        self.organizations = organizations
        super().__init__(", ".join(organization.name for organization in organizations))


@audit.atomic()
def revoke_token(token: ApiToken, *, by: User) -> None:
    """It stops working at once, for good. Raises `PortalError` where that has been done."""
    if not ApiToken.objects.filter(pk=token.pk, revoked=None).update(revoked=now()):
        raise PortalError(f"{token.name} has been revoked already.")
    audit.record("revoked", token, organization=token.organization, workspace=token.workspace, by=by)


@audit.atomic()
def create_token(
    organization: Organization,
    *,
    name: str,
    role: str,
    by: User,
    days: int | None,
    workspace: Any = None,
    uuid: UUID | None = None,
) -> tuple[ApiToken, str]:
    """The token and its secret, which is not kept. Asked twice with one `uuid`, the second time there is no secret."""
    secret = f"cox_{secrets.token_urlsafe(32)}"
    place: dict[str, Any] = {"organization": organization, "workspace": workspace, "owner": by}
    token, made = ApiToken.objects.get_or_create(
        uuid=uuid_for(ApiToken, uuid, **place),
        **place,
        defaults={
            "name": name,
            "role": role,
            "secret_hash": digest(secret),
            "expires": now() + timedelta(days=days) if days else None,
        },
    )
    if not made:
        return token, ""
    after = {"role": role, "expires": f"{token.expires:%Y-%m-%d}" if token.expires else "never"}
    audit.record("created", token, organization=organization, workspace=workspace, by=by, after=after)
    return token, secret
