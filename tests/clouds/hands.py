"""What the tests of clouds do again and again."""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import cache

import asyncssh

from portal import ssh
from portal.clouds import ClusterSpec, HostKey, Tags


def until(look, seconds=10):
    """Wait until `look` returns something true, and return it. The only place that waits."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"still not after {seconds} s: {look}"
        time.sleep(0.02)
    return found


@cache
def key(name):
    return asyncssh.generate_private_key("ssh-ed25519", comment=name)


def private(name):
    return key(name).export_private_key().decode()


def public(name):
    return key(name).export_public_key().decode().strip()


def tags(workspace=None, subject=None, portal="portal-1"):
    workspace = workspace or str(uuid.uuid4())
    return Tags(portal, "organization-1", workspace, subject or workspace)


def spec(where, nodes=3, *, name="demo", kind="local.1"):
    keys = tuple(HostKey(private(f"host {rank}"), public(f"host {rank}")) for rank in range(nodes))
    return ClusterSpec(where, name, kind, keys, (public("portal"), public("cluster")))


def deploy(cloud):
    """A workspace with what clusters need. Returns its tags and those of a cluster in it."""
    workspace = tags()
    cloud.ensure_network(workspace)
    cloud.ensure_filesystem(workspace)
    return workspace, tags(workspace.workspace, str(uuid.uuid4()))


def up(cloud, where, nodes):
    """The nodes, when all of them can be reached."""

    def ready():
        seen = cloud.nodes(where)
        return seen if len(seen) == nodes and all(n.running and n.address for n in seen) else None

    return until(ready)


def connect(node, *, who="portal", host_key=None, user=None):
    where = {"sock": ssh.through(node.door)} if node.door else {"host": node.address, "port": node.port}
    return asyncssh.connect(
        **where,
        username=user or node.user,
        client_keys=[key(who)],
        known_hosts=([key(host_key or f"host {node.rank}").convert_to_public()], [], []),
        config=None,
        agent_path=None,
    )


def run(node, command, **options):
    """Run a command on a node; returns asyncssh's completed process."""

    async def go():
        async with connect(node) as connection:
            return await connection.run(command, **options)

    return asyncio.run(asyncio.wait_for(go(), 60))


def said(node, command):
    done = run(node, command)
    assert done.exit_status == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()
