from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.machines.computers import HOME, SHARED, USER, Computers, why_not
from tests.machines.house import make_repository, serving
from tests.running import ROOT, RunningPortal, until

BASE = f"{SHARED}/coxswain"


@pytest.fixture(scope="module")
def computers():
    """Three of them, for the tests of one file, each of which leaves them as it found them."""
    if why := why_not():
        pytest.skip(why)
    with Computers(3) as three:
        yield three


class Lab:
    """A portal that is up, with a pool of these computers and a workspace on it."""

    def __init__(self, portal, computers, name="desks"):
        self.portal, self.computers, self.call = portal, computers, portal.call
        self.call("setup")
        made = self.call("open_pool", addresses=[one.address for one in computers], user=USER, base=BASE, name=name)
        self.pool, self.line, self.config = made["pool"], made["line"], made["config"]
        computers.paste(self.line)
        keys = {one.address: one.fingerprint() for one in computers}
        until(lambda: self.call("keys_shown", pool=self.pool) == keys, what="the host keys that they have")
        self.call("confirm_keys", pool=self.pool, keys=keys)
        until(lambda: self.states() == {"ready"}, seconds=60, what="that all are ready")
        self.workspace = self.call("make_workspace", name=f"lab of {name}", uuid=self.config)
        self.becomes("workspace", self.workspace, "ready")

    def becomes(self, kind, uuid, *statuses, seconds=120):
        """Wait for one of these statuses, and return what is known then."""

        def state():
            found = self.call("state", kind=kind, uuid=uuid)
            if found["status"] in statuses and found["task_status"] not in ("new", "inprogress"):
                return found
            assert found["status"] != "failed" or found["task_status"] in ("new", "inprogress"), found
            return None

        return until(state, seconds=seconds, what=f"{kind} {' or '.join(statuses)}")

    def cluster(self, nodes=3, *, name="tide", waits=True):
        cluster = self.call("make_cluster", workspace=self.workspace, name=name, nodes=nodes, cores=2)
        if waits:
            self.becomes("cluster", cluster, "running")
        return cluster

    def drop(self, cluster):
        self.call("drop_cluster", cluster=cluster)
        self.becomes("cluster", cluster, "terminated")

    def run(self, cluster, url, command, name="job"):
        return self.call(
            "make_job", workspace=self.workspace, cluster=cluster, git_url=url, command=command, name=name
        )["run"]

    def stand(self):
        """How the computers stand, by name."""
        return {row["name"]: row for row in self.call("stand", pool=self.pool)}

    def states(self):
        return {row["state"] for row in self.call("stand", pool=self.pool)}

    def check(self):
        """By the button, to its end."""
        self.call("check_pool", pool=self.pool)
        until(lambda: self.call("is_checked", pool=self.pool), seconds=60, what="the check")
        return self.stand()

    def left(self, computers=None, *, nodes=True):
        """What is on the computers besides what was there before, and what a workspace has by itself.

        But for connections: the portal keeps those that it has used for some minutes, and looks at its computers.
        """
        found = []
        for one in computers or self.computers:
            processes = [process for process in one.processes("team") if not process.words.startswith("sshd: team")]
            found += [f"{one.name}: {process}" for process in processes]
            files = one.run(f"find ~ /tmp /var/tmp /dev/shm -user team -not -path '{HOME}'").out.split()
            found += [f"{one.name}: {path}" for path in files if path not in _BEFORE]
            keys = one.path(f"{HOME}/.ssh/authorized_keys").read_text()
            found += [f"{one.name}: {keys}"] if keys != self.computers.pasted else []
        if nodes:
            folder = self.computers.shared / f"coxswain/{self.workspace}/.nodes"
            found += [str(path) for path in folder.glob("*")]
        return found


_BEFORE = (f"{HOME}/.ssh", f"{HOME}/.ssh/authorized_keys")


@pytest.fixture(scope="module")
def lab(computers):
    folder = Path(tempfile.mkdtemp(prefix="cx-machines-"))
    portal = RunningPortal(folder)
    portal.patience = 180
    portal.start()
    try:
        yield Lab(portal, computers)
    finally:
        portal.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def house(computers, tmp_path_factory):
    """Repositories on a Git server that the computers reach: `house + "/NAME/.git"`."""
    folder = tmp_path_factory.mktemp("house")
    for example in ("flights", "hostnames"):
        files = {
            path.name: path.read_bytes() for path in (ROOT / "jobs/examples" / example).iterdir() if path.is_file()
        }
        make_repository(folder / example, files)
    with serving(computers, folder) as address:
        yield address
