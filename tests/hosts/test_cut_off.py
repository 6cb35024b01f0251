"""PostgreSQL or Redis goes away under load, for a while: pages say so, nothing is half done, and the work goes on."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from hashlib import sha256
from pathlib import Path

import pytest

from tests.chaos.conftest import PROGRAM, expected_output
from tests.gitserver import served
from tests.hosts.test_two_hosts import Hosts, database, environment, is_
from tests.hosts.wire import Wire
from tests.running import until
from tests.web import Client

pytestmark = [
    pytest.mark.database,
    pytest.mark.skipif(
        not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")),
        reason="needs PostgreSQL in DATABASE_URL and Redis in REDIS_URL",
    ),
]

AWAY = {"database": 30.0, "redis": 15.0}  # seconds
LINES, SECONDS = 400, 40.0


def wire_of(url):
    """A wire to the server of this address, and the address with the wire in its place."""
    parts = urllib.parse.urlsplit(url)
    wire = Wire(parts.hostname, parts.port)
    who = parts.netloc.rpartition("@")[0]
    there = f"127.0.0.1:{wire.port}"
    return wire, urllib.parse.urlunsplit(parts._replace(netloc=f"{who}@{there}" if who else there))


@pytest.fixture
def hosts():
    folder = Path(tempfile.mkdtemp(prefix="cx-cut-"))
    with database() as address:
        wires = {}
        wires["database"], database_url = wire_of(address)
        wires["redis"], redis_url = wire_of(os.environ["REDIS_URL"])
        made = Hosts(folder, environment(folder, DATABASE_URL=database_url, REDIS_URL=redis_url))
        made.wires, made.direct = wires, {"DATABASE_URL": address, "REDIS_URL": os.environ["REDIS_URL"]}
        try:
            yield made.start()
        finally:
            for wire in wires.values():
                if wire.listener is None:
                    wire.mend()
            made.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def repository():
    with served({"program.py": PROGRAM}) as address:
        yield address


def answer(url, **headers):
    """(status, page), whatever the status is."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=15) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def lives(hosts):
    return all(process.poll() is None for host in (hosts.a, hosts.b) for process in host.processes.values())


@pytest.mark.timeout(400)
@pytest.mark.parametrize("what", AWAY)
def test_a_server_goes_away_for_a_while_under_load(hosts, repository, what):
    setup = hosts.call("setup")
    lab = hosts.call("make_workspace")
    is_(hosts, "workspace", lab, "ready")
    cluster = hosts.call("make_cluster", workspace=lab, name="east", nodes=2, cores=1)
    is_(hosts, "cluster", cluster, "running")
    words = {"git_url": repository, "command": "program.py 1 0 /dev/null", "name": "east"}
    job = hosts.call("make_job", workspace=lab, cluster=cluster, **words)["job"]
    person = Client(hosts.url).sign_in(setup["email"], setup["password"])
    markers = [f"/shared/marker-{uuid.uuid4().hex}" for _ in range(2)]
    seconds = AWAY[what]
    first, second = (
        hosts.call("run_again", job=job, command=f"program.py {LINES} {length} {marker}")
        for marker, length in zip(markers, (seconds + 10, 1.0), strict=True)
    )
    until(lambda: hosts.call("run_state", run=first)["stdout"], seconds=60, what="a run that prints")

    hosts.wires[what].cut()
    over = time.monotonic() + seconds
    status, page = answer(f"{hosts.url}/", Cookie=person.cookie)
    if what == "database":
        assert status == 503
        assert "Try again" in page
        assert answer(f"{hosts.url}/readyz")[0] == 503
    else:
        assert status == 200
    until(lambda: time.monotonic() > over, seconds=seconds + 5, what="the time that it is away")
    assert lives(hosts), hosts.log()
    hosts.wires[what].mend()

    until(lambda: hosts.a.is_ready() and hosts.b.is_ready(), seconds=20, what="both hosts are ready")
    wanted = sha256(expected_output(LINES)).hexdigest()
    for run, marker in zip((first, second), markers, strict=True):
        until(
            lambda run=run: hosts.call("run_state", run=run)["task_status"] in ("finished", "failed", "cancelled"),
            seconds=90, what="the end of a run",
        )  # fmt: skip
        state = hosts.call("run_state", run=run)
        assert (state["status"], state["agrees"]) == ("finished", True), (state, hosts.log())
        assert hosts.call("on_node", cluster=cluster, command=f"cat {marker}")["out"] == "ran"
        assert hosts.call("read_output", run=run)["sha256"] == wanted
    assert hosts.call("unfinished") == 0
    assert answer(f"{hosts.url}/runs/{first}/", Cookie=person.cookie)[0] == 200
