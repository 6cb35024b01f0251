"""The commands by which people get onto the nodes of a cluster, as they are typed."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from clusters.models import Cluster, Node
from portal import ssh


def key_file(cluster: Cluster) -> str:
    return f"id_ed25519-{cluster.uuid}"


def ways_in(cluster: Cluster, nodes: list[Node]) -> dict[str, Any]:
    """What the cluster's page shows of them."""
    file = f"~/Downloads/{key_file(cluster)}"
    by_rank = {node.rank: node for node in nodes if node.address}
    shared = nodes[0].shared if nodes else "/shared"
    path = f"{shared}/.hostfile-{cluster.uuid}"
    # A node with a door has a network of its own, unless all of them have this computer's.
    # And where certificates are asked for, the key alone leads nowhere.
    reached = [
        node
        for node in nodes
        if node.address
        and (node.via is None or node.via in by_rank)
        and not node.certificate
        and (not node.door or settings.LOCAL_NODES["network"] == "host")
    ]
    return {
        "shared": shared,
        "hostfile": path,
        "key_file": key_file(cluster),
        "chmod": f"chmod 600 {file}",
        "ssh": [(node, f"ssh {node.private_address}") for node in nodes if node.private_address],
        "ssh_from_outside": [
            (
                node,
                f"ssh -i {file} {_through(None if node.via is None else by_rank[node.via], file)}{_at(node)}",
                ssh.fingerprint(node.host_public),
            )
            for node in reached
        ],
        "mpiexec": [f"mpiexec -n {cluster.cores} -f {path} {program}" for program in ("hostname", "python --version")],
    }


def _at(node: Node) -> str:
    return f"{f'-p {node.port} ' if node.port != 22 else ''}{node.user}@{node.address}"


def _through(other: Node | None, file: str) -> str:
    """Not by -J: that other one would be signed in to with keys of the person's own."""
    return f'-o ProxyCommand="ssh -i {file} -W %h:%p {_at(other)}" ' if other else ""
