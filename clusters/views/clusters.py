from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts.access import Can, get_for, may
from clusters import actions, idle, life
from clusters.actions import OWN_REPAIRS, own_repairs
from clusters.forms.lists import ClusterFilterForm, GoneFilterForm
from clusters.models import Cluster
from clusters.waysin import ways_in
from portal.cursors import Page, behind, cursor_of, page_of
from portal.tasks.causes import explain_task
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
    can = workspace.can
    for row in page.rows:
        row.workspace = workspace
        row.possible = life.possible(row, can)
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


def cluster_for(request: HttpRequest, uuid: UUID, can: Can) -> Cluster:
    queryset = Cluster.objects.with_lost_nodes().select_related(
        "workspace__organization", "workspace__cloud_config", "engine_version", "created_by"
    )
    cluster = get_for(queryset, request.user, can, uuid=uuid)
    enter(request, cluster.workspace)
    return cluster


@require_safe
@login_required
def cluster(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = cluster_for(request, uuid, Can.VIEW)
    found.possible = life.possible(found, found.can)
    runs = found.runs.for_lists().order_by("-pk")[:10].with_reasons()
    nodes = list(found.nodes.all())
    terminals = list(found.terminals.select_related("person").order_by("pk"))
    tasks = list(found.tasks.select_related("asked_by").order_by("-pk")[:10])
    lacks_something = found.is_degraded or found.status == Cluster.Status.FAILED
    failed = tasks[0] if tasks and found.status == Cluster.Status.FAILED else None
    why, may_change = explain_task(failed) if failed else None, may(request, Can.MANAGE_CLUSTERS)
    context = {
        "cluster": found,
        "nodes": nodes,
        "why": why,
        "ways_out": found.ways_out(why) if why and may_change else [],
        "ways": ways_in(found, nodes),
        "terminals": terminals,
        "idle": idle.clock(found, terminals, tasks),
        "gave_up": found.auto_repair and lacks_something and len(own_repairs(found)) >= OWN_REPAIRS,
        "most_repairs": OWN_REPAIRS,
        "tasks": tasks,
        "runs": runs,
        "may_change": may_change,
        "on_it": actions.who_is_on(found),
    }
    part = "clusters/cluster.html#live" if request.headers.get("HX-Target") == "cluster-live" else ""
    return render(request, part or "clusters/cluster.html", context)
