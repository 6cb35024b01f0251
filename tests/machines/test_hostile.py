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
from portal.errors import Refused
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
    for who in ("portal", "cluster"):
        assert hands.run(node, "echo here", who=who).exit_status != 0


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
    busy = []

    async def go():
        async def beat():
            while True:
                began = time.thread_time()  # of the processor: what else runs on the machine is not counted
                await asyncio.sleep(0.05)
                busy.append(time.thread_time() - began)

        beating = asyncio.create_task(beat())
        findings = await check.check(pool, rows)
        beating.cancel()
        return findings

    rows = list(pool.computers.order_by("pk"))
    one, two, three = asyncio.run(go())
    assert [finding.failing for finding in (one, three)] == [[], []]
    assert [line["name"] for line in two.failing] == ["Looking"]
    assert max(busy) < 2


SPOILT = {
    "a pipe": "rm -f M; mkfifo M",
    "a link to what never ends": "rm -f M; ln -s /dev/zero M",
    "a link to another's": "rm -f M; ln -s /srv/team/coxswain/other/.coxswain-workspace M",
    "a folder": "rm -f M; mkdir M",
    "nested too deep": "printf '%100000s' | tr ' ' '[' > M",
    "endless": "rm -f M; yes | head -c 50000000 > M",
    "gone": "rm -f M",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_marker_hinders_nobody_and_what_stays_for_it_is_told(cloud, computers, how):
    spoilt, other = hands.tags(), hands.tags()
    for one in (spoilt, other):
        hands.furnish(cloud, one)
    folder = f"{BASE}/{spoilt.workspace}"
    line = SPOILT[how].replace("M", f"{folder}/.coxswain-workspace").replace("other", other.workspace)
    computers.computer[0].run(line)
    began = time.monotonic()
    assert other in cloud.owners(other.portal)
    with pytest.raises(Refused) as refused:
        cloud.delete_filesystem(spoilt)
    assert folder in refused.value.message
    assert [one.id for one in cloud.leftovers(spoilt)] == [folder]
    hands.ask(cloud.delete_filesystem, other)
    assert cloud.leftovers(other) == []
    assert time.monotonic() - began < 30
    computers.computer[0].run(f"rm -rf {folder}")
    hands.ask(cloud.delete_filesystem, spoilt)
    assert cloud.leftovers(spoilt) == []


def test_a_workspace_folder_that_is_a_link_takes_away_nothing_that_it_leads_to(cloud, computers):
    workspace, other = hands.tags(), hands.tags()
    for one in (workspace, other):
        hands.furnish(cloud, one)
    first = computers.computer[0]
    folder = f"{BASE}/{workspace.workspace}"
    first.run(f"mkdir ~/precious; touch ~/precious/file {BASE}/{other.workspace}/file; cp {folder}/.c* ~/precious")
    first.run(f"rm -rf {folder}; ln -s ~/precious {folder}")
    with contextlib.suppress(Refused):
        hands.ask(cloud.delete_filesystem, workspace)
    assert first.run("ls ~/precious").out == "file\n"
    first.run(f"rm -f {folder}")
    hands.furnish(cloud, workspace)
    first.run(f"mkdir {folder}/deep; ln -s ~/precious {folder}/deep/link; ln -s {BASE}/{other.workspace} {folder}/link")
    hands.ask(cloud.delete_filesystem, workspace)
    assert first.run("ls ~/precious").out == "file\n"
    assert first.run(f"ls {BASE}/{other.workspace}").out == "file\n"
    first.run("rm -rf ~/precious")


def told(finding):
    return {line.name: line.message for line in finding.lines if line.ok is not True}


def test_what_a_run_has_left_behind_to_come_back_by_is_told(pool, computers, monkeypatch):
    monkeypatch.setattr(check, "_PROGRAM", check._PROGRAM.replace(b"GRACE = 60.0", b"GRACE = 00.0"))
    first, second, _ = computers
    first.run("setsid env -i sh -c 'cd /; exec sleep 1000' >/dev/null 2>&1 </dev/null &")
    with second.path("/home/team/.ssh/authorized_keys").open("a") as keys:
        keys.write("# mine\nssh-ed25519 AAAAC3 somebody\n")
    one, two, three = asyncio.run(check.check(pool, list(pool.computers.order_by("pk"))))
    assert told(one)["Left behind"] == "Programs of team go on, and no cluster has the computer: sleep."
    assert told(two)["Other keys"] == "~team/.ssh/authorized_keys lets in 1 more key than the portal's."
    assert not {"Left behind", "Other keys"} & told(three).keys()
    assert [finding.failing for finding in (one, two, three)] == [[], [], []]


def test_a_base_folder_within_a_workspace_is_refused(cloud, pool):
    workspace = hands.tags()
    hands.furnish(cloud, workspace)
    pool.base = f"{BASE}/{workspace.workspace}/deep"
    rows = list(pool.computers.order_by("pk"))
    for row in rows:
        row.pool = pool
    (finding, *_) = asyncio.run(check.check(pool, rows))
    assert told(finding)["Base folder"].startswith(f"{pool.base} lies in the folder of a workspace,")


def test_an_account_that_is_root_by_another_name_is_refused(pool, computers):
    second = computers.computer[1]
    before = second.path("/etc/passwd").read_text()
    second.path("/etc/passwd").write_text(before.replace("team:x:6001:6001", "team:x:0:0"))
    second.run("chown -R 0:0 ~team", user="root")
    findings = asyncio.run(check.check(pool, list(pool.computers.order_by("pk"))))
    second.run("chown -R 6001:6001 ~team", user="root")
    second.path("/etc/passwd").write_text(before)
    assert any("its uid is 0" in line["message"] for line in findings[1].failing)
