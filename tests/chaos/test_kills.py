"""kill -9 of anything at any moment: each task and run reaches its right end, once, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
import uuid
from hashlib import sha256

import pytest

from clusters.life import PAUSE, RESUME, SCALE, START, STOP
from clusters.plans import CREATE, DELETE
from jobs.plans import RUN
from portal.clouds.local import LocalAccount
from portal.clouds.local.processes import descendants
from portal.clouds.local.records import ClusterFolder
from tests.chaos.conftest import ended, expected_output
from tests.clouds import hands
from tests.running import until
from workspaces.plans import CREATE as WORKSPACE
from workspaces.plans import DELETE as GONE

pytestmark = pytest.mark.chaos

LINES = 300


def failpoints(kind, plan):
    names = [f"{kind}.claimed"]
    for step in plan.on(LocalAccount.can).steps:  # the others are never begun
        names += [f"{kind}.{step.name}.before", f"{kind}.{step.name}.after"]
    return [*names, f"{kind}.settle.before", f"{kind}.settle.after"]


def start_run(portal, job, *, seconds=1.0, lines=LINES):
    marker = f"/shared/marker-{uuid.uuid4().hex}"
    run = portal.call("run_again", job=job, command=f"program.py {lines} {seconds} {marker}")
    return run, marker


def is_right(portal, cluster, run, marker, lines=LINES):
    """The oracle of every fault: finished once, each byte stored, nothing left."""
    state = ended(portal, run)
    assert state["status"] == "finished", (state, portal.log())
    assert state["task_status"] == "finished", state
    assert portal.call("on_node", cluster=cluster, command=f"cat {marker}")["out"] == "ran"
    stored = portal.call("read_output", run=run)
    assert stored["sha256"] == sha256(expected_output(lines)).hexdigest(), stored["text"][-300:]
    assert portal.call("read_output", run=run, stream="stderr")["text"] == "done\n"
    assert state["agrees"] is True
    # Who dies after the end of the task is followed by the watch process, a minute later.
    until(lambda: portal.call("run_state", run=run)["kept"], seconds=100, what="an output that is kept")
    nothing_left(portal, cluster, run)


def nothing_left(portal, cluster, run):
    """No process of people on any node, by the list of processes of this computer; and no folder."""
    until(lambda: not hands.of_people(nodes_of(portal, cluster)), seconds=10, what="the end of all processes")
    until(
        lambda: portal.call("on_node", cluster=cluster, command=f"ls -d /shared/.runs/{run} 2>&1")["status"],
        seconds=10,
        what="the end of the run's folder",
    )


def nodes_of(portal, cluster):
    """The cluster's folder of this computer's cloud."""
    (folder,) = (portal.var / "local").glob(f"*/*/{cluster}")
    return ClusterFolder(folder)


def came_back(portal):
    """Each part of the portal is there again."""
    for part in ("web", "watch", "worker", "valkey-server"):
        until(lambda part=part: portal.pids(part), what=f"a new {part}")


@pytest.mark.parametrize("name", failpoints("clusters.create", CREATE))
def test_a_cluster_is_made_whoever_dies(portal, lab, name):
    portal.arm(name)
    began = time.monotonic()
    cluster = portal.call("make_cluster", workspace=lab, name=f"c{uuid.uuid4().hex[:8]}", nodes=2, cores=1)
    until(lambda: portal.fired(name), what=name)
    died = time.monotonic()
    if not name.endswith("settle.after"):
        resumed = until(
            lambda: portal.call("state", kind="cluster", uuid=cluster)["resumed"], seconds=15, what="resumed"
        )
        assert resumed == 1
        assert time.monotonic() - died <= 15
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", what="running")
    assert [node["state"] for node in portal.call("nodes", cluster=cluster)] == ["answers"] * 2
    assert len(set(portal.call("on_node", cluster=cluster, command="hostname")["out"].split())) == 1
    assert time.monotonic() - began < 60
    portal.call("drop_cluster", cluster=cluster)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "terminated", what="terminated")
    assert portal.call("leftovers", cluster=cluster) == []


@pytest.mark.parametrize("name", failpoints("clusters.delete", DELETE))
def test_a_cluster_is_deleted_whoever_dies(portal, lab, name):
    cluster = portal.call("make_cluster", workspace=lab, name=f"c{uuid.uuid4().hex[:8]}", nodes=2, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", what="running")
    portal.arm(name)
    portal.call("drop_cluster", cluster=cluster)
    until(lambda: portal.fired(name), what=name)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "terminated", what="terminated")
    assert portal.call("leftovers", cluster=cluster) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [(plan.kind, name) for plan in (WORKSPACE, GONE) for name in failpoints(plan.kind, plan)],
)
def test_a_workspace_is_made_and_deleted_whoever_dies_and_its_lock_holds_up_nobody(portal, kind, name):
    portal.arm(name)
    workspace = portal.call("make_workspace", name=f"w{uuid.uuid4().hex[:8]}")
    if kind == GONE.kind:
        until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
        portal.call("drop_workspace", workspace=workspace)
    until(lambda: portal.fired(name), what=name)
    wanted = "terminated" if kind == GONE.kind else "ready"
    # Less than a lock lives: whoever goes on has the lock of whoever died.
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == wanted, seconds=40, what=wanted)
    if wanted == "ready":
        portal.call("drop_workspace", workspace=workspace)
        until(
            lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "terminated",
            seconds=40,
            what="the end of the workspace",
        )


CHANGES = [
    (plan.kind.removeprefix("clusters."), name)
    for plan in (PAUSE, RESUME, STOP, START, SCALE)
    for name in failpoints(plan.kind, plan)
]


@pytest.mark.parametrize(("verb", "name"), CHANGES)
def test_a_cluster_lives_on_whoever_dies(portal, lab, verb, name):
    cluster = portal.call("make_cluster", workspace=lab, name=f"c{uuid.uuid4().hex[:8]}", nodes=2, cores=1)

    def is_there(word):
        until(lambda: portal.call("word_of", cluster=cluster) == word, seconds=60, what=word)

    is_there("RUNNING")
    if verb in ("resume", "start"):
        before, word = {"resume": ("pause", "PAUSED"), "start": ("stop", "STOPPED")}[verb]
        portal.call("change", cluster=cluster, verb=before)
        is_there(word)
    portal.arm(name)
    portal.call("change", cluster=cluster, verb=verb, **({"nodes": 1} if verb == "scale" else {}))
    until(lambda: portal.fired(name), what=name)
    ends = {"pause": "PAUSED", "stop": "STOPPED"}.get(verb, "RUNNING")
    is_there(ends)
    states = [node["state"] for node in portal.call("nodes", cluster=cluster)]
    wanted = {"PAUSED": "stopped", "STOPPED": "gone"}.get(ends, "answers")
    assert states == [wanted] * (1 if verb == "scale" else 2)
    portal.call("drop_cluster", cluster=cluster)
    is_there("TERMINATED")
    assert portal.call("leftovers", cluster=cluster) == []


@pytest.mark.parametrize("name", ["clusters.idle.decided", "clusters.idle.acted"])
def test_a_timer_pauses_a_cluster_once_whoever_dies(portal, lab, name):
    cluster = portal.call("make_cluster", workspace=lab, name=f"c{uuid.uuid4().hex[:8]}", nodes=2, cores=1)
    until(lambda: portal.call("word_of", cluster=cluster) == "RUNNING", seconds=60, what="RUNNING")
    portal.call("set_timers", cluster=cluster, pause=60)
    portal.call("leave_alone", cluster=cluster, minutes=51)
    until(lambda: portal.call("is_warned", cluster=cluster), what="the warning")
    portal.arm(name)
    portal.call("leave_alone", cluster=cluster, minutes=10)
    until(lambda: portal.fired(name), what=name)
    until(lambda: portal.call("word_of", cluster=cluster) == "PAUSED", what="PAUSED")
    came_back(portal)
    portal.call("leave_alone", cluster=cluster, minutes=600)
    portal.call("change", cluster=cluster, verb="resume")
    until(lambda: portal.call("word_of", cluster=cluster) == "RUNNING", what="RUNNING")
    assert not portal.call("is_warned", cluster=cluster)
    (once,) = portal.call("tasks_of", cluster=cluster, kind="clusters.pause")
    assert once[1] == "finished"
    portal.call("drop_cluster", cluster=cluster)
    until(lambda: portal.call("word_of", cluster=cluster) == "TERMINATED", what="TERMINATED")


WATCHING = [
    "jobs.watch.store.before",
    "jobs.watch.store.after",
    "jobs.watch.exit.before",
    "jobs.watch.exit.after",
    "output.part.begun",
    "output.part.written",
    "output.part.kept",
    "output.chunks.deleted",
    "output.digested",
]


@pytest.mark.parametrize("name", failpoints("jobs.run", RUN) + WATCHING)
def test_a_run_runs_once_whoever_dies(portal, cluster, job, name):
    portal.arm(name)
    run, marker = start_run(portal, job)
    until(lambda: portal.fired(name), what=name)
    is_right(portal, cluster, run, marker)


@pytest.mark.parametrize("name", ["jobs.run.launch.undo-before", "jobs.run.launch.undo-after"])
def test_a_cancelled_run_is_ended_whoever_dies(portal, cluster, job, name):
    run, _ = start_run(portal, job, seconds=60)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    portal.arm(name)
    assert portal.call("cancel", run=run)
    until(lambda: portal.fired(name), what=name)
    assert ended(portal, run)["status"] == "cancelled"
    nothing_left(portal, cluster, run)


@pytest.mark.parametrize("part", ["web", "watch", "worker", "valkey-server"])
def test_a_part_is_killed_in_the_middle_of_a_run(portal, cluster, job, part):
    run, marker = start_run(portal, job, seconds=3)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    portal.kill_part(part)
    is_right(portal, cluster, run, marker)
    came_back(portal)


def test_everything_is_killed_again_and_again(portal, cluster, job):
    run, marker = start_run(portal, job, seconds=6)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    for _ in range(3):
        for part in ("watch", "worker", "web", "valkey-server"):
            portal.kill_part(part)
        came_back(portal)
    is_right(portal, cluster, run, marker)


@pytest.mark.parametrize("moment", ["launch", "output", "end"])
def test_the_supervisor_is_killed_and_the_portal_started_again(portal, cluster, job, moment):
    run, marker = start_run(portal, job, seconds=2)
    wanted = {"launch": lambda s: True, "output": lambda s: s["stdout"] > 0, "end": lambda s: s["ended"]}[moment]
    until(lambda: wanted(portal.call("run_state", run=run)), what=moment)
    parts = {part: portal.pids(part) for part in ("web", "watch", "worker", "valkey-server")}
    portal.kill()
    for part, pids in parts.items():
        for pid in pids:
            until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), what=f"the end of {part}")
    portal.start()
    is_right(portal, cluster, run, marker)


def test_a_run_that_ends_while_the_portal_is_away_is_finished_with_its_true_end(portal, cluster, job):
    run, marker = start_run(portal, job, seconds=1.5)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    portal.kill()
    killed = time.time()
    until(lambda: time.time() - killed > 3, what="the run's end")
    portal.start()
    is_right(portal, cluster, run, marker)
    assert portal.call("run_state", run=run)["ended"] < killed + 3


def test_a_node_is_killed_in_the_middle_of_a_run(portal, cluster, job):
    run, _ = start_run(portal, job, seconds=60)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    portal.call("on_node", cluster=cluster, rank=1, command="true")
    kill_node(portal, cluster, 1)
    state = ended(portal, run)
    assert state["status"] == "failed"
    assert state["cause"]
    repair(portal, cluster)
    nothing_left(portal, cluster, run)
    again, marker = start_run(portal, job)
    is_right(portal, cluster, again, marker)


def test_the_head_node_is_killed_in_the_middle_of_a_run(portal, cluster, job):
    run, _ = start_run(portal, job, seconds=60)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    kill_node(portal, cluster, 0)
    state = ended(portal, run)
    assert state["status"] == "failed"
    assert "head node went away" in state["cause"]
    repair(portal, cluster)
    again, marker = start_run(portal, job)
    is_right(portal, cluster, again, marker)


def test_a_frozen_head_node_is_silent_and_not_failed(portal, cluster, job):
    run, marker = start_run(portal, job, seconds=3)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    pids = node_processes(portal, cluster, 0)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: portal.call("run_state", run=run)["silent"], seconds=40, what="silence noticed")
        assert portal.call("run_state", run=run)["status"] == "inprogress"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    is_right(portal, cluster, run, marker)
    assert not portal.call("run_state", run=run)["silent"]


def test_ctrl_c_leaves_no_process(portal, cluster, job):
    portal.stop()
    assert processes_of(portal) == []
    portal.start()
    run, marker = start_run(portal, job)
    is_right(portal, cluster, run, marker)


def test_a_run_on_a_portal_that_is_stopped_says_so_and_ended_then(portal, cluster, job):
    run, _ = start_run(portal, job, seconds=60)
    until(lambda: portal.call("run_state", run=run)["stdout"] > 0, what="output")
    portal.stop()
    stopped = time.time()
    portal.start()
    state = ended(portal, run)
    assert (state["status"], state["cause"]) == (
        "failed", "The portal was stopped while the run was on its nodes."
    ), state  # fmt: skip
    assert stopped - 15 < state["ended"] <= stopped
    nothing_left(portal, cluster, run)
    again, marker = start_run(portal, job)
    is_right(portal, cluster, again, marker)


def processes_of(portal):
    """Every process on this machine that has the portal's folder in its command or environment."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as a, open(f"/proc/{entry}/environ", "rb") as b:
                words = a.read(), b.read()
        except OSError:
            continue
        if str(portal.folder).encode() in words[0] + words[1]:
            found.append((int(entry), words[0].replace(b"\0", b" ")[:80]))
    return found


def node_processes(portal, cluster, rank):
    """The pids, as this machine sees them, of everything on a node."""
    state = until(nodes_of(portal, cluster).node(rank).state, what="the node")
    return [state.first.pid, *(process.pid for process in descendants(state.first.pid))]


def kill_node(portal, cluster, rank):
    for pid in node_processes(portal, cluster, rank):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def repair(portal, cluster):
    until(
        lambda: any(node["state"] == "gone" for node in portal.call("nodes", cluster=cluster)),
        seconds=40,
        what="the node noticed as gone",
    )
    portal.call("repair", cluster=cluster)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", what="repaired")
