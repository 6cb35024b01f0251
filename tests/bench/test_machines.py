"""Own machines: three that become a cluster, thirty that are checked, and a launch on them beside a local one.

The computers are those of tests/machines, on this one.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from statistics import median
from uuid import uuid4

import pytest

from portal import ssh
from portal.clouds.machines import certificates
from portal.clouds.machines.check import check
from portal.clouds.machines.models import Pool
from tests.bench import measured
from tests.bench.conftest import PROGRAMS
from tests.bench.test_bench import launch, ms
from tests.machines.computers import SHARED, USER, Computers, why_not
from tests.machines.conftest import Lab
from tests.machines.house import make_repository
from tests.running import until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROUNDS, LAUNCHES, MANY = 5, 9, 30


@pytest.fixture(scope="module")
def desks(portal):
    """A workspace of the portal on three computers, with an engine version that is installed."""
    if why := why_not():
        pytest.skip(why)
    with Computers(3) as computers:
        lab = Lab(portal, computers)
        lab.drop(lab.cluster(1, name="first"))
        yield lab


def test_cluster_of_own_machines(portal, desks, table):
    took, floors = [], []
    for n in range(ROUNDS):
        floors.append(portal.call("floor_nodes", workspace=desks.workspace, nodes=3))
        cluster = desks.cluster(3, name=f"warm{n}")
        took.append(portal.call("task_times", kind="cluster", uuid=cluster)["total"])
        desks.drop(cluster)
    took = measured.samples("a cluster of own machines", took, least=ROUNDS)
    floors = measured.samples("its floor", floors, least=ROUNDS)
    worst = max(took)
    name = "cluster_create_own_machines, 3 nodes, warm, p50 / worst"
    table.add(name, f"{median(took):.1f} / {worst:.1f} s", f"{median(floors):.1f} s", "<= 5 s", good=median(took) <= 5)


def test_launch_on_own_machines(portal, client, desks, small, job, table, tmp_path):
    """One node, as the local cluster has, and a source that is fetched in the same way; in turns."""
    make_repository(tmp_path / "bench", {"hello.py": PROGRAMS["hello.py"]})
    for one in desks.computers:
        shutil.copytree(tmp_path / "bench", one.path("/srv/bench"))
        one.run("setsid python3 -m http.server --bind 127.0.0.1 --directory /srv 8123 > /dev/null 2>&1 &")
    cluster = desks.cluster(1, name="single")
    firsts = {"own": [], "local": []}
    run = desks.run(cluster, "http://127.0.0.1:8123/bench/.git", "hello.py", name="on own machines")
    desks.becomes("run", run, "finished")
    jobs = {"own": portal.call("job_of", run=run), "local": job}
    for _ in range(LAUNCHES):
        for where, one in jobs.items():
            until(lambda one=one: not portal.call("busy", job=one), what="the run before")
            firsts[where].append(asyncio.run(launch(client, one))[0])
    desks.drop(cluster)
    own, local = (median(measured.samples(f"a launch, {where}", firsts[where], least=LAUNCHES)) for where in firsts)
    table.add("launch_first_line_own_machines p50", ms(own), ms(local), "<= 1.3 × local", good=own <= 1.3 * local)


@pytest.mark.django_db
def test_check_of_many_computers(table):
    if why := why_not():
        pytest.skip(why)
    with Computers(MANY, stem="row", disk_mib=64) as computers:
        pool = Pool(account=uuid4(), name="row", user=USER, base=f"{SHARED}/coxswain")
        certificates.new_authority(pool)
        pool.save()
        computers.paste(pool.authorized_key)
        rows = [
            pool.computers.create(address=one.address, port=one.port, host_public=one.host_public) for one in computers
        ]
        began = time.monotonic()
        for answer in ssh.run_on_all([certificates.host(pool, row) for row in rows], "python3 -IS -c pass"):
            assert answer.status == 0
        floor = time.monotonic() - began
        began = time.monotonic()
        findings = asyncio.run(check(pool, rows))
        took = time.monotonic() - began
        assert [line for finding in findings for line in finding.failing] == []
        assert [finding.silence for finding in findings] == [""] * MANY
    table.add(f"check of {MANY} computers", f"{took:.1f} s", f"{floor:.1f} s", "<= 10 s", good=took <= 10)
