"""kill -9 at any moment of a run with a cluster of its own: it runs once, and then the cluster is gone.

All moments take half an hour. CHAOS_SOME: how many of each kind are tried, as CHAOS_SEED chooses them.
"""

from __future__ import annotations

import os
import random
import uuid
from itertools import product

import pytest

from clusters.plans import CREATE, DELETE
from jobs.plans import RUN
from tests.chaos.conftest import ended
from tests.chaos.test_kills import came_back, failpoints
from tests.gitserver import served
from tests.running import until

pytestmark = pytest.mark.chaos

DISPATCH = [f"jobs.dispatch.{what}.{when}" for what in ("begin", "end") for when in ("before", "after")]
MOMENTS = [
    *DISPATCH,
    *failpoints("clusters.create", CREATE),
    *failpoints("jobs.run", RUN),
    *failpoints("clusters.delete", DELETE),
]
WHILE_IT_GOES_ON = [*failpoints("clusters.create", CREATE), *failpoints("jobs.run", RUN)[:4]]


def some(moments):
    moments = list(moments)
    dice = random.Random(os.environ.get("CHAOS_SEED"))  # noqa: S311
    return dice.sample(moments, min(len(moments), int(os.environ.get("CHAOS_SOME") or len(moments))))


@pytest.fixture
def ask(portal, lab, cluster, repository):
    """For a run with a cluster of its own, which the watch process begins. `cluster` is another one, beside it."""

    def make(*, lines=50, seconds=1.0, **more):
        marker = f"/shared/marker-{uuid.uuid4().hex}"
        name = f"d{uuid.uuid4().hex[:8]}"
        command = f"program.py {lines} {seconds} {marker}"
        made = portal.call(
            "make_dedicated", workspace=lab, git_url=repository, command=command, name=name, seconds=1, **more
        )
        return made, marker

    return make


def is_gone(portal, made):
    """Within two minutes, and nothing of it is left in its cloud."""
    state = until(
        lambda: (s := portal.call("state", kind="cluster", uuid=made["cluster"]))["status"] == "terminated" and s,
        seconds=120,
        what="the end of the cluster",
    )
    assert portal.call("leftovers", cluster=made["cluster"]) == [], state


@pytest.mark.parametrize("name", some(MOMENTS))
def test_it_runs_once_and_its_cluster_is_gone_whoever_dies(portal, cluster, ask, name):
    portal.arm(name)
    made, marker = ask()
    until(lambda: portal.fired(name), seconds=90, what=name)
    state = ended(portal, made["run"], seconds=90)
    assert state["status"] == "finished", (state, portal.log())
    is_gone(portal, made)
    assert portal.call("on_node", cluster=cluster, command=f"cat {marker}")["out"] == "ran"
    assert portal.call("read_output", run=made["run"])["text"].startswith("line 0 \n"), "its output stays"


@pytest.mark.parametrize(("name", "how"), some(product(WHILE_IT_GOES_ON, ["cancel", "delete the job"])))
def test_it_is_gone_where_the_run_is_cancelled_at_the_moment_of_a_death(portal, ask, name, how):
    portal.arm(name)
    made, _ = ask(lines=2000, seconds=60.0)
    until(lambda: portal.fired(name), seconds=90, what=name)
    if how == "cancel":
        portal.call("cancel", run=made["run"])
    else:
        portal.call("drop_job", job=made["job"])
    until(lambda: portal.call("run_state", run=made["run"])["status"] == "cancelled", seconds=60, what="cancelled")
    is_gone(portal, made)


def test_it_is_gone_where_it_could_not_be_made_and_the_run_says_why(portal, ask):
    made, _ = ask(instance_type="local.9999")
    until(lambda: portal.call("run_state", run=made["run"])["status"] == "failed", seconds=60, what="a failed run")
    cause = portal.call("run_state", run=made["run"])["cause"]
    assert "could not be made: local.9999 cannot be had" in cause
    is_gone(portal, made)


def test_it_is_gone_where_all_of_the_portal_dies_while_it_is_made(portal, ask):
    made, _ = ask(lines=10)
    until(lambda: portal.call("state", kind="cluster", uuid=made["cluster"])["status"] != "new", what="its begin")
    for part in ("watch", "worker", "web", "valkey-server"):
        portal.kill_part(part)
    came_back(portal)
    assert ended(portal, made["run"], seconds=120)["status"] == "finished"
    is_gone(portal, made)


SAYS = """
import os, socket
from mpi4py import MPI
mine = (socket.gethostname().rpartition("-")[2], os.environ["TIDE"], os.environ["COXSWAIN_CORES"])
found = MPI.COMM_WORLD.gather(mine)
if MPI.COMM_WORLD.rank == 0:
    print(len(found), sorted(found))
"""


@pytest.mark.parametrize(
    ("ranks", "on"), [({"ranks": 3}, "001"), ({"ranks_per_node": 1}, "01"), ({}, "0011")], ids=["3", "1 a node", "all"]
)
def test_ranks_and_variables_reach_every_node_as_they_were_asked_for(portal, lab, ranks, on):
    value = "two\nlines, 'quoted' \"twice\" $HOME"
    with served({"says.py": SAYS}) as address:
        made = portal.call(
            "make_dedicated", workspace=lab, git_url=address, command="says.py", name=f"d{uuid.uuid4().hex[:8]}",
            instance_type="local.2", environment={"TIDE": value}, **ranks,
        )  # fmt: skip
        assert ended(portal, made["run"], seconds=90)["status"] == "finished", portal.call("run_state", run=made["run"])
    said = portal.call("read_output", run=made["run"])["text"]
    assert said.strip() == f"{len(on)} {[(node, value, '4') for node in on]}"
    is_gone(portal, made)
