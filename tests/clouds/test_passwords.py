"""The password of a repository while a node signs in with it, and programs of others on the same node."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shlex
import shutil
import tempfile
import threading
import uuid
from pathlib import Path

import asyncssh
import pytest

from portal import detached
from tests.gitserver import git, serving
from tests.jobs.conftest import said_in
from tests.running import ROOT, until

from . import hands

PROGRAMS = detached.Programs(ROOT / "jobs" / "onnode", loads=("job",))
SPY = (ROOT / "tests" / "jobs" / "spy.py").read_text()
USERNAME, PASSWORD = "me@example.org", "t0ken-of-somebody-else"
WORDS = [PASSWORD.encode(), base64.b64encode(f"{USERNAME}:{PASSWORD}".encode())[4:-4]]


@pytest.fixture
def forge():
    """A server that asks for the password, and waits before each answer until whoever spies has looked."""
    folder = Path(tempfile.mkdtemp(prefix="cx-forge-"))
    (folder / "main").mkdir()
    git(folder / "main", "init", "--quiet", "--initial-branch=main")
    (folder / "main" / "ex.py").write_text("X = 1\n")
    git(folder / "main", "add", ".")
    git(folder / "main", "commit", "--quiet", "-m", "Private")
    with serving(folder) as server:
        server.asks_for = (USERNAME, PASSWORD)
        yield server
    shutil.rmtree(folder)


class Head:
    """A node, and what the portal starts on it."""

    def __init__(self, cloud):
        _, self.tags = hands.deploy(cloud)
        cloud.ensure_nodes(hands.spec(self.tags, 1))
        (self.node,) = hands.up(cloud, self.tags, 1)
        self.shared = cloud._workspace(self.tags).cluster(self.tags.subject).shared
        self.cloud = cloud

    def spy(self):
        """Begins to look, as somebody in a terminal."""
        to = f"{self.node.shared}/spied"
        but = [os.getpid(), os.getppid()]
        order = json.dumps({"words": [word.hex() for word in WORDS], "but": but, "to": to})
        words = shlex.join(["exec", "python3", "-ISc", SPY, order])
        threading.Thread(target=lambda: in_terminal(self.node, words), daemon=True).start()
        until(lambda: self.spied()["rounds"], what="the spy")

    def spied(self):
        file = self.shared / "spied"
        return json.loads(file.read_text()) if file.exists() else {"rounds": 0, "found": [], "open": [0, 0]}

    def fetch(self, url):
        run = str(uuid.uuid4())
        folder = f"{self.node.shared}/.runs/{run}"
        engine = self.shared / "engine"
        (engine / "bin").mkdir(parents=True, exist_ok=True)
        (engine / "bin" / "mpiexec").write_text("#!/bin/sh\nexit 0\n")
        (engine / "bin" / "mpiexec").chmod(0o755)
        (engine / "bin" / "python").unlink(missing_ok=True)
        (engine / "bin" / "python").symlink_to("/usr/bin/python3")
        hands.give(self.cloud, self.tags, self.shared)
        order = {
            "git_url": url, "reference": "", "command": ["ex.py"], "cores": 1, "hostfile": f"{self.node.home}/hostfile",
            "engine": f"{self.node.shared}/engine", "shared": self.node.shared, "allow_this_machine": True,
            "scratch": f"{self.node.home}/.scratch", "environment": {"COXSWAIN_RUN": run},
        }  # fmt: skip
        detached.start(
            hands.host(self.node), folder, argv=[folder, json.dumps(order)], program="job", programs=PROGRAMS,
            env={"COXSWAIN_RUN": run}, secret=json.dumps({"username": USERNAME, "password": PASSWORD}),
        )  # fmt: skip
        here = self.shared / ".runs" / run
        until(lambda: (here / "exit").exists(), seconds=90, what="the end")
        facts = json.loads((here / "facts.json").read_text())
        return facts, said_in(here)


def in_terminal(node, command):
    async def go():
        async with hands.connect(node) as connection:
            await connection.run(command)

    with contextlib.suppress(OSError, asyncssh.Error):
        asyncio.run(go())


@pytest.mark.parametrize("rung", ["namespaces", "landlock", "plain"])
def test_nobody_on_the_node_reads_it(local, rung, forge):
    if rung == "plain" and os.getuid() == 0:
        pytest.skip("there the programs of people are root's, who reads everything")
    head = Head(local(rung, git_here=True))
    head.spy()

    def until_it_was_looked_for(path):
        rounds = head.spied()["rounds"]
        until(lambda: head.spied()["rounds"] >= rounds + 2, seconds=60, what="two more looks")

    forge.before = until_it_was_looked_for
    facts, said = head.fetch(f"{forge.url}/main")
    print(rung, head.spied())
    assert facts.get("subject") == "Private", said
    assert [path for path, authorization in forge.asked if authorization]
    assert head.spied()["found"] == []
    assert (head.spied()["open"] == [0, 0]) == (rung != "plain"), "it has seen what git has, and looked into it"
