"""Two hosts with one PostgreSQL and one Redis: a web, a worker and a watch process each. Either half dies under load.

Each host has a data folder of its own; shared are the keys, the folders of kept outputs, and that of the nodes of This
computer, which is the machine that both "hosts" are on. A half dies by kill -9, and is started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from tests.chaos.conftest import PROGRAM, expected_output
from tests.chaos.test_kills import nodes_of
from tests.clouds import hands
from tests.gitserver import served
from tests.running import ROOT, end_with_us, free_port, until
from tests.web import Client

pytestmark = [
    pytest.mark.database,
    pytest.mark.skipif(
        not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")),
        reason="needs PostgreSQL in DATABASE_URL and Redis in REDIS_URL",
    ),
]

PARTS = ("web", "worker", "watch")
LINES, SECONDS = 200, 4.0
RESUMED = 15.0  # seconds until others go on with what the dead one held


class Host:
    """A web, a worker and a watch process with one data folder."""

    def __init__(self, name, folder, env):
        self.name, self.folder = name, folder
        self.var = folder / name
        self.var.mkdir(mode=0o700)
        self.port = free_port()
        self.env = {**env, "PORTAL_VAR": str(self.var)}
        self.processes = {}

    def start(self):
        for part in PARTS:
            words = [part, "--port", str(self.port)] if part == "web" else [part]
            with (self.folder / f"{self.name}-{part}.log").open("ab") as log:
                self.processes[part] = subprocess.Popen(
                    [sys.executable, "manage.py", *words],
                    cwd=ROOT,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=end_with_us,
                )
        until(self.is_ready, seconds=60, what=f"{self.name} is ready")

    def is_ready(self):
        assert all(process.poll() is None for process in self.processes.values()), self.log()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status == 200

    def pids(self):
        return [process.pid for process in self.processes.values()]

    def kill(self):
        """Returns whose they were."""
        for process in self.processes.values():
            process.send_signal(signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
        return self.pids()

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()

    def log(self):
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}"
            for file in sorted(self.folder.glob(f"{self.name}-*.log"))
        )


class Hosts:
    """Both, and a hand in their database."""

    def __init__(self, folder, env):
        self.a, self.b = Host("a", folder, env), Host("b", folder, env)
        self.a.env["PORTAL_URL"] = self.b.env["PORTAL_URL"] = self.url = f"http://127.0.0.1:{self.a.port}"
        for shared in ("outputs", "stores", "local"):
            (self.a.var / shared).mkdir(mode=0o700)
            (self.b.var / shared).symlink_to(self.a.var / shared)
        self.var = self.a.var
        self.driver, self.direct = None, {}  # what of the environment is another for the hand

    def start(self):
        done = subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            cwd=ROOT, env=self.a.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        self.a.start()
        self.b.start()
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "tests.driver"],
            cwd=ROOT, env={**self.a.env, **self.direct}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def call(self, function, **arguments):
        self.driver.stdin.write(json.dumps([function, arguments]) + "\n")
        self.driver.stdin.flush()
        answer = json.loads(self.driver.stdout.readline())
        assert "error" not in answer, f"{answer['error']}\n{self.log()}"
        return answer["result"]

    def stop(self):
        for host in (self.a, self.b):
            host.stop()
        if self.driver:
            self.call("power_off")
            with self.driver.stdin, self.driver.stdout:
                self.driver.stdin.close()
                self.driver.wait(10)

    def log(self):
        return self.a.log() + self.b.log()


@contextlib.contextmanager
def database():
    """One of its own, beside that of the tests."""
    name = f"hosts_{uuid.uuid4().hex[:12]}"
    parts = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield urllib.parse.urlunsplit(parts._replace(path=f"/{name}"))
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def environment(folder, **servers):
    """Of both hosts: the same keys, and these servers."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PORTAL_", "DJANGO_", "PYTEST_"))}
    return env | {
        "PORTAL_REDIS_PREFIX": folder.name,
        "PORTAL_HOSTS": "2",
        "PORTAL_SECRET_KEY": secrets.token_urlsafe(48),
        "PORTAL_ENCRYPTION_KEYS": secrets.token_urlsafe(48),
        "PORTAL_LOG_FORMAT": "plain",
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        **servers,
    }


@pytest.fixture
def hosts():
    folder = Path(tempfile.mkdtemp(prefix="cx-hosts-"))
    with database() as address:
        made = Hosts(folder, environment(folder, DATABASE_URL=address))
        try:
            yield made.start()
        finally:
            made.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def repository():
    with served({"program.py": PROGRAM}) as address:
        yield address


def is_(hosts, kind, uuid, status, seconds=90):
    """Wait until it is so."""

    def look():
        state = hosts.call("state", kind=kind, uuid=uuid)
        assert state["status"] == status or state["task_status"] != "failed", (state, hosts.log())
        return state["status"] == status

    until(look, seconds=seconds, what=f"a {kind} that is {status}")


def load(hosts, job):
    """Two runs of a job, whose cluster takes one at a time: their uuids, and the file that each leaves on /shared."""
    found = []
    for _ in range(2):
        marker = f"/shared/marker-{uuid.uuid4().hex}"
        found.append((hosts.call("run_again", job=job, command=f"program.py {LINES} {SECONDS} {marker}"), marker))
    return found


def strike(hosts, host, runs):
    """kill -9 to all of a host while a run prints. Returns after how many seconds the other one had gone on."""
    going = until(
        lambda: [
            run
            for run, _ in runs
            if (state := hosts.call("run_state", run=run))["status"] == "inprogress" and state["stdout"]
        ],
        seconds=60,
        what="a run that prints",
    )
    dead = host.kill()
    died = time.monotonic()
    had = {run: hosts.call("run_state", run=run)["stdout"] for run in going}

    def goes_on():
        if hosts.call("held_by", pids=dead):
            return False
        states = {run: hosts.call("run_state", run=run) for run in going}
        return all(state["status"] != "inprogress" or state["stdout"] > had[run] for run, state in states.items())

    until(goes_on, seconds=RESUMED, what=f"what {host.name} held, with the other host")
    return time.monotonic() - died


def test_either_half_dies_under_load(hosts, repository):
    setup = hosts.call("setup")
    lab = hosts.call("make_workspace")
    is_(hosts, "workspace", lab, "ready")
    clusters = [hosts.call("make_cluster", workspace=lab, name=name, nodes=2, cores=1) for name in ("east", "west")]
    jobs = []
    for cluster, name in zip(clusters, ("east", "west"), strict=True):
        is_(hosts, "cluster", cluster, "running")
        words = {"git_url": repository, "command": "program.py 1 0 /dev/null", "name": name}
        jobs.append(hosts.call("make_job", workspace=lab, cluster=cluster, **words)["job"])

    runs, took = {}, []
    for host in (hosts.a, hosts.b):
        for job, cluster in zip(jobs, clusters, strict=True):
            runs |= {run: (cluster, marker) for run, marker in load(hosts, job)}
        late = hosts.call("make_cluster", workspace=lab, name=f"late-{host.name}", nodes=1, cores=1)
        took.append(strike(hosts, host, [(run, marker) for run, (_, marker) in runs.items()]))
        is_(hosts, "cluster", late, "running")
        hosts.call("drop_cluster", cluster=late)
        host.start()
        is_(hosts, "cluster", late, "terminated")
        assert hosts.call("leftovers", cluster=late) == []

    wanted = sha256(expected_output(LINES)).hexdigest()
    for run, (cluster, marker) in runs.items():
        until(
            lambda run=run: hosts.call("run_state", run=run)["task_status"] in ("finished", "failed", "cancelled"),
            seconds=90, what="the end of a run",
        )  # fmt: skip
        state = hosts.call("run_state", run=run)
        assert (state["status"], state["agrees"]) == ("finished", True), (state, hosts.log())
        assert hosts.call("on_node", cluster=cluster, command=f"cat {marker}")["out"] == "ran"
        assert hosts.call("read_output", run=run)["sha256"] == wanted
        until(lambda run=run: hosts.call("run_state", run=run)["kept"], seconds=90, what="an output that is kept")
    assert hosts.call("unfinished") == 0
    for cluster in clusters:
        until(lambda cluster=cluster: not hands.of_people(nodes_of(hosts, cluster)), what="the end of all processes")

    # Whoever signed in at one host is known to the other, which has what the other one kept.
    person = Client(hosts.url).sign_in(setup["email"], setup["password"])
    for run in runs:
        output = hosts.call("run_state", run=run)["output"]
        found = [fetched(person, host, f"/outputs/{output}/download/?stream=stdout") for host in (hosts.a, hosts.b)]
        assert [sha256(data).hexdigest() for data in found] == [wanted] * 2
    print(f"{len(runs)} runs; gone on after {', '.join(f'{seconds:.1f} s' for seconds in took)}")


def fetched(person, host, path):
    """What a host answers to whom a proxy has led to it."""
    headers = {"Cookie": person.cookie, "Host": urllib.parse.urlsplit(person.url).netloc}
    request = urllib.request.Request(f"http://127.0.0.1:{host.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.read()
