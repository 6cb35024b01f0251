"""How the nodes of a cluster reach each other by SSH: files in a folder of their own, in the home of each.

Nothing of ours is in `~/.ssh`, which is people's. What a node promises (`portal/clouds/promises.py`) is that the `ssh`
which is first on its PATH does as the configuration in here says, for the hosts that it names.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from clusters.models import Cluster, Node
from portal.clouds.promises import SSH_CONFIG


def files(cluster: Cluster, node: Node, nodes: Sequence[Node]) -> dict[str, str]:
    """What the node needs to reach the others by name, each with the host key that it is known by: text by path.

    The paths are those below its home.
    """
    folder = SSH_CONFIG.rpartition("/")[0]
    place = f"{node.home}/{folder}"
    known = "".join(
        f"{other.hostname},{other.private_address},[{other.private_address}]:{other.port} {other.pinned}\n"
        for other in nodes
    )
    hosts = "".join(
        f"Host {o.hostname} {o.private_address}\n  HostName {o.private_address}\n  Port {o.port}\n" for o in nodes
    )
    every = [name for other in nodes for name in (other.hostname, other.private_address)]
    # Nothing of ~/.ssh/config, in which a program may leave commands: `ssh` reads it on the way to other hosts alone.
    rest = f"""Host {" ".join(every)}
  User {node.user}
  IdentityFile "{place}/key"
  IdentitiesOnly yes
  UserKnownHostsFile "{place}/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
  ConnectTimeout 10
  ServerAliveInterval 5
  ServerAliveCountMax 3
  SendEnv COXSWAIN_RUN
"""
    texts = {f"{folder}/key": cluster.key, f"{folder}/known_hosts": known, SSH_CONFIG: hosts + rest}
    if node.key_certificate:
        texts[f"{folder}/key-cert.pub"] = f"{node.key_certificate}\n"  # ssh finds it by its name
    return texts


def making_room(node: Node) -> str:
    """The command of a node that makes the folder empty, whatever somebody has put in its place."""
    place = shlex.quote(f"{node.home}/{SSH_CONFIG.rpartition('/')[0]}")
    return f"rm -rf {place} && mkdir -m 700 {place}"
