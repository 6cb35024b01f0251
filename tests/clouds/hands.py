"""What the tests of clouds do again and again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from functools import cache
from pathlib import Path

import asyncssh

from portal import ssh
from portal.clouds import Can, HostKey, NodesSpec, Tags, WorkspaceSpec
from portal.clouds.local import identity
from portal.clouds.promises import SSH_CONFIG


def until(look, seconds=30):
    """Wait until `look` returns something true, and return it. The only place that waits."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"still not after {seconds} s: {look}"
        time.sleep(0.02)
    return found


@cache
def _key(name, kind):
    return asyncssh.generate_private_key(kind, comment=name)


def key(name):
    return _key(name, HOST_KEY if name.startswith("host ") else "ssh-ed25519")


def private(name):
    return key(name).export_private_key().decode()


def public(name):
    return key(name).export_public_key().decode().strip()


def tags(workspace=None, subject=None, portal="portal-1"):
    workspace = workspace or str(uuid.uuid4())
    return Tags(portal, "organization-1", workspace, subject or workspace)


# Of what everything is made, where a test does not say otherwise: a kind of cloud may have its own.
KIND = "local.1"
HOST_KEY = "ssh-ed25519"
CHOICES = None  # by a workspace's tags


def spec(where, nodes=3, *, name="demo", kind="", **more):
    kind = kind or KIND
    keys = tuple(HostKey(private(f"host {rank}"), public(f"host {rank}")) for rank in range(nodes))
    return NodesSpec(where, name, kind, keys, (public("portal"), public("cluster")), **more)


def site(where, **more):
    if CHOICES is not None and "choices" not in more:
        more["choices"] = CHOICES[where]
    return WorkspaceSpec(where, **more)


def ask(request, *arguments, seconds=30):
    """Ask a cloud until it is done, with the token of its answer, as the ledger does."""
    answers = [""]

    def done():
        pending = request(*arguments, token=answers[-1])
        answers.append(pending.token if pending else "")
        return pending is None

    until(done, seconds)


def deploy(cloud):
    """A workspace with what clusters need. Returns its tags and those of a cluster in it."""
    workspace = tags()
    furnish(cloud, workspace)
    return workspace, tags(workspace.workspace, str(uuid.uuid4()))


def furnish(cloud, workspace, **more):
    """What of a workspace this kind of cloud has."""
    for can, request in ((Can.NETWORK, cloud.ensure_network), (Can.FILESYSTEM, cloud.ensure_filesystem)):
        if can in cloud.can:
            ask(request, site(workspace, **more))


def clear(cloud, workspace):
    for can, request in ((Can.FILESYSTEM, cloud.delete_filesystem), (Can.NETWORK, cloud.delete_network)):
        if can in cloud.can:
            ask(request, workspace)


def up(cloud, where, nodes):
    """The nodes, when all of them can be reached."""

    def ready():
        seen = cloud.nodes(where)
        return seen if len(seen) == nodes and all(n.running and n.address for n in seen) else None

    return until(ready)


def connect(node, *, who="portal", host_key=None, user=None):
    where = {"sock": ssh.through(node.door)} if node.door else {"host": node.address, "port": node.port}
    mine = key(who)
    if node.certificates:
        mine = (mine, asyncssh.import_certificate(node.certificates[("portal", "cluster").index(who)]))
    shown = key(host_key or f"host {node.rank}").convert_to_public()
    if node.host_key and not host_key:
        shown = asyncssh.import_public_key(node.host_key)
    return asyncssh.connect(
        **where,
        username=user or node.user,
        client_keys=[mine],
        known_hosts=([shown], [], []),
        config=None,
        agent_path=None,
    )


def run(node, command, env=None, *, who="portal", **options):
    """Run a command on a node; returns asyncssh's completed process."""
    if node.certificates:  # as `ssh.Command.on` has it
        command = "".join(f"export {name}={value}; " for name, value in (env or {}).items()) + command
    else:
        options["env"] = env or {}

    async def go():
        async with connect(node, who=who) as connection:
            return await connection.run(command, **options)

    return asyncio.run(asyncio.wait_for(go(), 60))


def answers(node, command):
    """Whether it takes connections, and says yes."""
    try:
        return run(node, command).exit_status == 0
    except (OSError, asyncssh.Error):
        return False


def said(node, command):
    done = run(node, command)
    assert done.exit_status == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()


def host(node):
    """For the portal's own connections."""
    return ssh.Host(
        node.hostname, node.address, node.port, node.user, private("portal"), public(f"host {node.rank}"), node.door
    )


def introduce(nodes, cores):
    """What the portal's plans write over SSH before the first run."""
    host_lines = "".join(f"Host {n.hostname}\n  HostName {n.private_address}\n" for n in nodes)
    names = " ".join(node.hostname for node in nodes)
    known = "".join(
        f"{n.private_address},[{n.private_address}]:{n.port} {n.host_key or public(f'host {n.rank}')}\n" for n in nodes
    )
    hosts = "".join(f"{node.hostname}:{cores}\n" for node in nodes)

    async def write(node):
        folder = f"{node.home}/.coxswain"
        common = (
            f"Host {names}\n  Port {node.port}\n  User {node.user}\n"
            f'  IdentityFile "{folder}/cluster"\n  IdentitiesOnly yes\n'
            f'  UserKnownHostsFile "{folder}/known_hosts"\n  StrictHostKeyChecking yes\n  BatchMode yes\n'
            "  LogLevel ERROR\n  SendEnv COXSWAIN_RUN\n  ServerAliveInterval 5\n  ServerAliveCountMax 3\n"
        )
        async with connect(node) as connection:
            await connection.run(f'mkdir -p -m 700 "{folder}"', check=True)
            for name, text in (
                (SSH_CONFIG, host_lines + common),
                (".coxswain/known_hosts", known),
                (".coxswain/cluster", private("cluster")),
                (".coxswain/cluster-cert.pub", "\n".join(node.certificates[1:])),
                ("hostfile", hosts),
            ):
                if text:  # else its end would never be sent
                    await connection.run(f'umask 077; cat > "{node.home}/{name}"', input=text, check=True)

    for node in nodes:
        asyncio.run(write(node))


def give(cloud, where, folder):
    """Make what a test has written there the nodes' own."""
    user = identity.of_workspace(cloud._workspace(where).path)
    if user is not None:
        for top, names, files in os.walk(folder):
            for name in (".", *names, *files):
                with contextlib.suppress(FileNotFoundError):  # a program there makes and renames files
                    os.chown(os.path.join(top, name), user, user, follow_symlinks=False)


def of_people(folder):
    """{pid: command} of all that runs on a cluster's nodes and is neither theirs nor waits for the portal's words."""
    found = {}
    for process in folder.processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if words and "portal.clouds.local.node" not in words and not is_waiting(process.pid, words):
                found[process.pid] = words
    return found


def is_waiting(pid, words):
    """One that was started ahead reads its standard input, and has not begun anything."""
    if " detach wait" not in words:
        return False
    return not any(os.readlink(file).endswith("/lock") for file in Path(f"/proc/{pid}/fd").iterdir())
