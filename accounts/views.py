"""The first administrator, organizations and their people, invitations, one's own profile, API tokens, the audit."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime, time, timedelta
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from django import forms
from django.apps import apps
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.core.paginator import Paginator
from django.db import IntegrityError, transaction
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import NoReverseMatch, reverse
from django.utils.timezone import make_aware
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import AccessQuerySet, Can, OrganizationRole, WorkspaceRole, at_most, get_for, role_table
from accounts.actions import (
    Invited,
    StillNeeded,
    accept_invitation,
    addresses_of,
    change_organization,
    change_profile,
    change_role,
    create_first_administrator,
    create_organization,
    create_token,
    delete_account,
    delete_organization,
    has_account,
    invite_people,
    is_last_admin,
    join,
    link_of,
    mail_invitation,
    needs_somebody_else,
    open_invitation,
    remove_member,
    resend_invitation,
    unlock_user,
    why_not_deletable,
    withdraw_invitation,
)
from accounts.audit import changes
from accounts.forms import (
    AuditFilterForm,
    ConfirmDeleteForm,
    DeleteAccountForm,
    FirstAdministratorForm,
    InviteForm,
    JoinForm,
    OrganizationForm,
    OrganizationRoleForm,
    OrganizationSettingsForm,
    ProfileForm,
    ReasonForm,
    TokenForm,
)
from accounts.holdings import holdings
from accounts.middleware import THEME_COOKIE
from accounts.models import (
    ApiToken,
    AuditChain,
    AuditEvent,
    AuditEventQuerySet,
    Invitation,
    Membership,
    Organization,
    SetupLink,
    User,
    database_now,
    digest,
)
from accounts.personal import everything_about
from accounts.place import FIELD, choose, enter_if_any, enter_organization, person, switch
from portal.clouds.errors import PortalError
from portal.statuses import Badge

AUDIT_PAGE = 50  # entries on one page


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def first_administrator(request: HttpRequest, token: str) -> HttpResponse:
    """The one-time link that the first start prints."""
    if not SetupLink.is_valid(token):
        raise Http404
    form = FirstAdministratorForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with transaction.atomic():
            if not SetupLink.use_up(token):
                raise Http404
            user = create_first_administrator(
                email=data["email"], name=data["name"], password=data["password"], organization=data["organization"]
            )
        login(request, user, backend="accounts.backends.PersonBackend")
        return redirect("dashboard")
    return render(request, "account/first.html", {"form": form})


# Organizations


@require_safe
@login_required
def organizations(request: HttpRequest) -> HttpResponse:
    """All that the person is in; where somebody comes who is in none."""
    enter_if_any(request)
    mine = Membership.objects.filter(user=person(request)).select_related("organization").order_by("organization__name")
    return render(request, "accounts/organizations.html", {"memberships": mine, "may_create": _may_create(request)})


def _may_create(request: HttpRequest) -> bool:
    return bool(settings.OPEN_ORGANIZATIONS) or person(request).is_superuser


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_organization(request: HttpRequest) -> HttpResponse:
    if not _may_create(request):
        raise PermissionDenied
    form = OrganizationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        organization = create_organization(form.cleaned_data["name"], by=person(request))
        choose(request, organization)
        messages.success(request, f"{organization.name} is made, and you are in it now.")
        return redirect("dashboard")
    enter_if_any(request)
    return render(request, "accounts/organization_new.html", {"form": form})


@require_POST
@login_required
def switch_organization(request: HttpRequest) -> HttpResponse:
    try:
        found = switch(request, UUID(request.POST.get("organization", "")))
    except ValueError:
        found = None
    if found is None:
        messages.error(request, "You are not in that organization.")
        return redirect("organizations")
    return redirect("dashboard")


@require_safe
@login_required
def organization(request: HttpRequest) -> HttpResponse:
    """What there is and what runs now, as far as the person may see it."""
    found = enter_organization(request)
    context = {
        "organization": found,
        "workspaces": found.workspaces.where(request.user, Can.SEE_WORKSPACE).live().order_by("name"),
        "people": found.memberships.count(),
        "configs": found.cloud_configs.order_by("name"),
        "running": holdings(found, seen_by=person(request)),
    }
    return render(request, "accounts/organization.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def organization_settings(request: HttpRequest) -> HttpResponse:
    found = enter_organization(request, Can.MANAGE_ORGANIZATION)
    saved = {"name": found.name, "second_factor_required": found.second_factor_required}
    form = OrganizationSettingsForm(request.POST or None, initial=saved)
    if request.method == "POST" and form.is_valid():
        change_organization(found, **form.cleaned_data, by=person(request))
        messages.success(request, f"The settings of {found.name} are saved.")
        return redirect("organization-settings")
    return render(request, "accounts/organization_settings.html", {"organization": found, "form": form})


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_organization(request: HttpRequest) -> HttpResponse:
    """GET says what stands in the way or what goes; POST does it."""
    found = enter_organization(request, Can.MANAGE_ORGANIZATION)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        try:
            delete_organization(found, by=person(request))
        except PortalError as error:
            form.add_error(None, error.message)
        else:
            messages.success(request, f"{found.name} is deleted.")
            return redirect("organizations")
    context = {
        "organization": found,
        "form": form,
        "reasons": why_not_deletable(found),
        "configs": found.cloud_configs.order_by("name"),
    }
    return render(request, "accounts/organization_delete.html", context)


# People


def with_state(members: Iterable[Any]) -> list[tuple[Any, Badge | None, int]]:
    """Each with what there is to say of the person's signing in. Asks the database's clock once."""
    at = database_now()
    return [(member, *member.user.sign_in_state(at)) for member in members]


def told(request: HttpRequest, invited: list[Invited], *, place: Any, back: str) -> HttpResponse:
    """Mails invitations and shows what came of each; here, once, the links that have to be passed on by hand."""
    outcomes = [(one, one.token and not mail_invitation(one) and link_of(one.token)) for one in invited]
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
        invited = invite_people(
            found,
            data["emails"],
            by=person(request),
            role=OrganizationRole(data["organization_role"]),
            workspace=data["workspace"],
            workspace_role=data["role"],
        )
        return told(request, invited, place=data["workspace"] or found, back=reverse("people"))
    asked = request.GET.get("q", "").strip()
    role = request.GET.get("role", "")
    rows = found.memberships.select_related("user").order_by("user__email")
    of_here = Q(user__workspace_memberships__workspace__organization=found)
    rows = rows.annotate(workspace_count=Count("user__workspace_memberships", filter=of_here))
    if asked:
        rows = rows.filter(Q(user__email__icontains=asked) | Q(user__name__icontains=asked))
    if role in OrganizationRole.values:
        rows = rows.filter(role=role)
    page = Paginator(rows, 50).get_page(request.GET.get("page"))
    # One to a workspace that is being deleted leads nowhere.
    waiting = found.invitations.pending().filter(Q(workspace=None) | Q(workspace__in=found.workspaces.staying()))
    context = {
        "organization": found,
        "page": page,
        "rows": with_state(page),
        "asked": asked,
        "role": role,
        "roles": OrganizationRole,
        "invitations": waiting.select_related("workspace", "invited_by").order_by("email")[:200],
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
    ((_, state, days_left),) = with_state([membership])
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


# Invitations


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
    try:
        invited = resend_invitation(found, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
        return redirect(back)
    enter_if_any(request)
    return told(request, [invited], place=found.workspace or found.organization, back=back)


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


INVITED_BY = "invitation"  # of the session: the hash of the token that was shown


@require_safe
def invitation_link(request: HttpRequest, token: str) -> HttpResponse:
    """The mailed address. The token leaves the address bar here, so that no log and no later page has it."""
    if open_invitation(digest(token)) is None:
        return _gone(request)
    request.session[INVITED_BY] = digest(token)
    return redirect("invitation")


def _gone(request: HttpRequest) -> HttpResponse:
    """One page for what is used, withdrawn, expired and never was."""
    return render(request, "accounts/invitation_gone.html", status=410)


@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest) -> HttpResponse:
    """What one is invited to, and what is needed to accept: a sign-in, another sign-in, an account, or one button."""
    token_hash = request.session.get(INVITED_BY, "")
    found = open_invitation(token_hash)
    if found is None:
        return _gone(request)
    context: dict[str, Any] = {"invitation": found, "has_account": has_account(found.email)}
    if isinstance(request.user, User):
        context["other"] = found.email not in addresses_of(request.user)
        context["form"] = form = forms.Form(request.POST or None)
        if request.method == "POST" and context["other"] and "sign-out" in request.POST:
            logout(request)
            request.session[INVITED_BY] = token_hash
            return redirect("invitation")
        if request.method == "POST" and not context["other"]:
            try:
                return _welcome(request, accept_invitation(token_hash, by=request.user))
            except PortalError:
                return _gone(request)
    elif not context["has_account"]:
        context["form"] = form = JoinForm(request.POST or None, email=found.email)
        if request.method == "POST" and form.is_valid():
            data = form.cleaned_data
            try:
                user, found = join(token_hash, name=data["name"], password=data["password"])
            except (PortalError, IntegrityError):  # somebody else was quicker with this link
                return redirect("invitation")
            login(request, user, backend="accounts.backends.PersonBackend")
            return _welcome(request, found)
    return render(request, "accounts/invitation.html", context)


def _welcome(request: HttpRequest, accepted: Invitation) -> HttpResponse:
    request.session.pop(INVITED_BY, None)
    choose(request, accepted.organization)
    messages.success(request, f"Welcome to {accepted.workspace or accepted.organization}.")
    if accepted.workspace:
        return redirect("workspace", uuid=accepted.workspace.uuid)
    return redirect("dashboard")


# The person's own


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert user.is_authenticated
    saved = {name: getattr(user, name) for name in ProfileForm.base_fields}
    form = ProfileForm(request.POST or None, initial=saved)
    if request.method == "POST" and form.is_valid():
        change_profile(user, **form.cleaned_data)
        messages.success(request, "Your profile is saved.")
        response = redirect("profile")
        response.set_cookie("theme", user.theme, **THEME_COOKIE)
        return response
    return render(request, "profile/profile.html", {"form": form})


@login_required
@require_safe
def profile_data(request: HttpRequest) -> HttpResponse:
    """All that is kept about the person, as a file."""
    assert request.user.is_authenticated
    response = JsonResponse(everything_about(request.user), json_dumps_params={"indent": 2})
    response["Content-Disposition"] = 'attachment; filename="my-data.json"'
    return response


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete_profile(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert user.is_authenticated
    form = DeleteAccountForm(user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            delete_account(user)
        except StillNeeded as needed:
            form.add_error(None, f"Somebody else must be made an admin first: {needed}.")
        else:
            logout(request)
            messages.success(request, "Your account is deleted.")
            return redirect("account_login")
    return render(request, "profile/delete.html", {"form": form, "needed": needs_somebody_else(user)})


# API tokens


@require_safe
@login_required
def tokens(request: HttpRequest) -> HttpResponse:
    return token_list(request, enter_organization(request, Can.MANAGE_TOKENS))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_token(request: HttpRequest) -> HttpResponse:
    return token_form(request, enter_organization(request, Can.MANAGE_TOKENS), at_most(OrganizationRole.ADMIN))


def token_list(request: HttpRequest, organization: Organization, workspace: Any = None) -> HttpResponse:
    """The page of the tokens of a workspace or, without one, of the organization itself. The caller has entered it."""
    rows = ApiToken.objects.where(request.user, Can.MANAGE_TOKENS).with_owners()
    rows = rows.filter(organization=organization, workspace=workspace).order_by("-pk")[:200]
    may_make = workspace is None or workspace.members.filter(user=request.user).exists()
    return render(request, "accounts/tokens.html", {"tokens": rows, "workspace": workspace, "may_make": may_make})


def token_form(
    request: HttpRequest,
    organization: Organization,
    roles: Sequence[OrganizationRole | WorkspaceRole],
    workspace: Any = None,
) -> HttpResponse:
    """GET and POST of the form of a new token. The secret is in the answer to the POST, and nowhere else."""
    form = TokenForm(request.POST or None, roles=roles)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        token, secret = create_token(
            organization,
            name=data["name"],
            role=data["role"],
            days=data["days"],
            workspace=workspace,
            by=person(request),
            uuid=data["key"],
        )
        if secret:
            context = {"token": token, "secret": secret, "workspace": workspace}
            return render(request, "accounts/token_made.html", context)
        messages.info(request, f"{token} was made already. Its secret was shown then, and is not kept.")
        return redirect("workspace-tokens", uuid=workspace.uuid) if workspace else redirect("tokens")
    return render(request, "accounts/token_new.html", {"form": form, "workspace": workspace})


# The audit


def _audit(organization: Organization, query: QueryDict) -> tuple[AuditFilterForm, AuditEventQuerySet]:
    """The form and the entries that it asks for, newest first; none where it asks for what cannot be."""
    chain = AuditChain.objects.filter(organization=organization.uuid).first()
    entries = AuditEvent.objects.filter(chain=chain) if chain else AuditEvent.objects.none()
    verbs = entries.verbs(chain) if chain else []
    form = AuditFilterForm(query, organization=organization, verbs=verbs)
    if not form.is_valid():
        return form, entries.none()
    asked = form.cleaned_data
    if asked["day"]:
        midnight = datetime.combine(asked["day"], time())
        try:
            entries = entries.between(make_aware(midnight), make_aware(midnight + timedelta(days=1)))
        except OverflowError:
            entries = entries.none()
    if asked["q"]:
        entries = entries.about(asked["q"])
    if asked["verb"]:
        entries = entries.filter(verb=asked["verb"])
    if asked["workspace"]:
        entries = entries.filter(workspace=asked["workspace"])
    return form, entries.order_by("-number")


def _older_than(entries: AuditEventQuerySet, number: int | None) -> AuditEventQuerySet:
    return entries.filter(number__lt=number) if number else entries


@require_safe
@login_required
def audit(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.READ_AUDIT)
    form, entries = _audit(organization, request.GET)
    before = form.cleaned_data.get("before")
    found = list(_older_than(entries, before)[: AUDIT_PAGE + 1])
    shown = found[:AUDIT_PAGE]
    pages = _pages_of(shown, person(request))
    view = request.GET.copy()
    view.pop("before", None)
    context = {
        "form": form,
        "rows": [(event, changes(event), pages.get((event.kind, event.subject))) for event in shown],
        "older": shown[-1].number if len(found) > AUDIT_PAGE else None,
        "before": before,
        "filtered": any(request.GET.get(name) for name in ("q", "verb", "workspace", "day")),
        "view": view.urlencode(),
    }
    return render(request, "accounts/audit.html", context)


def _pages_of(events: Iterable[AuditEvent], reader: User) -> dict[tuple[str, UUID | None], str]:
    """The addresses of what is still there and this person may see. A kind's page has the kind's name."""
    found: dict[tuple[str, UUID | None], str] = {}
    for model in apps.get_models():
        rows, kind = model._default_manager.all(), str(model._meta.verbose_name)
        uuids = {event.subject for event in events if event.kind == kind}
        if uuids and isinstance(rows, AccessQuerySet):
            for uuid in rows.where(reader, rows.sees).filter(uuid__in=uuids).values_list("uuid", flat=True):
                try:
                    found[kind, uuid] = reverse(kind, args=[uuid])
                except NoReverseMatch:
                    break
    return found


@require_safe
@login_required
def audit_csv(request: HttpRequest) -> HttpResponseBase:
    """All entries of the view, read a thousand at a time while they are sent."""
    organization = enter_organization(request, Can.READ_AUDIT)
    _, entries = _audit(organization, request.GET)
    lines = _csv_lines(entries)
    # Each kind of server has its own: a synchronous iterator would be gathered in memory under ASGI.
    content = _in_turn(lines) if isinstance(request, ASGIRequest) else lines
    response = StreamingHttpResponse(content, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="audit.csv"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


_COLUMNS = (
    *("number", "at", "actor_name", "actor", "how", "verb", "kind", "subject_name", "subject", "workspace"),
    *("changes", "address", "request_id", "hash"),
)


def _csv_lines(entries: AuditEventQuerySet) -> Iterator[str]:
    yield _csv(_COLUMNS)
    last = None
    while batch := list(_older_than(entries, last)[:1000]):
        yield "".join(_csv(_cell(event, column) for column in _COLUMNS) for event in batch)
        last = batch[-1].number


async def _in_turn(lines: Iterator[str]) -> AsyncIterator[str]:
    following = database_sync_to_async(lambda: next(lines, None))
    while (line := await following()) is not None:
        yield line


def _cell(event: AuditEvent, column: str) -> str:
    if column == "changes":
        return "; ".join(
            f"{name}: {old} → {new}" if old and new else f"{name}: {new or old}" for name, old, new in changes(event)
        )
    value = getattr(event, column)
    return value.isoformat() if isinstance(value, datetime) else "" if value is None else str(value)


def _csv(cells: Iterable[str]) -> str:
    """One line. A spreadsheet takes a cell that begins with one of these for a formula; an apostrophe stops it."""
    line = io.StringIO()
    csv.writer(line).writerow(f"'{cell}" if cell[:1] in set("=+-@\t\r") else cell for cell in cells)
    return line.getvalue()
