"""Cloud configurations and workspaces."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from accounts.access import Can, get_for
from accounts.models import Organization
from accounts.place import enter_organization, person
from portal.clouds.errors import PortalError
from workspaces.actions import create_cloud_config, create_workspace, delete_workspace
from workspaces.forms import CloudConfigForm, ConfirmDeleteForm, WorkspaceForm
from workspaces.models import CloudConfig, Workspace
from workspaces.place import workspace_for


@require_safe
@login_required
def cloud_configs(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    rows = CloudConfig.objects.where(request.user, Can.MANAGE_ORGANIZATION).filter(organization=organization)
    configs = rows.prefetch_related("workspaces").order_by("name")
    return render(request, "workspaces/cloud_configs.html", {"configs": configs})


@login_required
def new_cloud_config(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    form = CloudConfigForm(request.POST or None, organization=organization)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        config = create_cloud_config(
            organization, name=data["name"], kind=data["kind"], by=person(request), uuid=data["key"]
        )
        try:
            identity = config.cloud("").check()
            messages.success(request, f"{config.name} is ready: {identity.name}, {identity.detail}.")
        except PortalError as error:
            messages.error(request, f"{config.name}: {error.message} {error.advice}")
        return redirect("cloud-configs")
    return render(request, "workspaces/cloud_config_new.html", {"form": form})


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
    if not organization.cloud_configs.exists():
        messages.info(request, "A workspace needs a cloud configuration. Make one first.")
        return redirect("new-cloud-config")
    form = WorkspaceForm(request.POST or None, organization=organization)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
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
    return render(request, "workspaces/workspace_new.html", {"form": form})


@require_safe
@login_required
def workspace(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The door: into its clusters once it is READY, to its task until then."""
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    if found.status == Workspace.Status.READY and Workspace.objects.where(request.user, Can.VIEW).filter(pk=found.pk):
        return redirect("clusters", uuid=uuid)
    task = found.last_task
    if found.status != Workspace.Status.READY and task:
        return redirect("task", uuid=task.uuid)
    return redirect("workspace-settings", uuid=uuid)


@require_safe
@login_required
def workspace_settings(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    context = {
        "workspace": found,
        "members": found.members.select_related("user").order_by("user__email"),
        "tasks": found.tasks.order_by("-pk")[:10],
        "may_delete": Workspace.objects.where(request.user, Can.MANAGE_WORKSPACE).filter(pk=found.pk).exists()
        or _is_organization_admin(request, found),
    }
    return render(request, "workspaces/workspace_settings.html", context)


def _is_organization_admin(request: HttpRequest, workspace: Workspace) -> bool:
    organizations = Organization.objects.where(request.user, Can.MANAGE_ORGANIZATION)
    return organizations.filter(pk=workspace.organization_id).exists()


@login_required
def remove_workspace(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    get_for(Organization.objects.all(), request.user, Can.MANAGE_ORGANIZATION, pk=found.organization_id)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        try:
            return redirect("task", uuid=delete_workspace(found, by=person(request)).uuid)
        except PortalError as error:
            form.add_error(None, error.message)
    clusters = found.clusters.live()
    return render(request, "workspaces/workspace_delete.html", {"form": form, "workspace": found, "clusters": clusters})
