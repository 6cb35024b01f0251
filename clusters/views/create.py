from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods
from django_htmx.http import trigger_client_event

from accounts.access import Can, get_for
from accounts.place import person
from clusters import plans
from clusters.actions import create_cluster
from clusters.estimate import estimate, node_price
from clusters.forms.create import ClusterForm, TypesForm, typed
from clusters.models import Cluster
from portal.forms import refusals_in
from workspaces.place import workspace_for

# Of the page, by the id of what they replace.
PARTS = {"estimate": "clusters/cluster_new.html#estimate", "types": "clusters/_types.html#types"}


def _like(request: HttpRequest) -> Cluster | None:
    """The cluster that the new one is to be like, by `?like=`. It may be of another workspace."""
    asked = request.GET.get("like")
    if not asked:
        return None
    try:
        uuid = UUID(asked)
    except ValueError as error:
        raise Http404 from error
    return get_for(Cluster.objects.all(), request.user, Can.VIEW, uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_cluster(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The address may fill in any field. `look` and `size`, of a POST, show the page again, and make nothing."""
    workspace = workspace_for(request, uuid, Can.MANAGE_CLUSTERS)
    is_sent = request.method == "POST"
    asked = request.POST if is_sent else request.GET
    makes = is_sent and not {"look", "size"} & set(asked)
    like = _like(request)
    form = ClusterForm(
        asked if makes else None,
        workspace=workspace,
        like=like,
        size=asked.get("size", ""),
        initial={} if makes else typed(asked, whole=is_sent),
    )
    if makes and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            cluster = create_cluster(
                workspace,
                **{name: data[name] for name in form.fields if name != "key"},
                hourly_price=node_price(workspace, form.wanted, seen_by=person(request)) if form.wanted else None,
                by=person(request),
                uuid=data["key"],
            )
            task = cluster.last_task
            return redirect("task", uuid=task.uuid) if task else redirect("cluster", uuid=cluster.uuid)
    part = request.headers.get("HX-Target", "")
    types = TypesForm(asked, of=form)
    context = {
        "workspace": workspace,
        "form_page": reverse("new-cluster", args=[workspace.uuid]),
        "form": form,
        "like": like,
        "types": types,
        "estimate": estimate(workspace, form.wanted, form.room, seen_by=person(request))
        if form.wanted and part != "types"
        else None,
        "plan": plans.CREATE.on(workspace.can),
    }
    response = render(request, PARTS.get(part, "clusters/cluster_new.html"), context)
    return trigger_client_event(response, "filled", after="swap") if types.is_filled else response
