"""Clusters of own machines, made by a portal as people start it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.gitserver import git
from tests.machines.computers import SHARED, USER
from tests.running import RunningPortal, until

pytestmark = pytest.mark.slow


def bring_wheels(computers, packages, folder):
    """The computers reach no package index: what the engine version needs lies on their shared path."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "-d", folder, *packages], check=True)
    shutil.copytree(folder, computers.shared / "wheels")
    (computers.shared / "wheels").chmod(0o755)
    for one in computers:
        one.path("/etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {SHARED}/wheels\n")


@pytest.fixture(scope="module")
def portal(computers, tmp_path_factory):
    folder = Path(tempfile.mkdtemp(prefix="cx-own-"))
    portal = RunningPortal(folder).start()
    portal.call("setup")
    bring_wheels(computers, portal.call("packages_of_plain_mpi"), tmp_path_factory.mktemp("wheels"))
    told = [
        {"address": one.address, "port": one.port, "hostname": one.name, "host_public": one.host_public}
        for one in computers
    ]
    computers.paste(portal.call("make_pool", computers=told, user=USER, base=f"{SHARED}/coxswain"))
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(portal):
    lab = portal.call("make_workspace", kind="machines")
    until(lambda: portal.call("state", kind="workspace", uuid=lab)["status"] == "ready", what="the workspace")
    return lab


@pytest.fixture
def repository(computers, tmp_path):
    """Of one program: its address, on each computer. Plain http is for a server on a node itself."""
    folder = tmp_path / "repository"
    folder.mkdir()
    program = "import socket; from mpi4py import MPI; print(MPI.COMM_WORLD.allreduce(1), socket.gethostname())"
    (folder / "program.py").write_text(program)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "A program")
    git(folder, "update-server-info")
    shutil.copytree(folder, computers.shared / "repository")
    serve = f"setsid python3 -m http.server --bind 127.0.0.1 -d {SHARED} 8123 >/dev/null 2>&1 </dev/null &"
    for one in computers:
        one.run(serve, user="root")
    return "http://127.0.0.1:8123/repository/.git"


def becomes(portal, cluster, word, seconds=120):
    def there():
        state = portal.call("state", kind="cluster", uuid=cluster)
        assert word == "FAILED" or state["status"] != "failed", state
        return portal.call("word_of", cluster=cluster) == word

    until(there, seconds=seconds, what=word)


def test_a_cluster_of_own_machines_runs_a_program_on_all_of_them_and_leaves_nothing(portal, lab, computers, repository):
    cluster = portal.call("make_cluster", workspace=lab, nodes=3, cores=2)
    becomes(portal, cluster, "RUNNING")
    run = portal.call("make_job", workspace=lab, cluster=cluster, git_url=repository, command="program.py")["run"]
    until(lambda: portal.call("run_state", run=run)["status"] in ("finished", "failed"), seconds=60, what="its end")
    assert portal.call("run_state", run=run)["status"] == "finished", portal.call("run_state", run=run)
    said = portal.call("read_output", run=run)["text"].split("\n")
    assert sorted(said) == sorted(["", *[f"6 {one.name}" for one in computers] * 2])
    portal.call("change", cluster=cluster, verb="delete")
    becomes(portal, cluster, "TERMINATED")
    assert portal.call("leftovers", cluster=cluster) == []
    assert all(one["subject"] == "" for one in portal.call("stand"))
    desk, *_ = computers
    for one in computers:
        assert one.run("ls -A ~; ls -A ~/.ssh; ls -A /tmp").out.split() == [".ssh", "authorized_keys"]
    assert desk.run(f"ls -A {SHARED}/coxswain/*/.nodes").out == ""
