"""Programs that attack what keeps them: their own run suffers, and the next one on the same cluster does not."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.gitserver import served
from tests.running import RunningPortal, until

pytestmark = pytest.mark.slow

HONEST = "print('honest', flush=True)"
HOSTILE = """
import json, os, pathlib, shutil, signal, socket, subprocess, sys, time
folder = pathlib.Path(os.getcwd()).parent  # of the run
home, shared = pathlib.Path.home(), pathlib.Path("/shared")

def instead(path, make):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    make(path)

def ready():
    print("ready", flush=True)
    time.sleep(1)  # until it is known

def stops_all():
    ready()
    os.kill(-1, signal.SIGSTOP)

def kills_all():
    ready()
    os.kill(-1, signal.SIGKILL)

def spoils_its_folder():
    for name in ("control", "life", "lock", "facts.json", "verdict.json", "facts.new", "verdict.new"):
        instead(folder / name, pathlib.Path.mkdir)
    os.mkfifo(folder / "exit.new")
    print("ready", flush=True)
    time.sleep(1000)

def waits_at_its_end():
    instead(folder / "exit", os.mkfifo)
    print("ready", flush=True)
    time.sleep(1000)

def closes_its_folder():
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep").chmod(0)
    ready()
    folder.chmod(0)
    time.sleep(1000)

def forges_its_end():
    (folder / "verdict.json").write_text(json.dumps({"good": True, "size": 1}))
    (folder / "exit").write_text(json.dumps({"status": 0, "signal": None, "ended": 1e300}))
    print("ready", flush=True)
    time.sleep(1000)

def spoils_what_the_next_one_needs():
    instead(home / ".run", pathlib.Path.mkdir)
    instead(home / ".scratch", pathlib.Path.touch)
    for name in (".coxswain", "hostfile", ".tmp"):
        instead(home / name, lambda path: path.symlink_to("/nonexistent"))
    for name in (".sources", ".packages"):
        instead(shared / name, pathlib.Path.touch)
    os.rename(shared / ".runs", shared / "runs")
    (shared / ".runs").touch()
    print("ready", flush=True)
    home.chmod(0o500)

def bombs():
    ready()
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)

globals()[sys.argv[1]]()
"""


@pytest.fixture(scope="module")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-hostile-"))
    portal = RunningPortal(folder).start()
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def repository():
    with served({"hostile.py": HOSTILE, "honest.py": HONEST}) as url:
        yield url


@pytest.fixture(scope="module")
def place(portal):
    portal.call("setup")
    workspace = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    cluster = portal.call("make_cluster", workspace=workspace, nodes=2, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", seconds=90, what="running")
    return {"workspace": workspace, "cluster": cluster}


def ended(portal, run, seconds):
    def look():
        state = portal.call("run_state", run=run)
        return state if state["task_status"] not in ("new", "inprogress") else None

    return until(look, seconds=seconds, what="the end of the run")


ENDS = {
    "stops_all": "cancelled",
    "kills_all": "failed",
    "spoils_its_folder": "failed",
    "waits_at_its_end": "failed",
    "closes_its_folder": "failed",
    "forges_its_end": "finished",
    "spoils_what_the_next_one_needs": "failed",
    "bombs": "cancelled",
}


@pytest.mark.parametrize("attack", ENDS)
def test_a_run_that_attacks_what_keeps_it(portal, place, repository, attack):
    made = portal.call("make_job", **place, git_url=repository, command=f"hostile.py {attack}", name=attack)
    run = made["run"]
    until(
        lambda: (
            "ready" in portal.call("read_output", run=run)["text"]
            or portal.call("run_state", run=run)["status"] in ("failed", "finished")
        ),
        what="the attack",
    )
    if ENDS[attack] == "cancelled":
        portal.call("cancel", run=run)
    state = ended(portal, run, 90)
    assert state["status"] == ENDS[attack], state
    honest = portal.call("make_job", **place, git_url=repository, command="honest.py", name=f"after {attack}")
    state = ended(portal, honest["run"], 60)
    assert state["status"] == "finished", state
    assert portal.call("read_output", run=honest["run"])["text"] == "honest\n" * 2
    left = portal.call("on_node", cluster=place["cluster"], command="ls -A /shared/.runs")
    assert left["out"] == "", left
