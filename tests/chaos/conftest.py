from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.gitserver import served
from tests.running import RunningPortal, until

PROGRAM = """
import sys, time
from mpi4py import MPI

# What it writes depends only on the rank and the arguments, so that the test can compute it too.
lines, seconds, marker = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
world = MPI.COMM_WORLD
if world.rank == 0:
    with open(marker, "a") as file:
        file.write("ran\\n")
    for n in range(lines):
        sys.stdout.write(f"line {n} " + "x" * (n % 50) + "\\n")
        sys.stdout.flush()
        time.sleep(seconds / lines)
    sys.stderr.write("done\\n")
world.barrier()
"""


def expected_output(lines):
    return "".join(f"line {n} " + "x" * (n % 50) + "\n" for n in range(lines)).encode()


@pytest.fixture(scope="session")
def repository():
    with served({"program.py": PROGRAM}) as address:
        yield address


@pytest.fixture(scope="session")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-chaos-"))
    portal = RunningPortal(folder).start()
    portal.call("setup")
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(portal):
    workspace = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    return workspace


@pytest.fixture(scope="session")
def cluster(portal, lab):
    """Three nodes, for the runs."""
    cluster = portal.call("make_cluster", workspace=lab, name="steady", nodes=3, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", seconds=120, what="it")
    return cluster


@pytest.fixture(scope="session")
def job(portal, lab, cluster, repository):
    made = portal.call(
        "make_job", workspace=lab, cluster=cluster, git_url=repository, command="program.py 1 0 /dev/null"
    )
    ended(portal, made["run"])
    return made["job"]


def ended(portal, run, seconds=60):
    """Wait until the run and its task have ended."""
    until(
        lambda: portal.call("run_state", run=run)["task_status"] in ("finished", "failed", "cancelled"),
        seconds=seconds,
        what="the end of the run",
    )
    return portal.call("run_state", run=run)
