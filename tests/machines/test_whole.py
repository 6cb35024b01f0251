"""A workspace, a cluster and a job on computers that were there before, and nothing left of them."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_job_runs_on_own_machines_with_the_right_answer_and_leaves_nothing(lab, house):
    cluster = lab.cluster()
    assert [node["name"] for node in lab.call("nodes", cluster=cluster)] == ["desk1", "desk2", "desk3"]
    run = lab.run(cluster, f"{house}/flights/.git", "flights.py")
    lab.becomes("run", run, "finished", seconds=200)
    said = lab.call("read_output", run=run)["text"]
    assert "answer: right" in said, said
    lab.call("drop_cluster", cluster=cluster)
    lab.becomes("cluster", cluster, "terminated")
    assert lab.call("leftovers", cluster=cluster) == []
    print("\n".join(lab.left()))
    assert lab.left() == []
