"""What is done to several clusters at once. Each of them is asked by itself: what one refuses holds up no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch, prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from accounts.access import Can
from accounts.models import User
from accounts.place import person
from clusters import actions, life, plans
from clusters.forms.several import DeleteSeveralForm, PauseSeveralForm, chosen
from clusters.models import Cluster
from portal.errors import PortalError
from portal.tasks.plans import Plan
from workspaces.place import workspace_for


@dataclass(frozen=True)
class Change:
    plan: Plan
    act: Callable[..., object]
    form: Callable[..., forms.Form]

    @property
    def verb(self) -> str:
        return self.plan.title.split()[0]


CHANGES = {
    "pause": Change(life.PAUSE, actions.pause_cluster, PauseSeveralForm),
    "delete": Change(plans.DELETE, actions.delete_cluster, DeleteSeveralForm),
}


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def change_clusters(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what happens to each of those that are chosen, and which are left out; POST does it."""
    workspace = workspace_for(request, uuid, Can.MANAGE_CLUSTERS)
    sent = request.POST if request.method == "POST" else request.GET
    change = CHANGES.get(sent.get("what", ""))
    if change is None:
        return redirect("clusters", uuid=uuid)
    rows = workspace.clusters.filter(uuid__in=chosen(sent)).with_lost_nodes().order_by("name", "pk")
    found = list(rows.select_related("workspace__organization", "workspace__cloud_config").prefetch_related("nodes"))
    left_out = [(cluster, why) for cluster in found if (why := actions.why_not(cluster, change.plan))]
    clusters = [cluster for cluster in found if cluster not in dict(left_out)]
    if not clusters:
        for _, why in left_out:
            messages.error(request, why)
        if not left_out:
            messages.error(request, "Choose clusters by the boxes at the beginning of their rows first.")
        return redirect("clusters", uuid=uuid)
    form = change.form(request.POST if request.method == "POST" else None, clusters=clusters)
    if request.method == "POST" and form.is_valid():
        _act(request, change, clusters, by=person(request))
        return redirect("clusters", uuid=uuid)
    runs = clusters[0].runs.model.objects.unfinished().select_related("job")
    prefetch_related_objects(clusters, Prefetch("runs", runs[:10], to_attr="unfinished_runs"))
    context = {
        "workspace": workspace,
        "change": change,
        "what": sent["what"],
        "plan": change.plan.on(workspace.can),
        "form": form,
        "clusters": clusters,
        "left_out": left_out,
    }
    return render(request, "clusters/change_several.html", context)


def _act(request: HttpRequest, change: Change, clusters: list[Cluster], *, by: User) -> None:
    """Whatever is refused now was not refused a moment ago: somebody else was faster."""
    begun = []
    for cluster in clusters:
        try:
            change.act(cluster, by=by)
        except PortalError as error:
            messages.error(request, f"{error.message} {error.advice}".strip())
        else:
            begun.append(cluster.name)
    if begun:
        verb = "is" if len(begun) == 1 else "are"
        messages.success(request, f"{', '.join(begun)} {verb} being {change.plan.participle}.")
