"""The people of an organization, and those who are invited into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q, QuerySet, TextChoices, Value
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import Can, OrganizationRole, get_for, role_table
from accounts.actions import (
    Invited,
    change_role,
    invite_people,
    is_last_admin,
    link_of,
    mail_invitation,
    remove_member,
    resend_invitation,
    unlock_user,
    withdraw_invitation,
)
from accounts.forms import (
    InviteForm,
    OrganizationRoleForm,
    ReasonForm,
)
from accounts.holdings import holdings
from accounts.models import (
    Invitation,
    Membership,
    Organization,
    database_now,
    going_dormant,
    locked,
)
from accounts.place import FIELD, enter_if_any, enter_organization, person
from accounts.signin import confirm
from portal.errors import PortalError
from portal.paging import Page
from portal.states import Badge

PAGE = 15  # people on one page
FEW = 5  # of those who are invited, beside the members


def with_state(members: Iterable[Any]) -> list[tuple[Any, Badge | None, int]]:
    """Each member of `asked_for` with what there is to say of the person's signing in."""
    return [(member, *member.user.sign_in_state(member.read_at)) for member in members]


INVITED = "invited"
STATES = {"locked": "Locked", "dormant": "Going dormant", INVITED: "Invited"}


def searched(words: str) -> str:
    """What a database can look for: SQLite refuses long patterns, and PostgreSQL the character NUL."""
    return words.replace("\0", "").strip()[:200]


def asked_for(
    request: HttpRequest, members: QuerySet[Any], roles: type[TextChoices], *, manages: bool
) -> tuple[QuerySet[Any], dict[str, Any]]:
    """The members that the address asks for, by address of e-mail, and what their filter shows.

    Only those who manage people learn by it who is locked.
    """
    words, role = searched(request.GET.get("q", "")), request.GET.get("role", "")
    state = request.GET.get("state", "") if manages else ""
    members = members.select_related("user").annotate(read_at=Now()).order_by("user__email")
    if words:
        members = members.filter(Q(user__email__icontains=words) | Q(user__name__icontains=words))
    if role in roles.values:
        members = members.filter(role=role)
    if state == "locked":
        members = members.filter(locked(database_now(), of="user__"))
    elif state == "dormant":
        members = members.filter(going_dormant(database_now(), of="user__"))
    elif state == INVITED:
        members = members.none()
    return members, {"asked": words, "role": role, "state": state, "roles": roles, "states": STATES}


_MEANS = {
    Authenticator.Type.WEBAUTHN: "passkey",
    Authenticator.Type.TOTP: "authenticator app",
    "sso": "single sign-on",
}


def with_facts(members: Iterable[Any], organization: Organization) -> list[Any]:
    """Each with the number of workspaces of the organization that the person is in, and with how they can sign in
    beside a password. Asked for the people of one page at once, not for everybody."""
    found = list(members)
    people = [member.user_id for member in found]
    inside = organization.workspaces.filter(members__user__in=people).values_list("members__user", Value("workspace"))
    authenticators = Authenticator.objects.filter(user__in=people).values_list("user", "type")
    accounts = SocialAccount.objects.filter(user__in=people).values_list("user", Value("sso"))
    facts = Counter(inside.union(authenticators, accounts, all=True))
    for member in found:
        member.workspace_count = facts[member.user_id, "workspace"]
        member.means = [words for kind, words in _MEANS.items() if facts[member.user_id, kind]]
    return found


def invited(waiting: QuerySet[Invitation], request: HttpRequest, asked: dict[str, Any]) -> dict[str, Any]:
    """Those who were invited, and are found by the same words as members: the first few beside the members, or all."""
    if asked["asked"]:
        waiting = waiting.filter(email__icontains=asked["asked"])
    waiting = waiting.select_related("workspace", "invited_by").order_by("email", "pk")
    if asked["state"] == INVITED:
        page = Page(waiting, request.GET.get("page"), PAGE)
        return {"page": page, "invitations": page.rows, "more_invitations": False}
    found = list(waiting[: FEW + 1])
    return {"invitations": found[:FEW], "more_invitations": len(found) > FEW}


def told(request: HttpRequest, sent: list[Invited], *, place: Any, back: str) -> HttpResponse:
    """Mails invitations and shows what came of each; here, once, the links that have to be passed on by hand."""
    outcomes = [(one, one.token and not mail_invitation(one) and link_of(one.token)) for one in sent]
    context = {"outcomes": outcomes, "place": place, "back": back, "days": settings.INVITATION_DAYS}
    return render(request, "accounts/invited.html", context)


def _membership(request: HttpRequest, uuid: UUID) -> Membership:
    """Of a person of this organization, for those who manage its people. Raises Http404, PermissionDenied."""
    found = enter_organization(request, Can.INVITE)
    return get_object_or_404(found.memberships.select_related("organization", "user"), user__uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def people(request: HttpRequest) -> HttpResponse:
    """Who is in the organization, who is invited, and the form to invite more."""
    found = enter_organization(request, Can.INVITE)
    form = InviteForm(request.POST or None, organization=found)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        if data["organization_role"] == OrganizationRole.ADMIN:
            confirm(request)
        sent = invite_people(
            found,
            data["emails"],
            by=person(request),
            role=OrganizationRole(data["organization_role"]),
            workspace=data["workspace"],
            workspace_role=data["role"],
        )
        return told(request, sent, place=data["workspace"] or found, back=reverse("people"))
    rows, asked = asked_for(request, found.memberships.all(), OrganizationRole, manages=True)
    page = Page(rows, request.GET.get("page"), PAGE)
    # One to a workspace that is being deleted leads nowhere.
    waiting = found.invitations.pending().filter(Q(workspace=None) | Q(workspace__in=found.workspaces.staying()))
    context = {
        "organization": found,
        "page": page,
        "rows": with_state(with_facts(page, found)),
        **asked,
        **invited(waiting, request, asked),
        "form": form,
        "table": role_table(),
    }
    return render(request, "accounts/people.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def one_person(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """A person's roles, and whether they can sign in; POST changes the role in the organization."""
    membership = _membership(request, uuid)
    form = OrganizationRoleForm(request.POST or None, initial={"role": membership.role})
    if request.method == "POST" and form.is_valid():
        if form.cleaned_data["role"] == OrganizationRole.ADMIN and membership.role != OrganizationRole.ADMIN:
            confirm(request)
        try:
            change_role(membership, OrganizationRole(form.cleaned_data["role"]), by=person(request))
        except PortalError as error:
            form.add_error("role", error.message)
        else:
            messages.success(request, f"{membership.user} is {form.cleaned_data['role']} of the organization now.")
            return redirect("people" if membership.user != request.user else "organization")
    return _show_person(request, membership, form, ReasonForm())


def _show_person(request: HttpRequest, membership: Membership, form: forms.Form, reason: forms.Form) -> HttpResponse:
    inside = membership.user.workspace_memberships.filter(workspace__organization=membership.organization)
    state, days_left = membership.user.sign_in_state(database_now())
    context = {
        "membership": membership,
        "inside": inside.select_related("workspace").order_by("workspace__name"),
        "state": state,
        "days_left": days_left,
        "form": form,
        "reason": reason,
        "last_admin": is_last_admin(membership),
    }
    return render(request, "accounts/person.html", context)


@require_POST
@login_required
def unlock_person(request: HttpRequest, uuid: UUID) -> HttpResponse:
    membership = _membership(request, uuid)
    form = ReasonForm(request.POST)
    if not form.is_valid():
        return _show_person(request, membership, OrganizationRoleForm(initial={"role": membership.role}), form)
    if membership.user.is_locked:
        confirm(request)
        unlock_user(
            membership.user,
            by=person(request),
            reason=form.cleaned_data["reason"],
            organization=membership.organization,
        )
        messages.success(request, f"{membership.user} is unlocked and can sign in again.")
    else:
        messages.info(request, f"{membership.user} is not locked.")
    return redirect("person", uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_person(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what goes; POST does it."""
    membership = _membership(request, uuid)
    return _remove(request, membership, back=reverse("person", args=[uuid]), then="people")


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def leave_organization(request: HttpRequest) -> HttpResponse:
    found = enter_organization(request)
    membership = found.memberships.select_related("organization", "user").get(user=person(request))
    return _remove(request, membership, back=reverse("organization"), then="organizations")


def _remove(request: HttpRequest, membership: Membership, *, back: str, then: str) -> HttpResponse:
    user, found = membership.user, membership.organization
    form = forms.Form(request.POST or None)
    leaves = user == request.user
    if request.method == "POST":
        try:
            remove_member(membership, by=person(request))
        except PortalError as error:
            form = forms.Form({})
            form.is_valid()
            form.add_error(None, error.message)
        else:
            messages.success(
                request, f"You have left {found.name}." if leaves else f"{user} is no longer in {found.name}."
            )
            return redirect("organizations" if leaves else then)
    context = {
        "membership": membership,
        "leaves": leaves,
        "inside": user.workspace_memberships.filter(workspace__organization=found).select_related("workspace"),
        "tokens": found.api_tokens.filter(owner=user, revoked=None).order_by("name"),
        "running": holdings(found, started_by=user),
        "last_admin": is_last_admin(membership),
        "form": form,
        "back": back,
    }
    return render(request, "accounts/remove.html", context)


def _invitation_for(request: HttpRequest, uuid: UUID) -> tuple[Invitation, str]:
    """With the page that its list is on."""
    found = get_for(Invitation.objects.select_related("organization", "workspace"), request.user, Can.INVITE, uuid=uuid)
    if FIELD in request.POST:  # sent from the organization's list, not from the workspace's
        enter_organization(request)
        return found, reverse("people")
    return found, reverse("workspace-people", args=[found.workspace.uuid]) if found.workspace else reverse("people")


@require_POST
@login_required
def resend(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found, back = _invitation_for(request, uuid)
    if found.organization_role == OrganizationRole.ADMIN:
        confirm(request)
    try:
        sent = resend_invitation(found, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
        return redirect(back)
    enter_if_any(request)
    return told(request, [sent], place=found.workspace or found.organization, back=back)


@require_POST
@login_required
def withdraw(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found, back = _invitation_for(request, uuid)
    try:
        withdraw_invitation(found, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The invitation of {found.email} is withdrawn; its link no longer works.")
    return redirect(back)
