"""Who is in a workspace, and its API tokens."""

from __future__ import annotations

from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, WorkspaceRole, at_most, get_for, may, role_table
from accounts.actions import invite_people, revoke_token
from accounts.forms import InviteToWorkspaceForm, WorkspaceRoleForm
from accounts.holdings import holdings
from accounts.models import ApiToken, Organization
from accounts.place import Switched, enter_organization, person
from accounts.views.people import PAGE, asked_for, invited, told, with_state
from accounts.views.tokens import token_form, token_list
from portal.errors import PortalError
from portal.paging import Page
from workspaces.actions import change_workspace_role, is_last_admin, remove_workspace_member
from workspaces.models import WorkspaceMember
from workspaces.place import workspace_for


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def workspace_people(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Who may do what in here; for those who may invite, also the form for that, and who is invited."""
    found = workspace_for(request, uuid, Can.INVITE if request.method == "POST" else Can.SEE_WORKSPACE)
    manages = may(request, Can.INVITE)
    form = InviteToWorkspaceForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        sent = invite_people(
            found.organization,
            form.cleaned_data["emails"],
            by=person(request),
            workspace=found,
            workspace_role=form.cleaned_data["role"],
        )
        return told(request, sent, place=found, back=reverse("workspace-people", args=[uuid]))
    rows, asked = asked_for(request, found.members.all(), WorkspaceRole, manages=manages)
    page = Page(rows, request.GET.get("page"), PAGE)
    context = {
        "workspace": found,
        "page": page,
        "rows": with_state(page),
        **asked,
        "manages": manages,
        "form": form,
        "table": role_table(),
    }
    if manages:
        context |= invited(found.invitations.pending(), request, asked)
    return render(request, "workspaces/workspace_people.html", context)


def _member(request: HttpRequest, uuid: UUID, user: UUID) -> WorkspaceMember:
    found = workspace_for(request, uuid, Can.INVITE)
    return get_object_or_404(found.members.select_related("user", "workspace__organization"), user__uuid=user)


@require_POST
@login_required
def change_member(request: HttpRequest, uuid: UUID, member: UUID) -> HttpResponse:
    found = _member(request, uuid, member)
    form = WorkspaceRoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the roles.")
        return redirect("workspace-people", uuid=uuid)
    role = WorkspaceRole(form.cleaned_data["role"])
    lowers = role in at_most(WorkspaceRole(found.role))[1:]
    if lowers and found.user == request.user and "sure" not in request.POST:
        return render(request, "workspaces/workspace_role_lower.html", {"member": found, "role": role})
    try:
        change_workspace_role(found, role, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{found.user} is {role} of {found.workspace} now.")
    return redirect("workspace-people", uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_member(request: HttpRequest, uuid: UUID, member: UUID) -> HttpResponse:
    """GET says what goes; POST does it."""
    found = _member(request, uuid, member)
    if request.method == "POST":
        try:
            remove_workspace_member(found, by=person(request))
        except PortalError as error:
            messages.error(request, error.message)
            return redirect("workspace-people", uuid=uuid)
        messages.success(request, f"{found.user} is no longer in {found.workspace}.")
        return redirect("workspaces") if found.user == request.user else redirect("workspace-people", uuid=uuid)
    context = {
        "workspace": found.workspace,
        "member": found,
        "tokens": found.workspace.api_tokens.filter(owner=found.user, revoked=None).order_by("name"),
        "running": holdings(found.workspace.organization, started_by=found.user, workspace=found.workspace),
        "form": forms.Form(),
        "stays": is_last_admin(found) and not may(request, Can.MANAGE_ORGANIZATION),
    }
    return render(request, "workspaces/workspace_person_remove.html", context)


@require_safe
@login_required
def workspace_tokens(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = workspace_for(request, uuid, Can.MANAGE_TOKENS)
    return token_list(request, found.organization, found)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_workspace_token(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = workspace_for(request, uuid, Can.MANAGE_TOKENS)
    own = found.members.filter(user=person(request)).first()
    if own is None:  # an admin of the organization without a role in here has nothing to give to a token
        raise PermissionDenied
    return token_form(request, found.organization, at_most(WorkspaceRole(own.role)), found)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def revoke(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what will stop; POST does it. A token belongs to a workspace or to the organization itself."""
    token = get_object_or_404(ApiToken.objects.with_owners(), uuid=uuid)
    if token.workspace:
        workspace_for(request, token.workspace.uuid, Can.MANAGE_TOKENS)
    else:
        get_for(Organization.objects.all(), request.user, Can.MANAGE_TOKENS, pk=token.organization_id)
        if (active := enter_organization(request)) != token.organization:
            raise Switched(active, token.organization)
    if request.method == "POST":
        try:
            revoke_token(token, by=person(request))
            messages.success(request, f"{token} is revoked. Nothing gets in with it any more.")
        except PortalError as error:
            messages.info(request, error.message)
        return redirect("workspace-tokens", uuid=token.workspace.uuid) if token.workspace else redirect("tokens")
    return render(request, "accounts/token_revoke.html", {"token": token, "workspace": token.workspace})
