"""Cloud configurations and workspaces."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, WorkspaceRole, at_most, get_for, may, role_table
from accounts.actions import invite_people, revoke_token
from accounts.forms import ConfirmDeleteForm, InviteToWorkspaceForm, WorkspaceRoleForm
from accounts.holdings import holdings
from accounts.models import ApiToken, Organization
from accounts.place import Switched, enter_organization, person
from accounts.views.people import PAGE, asked_for, invited, told, with_state
from accounts.views.tokens import token_form, token_list
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.paging import Page
from workspaces import plans
from workspaces.actions import (
    change_workspace_role,
    create_cloud_config,
    create_workspace,
    delete_cloud_config,
    delete_workspace,
    is_last_admin,
    remove_workspace_member,
    rename,
)
from workspaces.forms import CloudConfigForm, RenameForm, WorkspaceForm
from workspaces.models import CloudConfig, Stray, Workspace, WorkspaceMember
from workspaces.place import workspace_for


@require_safe
@login_required
def cloud_configs(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    rows = CloudConfig.objects.where(request.user, Can.MANAGE_ORGANIZATION).filter(organization=organization)
    configs = (
        rows.live()
        .prefetch_related(
            Prefetch("workspaces", Workspace.objects.live(), to_attr="live_workspaces"),
            Prefetch("strays", Stray.objects.there(), to_attr="strays_there"),
        )
        .order_by("name")
    )
    return render(request, "workspaces/cloud_configs.html", {"configs": configs})


@login_required
def new_cloud_config(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    form = CloudConfigForm(request.POST or None, organization=organization)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            config = create_cloud_config(
                organization, name=data["name"], kind=data["kind"], by=person(request), uuid=data["key"]
            )
            try:
                identity = config.account.check()
                messages.success(request, f"{config.name} is ready: {identity.name}, {identity.detail}.")
            except PortalError as error:
                messages.error(request, f"{config.name}: {error.message} {error.advice}")
            # without a workspace the dashboard has what comes next
            return redirect("cloud-configs" if organization.workspaces.exists() else "dashboard")
    return render(request, "workspaces/cloud_config_new.html", {"form": form})


def _cloud_config(request: HttpRequest, uuid: UUID) -> CloudConfig:
    """The one of the address, which is 404 to whoever administers no organization that has it."""
    configs = CloudConfig.objects.live().select_related("organization", "created_by")
    found = get_for(configs, request.user, Can.MANAGE_ORGANIZATION, uuid=uuid)
    if (active := enter_organization(request)) != found.organization:
        raise Switched(active, found.organization)
    return found


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def cloud_config(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What it is and who uses it; its name can be changed."""
    found = _cloud_config(request, uuid)
    form = RenameForm(request.POST or None, row=found, others=found.organization.cloud_configs.live())
    if _renamed(request, form, found):
        return redirect("cloud-config", uuid=uuid)
    workspaces = found.workspaces.live().order_by("name")
    context = {"config": found, "form": form, "workspaces": workspaces}
    return render(request, "workspaces/cloud_config.html", context)


def _renamed(request: HttpRequest, form: RenameForm, row: CloudConfig | Workspace) -> bool:
    """Whether the form was sent and did it; otherwise it says why not."""
    if request.method != "POST" or not form.is_valid():
        return False
    with refusals_in(form):
        rename(row, form.cleaned_data["name"], by=person(request))
        messages.success(request, f"It is called {row.name} now.")
    return form.is_valid()


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_cloud_config(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _cloud_config(request, uuid)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            delete_cloud_config(found, by=person(request))
            messages.success(request, f"The cloud configuration {found} is deleted.")
            return redirect("cloud-configs")
    context = {"form": form, "config": found, "workspaces": found.workspaces.live().order_by("name")}
    return render(request, "workspaces/cloud_config_delete.html", context)


def _workspaces(request: HttpRequest, organization: Organization) -> Any:
    return (
        Workspace.objects.where(request.user, Can.SEE_WORKSPACE)
        .filter(organization=organization)
        .live()
        .select_related("cloud_config", "created_by")
        .order_by("name")
    )


@require_safe
@login_required
def workspaces(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request)
    inside = set(Workspace.objects.where(request.user, Can.VIEW).values_list("pk", flat=True))
    rows = [(workspace, workspace.pk in inside) for workspace in _workspaces(request, organization)]
    part = "workspaces/workspaces.html#list" if request.headers.get("HX-Target") == "workspace-list" else ""
    return render(request, part or "workspaces/workspaces.html", {"rows": rows, "organization": organization})


@login_required
def new_workspace(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    if not organization.cloud_configs.live().exists():
        messages.info(request, "A workspace needs a cloud configuration. Make one first.")
        return redirect("new-cloud-config")
    form = WorkspaceForm(request.POST or None, organization=organization)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            workspace = create_workspace(
                organization,
                name=data["name"],
                cloud_config=data["cloud_config"],
                region=data["region"],
                by=person(request),
                uuid=data["key"],
            )
            task = workspace.last_task
            return redirect("task", uuid=task.uuid) if task else redirect("workspaces")
    return render(request, "workspaces/workspace_new.html", {"form": form, "plan": plans.CREATE})


@require_safe
@login_required
def workspace(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The door: to its dashboard once it is READY, to its task until then."""
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    if found.status == Workspace.Status.READY and Workspace.objects.where(request.user, Can.VIEW).filter(pk=found.pk):
        return redirect("workspace-dashboard", uuid=uuid)
    task = found.last_task
    if found.status != Workspace.Status.READY and task:
        return redirect("task", uuid=task.uuid)
    return redirect("workspace-settings", uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def workspace_settings(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What it is and what was done to it; admins, its own and the organization's, can change its name."""
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    allowed = may(request, Can.MANAGE_WORKSPACE) or may(request, Can.MANAGE_ORGANIZATION)
    if request.method == "POST" and not allowed:
        raise PermissionDenied
    form = RenameForm(request.POST or None, row=found, others=found.organization.workspaces.live())
    if _renamed(request, form, found):
        return redirect("workspace-settings", uuid=uuid)
    context = {
        "workspace": found,
        "tasks": found.tasks.select_related("asked_by", "output").order_by("-pk")[:10],
        "form": form,
    }
    return render(request, "workspaces/workspace_settings.html", context)


@login_required
def remove_workspace(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    get_for(Organization.objects.all(), request.user, Can.MANAGE_ORGANIZATION, pk=found.organization_id)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            return redirect("task", uuid=delete_workspace(found, by=person(request)).uuid)
    clusters = found.clusters.live().with_lost_nodes()
    context = {"form": form, "workspace": found, "clusters": clusters, "plan": plans.DELETE.on(found.can)}
    return render(request, "workspaces/workspace_delete.html", context)


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
