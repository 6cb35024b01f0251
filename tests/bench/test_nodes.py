"""1,000 nodes that the watch process asks whether they answer, beside bare connections to as many."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise

import asyncssh
import pytest
from asgiref.sync import async_to_sync
from django.db.models import Count

from accounts.models import Organization
from clusters import watch
from clusters.models import Cluster, EngineVersion, Node
from portal import secrets, ssh
from tests.bench import measured
from tests.clouds.bad import AccountOf, MemoryCloud
from tests.running import ROOT
from workspaces.models import CloudConfig, Workspace

pytestmark = [pytest.mark.bench, pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

CLUSTERS, NODES, ROUNDS = 20, 50, 4  # nodes of each; in the first round connections are made
EVERY = CLUSTERS * NODES


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """Their addresses, and the server's process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    monkeypatch.setattr(CloudConfig, "account", AccountOf(MemoryCloud()))
    private, public = ssh.new_key("host")
    (tmp_path / "host_key").write_text(private)
    organization = Organization.objects.create(name="Harbor Analytics")
    config = CloudConfig.objects.create(organization=organization, name="here", kind="local")
    lab = Workspace.objects.create(
        organization=organization, cloud_config=config, name="lab", region="x", status="ready"
    )
    lab.keep_login_key(*ssh.new_key("portal"))
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.nodes", str(tmp_path / "host_key"), lab.login_public],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server, server.stdout:
        port = int(server.stdout.readline())
        engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="5.0.2", defaults={"packages": []})
        for c in range(CLUSTERS):
            cluster = Cluster.objects.create(
                workspace=lab, name=f"tide{c}", instance_type="local.2", cores_per_node=2, node_count=NODES,
                status="running", engine_version=engine,
            )  # fmt: skip
            rows = [
                Node(
                    cluster=cluster, rank=rank, hostname=f"tide{c}-{rank}", host_public=public, state="answers",
                    address=f"127.88.{c}.{rank + 1}", port=port, user="u",
                )
                for rank in range(NODES)
            ]  # fmt: skip
            for row in rows:
                secrets.seal(row, "host_private", "key")
            Node.objects.bulk_create(rows)
        yield server
        server.kill()


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def bare(hosts):
    """What asyncssh alone needs: to connect to all, a few at a time, and to run `true` on each. CPU seconds of both."""
    turns = asyncio.Semaphore(watch.AT_ONCE)
    opened = []

    async def connect(host):
        async with turns:
            opened.append(
                await asyncssh.connect(
                    host.address, host.port, username=host.user, client_keys=[asyncssh.import_private_key(host.key)],
                    known_hosts=([asyncssh.import_public_key(host.host_key)], [], []), config=None, agent_path=None,
                    compression_algs=None,
                )
            )  # fmt: skip

    async def ask(connection):
        async with turns:
            assert (await connection.run("true", encoding=None)).exit_status == 0

    began = cpu()
    await asyncio.gather(*map(connect, hosts))
    connected = cpu()
    await asyncio.gather(*map(ask, opened))
    asked = cpu()
    for connection in opened:
        connection.close()
    await asyncio.gather(*(connection.wait_closed() for connection in opened))
    return connected - began, asked - connected


async def watched():
    """When each node has answered, and the CPU seconds of connecting to all, and of the questions after that."""
    answers, watcher = defaultdict(list), watch.NodeWatcher()
    real, told = watch._seen, asyncio.Condition()

    async def seen(answered):
        await real(answered)
        for pk in answered:
            answers[pk].append(time.monotonic())
        async with told:
            told.notify_all()

    async def until(rounds):
        async with told:
            await told.wait_for(lambda: len(answers) == EVERY and min(map(len, answers.values())) >= rounds)

    watch._seen = seen
    try:
        began = cpu()
        tasks = [asyncio.create_task(watcher.look_after(pk)) for pk in await watcher.wanted()]
        await until(1)
        connected, before = cpu(), sum(map(len, answers.values()))
        await until(ROUNDS)
        asked, after = cpu(), sum(map(len, answers.values()))
    finally:
        watch._seen = real
    kept = len(watcher.connections)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, watcher.rounds, return_exceptions=True)
    watcher.close()
    await asyncio.sleep(0.2)  # for what was cut to be closed
    return answers, (connected - began) / before, (asked - connected) / (after - before), kept


def test_nodes(nodes, table):
    hosts = [node.host for node in Node.objects.select_related("cluster__workspace__organization")]
    floor_connect, floor_ask = async_to_sync(bare)(hosts)
    answers, connect, ask, kept = async_to_sync(watched)()
    states = dict(Node.objects.values_list("state").annotate(Count("pk")))
    lost = EVERY - states.get("answers", 0)
    gaps = [after - before for times in answers.values() for before, after in pairwise(times)]
    longest = measured.samples("times between answers", gaps, least=EVERY * (ROUNDS - 1))[-1]
    floor = measured.amount("CPU of bare questions", floor_ask / EVERY)
    floor_first = measured.amount("CPU of bare connections", (floor_connect + floor_ask) / EVERY)
    table.add(
        f"{EVERY} nodes watched", f"{kept} connections, {lost} lost", f"{EVERY} connections", "0 lost",
        good=lost == 0 and kept == EVERY,
    )  # fmt: skip
    table.add(
        "  longest time between answers of one", f"{longest:.1f} s", f"{watch.EVERY:.1f} s between looks", "<= 3 x",
        good=longest <= 3 * watch.EVERY,
    )  # fmt: skip
    for what, used, least in (("answer while all are connected to", connect, floor_first), ("answer", ask, floor)):
        table.add(
            f"  CPU of a node's {what}", f"{1000 * used:.2f} ms", f"{1000 * least:.2f} ms, asyncssh alone", "<= 2.5 x",
            good=used <= 2.5 * least,
        )  # fmt: skip
    assert all(row[-1] == "ok" for row in table.rows[-4:])
