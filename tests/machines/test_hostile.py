"""Programs that run as a pool's account, and computers that are not what they should be: what they cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import time

import asyncssh
import pytest

from portal.clouds.machines import certificates, check, standing
from portal.clouds.machines.account import MachinesAccount
from portal.clouds.machines.models import Pool
from tests.clouds import hands, pools
from tests.machines.computers import SHARED, USER

pytestmark = pytest.mark.django_db(transaction=True)
BASE = f"{SHARED}/coxswain"


@pytest.fixture
def pool(computers):
    account = pools.make(computers).account
    yield Pool.objects.get(account=account)
    for one in computers:
        one.path("/home/team/.ssh/authorized_keys").write_text("")
        one.run("pkill -9 -u team . || true; rm -rf /tmp/* ~team/.bashrc", user="root")
    computers.computer[0].run(f"rm -rf {SHARED}/* {SHARED}/.[!.]*", user="root")


@pytest.fixture
def cloud(pool):
    return MachinesAccount(pool.account).cloud(pool.name)


def lend(cloud, nodes=1):
    """A workspace with a cluster of so many computers: the tags of both, and its nodes."""
    workspace, cluster = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(cluster, nodes, kind="2x4"))
    return workspace, cluster, hands.up(cloud, cluster, nodes)


def forwards(computer, key, certificate):
    """Whether somebody who has these gets to what listens on the computer's own loopback."""

    async def go():
        with contextlib.suppress(asyncssh.ChannelOpenError, asyncssh.PermissionDenied):
            async with asyncssh.connect(
                computer.address, computer.port, username=USER, known_hosts=None, config=None, agent_path=None,
                client_keys=[(key, asyncssh.import_certificate(certificate))],
            ) as connection:  # fmt: skip
                reader, _ = await connection.open_connection("127.0.0.1", computer.port)
                return bool(await reader.read(4))
        return False

    return asyncio.run(asyncio.wait_for(go(), 30))


def test_the_key_that_a_cluster_has_leads_to_no_port_of_any_computer(cloud, computers):
    _, cluster, (node,) = lend(cloud)
    copied = node.certificates[1]
    assert forwards(computers.computer[0], hands.key("portal"), node.certificates[0])  # the portal's own has to
    assert not any(forwards(one, hands.key("cluster"), copied) for one in computers)
    hands.ask(cloud.delete_nodes, cluster)
    assert not any(forwards(one, hands.key("cluster"), copied) for one in computers)


def test_the_key_by_which_computers_try_each_other_does_nothing_but_that(pool, computers):
    private = asyncssh.generate_private_key("ssh-ed25519")
    public = private.export_public_key().decode()
    certificate = certificates.sign(pool, public, "check", seconds=900, command="true")
    assert not any(forwards(one, private, certificate) for one in computers)


LIES = {
    "a hostname that is an option": {"hostname": "-oProxyCommand=touch /srv/team/hurt"},
    "a hostname of two lines": {"hostname": "desk2\n  ProxyCommand touch /srv/team/hurt"},
    "a hostname that is a command": {"hostname": "$(touch /srv/team/hurt)"},
    "a hostname that is too long": {"hostname": "d" * 500},
    "no hostname": {"hostname": None},
    "memory without an end": {"memory_gib": float("inf")},
    "memory that is no number": {"memory_gib": float("nan")},
    "more cores than there are numbers": {"cores": 10**30},
    "a load in words": {"load": "high"},
    "a list where there is a word": {"architecture": ["x86_64"]},
    "a kernel that was never booted": {"boot_id": "x" * 500_000},
}
LIAR = """import json, subprocess, sys
real = subprocess.Popen(["/usr/bin/python3", *sys.argv[1:]], stdout=subprocess.PIPE)
mark = b"@coxswain "
for line in real.stdout:
    if line.startswith(mark):
        said = json.loads(line[len(mark):])
        if "facts" in said:
            said["facts"].update(LIES)
        line = mark + json.dumps(said).encode() + b"\\n"
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
"""


@pytest.fixture
def instead_of_python(computers):
    """Puts a program of the account before everybody's `python3`, on the second computer."""
    second = computers.computer[1]

    def put(text):
        second.run("mkdir -p ~/bin")
        second.path("/home/team/bin/python3").write_text(text)
        second.run("chown team ~team/bin/python3; chmod 755 ~team/bin/python3", user="root")
        second.path("/home/team/.bashrc").write_text("export PATH=$HOME/bin:$PATH\n")

    yield put
    second.run("rm -rf ~/bin ~/.bashrc")


def checked(pool):
    """As the watch process does it: what is found is written down."""
    findings = asyncio.run(check.check(pool, list(pool.computers.order_by("pk"))))
    standing.write_down(pool, findings, {})
    return list(pool.computers.order_by("pk"))


@pytest.mark.parametrize("lie", LIES)
def test_a_computer_that_lies_about_itself_is_refused_and_no_other_one(pool, computers, instead_of_python, lie):
    words = repr(LIES[lie]).replace(": inf", ': float("inf")').replace(": nan", ': float("nan")')
    instead_of_python(f"#!/usr/bin/python3\n{LIAR.replace('LIES', words)}")
    one, two, three = checked(pool)
    assert (one.state, two.state, three.state) == ("ready", "refused", "ready")
    assert two.failing[0]["name"] == "Looking"
    assert two.hostname == "desk2"
    assert len(str(two.failing)) < 1000
    assert not (computers.shared / "hurt").exists()


NOISE = {
    "no end of lines": "yes ''",
    "no end of a line": "yes | tr -d '\\n'",
    "answers to what was not asked": "while :; do echo '@coxswain {}'; done",
    "an answer that is nested too deep": "echo \"@coxswain $(printf '%100000s' | tr ' ' '[')\"; sleep 30",
    "an answer that is no JSON": "echo '@coxswain x'; sleep 30",
    "a word where there are many": "echo '@coxswain 7'; sleep 30",
}


@pytest.mark.parametrize("noise", NOISE)
def test_a_computer_that_answers_with_noise_is_refused_and_holds_nobody_up(pool, computers, instead_of_python, noise):
    instead_of_python(f"#!/bin/sh\n{NOISE[noise]}\n")
    late = []

    async def go():
        async def beat():
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.05)
                late.append(time.monotonic() - began)

        beating = asyncio.create_task(beat())
        findings = await check.check(pool, rows)
        beating.cancel()
        return findings

    rows = list(pool.computers.order_by("pk"))
    one, two, three = asyncio.run(go())
    assert [finding.failing for finding in (one, three)] == [[], []]
    assert [line["name"] for line in two.failing] == ["Looking"]
    assert max(late) < 2
