"""A node that dies under a cluster nobody uses: it is told, and made again where people want that."""

from __future__ import annotations

import os
import signal
import time
import uuid

import pytest

from tests.chaos.test_kills import kill_node, node_processes
from tests.running import until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.parametrize("auto_repair", [True, False])
def test_a_node_that_dies_makes_its_cluster_degraded_and_is_made_again(portal, lab, auto_repair):
    name = f"c{uuid.uuid4().hex[:8]}"
    cluster = portal.call("make_cluster", workspace=lab, name=name, nodes=2, cores=1, auto_repair=auto_repair)
    until(lambda: portal.call("word_of", cluster=cluster) == "RUNNING", seconds=120, what="running")
    began = time.monotonic()
    kill_node(portal, cluster, 1)
    until(lambda: portal.call("word_of", cluster=cluster) in ("DEGRADED", "INPROGRESS"), what="being told of the loss")
    told = time.monotonic() - began
    if auto_repair:
        until(lambda: portal.call("word_of", cluster=cluster) == "RUNNING", seconds=60, what="repaired by itself")
        assert [node["state"] for node in portal.call("nodes", cluster=cluster)] == ["answers"] * 2
        assert portal.call("on_node", cluster=cluster, rank=1, command="hostname")["out"] == f"{name}-1"
    else:
        assert portal.call("word_of", cluster=cluster) == "DEGRADED"
        assert portal.call("state", kind="cluster", uuid=cluster)["status"] == "running"
    print(f"told after {told:.1f} s, and it took {time.monotonic() - began:.1f} s in all")
    portal.call("drop_cluster", cluster=cluster)
    until(lambda: portal.call("word_of", cluster=cluster) == "TERMINATED", seconds=60, what="gone")


def test_a_node_that_hangs_is_frozen_until_it_goes_on_and_one_that_is_killed_is_gone(portal, lab):
    name = f"c{uuid.uuid4().hex[:8]}"
    cluster = portal.call("make_cluster", workspace=lab, name=name, nodes=2, cores=1)
    until(lambda: portal.call("word_of", cluster=cluster) == "RUNNING", seconds=120, what="running")

    def states():
        return [node["state"] for node in portal.call("nodes", cluster=cluster)]

    stopped = node_processes(portal, cluster, 1)
    began = time.monotonic()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: states() == ["answers", "frozen"], seconds=40, what="being told that it hangs")
    print(f"frozen after {time.monotonic() - began:.1f} s")
    assert portal.call("word_of", cluster=cluster) == "DEGRADED"
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    until(lambda: states() == ["answers", "answers"], seconds=40, what="its return")
    kill_node(portal, cluster, 1)
    until(lambda: states() == ["answers", "gone"], seconds=40, what="being told that it is dead")
    portal.call("drop_cluster", cluster=cluster)
    until(lambda: portal.call("word_of", cluster=cluster) == "TERMINATED", seconds=60, what="gone")
