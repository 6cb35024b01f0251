"""What runs on the head node before a run's command: the source, the packages, and what git is not allowed to do."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "jobs" / "onnode" / "job.py"
ME = ["-c", "user.name=a", "-c", "user.email=a@example.org"]


def git(folder, *words):
    done = subprocess.run(["git", *ME, "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Two commits on main, a branch and a tag."""
    source = tmp_path / "source"
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
def server(tmp_path):
    """A web server on loopback over tmp_path, and what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        redirect_to = None

        def do_GET(self):
            asked.append(self.path)
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
    """Runs the program with a stand-in for mpiexec that prints what it is given."""
    engine = tmp_path / "engine"
    (engine / "bin").mkdir(parents=True)
    (engine / "bin" / "mpiexec").write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\nenv\n')
    (engine / "bin" / "mpiexec").chmod(0o755)
    (engine / "bin" / "python").symlink_to(sys.executable)
    count = iter(range(100))

    def go(url=None, reference="", command=("ex.py", "1"), here=True, env=None):
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
        }
        (folder / "job.json").write_text(json.dumps(order))
        done = subprocess.run(
            [sys.executable, "-I", str(PROGRAM), str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            check=False,
        )
        facts = json.loads((folder / "facts.json").read_text()) if (folder / "facts.json").exists() else {}
        return done, facts, (folder / "setup").read_text()

    return go


def test_it_becomes_mpiexec_in_the_clone_of_the_commit(run, repository):
    done, facts, setup = run()
    words = [line[1:-1] for line in done.stdout.splitlines() if line.startswith("<")]
    assert words[:4] == ["-n", "6", "-f", "/home/x/hostfile"]
    assert words[-2:] == ["ex.py", "1"]
    assert facts["commit"] == git(repository, "rev-parse", "main")
    assert facts["subject"] == "Second, <b>bold</b>"
    assert "$ mpiexec -n 6 python ex.py 1" in setup
    assert "COXSWAIN_RUN=r1" in done.stdout


@pytest.mark.parametrize("reference", ["main", "feature/x", "v1", "short", "full"])
def test_a_reference_is_a_branch_a_tag_or_a_commit(run, repository, reference):
    first = git(repository, "rev-parse", "v1")
    reference = {"short": first[:8], "full": first}.get(reference, reference)
    _, facts, _ = run(reference=reference)
    expected = git(repository, "rev-parse", "main") if reference == "main" else first
    assert facts["commit"] == expected


@pytest.mark.parametrize("reference", ["nothing", "--upload-pack=touch pwned", "-d", "main^{/First}", "HEAD~1"])
def test_other_references_are_refused_with_words(run, repository, tmp_path, reference):
    done, facts, _ = run(reference=reference)
    assert done.returncode == 70
    assert facts["failure"]["message"]
    assert "commit" not in facts
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("url", ["ext::sh -c touch% pwned", "--upload-pack=touch pwned;", "file://{}", "{}"])
def test_urls_that_run_or_read_things_do_not(run, repository, tmp_path, url):
    done, facts, _ = run(url=url.format(repository))
    assert done.returncode == 70
    assert facts["failure"]["message"] == "A Git URL begins with https:// or ssh://."
    assert not list(tmp_path.rglob("pwned"))
    assert "<-n>" not in done.stdout


def test_plain_http_to_this_machine_only_where_the_setting_says_so(run, repository):
    done, facts, _ = run(here=False)
    assert done.returncode == 70
    assert "where no Git server may be" in facts["failure"]["message"]


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0", "[::ffff:169.254.169.254]", "2852039166"])
def test_addresses_of_the_clouds_metadata_are_refused(run, repository, host):
    done, facts, _ = run(url=f"https://{host}/x")
    assert done.returncode == 70
    assert "where no Git server may be" in facts["failure"]["message"]


def test_a_redirect_is_not_followed(run, repository, server):
    server.handler.redirect_to = server.url
    done, facts, _ = run(url=f"{server.url}/moved/source/.git")
    assert done.returncode == 70
    assert facts["failure"]["message"] == "The source could not be cloned."
    assert not [path for path in server.asked if path.startswith("/source")]


@pytest.mark.parametrize(
    "env",
    [
        {"GIT_SSH_COMMAND": "touch pwned"},
        {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": "touch pwned"},
        {"GIT_EXEC_PATH": "/nonexistent"},
    ],
)
def test_the_environment_of_the_run_does_not_reach_git(run, repository, tmp_path, env):
    done, facts, _ = run(env=env)
    assert done.returncode == 0
    assert facts["commit"]
    assert not list(tmp_path.rglob("pwned"))


def test_an_unknown_host_is_said_in_words(run):
    _, facts, _ = run(url="https://no-such-host.invalid/x")
    assert facts["failure"]["message"] == "no-such-host.invalid is not known."


@pytest.mark.parametrize("word", ["$(touch pwned)", "; touch pwned", "`touch pwned`", "a b", "'", "\n", "-c", "é"])
def test_the_words_of_the_command_arrive_as_they_are(run, repository, tmp_path, word):
    done, _, _ = run(command=("ex.py", word))
    assert f"<ex.py>\n<{word}>\n" in done.stdout
    assert not list(tmp_path.rglob("pwned"))
