"""Repositories that ask who one is: git gets the password, and nothing else on the node does."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.gitserver import served
from tests.running import ROOT, until

# Not the tests' own where they are root's: somebody without privilege cannot read that.
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") if os.getuid() == 0 else sys.executable
DETACH = ROOT / "portal" / "onnode" / "detach.py"
PROGRAM = ROOT / "jobs" / "onnode" / "job.py"
USERNAME, PASSWORD = "me@example.org", "t0ken: with/ö\"dd'$(touch pwned)%0asigns"

# In the place of mpiexec: looks for the password wherever a program of the same person can look.
SNOOP = """#!{python}
import os, pathlib, re, sys
secret, found, read = b"t0ken: " + b"with/", [], 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) == os.getpid():
        continue
    for name in ("environ", "cmdline"):
        try:
            if secret in pathlib.Path("/proc", pid, name).read_bytes():
                found.append(f"{{name}} of {{pid}}")
        except OSError:
            pass
    try:
        maps = pathlib.Path("/proc", pid, "maps").read_text()
        with open(f"/proc/{{pid}}/mem", "rb", 0) as memory:
            for start, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw", maps, re.M):
                memory.seek(int(start, 16))
                try:
                    if secret in memory.read(int(end, 16) - int(start, 16)):
                        found.append(f"memory of {{pid}}")
                except OSError:
                    pass
                read += 1
    except OSError:
        pass
for place in sys.argv[sys.argv.index("--") + 1:]:
    for path in pathlib.Path(place).rglob("*"):
        if path.is_file() and path.name != "snoop" and secret in path.read_bytes():
            found.append(str(path))
keeper = pathlib.Path("/proc", str(os.getppid()))
print("KEEPER", "KEPT=yes" in (keeper / "environ").read_text(), b"finish" in (keeper / "cmdline").read_bytes())
print("FOUND", found, "of", sys.argv[1:3])
"""


@pytest.fixture
def place():
    """A folder of somebody without privilege: root may read everybody's memory."""
    folder = Path(tempfile.mkdtemp(prefix="cx-private-"))
    folder.chmod(0o755)
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def as_whom():
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.getuid() == 0 else {}


@pytest.fixture
def repository():
    with served({"ex.py": "print('private')"}, asks_for=(USERNAME, PASSWORD)) as url:
        yield url


@pytest.fixture
def run(place, as_whom, repository):
    engine = place / "engine"
    (engine / "bin").mkdir(parents=True)
    (engine / "bin" / "mpiexec").write_text(SNOOP.format(python=PYTHON))
    (engine / "bin" / "mpiexec").chmod(0o755)
    (engine / "bin" / "python").symlink_to(PYTHON)
    programs = [shutil.copy(program, place / program.name) for program in (DETACH, PROGRAM)]

    def go(credential=(USERNAME, PASSWORD), url=repository):
        folder = place / "run"
        order = {
            "git_url": url, "reference": "", "command": ["--", str(place)], "cores": 6, "hostfile": "/hosts",
            "engine": str(engine), "shared": str(place / "shared"), "allow_this_machine": True,
            "environment": {"COXSWAIN_RUN": "r1"},
        }  # fmt: skip
        files = {"job.json": json.dumps(order)}
        start = {"argv": [str(folder)], "program": str(programs[1]), "env": {}, "files": files}
        if credential:
            start["secret"] = json.dumps(dict(zip(("username", "password"), credential, strict=True)))
        command = [PYTHON, "-IS", str(programs[0]), "start", str(folder)]
        subprocess.run(command, input=json.dumps(start).encode(), check=True, capture_output=True,
                       env={**os.environ, "KEPT": "yes"}, **as_whom)  # fmt: skip
        until(lambda: (folder / "exit").exists(), seconds=30, what="the end")
        facts = json.loads((folder / "facts.json").read_text())
        return facts, (folder / "out").read_text(), (folder / "setup").read_text() + (folder / "err").read_text()

    return go


def test_it_is_cloned_and_the_program_finds_the_password_nowhere(run, place):
    facts, out, said = run()
    assert facts["subject"] == "Files", said
    assert "FOUND [] of ['-n', '6']" in out
    assert "KEEPER True True" in out, "what sweeps the node sees it by its environment"
    assert "t0ken" not in out + said + json.dumps(facts)
    assert not list(place.rglob("pwned"))


def test_nothing_of_it_stays_for_other_runs(run, place):
    run()
    assert not (place / "shared").exists()
    assert not (place / "run" / "sources").exists()
    assert "t0ken" not in (place / "run" / "src" / ".git" / "config").read_text()


@pytest.mark.parametrize("credential", [(USERNAME, "wrong"), ("other", PASSWORD)])
def test_what_is_not_accepted_is_said(run, credential):
    facts, _, said = run(credential)
    assert facts["failure"]["message"] == "The source could not be cloned."
    assert "Authentication failed" in facts["failure"]["evidence"]
    assert "the user name and password or access token of the job" in facts["failure"]["advice"]
    assert credential[1] not in said + json.dumps(facts)


def test_without_any_it_is_said_that_the_job_can_have_one(run):
    facts, _, _ = run(credential=None)
    assert "or give the job one" in facts["failure"]["advice"]


def test_a_password_is_no_use_over_ssh(run):
    facts, _, _ = run(url="ssh://git@127.0.0.1/x")
    assert facts["failure"]["message"] == ("A user name and a password are for addresses that begin with https://.")
