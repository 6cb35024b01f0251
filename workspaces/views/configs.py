"""Cloud configurations: which there are, what their accounts say, and the forms that make and change them."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, get_for
from accounts.forms import ConfirmDeleteForm
from accounts.place import enter_organization, person
from portal.forms import refusals_in
from workspaces import aws, checks
from workspaces.actions import change_cloud_config, create_cloud_config, delete_cloud_config
from workspaces.forms import config_form
from workspaces.models import CloudConfig, Stray, Workspace
from workspaces.place import enter_of
from workspaces.pools import pools_of

STRAYS = 20  # of a cloud configuration, that a page shows


@require_safe
@login_required
def cloud_configs(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    rows = CloudConfig.objects.where(request.user, Can.MANAGE_ORGANIZATION).filter(organization=organization)
    configs = (
        rows.live()
        .select_related("created_by")
        .prefetch_related(Prefetch("workspaces", Workspace.objects.live(), to_attr="live_workspaces"))
        .prefetch_related(Prefetch("strays", Stray.objects.there()[: STRAYS + 1], to_attr="strays_there"))
        .order_by("name")
    )
    context = {"configs": configs, "organization": organization, "most_strays": STRAYS}
    part = "workspaces/cloud_configs.html#list" if request.headers.get("HX-Target") == "config-list" else ""
    return render(request, part or "workspaces/cloud_configs.html", context)


@login_required
def new_cloud_config(request: HttpRequest) -> HttpResponse:
    """The form of the kind that the address names, or the first."""
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    kind = request.POST.get("kind") or request.GET.get("kind", "")
    form = config_form(kind)(request.POST or None, organization=organization)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            config = create_cloud_config(
                organization,
                name=data["name"],
                kind=form.kind,
                options=form.options,
                credentials=form.credentials,
                by=person(request),
                uuid=data["key"],
            )
            if not config.is_finished:
                return redirect("connect-aws", config.uuid)
            checks.want(config)
            messages.success(request, f"{config.name} is made. Its page says what the cloud says to it.")
            if config.kind == CloudConfig.Kind.MACHINES:  # of which nothing can be made before it has a pool
                return redirect(config)
            # without a workspace the dashboard has what comes next
            return redirect("cloud-configs" if organization.workspaces.exists() else "dashboard")
    return render(request, "workspaces/cloud_config_new.html", {"form": form})


def cloud_config_for(request: HttpRequest, uuid: UUID) -> CloudConfig:
    """The one of the address, which is 404 to whoever administers no organization that has it."""
    configs = CloudConfig.objects.live().select_related("organization", "created_by")
    found = get_for(configs, request.user, Can.MANAGE_ORGANIZATION, uuid=uuid)
    enter_of(request, found)
    return found


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def cloud_config(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What it is, what its account says and who uses it; by the form of its kind it is changed."""
    found = cloud_config_for(request, uuid)
    form = config_form(found.kind)(request.POST or None, organization=found.organization, config=found)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            if changed := change_cloud_config(
                found,
                name=form.cleaned_data["name"],
                options=form.options,
                credentials=form.credentials,
                by=person(request),
            ):
                messages.success(request, f"{found} is changed: {', '.join(changed)}.")
            if found.is_finished and changed not in ([], ["name"]):
                checks.want(found)
            return redirect("cloud-config", uuid=uuid)
    context = {
        "config": found,
        "found": aws.shown(found, found.findings) if found.kind == CloudConfig.Kind.AWS else found.findings,
        "form": form,
        "workspaces": found.workspaces.live().order_by("name"),
        "strays": found.strays.there()[: STRAYS + 1],
        "most_strays": STRAYS,
        "pools": pools_of(found) if found.kind == CloudConfig.Kind.MACHINES else None,
    }
    part = "workspaces/cloud_config.html#live" if request.headers.get("HX-Target") == "config-live" else ""
    return render(request, part or "workspaces/cloud_config.html", context)


@require_POST
@login_required
def check_cloud_config(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The answer comes to the page: however long the cloud takes, nobody waits here."""
    found = cloud_config_for(request, uuid)
    checks.want(found)
    return redirect(found)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_cloud_config(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = cloud_config_for(request, uuid)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            delete_cloud_config(found, by=person(request))
            messages.success(request, f"The cloud configuration {found} is deleted.")
            return redirect("cloud-configs")
    context = {"form": form, "config": found, "workspaces": found.workspaces.live().order_by("name")}
    return render(request, "workspaces/cloud_config_delete.html", context)
