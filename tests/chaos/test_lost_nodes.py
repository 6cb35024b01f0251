"""A node that dies under a cluster nobody uses: it is told, and made again where people want that."""

from __future__ import annotations

import time
import uuid

import pytest

from tests.chaos.test_kills import kill_node
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
