from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from accounts.access import Can
from accounts.place import person
from clusters import plans
from clusters.actions import create_cluster
from clusters.forms.create import ClusterForm
from portal.forms import refusals_in
from workspaces.place import workspace_for


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
