"""A cluster of own machines from its first to its last moment, made by a portal as people start it."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_cluster_of_own_machines_grows_shrinks_is_given_back_and_taken_again(lab, house):
    cluster = lab.cluster(2)

    def change(verb, *statuses, **more):
        lab.call("change", cluster=cluster, verb=verb, **more)
        lab.becomes("cluster", cluster, *statuses)

    def on(rank, command):
        return lab.call("on_node", cluster=cluster, command=command, rank=rank)["out"]

    def names():
        return [node["name"] for node in lab.call("nodes", cluster=cluster)]

    def taken():
        return [one["name"] for one in lab.call("stand") if one["subject"]]

    assert names() == taken() == ["desk1", "desk2"]
    shared = on(0, "cd; cd ../../..; pwd")
    on(0, f"echo ours > {shared}/kept; echo mine > ~/kept")
    change("scale", "running", nodes=3)
    assert names() == ["desk1", "desk2", "desk3"]
    assert on(0, "cat ~/hostfile; ssh desk3 hostname") == "desk1:2\ndesk2:2\ndesk3:2\ndesk3"
    change("scale", "running", nodes=1)
    assert (names(), taken()) == (["desk1"], ["desk1"])
    change("stop", "stopped")
    assert (taken(), lab.call("leftovers", cluster=cluster)) == ([], [])
    change("start", "running")
    assert on(0, f"cat {shared}/kept; test ! -e ~/kept && echo anew") == "ours\nanew"
    change("delete", "terminated")
    assert lab.call("leftovers", cluster=cluster) == []
    assert [one for one in lab.left() if "sshd: team" not in one] == []
