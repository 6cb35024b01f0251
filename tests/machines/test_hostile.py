"""Programs that run as a pool's account, and computers that are not what they should be: what they cannot reach."""

from __future__ import annotations

import asyncio
import contextlib

import asyncssh
import pytest

from portal.clouds.machines import certificates
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
