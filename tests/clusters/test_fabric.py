"""By what MPI goes from node to node: seen in the small program, said to people, and EFA left where it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusters import plans
from clusters.plans import try_mpi
from portal import ssh
from portal.errors import Passing
from tests.clusters.test_lost_nodes import cloud, queued, tide  # noqa: F401 (fixtures)
from tests.web import words
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

UCX = "[1.5] [host:7:0] ucp_worker.c:1912 UCX  INFO  ucp_context_0 inter-node cfg#2 tag({}) rma({})\n"


class Job:
    """Of a step."""

    def __init__(self, subject):
        self.subject, self.said, self.memo = subject, [], {}

    def log(self, words):
        self.said.append(words)

    def prove(self):
        pass


def fails(work):
    with pytest.raises(Passing):
        try_mpi(work)
    del work.memo["again"]  # that nodes are looked for again is another test's


class Listed:
    types = [{"name": "local.2", "accelerated_network": True}]


@pytest.fixture
def program(tide, monkeypatch):  # noqa: F811
    """What it was called with; by what it goes, or why it fails, is for each test to say."""
    asked = []

    def run(host, command, **_):
        asked.append(command)
        status, way = run.ends(command)
        done = json.dumps([6, 15, ["tide-0", "tide-1", "tide-2"]]).encode()
        return ssh.Answer(status, done, UCX.format(way, way).encode())

    monkeypatch.setattr(ssh, "run", run)
    monkeypatch.setattr(Workspace, "listing", Listed)
    run.asked = asked
    return run


@pytest.mark.parametrize(("way", "word"), [("srd/rdmap0s6:1", "EFA"), ("tcp/ens5", "TCP"), ("rc_mlx5/a:1", "rc_mlx5")])
def test_by_what_it_goes_is_said_in_the_task_and_on_the_page(client, alice, tide, program, way, word):  # noqa: F811
    program.ends = lambda command: (0, way)
    work = Job(tide)
    try_mpi(work)
    assert work.said == [f"6 ranks on 3 nodes added up their numbers: 15, as it should be. Between nodes: {word}."]
    client.force_login(alice)
    assert f"<dt>MPI between nodes</dt> <dd>{word}</dd>" in words(client.get(f"/clusters/{tide.uuid}/"))


def test_where_it_fails_with_efa_again_and_again_it_goes_without_and_so_do_runs_and_terminals(
    client, alice, tide, program  # noqa: F811
):  # fmt: skip
    program.ends = lambda command: (0, "tcp/ens5") if "UCX_TLS=self,sm,tcp" in command else (15, "srd/rdmap0s6:1")
    work = Job(tide)
    for _ in range(plans.MOST_WITH_EFA):
        fails(work)
    try_mpi(work)
    assert ["UCX_TLS" in command for command in program.asked] == [False, False, True]
    tide.refresh_from_db()
    assert tide.environment["UCX_TLS"] == "self,sm,tcp"
    client.force_login(alice)
    page = words(client.get(f"/clusters/{tide.uuid}/"))
    assert "<dd>TCP: with EFA, the small MPI program failed</dd>" in page
    program.ends = lambda command: (0, "srd/rdmap0s6:1")
    try_mpi(Job(tide))  # of the next task
    tide.refresh_from_db()
    assert "UCX_TLS" not in tide.environment
    assert tide.fabric_words == "EFA"


def test_a_cluster_without_efa_is_never_kept_from_anything(tide, program, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Workspace, "listing", None)
    program.ends = lambda command: (15, "tcp/ens5")
    work = Job(tide)
    for _ in range(4):
        fails(work)
    assert not any("UCX_TLS" in command for command in program.asked)


def test_the_small_program_says_how_its_first_rank_goes_and_nothing_more_among_its_answer():
    engine = Path(sys.prefix)
    if not (engine / "bin/mpiexec").exists():
        pytest.skip("there is no MPICH here")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UCX_", "MPIR_"))}
    said = subprocess.run(
        [engine / "bin/mpiexec", "-n", "2", sys.executable, "-c", plans._HELLO],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(said.stdout)[:2] == [2, 1]
    assert "-node cfg#" in said.stderr
    assert len({line.split("[")[2].split(":")[1] for line in said.stderr.splitlines() if "UCX  INFO" in line}) == 1
