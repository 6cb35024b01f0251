from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, get_for, may
from accounts.forms import ConfirmDeleteForm
from accounts.place import person
from clusters import plans
from clusters.actions import (
    OWN_REPAIRS,
    change_auto_repair,
    create_cluster,
    delete_cluster,
    own_repairs,
    repair_cluster,
)
from clusters.connect import ways_in
from clusters.forms import ClusterFilterForm, ClusterForm, GoneFilterForm
from clusters.models import Cluster
from portal.cursors import Page, behind, cursor_of, page_of
from portal.errors import PortalError
from portal.forms import refusals_in
from workspaces.place import enter, workspace_for

PAGE = 25


@require_safe
@login_required
def clusters(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Those that are there, or those that are gone; what is found by name and status is in the address."""
    workspace = workspace_for(request, uuid, Can.VIEW)
    gone = request.GET.get("tab") == "gone"
    form = GoneFilterForm(request.GET) if gone else ClusterFilterForm(request.GET)
    page: Page[Cluster] = Page([])
    if form.is_valid():
        rows = form.narrow(Cluster.objects.filter(workspace=workspace))
        order = ("-pk",) if gone or form.cleaned_data["sort"] == "new" else ("name", "pk")
        rows = behind(rows, cursor_of(request.GET), *order).select_related("engine_version").with_lost_nodes()
        page = page_of(rows[: PAGE + 1], PAGE, request.GET)
    context = {
        "workspace": workspace,
        "clusters": page.rows,
        **page.context,
        "form": form,
        "gone": gone,
        "filtered": any(request.GET.get(name) for name in ("q", "status")),
        "had_some": not page.rows and workspace.clusters.exists(),
    }
    part = "clusters/clusters.html#list" if request.headers.get("HX-Target") == "cluster-list" else ""
    return render(request, part or "clusters/clusters.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_cluster(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The page asks for its sums again when another instance type or number of nodes is chosen."""
    workspace = workspace_for(request, uuid, Can.MANAGE_CLUSTERS)
    chosen = {name: request.GET[name] for name in ("instance_type", "node_count") if name in request.GET}
    form = ClusterForm(request.POST or None, workspace=workspace, initial=chosen)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            cluster = create_cluster(
                workspace,
                name=data["name"],
                instance_type=data["instance_type"],
                node_count=data["node_count"],
                engine_version=data["engine_version"],
                auto_repair=data["auto_repair"],
                by=person(request),
                uuid=data["key"],
            )
            task = cluster.last_task
            return redirect("task", uuid=task.uuid) if task else redirect("cluster", uuid=cluster.uuid)
    part = "clusters/cluster_new.html#room" if request.headers.get("HX-Target") == "room" else ""
    context = {"workspace": workspace, "form": form, "plan": plans.CREATE.on(workspace.can)}
    return render(request, part or "clusters/cluster_new.html", context)


def _cluster_for(request: HttpRequest, uuid: UUID, can: Can) -> Cluster:
    queryset = Cluster.objects.with_lost_nodes().select_related(
        "workspace__organization", "workspace__cloud_config", "engine_version", "created_by"
    )
    cluster = get_for(queryset, request.user, can, uuid=uuid)
    enter(request, cluster.workspace)
    return cluster


@require_safe
@login_required
def cluster(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _cluster_for(request, uuid, Can.VIEW)
    runs = found.runs.for_lists().order_by("-pk")[:10].with_reasons()
    nodes = list(found.nodes.all())
    lacks_something = found.is_degraded or found.status == Cluster.Status.FAILED
    context = {
        "cluster": found,
        "nodes": nodes,
        "ways": ways_in(found, nodes),
        "terminals": found.terminals.select_related("person").order_by("pk"),
        "gave_up": found.auto_repair and lacks_something and len(own_repairs(found)) >= OWN_REPAIRS,
        "most_repairs": OWN_REPAIRS,
        "tasks": found.tasks.select_related("asked_by").order_by("-pk")[:10],
        "runs": runs,
        "may_change": may(request, Can.MANAGE_CLUSTERS),
    }
    part = "clusters/cluster.html#live" if request.headers.get("HX-Target") == "cluster-live" else ""
    return render(request, part or "clusters/cluster.html", context)


@login_required
@require_POST
def repair(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    try:
        return redirect("task", uuid=repair_cluster(found, by=person(request)).uuid)
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("cluster", uuid=uuid)


@login_required
@require_POST
def auto_repair(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Whether it is repaired by itself: the field `on` is in the form or not, as a checkbox is."""
    found = _cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    change_auto_repair(found, "on" in request.POST, by=person(request))
    return redirect("cluster", uuid=uuid)


@login_required
def remove_cluster(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what will be destroyed; POST with the cluster's name does it."""
    found = _cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            return redirect("task", uuid=delete_cluster(found, by=person(request)).uuid)
    context = {
        "cluster": found,
        "form": form,
        "nodes": found.nodes.all(),
        "runs": found.runs.unfinished().select_related("job"),
        "plan": plans.DELETE.on(found.can),
    }
    return render(request, "clusters/cluster_delete.html", context)
