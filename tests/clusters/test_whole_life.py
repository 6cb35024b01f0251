"""Real nodes of this computer, from the first to the last moment of a cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.gitserver import served
from tests.running import RunningPortal, until

pytestmark = pytest.mark.slow

TOGETHER = 20


@pytest.fixture
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-life-"))
    portal = RunningPortal(folder).start()
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_of_real_nodes_goes_through_its_whole_life_and_leaves_nothing(portal):
    portal.call("setup")
    lab = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=lab)["status"] == "ready", what="the workspace")
    cluster = portal.call("make_cluster", workspace=lab, nodes=2, cores=1)

    def becomes(word):
        until(lambda: portal.call("word_of", cluster=cluster) == word, seconds=120, what=word)

    def change(verb, word, **more):
        portal.call("change", cluster=cluster, verb=verb, **more)
        becomes(word)

    def on(rank, command):
        return portal.call("on_node", cluster=cluster, command=command, rank=rank)["out"]

    def nodes():
        return [node["name"] for node in portal.call("nodes", cluster=cluster)]

    becomes("RUNNING")
    web, worker = (os.getpriority(os.PRIO_PROCESS, portal.pids(part)[0]) for part in ("web", "worker"))
    assert web < worker < int(on(0, "nice")), "pages come first, and what people run last"
    on(1, "echo mine > ~/kept; echo ours > /shared/kept")
    change("pause", "PAUSED")
    change("resume", "RUNNING")
    assert on(1, "cat ~/kept /shared/kept") == "mine\nours"
    assert on(1, "ssh tide-0 hostname; ssh tide-1 hostname") == "tide-0\ntide-1"
    change("scale", "RUNNING", nodes=3)
    assert on(0, "cat ~/hostfile; ssh tide-2 hostname") == "tide-0:1\ntide-1:1\ntide-2:1\ntide-2"
    change("scale", "RUNNING", nodes=1)
    assert (nodes(), on(0, "cat ~/hostfile /shared/.hostfile-*")) == (["tide-0"], "tide-0:1\ntide-0:1")
    change("restart", "RUNNING")
    on(0, "echo mine > ~/kept")
    change("stop", "STOPPED")
    assert portal.call("leftovers", cluster=cluster) == []
    change("start", "RUNNING")
    assert on(0, "cat ~/kept /shared/kept 2>&1").splitlines()[-1] == "ours"
    assert "No such file" in on(0, "cat ~/kept 2>&1")
    change("delete", "TERMINATED")
    assert portal.call("leftovers", cluster=cluster) == []


def test_twenty_clusters_of_three_nodes_are_made_at_once_and_nothing_starves(portal):
    """What runs elsewhere meanwhile ends as ever; all of them come, and all of them go."""
    portal.call("setup")
    lab = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=lab)["status"] == "ready", what="the workspace")
    steady = portal.call("make_cluster", workspace=lab, name="steady", nodes=1, cores=1)
    until(lambda: portal.call("word_of", cluster=steady) == "RUNNING", seconds=120, what="the first cluster")

    with served({"program.py": "print('ran')"}) as address:
        clusters = [
            portal.call("make_cluster", workspace=lab, name=f"tide{n}", nodes=3, cores=1) for n in range(TOGETHER)
        ]
        run = portal.call("make_job", workspace=lab, cluster=steady, git_url=address, command="program.py")["run"]
        until(lambda: portal.call("run_state", run=run)["status"] == "finished", seconds=60, what="the run")
        words = [portal.call("word_of", cluster=cluster) for cluster in clusters]
        assert words.count("RUNNING") < TOGETHER, "nothing was made meanwhile"

    def all_are(word):
        return all(portal.call("word_of", cluster=cluster) == word for cluster in clusters)

    until(lambda: all_are("RUNNING"), seconds=300, what="twenty clusters")
    names = {portal.call("on_node", cluster=cluster, command="hostname", rank=2)["out"] for cluster in clusters}
    assert names == {f"tide{n}-2" for n in range(TOGETHER)}
    for cluster in clusters:
        portal.call("change", cluster=cluster, verb="delete")
    until(lambda: all_are("TERMINATED"), seconds=300, what="their end")
    assert not any(portal.call("leftovers", cluster=cluster) for cluster in clusters)
