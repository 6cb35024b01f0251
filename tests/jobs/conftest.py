"""A repository, a server of it, and a head node's program that sets up a run of it."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion, Node
from jobs.actions import Program
from jobs.models import Job, Run
from jobs.parameters import Parameter
from jobs.templates import create_template
from portal import detached, ssh
from portal.secrets import seal
from portal.tasks.ledger import start_task
from portal.tasks.models import Output
from tests.gitserver import git
from tests.running import ROOT

PLACES = [str(ROOT / "jobs" / "onnode"), str(ROOT / "portal" / "onnode")]
# As on a node: nothing of Python's own environment, and the modules beside each other. In the place of the launcher,
# which `tests/ranks` tries, a program that prints what it is given.
PROGRAM = f"""
import os, sys
sys.path[:0] = {PLACES!r}
import boot
boot.brought = boot.Brought(dict(compiled=(None, dict()), rank="", runner=""))
import job
boot.execute = lambda python, module, words: os.execv(sys.argv[3], [module, *words])
job.launcher.main = lambda words: boot.execute("", "launcher", words)
job.main(sys.argv[1:3])
"""


def make_template(workspace, by, *parameters, name="training", **program):
    """Of `train.py --steps {steps}`, unless said otherwise."""
    known = {field.name: field for field in fields(Program)}
    values = {name: field.default if field.default is not MISSING else "" for name, field in known.items()}
    values |= {"git_url": "https://example.org/a", "command": "train.py --steps {steps}", "environment": {}}
    del values["cluster"]
    return create_template(
        workspace,
        name=name,
        description="",
        parameters=parameters or [Parameter("steps", "whole", "How many", "10", (), "1", "500")],
        program=values | {"time_limit": None} | program,
        cluster=None,
        by=by,
    )


def said_in(folder):
    """What a run's log says of its preparation."""
    log = folder / "log"
    found, _ = detached.frames(log.read_bytes()) if log.exists() else ([], 0)
    return b"".join(frame.data for frame, _ in found if frame.kind == "s").decode()


@pytest.fixture(scope="session")
def first_repository(tmp_path_factory):
    """Made once: each test has a copy."""
    source = tmp_path_factory.mktemp("repository") / "source"
    source.mkdir()
    git(source, "init", "--quiet", "--initial-branch=main")
    (source / "ex.py").write_text("print('first')\n")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "-m", "First")
    git(source, "tag", "v1")
    git(source, "branch", "feature/x")
    (source / "ex.py").write_text("print('second')\n")
    git(source, "commit", "--quiet", "-am", "Second, <b>bold</b>")
    git(source, "update-server-info")
    return source


@pytest.fixture
def repository(tmp_path, first_repository):
    """Two commits on main, a branch and a tag."""
    return Path(shutil.copytree(first_repository, tmp_path / "source"))


@pytest.fixture
def server(tmp_path):
    """A web server on loopback over tmp_path, and what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        redirect_to = None
        before = None

        def do_GET(self):
            asked.append(self.path)
            if self.before:
                self.before(self.path)
            if self.redirect_to and self.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", self.redirect_to + self.path.removeprefix("/moved"))
                self.end_headers()
                return
            super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    server.asked, server.handler = asked, Handler
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path, server):
    """Runs the program with a stand-in for the launcher that prints what it is given, and its environment."""
    engine = tmp_path / "engine"
    (engine / "bin").mkdir(parents=True)
    launcher = engine / "bin" / "launcher"
    launcher.write_text('#!/bin/sh\nprintf "%s\\n" "$2"\nenv\n')
    launcher.chmod(0o755)
    (engine / "bin" / "python").symlink_to(sys.executable)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    count, started = iter(range(1000)), []

    def start(url=None, reference="", command=("ex.py", "1"), here=True, env=None, **more):
        folder = tmp_path / f"run-{next(count)}"
        folder.mkdir()
        order = {
            "git_url": url or f"{server.url}/source/.git",
            "reference": reference,
            "command": list(command),
            "cores": 6,
            "hostfile": "/home/x/hostfile",
            "engine": str(engine),
            "shared": str(tmp_path / "shared"),
            "allow_this_machine": here,
            "environment": {"COXSWAIN_RUN": "r1"},
            "scratch": str(scratch),
            **more,
        }
        with (folder / "out").open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-ISc", PROGRAM, str(folder), json.dumps(order), str(launcher)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                env={name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None},
                start_new_session=True,
            )
        process.folder = folder
        started.append(process)
        return process

    def go(*words, **order):
        process = start(*words, **order)
        process.wait(60)
        folder = process.folder
        facts = json.loads((folder / "facts.json").read_text()) if (folder / "facts.json").exists() else {}
        done = subprocess.CompletedProcess(process.args, process.returncode, (folder / "out").read_text())
        return done, facts, said_in(folder)

    go.start = start
    yield go
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def idle_cluster(workspace):
    """One that takes runs, on which nothing is done: a row."""
    return Cluster.objects.create(
        workspace=workspace, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip


@pytest.fixture
def cluster(lab, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    return idle_cluster(lab)


@pytest.fixture
def begun_run(lab, bob):
    """One that is on its cluster's head node, as far as the database knows."""
    private, _ = ssh.new_key("a portal")
    seal(lab, "login_private", private)
    lab.save()
    version = EngineVersion.objects.create(kind="mpi", version="5", packages=[])
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", engine_version=version, status="running", node_count=1, cores_per_node=2
    )
    seal(cluster, "key_private", private)
    cluster.save()
    Node.objects.create(cluster=cluster, rank=0, hostname="tide-1", address="127.0.0.1", state="answers")
    job = Job.objects.create(workspace=lab, cluster=cluster, name="job", git_url="https://git.test/a", command="a.py")
    made = Run.objects.create(
        job=job, cluster=cluster, number=1, output=Output.objects.create(), status="inprogress", started=now()
    )
    start_task(made, "jobs.run", title="Run 1 of job", by=bob, output=made.output)
    return made
