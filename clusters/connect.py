"""Pages of a cluster by which people get onto its nodes: the terminal, the key, the hostfile."""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any
from uuid import UUID

from csp.decorators import csp_update
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Can, get_for
from accounts.place import person
from accounts.signin import confirm
from clusters import terminals
from clusters.actions import refresh_hostfile, take_key
from clusters.models import Cluster, Node
from portal.errors import PortalError
from workspaces.place import enter


def _cluster_for(request: HttpRequest, uuid: UUID) -> Cluster:
    rows = Cluster.objects.with_lost_nodes().select_related(
        "workspace__organization", "workspace__cloud_config", "engine_version"
    )
    found = get_for(rows, request.user, Can.RUN_JOBS, uuid=uuid)
    enter(request, found.workspace)
    return found


@require_safe
@login_required
# xterm.js makes style elements; only this page may have any.
@csp_update({"style-src": ["'unsafe-inline'"]})  # type: ignore[arg-type]  # it knows no views with ids
def terminal(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """A terminal on the node whose rank is in the address, or on the head node."""
    found = _cluster_for(request, uuid)
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
    found = _cluster_for(request, uuid)
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
    found = _cluster_for(request, uuid)
    try:
        refresh_hostfile(found, by=person(request))
    except PortalError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "The hostfile is up to date. Sessions that are open keep the ranks that they have.")
    return redirect("cluster", uuid=uuid)


def key_file(cluster: Cluster) -> str:
    return f"id_ed25519-{cluster.uuid}"


def ways_in(cluster: Cluster, nodes: list[Node]) -> dict[str, Any]:
    """For the cluster's page: the commands by which people get in, as they are typed."""
    file = f"~/Downloads/{key_file(cluster)}"
    path = f"{nodes[0].shared if nodes else '/shared'}/.hostfile-{cluster.uuid}"
    # A node with a door has a network of its own, unless all of them have this computer's.
    reached = [node for node in nodes if node.address and (not node.door or settings.LOCAL_NODES["network"] == "host")]
    return {
        "hostfile": path,
        "key_file": key_file(cluster),
        "chmod": f"chmod 600 {file}",
        "ssh": [(node, f"ssh {node.private_address}") for node in nodes if node.private_address],
        "ssh_from_outside": [
            (
                node,
                f"ssh -i {file}{f' -p {node.port}' if node.port != 22 else ''} {node.user}@{node.address}",
                fingerprint(node),
            )
            for node in reached
        ],
        "mpiexec": [f"mpiexec -n {cluster.cores} -f {path} {program}" for program in ("hostname", "python --version")],
    }


def fingerprint(node: Node) -> str:
    """Of the host key, as `ssh` shows it at the first connection."""
    return "SHA256:" + b64encode(sha256(b64decode(node.host_public.split()[1])).digest()).decode().rstrip("=")
