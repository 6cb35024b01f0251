from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from portal.clouds import Refused
from portal.clouds.local import LocalCloud, LocalOptions
from tests.machines.computers import HOME, SHARED, Computers
from tests.machines.computers import why_not as no_computers

from . import hands


@functools.cache
def why_not(rung):
    """What this computer lacks for nodes of this kind."""
    if rung == "plain":
        return ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            LocalCloud(Path(folder), rung=rung).rung()
        except Refused as error:
            return f"{error.message} {error.evidence}"
    return ""


@pytest.fixture(autouse=True)
def _no_forced_rung(monkeypatch):
    monkeypatch.delenv("PORTAL_LOCAL_RUNG", raising=False)


@pytest.fixture
def local():
    """Makes local clouds and ends everything of them afterwards."""
    made = []
    # Not pytest's tmp_path: it lies in /tmp, which nodes do not see anyway, so hiding would not be tested.
    base = Path(__file__).resolve().parents[2] / "var" if os.access(Path(__file__).parents[2], os.W_OK) else None
    if base is not None:
        base.mkdir(mode=0o700, exist_ok=True)
    data = Path(tempfile.mkdtemp(prefix="test data ", dir=base))

    def make(rung="namespaces", name="local", **options):
        if reason := why_not(rung):
            pytest.skip(reason)
        made.append(LocalCloud(data / name, hidden=[data], rung=rung, options=LocalOptions.of(options)))
        return made[-1]

    yield make
    for cloud in made:
        for workspace in cloud._workspaces():
            for cluster in workspace.clusters():
                cloud.delete_nodes(hands.tags(workspace.path.name, cluster.path.name))
        cloud.power_off()
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session")
def five_desks():
    if why := no_computers():
        pytest.skip(why)
    with Computers(5) as five:
        yield five


@pytest.fixture
def desks(five_desks):
    """Computers of a team, without anything of ours."""
    yield five_desks
    for desk in five_desks:
        desk.path(f"{HOME}/.ssh/authorized_keys").write_text("")
        desk.run("pkill -9 -u team . || true; rm -rf /tmp/*", user="root")
    five_desks.computer[0].run(f"rm -rf {SHARED}/*", user="root")
