"""Pages by which people get onto the nodes of a cluster: the terminal, the key, the hostfile."""

from __future__ import annotations

from uuid import UUID

from csp.decorators import csp_update
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Can
from accounts.place import person
from accounts.signin import confirm
from clusters import terminals
from clusters.actions import refresh_hostfile, take_key
from clusters.views.clusters import cluster_for
from clusters.waysin import key_file
from portal.errors import PortalError


@require_safe
@login_required
# xterm.js makes style elements; only this page may have any.
@csp_update({"style-src": ["'unsafe-inline'"]})  # type: ignore[arg-type]  # it knows no views with ids
def terminal(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """A terminal on the node whose rank is in the address, or on the head node."""
    found = cluster_for(request, uuid, Can.RUN_JOBS)
    nodes = list(found.nodes.all())
    rank = request.GET.get("node", "0")
    node = next((node for node in nodes if str(node.rank) == rank), None)
    if node is None and nodes:
        raise Http404
    context = {
        "cluster": found,
        "node": node,
        "others": [other for other in nodes if other != node],
        "why_not": terminals.why_not(found, node) if node else f"{found} has no nodes yet.",
        "typing": terminals.MOST_TYPED // 2,
    }
    return render(request, "clusters/terminal.html", context)


@login_required
@require_POST
def key(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The file for `ssh -i`."""
    found = cluster_for(request, uuid, Can.RUN_JOBS)
    confirm(request)
    try:
        private = take_key(found, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("cluster", uuid=uuid)
    return HttpResponse(
        private,
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{key_file(found)}"'},
    )


@login_required
@require_POST
def hostfile(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = cluster_for(request, uuid, Can.RUN_JOBS)
    try:
        refresh_hostfile(found, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "The hostfile is up to date. Sessions that are open keep the ranks that they have.")
    return redirect("cluster", uuid=uuid)
