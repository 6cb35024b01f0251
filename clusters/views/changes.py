from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms import Form
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import Can
from accounts.place import person
from clusters import actions, life, plans
from clusters.actions import change_auto_repair, delete_cluster
from clusters.forms.changes import DeleteForm, EditForm, ScaleForm
from clusters.models import Cluster
from clusters.views.clusters import cluster_for
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.tasks.models import Task
from portal.tasks.plans import Plan


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


@login_required
@require_POST
def keep(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What failed stays for a while, for somebody who wants to look at it."""
    found = cluster_for(request, uuid, Can.MANAGE_CLUSTERS)
    try:
        actions.keep_failed(found, by=person(request))
        messages.success(request, f"What there is of {found} stays for {Cluster.KEEP.seconds // 60} minutes from now.")
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("cluster", uuid=uuid)


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
        context = {"cluster": found, "form": form, "plan": plan.on(found.can), "verb": plan.title.split()[0]}
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
    context = {"cluster": found, "form": form, "plan": life.SCALE.on(found.can), "on_it": actions.who_is_on(found)}
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
@require_POST
def snooze(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """For all who may use it: by a run or a terminal they would do the same."""
    found = cluster_for(request, uuid, Can.RUN_JOBS)
    try:
        actions.snooze_cluster(found, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The time without activity on {found} begins again now.")
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
