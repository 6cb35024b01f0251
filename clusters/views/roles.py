"""Instance roles of a workspace: which there are, how one is registered, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, may
from accounts.place import person
from clusters import roles
from clusters.forms.roles import InstanceRoleForm
from clusters.models import Cluster, InstanceRole
from portal import clouds
from portal.clouds.aws import policy
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.tasks.causes import explain_task
from portal.tasks.models import TaskStatus
from workspaces.models import CloudConfig, Workspace
from workspaces.place import row_for, workspace_for

MOST = 200  # of a workspace, that a page shows
BUCKET = "YOUR-BUCKET"


def _workspace(request: HttpRequest, uuid: UUID, can: Can) -> Workspace:
    """404 where its cloud gives nodes no rights."""
    found = workspace_for(request, uuid, can)
    if clouds.Can.ROLE not in found.can:
        raise Http404
    return found


def _role(request: HttpRequest, uuid: UUID, can: Can) -> InstanceRole:
    return row_for(request, InstanceRole, uuid, can, "workspace__cloud_config", "created_by")


@require_safe
@login_required
def instance_roles(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = _workspace(request, uuid, Can.VIEW)
    used = Cluster.objects.live().filter(workspace=workspace, role=OuterRef("arn")).order_by().values("role")
    rows = InstanceRole.objects.live().filter(workspace=workspace).order_by("name")
    context = {
        "workspace": workspace,
        "roles": rows.annotate(used=Coalesce(Subquery(used.annotate(n=Count("pk")).values("n")), 0))[:MOST],
    }
    part = "#list" if request.headers.get("HX-Target") == "role-list" else ""
    return render(request, f"clusters/roles.html{part}", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_instance_role(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = _workspace(request, uuid, Can.MANAGE_CLUSTERS)
    form = InstanceRoleForm(request.POST if request.method == "POST" else None, workspace=workspace)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            words = {name: data[name] for name in ("name", "arn", "description")}
            role = roles.register(workspace, **words, by=person(request), uuid=data["key"])
            return redirect(role)
    context = {"workspace": workspace, "form": form, "plan": roles.ATTACH.on(workspace.can), **_help(workspace)}
    return render(request, "clusters/role_new.html", context)


def _help(workspace: Workspace) -> dict[str, Any]:
    """What the walk-through is filled in with."""
    if workspace.cloud_config.kind != CloudConfig.Kind.AWS:
        return {}
    options: Any = workspace.cloud_config.connection
    return {
        "account": options.account,
        "bucket": BUCKET,
        "trust": policy.as_text(policy.trust_of_nodes(options.partition)),
        "use": policy.as_text(policy.use_of_a_bucket(BUCKET, options.partition)),
    }


@require_safe
@login_required
def instance_role(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What it is, why it cannot be used where it cannot, and which clusters have it."""
    found = _role(request, uuid, Can.VIEW)
    manages = may(request, Can.MANAGE_CLUSTERS)
    tasks = list(found.tasks.select_related("asked_by", "output").order_by("-pk")[:10])
    last = tasks[0] if tasks else None
    failed = last if last and last.status == TaskStatus.FAILED and found.status == found.Status.FAILED else None
    why = explain_task(failed) if failed else None
    context = {
        "role": found,
        "workspace": found.workspace,
        "tasks": tasks,
        "last": last,
        "failed": failed,
        "why": why,
        "ways_out": found.ways_out(why) if why and may(request, Can.MANAGE_ORGANIZATION) else [],
        "clusters": found.clusters.order_by("name")[:20],
        "may_be_forgotten": manages and roles.may_be_forgotten(found),
        "is_there": found.status != found.Status.TERMINATED,
        "is_settled": found.status in (found.Status.ACTIVE, found.Status.FAILED),
    }
    part = "#live" if request.headers.get("HX-Target") == "role-live" else ""
    return render(request, f"clusters/role.html{part}", context)


def _at_once(act: Callable[..., Any], done: str = "") -> Callable[..., HttpResponse]:
    @login_required
    @require_POST
    def view(request: HttpRequest, uuid: UUID) -> HttpResponse:
        found = _role(request, uuid, Can.MANAGE_CLUSTERS)
        try:
            act(found, by=person(request))
        except PortalError as error:
            messages.error(request, f"{error.message} {error.advice}".strip())
        else:
            if done:
                messages.success(request, done.format(found))
        return redirect(found)

    return view


validate = _at_once(roles.validate)
forget = _at_once(roles.forget, "{} is forgotten. What the portal gave the role is still attached to it.")


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what goes and what stays; POST does it."""
    found = _role(request, uuid, Can.MANAGE_CLUSTERS)
    if request.method == "POST":
        try:
            return redirect("task", uuid=roles.remove(found, by=person(request)).uuid)
        except PortalError as error:
            messages.error(request, f"{error.message} {error.advice}".strip())
            return redirect("remove-instance-role", uuid=uuid)
    context = {
        "role": found,
        "workspace": found.workspace,
        "plan": roles.DETACH.on(found.can),
        "clusters": found.clusters.order_by("name")[:20],
        "is_there": found.status != found.Status.TERMINATED,
        "all": reverse("instance-roles", args=[found.workspace.uuid]),
    }
    return render(request, "clusters/role_remove.html", context)
