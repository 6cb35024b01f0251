"""What becomes of a cluster on own machines when one of them fails in the middle of something."""

from __future__ import annotations

import pytest

from tests.machines.house import make_repository, serving
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PROGRAM = """
import os, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
for second in range(int(sys.argv[1])):
    print(second, flush=True) if world.rank == 0 else None
    time.sleep(1)
ranks = world.allreduce(1)
print("all:", ranks, flush=True) if world.rank == 0 else None
"""


@pytest.fixture(scope="module")
def clock(computers, tmp_path_factory):
    """A program that prints each second that it lasts, and needs all its ranks in the end."""
    folder = tmp_path_factory.mktemp("house")
    make_repository(folder / "clock", {"clock.py": PROGRAM})
    with serving(computers, folder) as address:
        yield f"{address}/clock/.git"


@pytest.fixture(autouse=True)
def as_it_was(lab, computers):
    """After each test all computers are on, plugged in and awake, and nobody has them."""
    yield
    for one in computers:
        if one.process is None:
            one.on()
        one.thaw()
        one.plug()
        if not any("listener" in process.words for process in one.processes()):
            one.start_sshd()
    for cluster in lab.call("live_clusters"):
        lab.call("drop_cluster", cluster=cluster)
        lab.becomes("cluster", cluster, "terminated")
    until(lambda: not any(row["subject"] for row in lab.stand().values()), seconds=60, what="that all are free")


FAULTS = {
    "sshd killed": (lambda one: one.kill_sshd(), lambda one: one.start_sshd()),
    "frozen": (lambda one: one.freeze(), lambda one: one.thaw()),
    "rebooted": (lambda one: one.off(), lambda one: one.on()),
    "unplugged": (lambda one: one.unplug(), lambda one: one.plug()),
}


@pytest.fixture(params=FAULTS)
def fault(request):
    return FAULTS[request.param]


def steps(lab, kind, uuid):
    return lab.call("state", kind=kind, uuid=uuid)["steps"]


def test_a_cluster_is_made_all_the_same_when_a_computer_fails_meanwhile_and_comes_back(lab, computers, fault):
    strike, heal = fault
    first, second, third = computers
    cluster = lab.cluster(waits=False)
    until(lambda: steps(lab, "cluster", cluster)["introduce"][0] == "done", what="nodes that know each other")
    strike(second)
    until(
        lambda: any(second.name in detail for status, detail, _ in steps(lab, "cluster", cluster).values()),
        what="that somebody notices",
    )
    heal(second)
    lab.becomes("cluster", cluster, "running", seconds=150)
    assert [node["name"] for node in lab.call("nodes", cluster=cluster)] == ["desk1", "desk2", "desk3"]
