"""The hostfile on /shared: what `mpiexec -f` of people reads.

Each node's own `~/hostfile` is always the list of nodes, and what runs are started by. The one on /shared is people's:
nodes that are added to a cluster do not get into it by themselves, so that a session keeps the ranks that it began
with. Somebody brings it up to date: by the button of the cluster's page, or by `/tmp/update_hostfile.sh` on any node.
Nodes that are taken away leave it at once.

That script is the same on every node, because on some clouds /tmp is not a node's own: it runs the one in the home.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from clusters.models import Cluster, Node
from portal import ssh

SCRIPT = "update_hostfile.sh"
OLD = "old"


def text(cluster: Cluster, nodes: Sequence[Node], *, cores: int = 0, more: int = 0) -> str:
    """`cores`: how many ranks a node gets, where these are not its cores; and so many `more` the first one."""
    # Names, not addresses: given an address of its own loopback range, Hydra forks here instead of using ssh.
    return "".join(
        f"{node.hostname}:{(cores or cluster.cores_per_node) + (0 if at else more)}\n" for at, node in enumerate(nodes)
    )


def script(cluster: Cluster, node: Node) -> str:
    """What brings the hostfile up to date, for `/bin/sh` on a node. Without a list of nodes it fails.

    The three lines that it prints are those that people's tools wait for.
    """
    listed, shared = shlex.quote(f"{node.home}/hostfile"), shlex.quote(cluster.hostfile)
    return f"""#!/bin/sh
# Written by the portal: takes the list of nodes over into the hostfile.
set -eu
test -s {listed}
echo 'Successfully obtained a hostfile response'
echo "Updating the hostfile with: $(cut -d : -f 1 {listed} | tr '\\n' ' ')"
draft={shared}.new.$$
trap 'rm -f "$draft"' EXIT
cat {listed} > "$draft"
chmod 644 "$draft"
mv -f "$draft" {shared}
echo 'Successfully updated hostfile. Please restart the kernel.'
"""


def forwarding() -> str:
    """The command of any node that writes the script where people's tools look for it first.

    One of somebody else's may be there already, where the machine's /tmp is everybody's: then theirs stays.
    """
    line = shlex.quote(f'exec /bin/sh "$HOME/{SCRIPT}"')
    place = f"/tmp/{SCRIPT}"  # noqa: S108 (where they look)
    return f"{{ printf '%s\\n' {line} > {place}.$$ && mv -f {place}.$$ {place} || rm -f {place}.$$; }}"


def settling(cluster: Cluster, head: Node) -> str:
    """The command of the head node that writes the hostfile, or says OLD where nodes have only been added to it."""
    listed, shared = shlex.quote(f"{head.home}/hostfile"), shlex.quote(cluster.hostfile)
    grown = f"test -f {shared} && test -s {shared} && ! cmp -s {listed} {shared} && ! grep -qvxFf {listed} {shared}"
    return f"if {grown}; then echo {OLD}; else {{ {ssh.writing(cluster.hostfile, '644')}; }} < {listed}; fi"


def is_current(cluster: Cluster, head: Node) -> bool:
    """Asks the head node. Raises `PortalError`."""
    listed, shared = shlex.quote(f"{head.home}/hostfile"), shlex.quote(f"{head.shared}/.hostfile-{cluster.uuid}")
    return ssh.run(head.host, f"cmp -s {listed} {shared}", seconds=10).status == 0
