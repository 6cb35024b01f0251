"""A workspace, a cluster and a job on computers that were there before, and nothing left of them."""

from __future__ import annotations

import pytest

from tests.machines.conftest import Lab
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_flights_find_the_right_answer_though_a_worker_dies_and_pools_side_by_side_leave_each_other_alone(lab, house):
    lab.portal.arm("clusters.create.nodes.after")
    cluster = lab.cluster(2)
    assert lab.portal.fired("clusters.create.nodes.after")
    assert [row["history"].count("Taken as node 0 of a cluster.") for row in lab.stand().values()] == [1, 0, 0]
    assert [node["name"] for node in lab.call("nodes", cluster=cluster)] == ["desk1", "desk2"]

    other = Lab(lab.portal, lab.computers, name="others")  # the same computers
    beside = other.cluster(1, name="beside")
    assert [node["name"] for node in lab.call("nodes", cluster=beside)] == ["desk3"]
    run = lab.run(cluster, f"{house}/flights/.git", "flights.py")
    until(lambda: lab.call("run_state", run=run)["phase"] == "run", seconds=120, what="a run that has begun")
    other.drop(beside)
    lab.becomes("run", run, "finished", seconds=200)
    said = lab.call("read_output", run=run)["text"]
    assert "answer: right" in said, said

    lab.drop(cluster)
    assert lab.call("leftovers", cluster=cluster) == []
    lab.call("drop_workspace", workspace=other.workspace)
    other.becomes("workspace", other.workspace, "terminated")
    assert lab.left() == []
    lab.call("drop_workspace", workspace=lab.workspace)
    lab.becomes("workspace", lab.workspace, "terminated")
    assert list((lab.computers.shared / "coxswain").iterdir()) == []
