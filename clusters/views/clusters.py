from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms import Form
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, get_for, may
from accounts.place import person
from clusters import actions, life, plans
from clusters.actions import OWN_REPAIRS, change_auto_repair, create_cluster, delete_cluster, own_repairs
from clusters.forms import ClusterFilterForm, ClusterForm, DeleteForm, EditForm, GoneFilterForm, ScaleForm
from clusters.models import Cluster
from clusters.waysin import ways_in
from portal.cursors import Page, behind, cursor_of, page_of
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.tasks.models import Task
from portal.tasks.plans import Plan
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
        "on_it": actions.who_is_on(found),
    }
    part = "clusters/cluster.html#live" if request.headers.get("HX-Target") == "cluster-live" else ""
    return render(request, part or "clusters/cluster.html", context)


def _sent(request: HttpRequest) -> QueryDict | None:
    return request.POST if request.method == "POST" else None


def _at_once(act: Callable[..., Task]) -> Callable[..., HttpResponse]:
    """A view that does it, for what loses nothing: it leads to the task, or back to the cluster with a refusal."""

    @login_required
    @require_POST
    def view(request: HttpRequest, uuid: UUID) -> HttpResponse:
        found = cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
        try:
            return redirect("task", uuid=act(found, by=person(request)).uuid)
        except PortalError as error:
            messages.error(request, f"{error.message} {error.advice}".strip())
            return redirect("cluster", uuid=uuid)

    return view


def _after_a_look(act: Callable[..., Task], plan: Plan) -> Callable[..., HttpResponse]:
    """A view whose GET says what will be lost, and whose POST does it."""

    @login_required
    @require_http_methods(["GET", "HEAD", "POST"])
    def view(request: HttpRequest, uuid: UUID) -> HttpResponse:
        found = cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
        form = Form(_sent(request))
        if request.method == "POST":
            with refusals_in(form):
                return redirect("task", uuid=act(found, by=person(request)).uuid)
        context = {"cluster": found, "form": form, "plan": plan, "verb": plan.title.split()[0]}
        return render(request, "clusters/cluster_change.html", context)

    return view


repair = _at_once(actions.repair_cluster)
pause = _at_once(actions.pause_cluster)
resume = _at_once(actions.resume_cluster)
start = _at_once(actions.start_cluster)
stop = _after_a_look(actions.stop_cluster, life.STOP)
restart = _after_a_look(actions.restart_cluster, life.RESTART)
forget = _after_a_look(actions.forget_cluster, life.FORGET)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def scale(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Where nodes would go, the first POST says which; the second, of the same number, does it."""
    found = cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    form = ScaleForm(_sent(request), cluster=found)
    if request.method == "POST" and form.is_valid() and (form.is_sure or not form.going):
        with refusals_in(form):
            task = actions.scale_cluster(found, form.cleaned_data["node_count"], by=person(request))
            return redirect("task", uuid=task.uuid)
    context = {"cluster": found, "form": form, "plan": life.SCALE, "on_it": actions.who_is_on(found)}
    return render(request, "clusters/cluster_scale.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    form = EditForm(_sent(request), cluster=found)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            if actions.edit_cluster(found, form.cleaned_data, by=person(request)):
                messages.success(request, f"{found} was changed.")
            return redirect("cluster", uuid=uuid)
    return render(request, "clusters/cluster_edit.html", {"cluster": found, "form": form})


@login_required
@require_POST
def auto_repair(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Whether it is repaired by itself: the field `on` is in the form or not, as a checkbox is."""
    found = cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    try:
        change_auto_repair(found, "on" in request.POST, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("cluster", uuid=uuid)


@login_required
def remove_cluster(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what will be destroyed; POST with the cluster's name does it."""
    found = cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    form = DeleteForm(_sent(request), cluster=found)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            task = delete_cluster(found, by=person(request), force=form.cleaned_data.get("force", False))
            return redirect("task", uuid=task.uuid)
    context = {
        "cluster": found,
        "form": form,
        "nodes": found.nodes.all(),
        "runs": found.runs.unfinished().select_related("job"),
        "plan": plans.DELETE.on(found.can),
    }
    return render(request, "clusters/cluster_delete.html", context)
