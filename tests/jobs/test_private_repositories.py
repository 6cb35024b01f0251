"""Repositories that ask who one is: git gets the password, and nothing else on the node does."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from portal import detached
from tests.gitserver import git, served, serving
from tests.jobs.conftest import said_in
from tests.running import ROOT, until

# Not the tests' own where they are root's: somebody without privilege cannot read that.
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") if os.getuid() == 0 else sys.executable
PROGRAMS = detached.Programs(ROOT / "jobs" / "onnode", loads=("job",))
SPY = (ROOT / "tests" / "jobs" / "spy.py").read_text()
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
launcher = pathlib.Path("/proc", str(os.getppid()))
keeper = pathlib.Path("/proc", (launcher / "stat").read_text().rsplit(")", 1)[1].split()[1])
print("KEEPER", "KEPT=yes" in (keeper / "environ").read_text(), b"finish" in (keeper / "cmdline").read_bytes())
print("FOUND", found, "of", sys.argv[1:3])
"""


def folder_of_somebody(prefix):
    """Of somebody without privilege: root may read everybody's memory."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return folder


@pytest.fixture
def place():
    """What all nodes of a workspace share."""
    folder = folder_of_somebody("cx-private-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def node():
    """What the head node has for itself."""
    folder = folder_of_somebody("cx-node-")
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
def run(place, node, as_whom, repository):
    engine = place / "engine"
    (engine / "bin").mkdir(parents=True)
    (engine / "bin" / "mpiexec").write_text(SNOOP.format(python=PYTHON))
    (engine / "bin" / "mpiexec").chmod(0o755)
    (engine / "bin" / "python").symlink_to(PYTHON)
    (place / "hosts").write_text("here:6\n")
    waiting = PROGRAMS.command().line.replace("python3", str(PYTHON), 1)

    def go(credential=(USERNAME, PASSWORD), url=repository, env=None, name="run", **more):
        folder = place / name
        order = {
            "git_url": url, "reference": "", "command": ["--", str(place)], "cores": 6,
            "hostfile": str(place / "hosts"), "engine": str(engine), "shared": str(place / "shared"),
            "allow_this_machine": True,
            "environment": {"COXSWAIN_RUN": "r1"}, "scratch": str(node), **more,
        }  # fmt: skip
        start = {"argv": [str(folder), json.dumps(order)], "program": "job", "env": env or {}}
        if credential:
            start["secret"] = json.dumps(dict(zip(("username", "password"), credential, strict=True)))
        verb = ["start", str(folder), *(["secret"] if credential else [])]
        words = PROGRAMS.data + json.dumps(verb).encode() + b"\n" + json.dumps(start).encode()
        subprocess.run(["/bin/sh", "-c", waiting], input=words, check=True, capture_output=True,
                       env={**os.environ, "KEPT": "yes"}, **as_whom)  # fmt: skip
        until(lambda: (folder / "exit").exists(), seconds=30, what="the end")
        facts = json.loads(told.read_text()) if (told := folder / "facts.json").exists() else {}
        verdict = folder / "verdict.json"
        out = json.loads(verdict.read_text())["hydra"] if verdict.exists() else ""
        return facts, out, said_in(folder) + (folder / "err").read_text()

    return go


def test_it_is_cloned_and_the_program_finds_the_password_nowhere(run, place, node):
    facts, out, said = run(command=["--", str(place), str(node)])
    assert facts["subject"] == "Files", said
    assert "FOUND [] of ['-n', '6']" in out
    assert "KEEPER True True" in out, "what sweeps the node sees it by its environment"
    assert "t0ken" not in out + said + json.dumps(facts)
    assert not list(place.rglob("pwned"))


def test_who_looks_into_every_process_of_the_account_while_it_is_fetched_finds_it_nowhere(run, place, forge, as_whom):
    to = place / "spied"
    told = f"{USERNAME}:{PASSWORD}".encode()
    words = [PASSWORD[:12].encode(), base64.b64encode(told)[4:-4], base64.b64encode(told)]
    order = {"words": [word.hex() for word in words], "but": [os.getpid()], "to": str(to)}
    spy = subprocess.Popen([PYTHON, "-ISc", SPY, json.dumps(order)], **as_whom)

    def spied():
        return json.loads(to.read_text()) if to.exists() else {"rounds": 0}

    def look(path):
        rounds = spied()["rounds"]
        until(lambda: spied()["rounds"] > rounds + 1, seconds=30, what="two more looks")

    try:
        look("")
        forge.before = look
        facts, _, said = run(url=f"{forge.url}/main")
        assert facts.get("subject") == "With a submodule", said
    finally:
        spy.kill()
        spy.wait()
    assert spied()["found"] == []
    assert min(spied()["open"]) > 0, "it has seen what git has, and looked into it"


def test_nothing_of_it_stays_for_other_runs(run, place, node):
    run()
    assert not (place / "shared").exists()
    assert not list(node.iterdir())
    assert "t0ken" not in (place / "run" / "src" / ".git" / "config").read_text()


def of_the_run():
    """Processes that carry its mark, with their parents."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if b"COXSWAIN_RUN=r1" in Path("/proc", pid, "environ").read_bytes().split(b"\0"):
                found[int(pid)] = int(Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


def test_who_signs_in_is_killed_in_the_middle_of_that_and_nothing_of_it_stays(run, place, node):
    killed = []

    def kill(path):
        if not killed:
            git_of_it = of_the_run()
            killed.append(next(parent for parent in git_of_it.values() if parent not in git_of_it))
            os.kill(killed[0], signal.SIGKILL)

    with served({"ex.py": ""}, asks_for=(USERNAME, PASSWORD), before=kill) as url:
        _, out, said = run(url=url)
        end = json.loads((place / "run" / "exit").read_text())
        assert (end["signal"], out) == (signal.SIGKILL, "")
        until(lambda: not of_the_run(), what="the end of git")
        files = [path for folder in (place, node) for path in folder.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
        assert "t0ken" not in said
        facts, _, said = run(url=url, name="again")
        assert facts.get("subject") == "Files", said
    assert not list(node.iterdir()), "what the one before has left is taken away by the next"


@pytest.mark.parametrize("credential", [(USERNAME, "wrong"), ("other", PASSWORD)])
def test_what_is_not_accepted_is_said(run, credential):
    facts, _, said = run(credential)
    assert facts["failure"]["message"] == "The source could not be cloned."
    assert "Authentication failed" in facts["failure"]["evidence"]
    assert "its user name and password or access token" in facts["failure"]["advice"]
    assert credential[1] not in said + json.dumps(facts)


def test_without_any_it_is_said_that_the_job_can_have_one(run):
    facts, _, _ = run(credential=None)
    assert "or give the job one" in facts["failure"]["advice"]
    assert facts["failure"]["code"] == "source"


def test_a_password_is_no_use_over_ssh(run):
    facts, _, _ = run(url="ssh://git@127.0.0.1/x")
    assert facts["failure"]["message"] == ("A user name and a password are for addresses that begin with https://.")


# A hostile program: of a run of another cluster, which may change what lies on /shared at any moment; or of an earlier
# run on the same node, which left things where programs look

HOSTILE = """
import os, pathlib, sys
place, *watched = map(pathlib.Path, sys.argv[1:])
thief = place / "thief"
thief.write_text(f"#!/bin/sh\\ntimeout 1 cat /proc/self/fd/[3-9] /proc/self/fd/[1-9][0-9] >> {place}/LOOT 2>&1\\n")
thief.chmod(0o755)
config = f'''[credential]
helper = "!f() {{ cat >> {place}/LOOT; }}; f"
[core]
askPass = {thief}
fsmonitor = {thief}
hooksPath = {place}
sshCommand = {thief}
alternateRefsCommand = {thief}
'''
for name in ("reference-transaction", "post-checkout", "pre-auto-gc"):
    (place / name).symlink_to(thief)
while True:
    for top in watched:
        for at, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name != "src"]  # what has arrived is to be had anyway
            try:
                if "objects" in folders:
                    path = pathlib.Path(at, "config")
                    if "thief" not in (path.read_text() if path.exists() else ""):
                        with path.open("a") as file:
                            file.write(config)
                    pathlib.Path(at, "objects", "info").mkdir(exist_ok=True)
                    pathlib.Path(at, "objects", "info", "alternates").write_text(f"{place}/other/objects\\n")
                for file in files:
                    path = pathlib.Path(at, file)
                    if path.stat().st_mode & 0o100 and path.name not in ("thief", "mpiexec"):
                        path.write_bytes(thief.read_bytes())
            except OSError:
                pass
    if not (place / "run" / ".git").exists():
        for top in (place, place / "run", place / "shared"):
            if top.exists():
                (top / ".git" / "objects").mkdir(parents=True, exist_ok=True)
                (top / ".git" / "refs").mkdir(exist_ok=True)
                (top / ".git" / "HEAD").write_text("ref: refs/heads/main\\n")
                (top / ".git" / "config").write_text(config)
    (place / "ready").touch()
"""


@pytest.fixture
def forge(place, as_whom):
    """A server that asks for the password: of a repository with a submodule of the same server."""
    folder = Path(tempfile.mkdtemp(prefix="cx-forge-"))
    for name in ("library", "main"):
        (folder / name).mkdir()
        git(folder / name, "init", "--quiet", "--initial-branch=main")
        (folder / name / f"{name}.py").write_text("X = 1\n")
        git(folder / name, "add", ".")
        git(folder / name, "commit", "--quiet", "-m", "Files")
    (folder / "main" / ".gitmodules").write_text('[submodule "l"]\n\tpath = lib\n\turl = ../library\n')
    git(folder / "main", "add", ".gitmodules")
    library = git(folder / "library", "rev-parse", "main")
    git(folder / "main", "update-index", "--add", "--cacheinfo", f"160000,{library},lib")
    git(folder / "main", "commit", "--quiet", "-m", "With a submodule")
    with serving(folder) as server:
        server.asks_for = (USERNAME, PASSWORD)
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def hostile(place, as_whom):
    """Starts it; it changes all repositories and programs below these folders, over and over."""
    subprocess.run(["git", "init", "--quiet", "--bare", str(place / "other")], check=True, **as_whom)
    started = []

    def start(*folders):
        started.append(subprocess.Popen([PYTHON, "-ISc", HOSTILE, str(place), *map(str, folders)], **as_whom))
        until(lambda: (place / "ready").exists(), what="the hostile program")

    yield start
    for process in started:
        process.kill()
        process.wait()


def loot(place):
    return (place / "LOOT").read_text(errors="replace") if (place / "LOOT").exists() else ""


def test_a_hostile_program_of_another_cluster_does_not_get_it(run, place, forge, hostile):
    hostile(place / "shared", place / "run", place / "home")
    facts, _, said = run(url=f"{forge.url}/main")
    assert facts.get("subject") == "With a submodule", said
    assert (place / "run" / "src" / "lib" / "library.py").exists(), said
    assert "t0ken" not in loot(place)


def test_where_it_is_sent_is_in_no_file_that_another_run_could_change(run, place, forge):
    facts, _, said = run(url=f"{forge.url}/main")
    assert facts.get("subject") == "With a submodule", said
    names = {path.name for path in (place / "run").iterdir() if path.is_file()}
    assert names == {
        "begun", "err", "exit", "facts.json", "keeper.log", "lock", "log", "out", "verdict.json"
    }  # fmt: skip
    assert forge.url not in (place / "run" / "facts.json").read_text()


def test_not_even_where_it_reaches_what_git_uses(run, place, node, forge, hostile):
    """Its programs are started then, by git itself: which has nothing that they could take."""
    hostile(node)
    for n in range(10):
        run(url=f"{forge.url}/main", name=f"run-{n}")
        assert "t0ken" not in loot(place)
        if (place / "LOOT").exists():
            return
    pytest.fail("The hostile program is too weak to show anything.")


def test_what_an_earlier_run_left_in_the_home_does_not_get_it(run, place, as_whom, forge):
    home = place / "home"
    (home / "bin").mkdir(parents=True)
    (home / ".config" / "git").mkdir(parents=True)
    thief = f"#!/bin/sh\n/bin/cat /proc/self/fd/[3-9] >> {place}/LOOT\nexit 1\n"
    config = f'[credential]\n\thelper = "!cat >> {place}/LOOT; :"\n[core]\n\taskPass = {home}/bin/git\n'
    config += f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {forge.url}/\n'
    for path in (".gitconfig", ".config/git/config"):
        (home / path).write_text(config)
    for name in ("git", "cat", "sh", "ssh", "git-remote-http"):
        (home / "bin" / name).write_text(thief)
        (home / "bin" / name).chmod(0o755)
    env = {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "TMPDIR": str(home),
        "GIT_EXEC_PATH": f"{home}/bin",
        "PATH": f"{home}/bin:{os.environ['PATH']}", "GIT_ASKPASS": f"{home}/bin/git", "GIT_TRACE_CURL": f"{place}/LOOT",
        "GIT_CONFIG_PARAMETERS": "'credential.helper'='!cat >> LOOT'", "GIT_TRACE_REDACT": "0", "GIT_DIR": str(place),
        "GIT_TEMPLATE_DIR": str(home), "GIT_PROXY_COMMAND": f"{home}/bin/git",
    }  # fmt: skip
    facts, _, said = run(url=f"{forge.url}/main", env=env)
    assert facts.get("subject") == "With a submodule", said
    assert "t0ken" not in loot(place)


def test_it_is_given_to_no_other_server(run, place, forge, tmp_path):
    """Neither to one that the repository's redirects to, nor to that of a submodule."""
    with serving(Path(forge.folder)) as other:
        forge.moved["/gone/"] = f"{other.url}/main/"
        other.moved["/library/"] = f"{forge.url}/library/"
        facts, _, said = run(url=f"{forge.url}/gone")
        assert facts.get("subject") == "With a submodule", said
        assert f"The password is for {forge.url} and is not given to {other.url}" in said
        assert other.asked
        assert not [path for path, authorization in other.asked if authorization]


def test_a_submodule_of_another_server_is_not_signed_in_to(run, place, forge):
    with serving(Path(forge.folder)) as other:
        other.asks_for = (USERNAME, PASSWORD)
        main = Path(forge.folder) / "main"
        git(main, "config", "--file", ".gitmodules", "submodule.l.url", f"{other.url}/library")
        git(main, "add", ".gitmodules")
        git(main, "commit", "--quiet", "-m", "Of another server")
        facts, _, said = run(url=f"{forge.url}/main")
        assert facts.get("subject") == "Of another server", said
        assert "The submodule lib is not fetched: Its server asks who one is" in said
        assert other.asked
        assert not [path for path, authorization in other.asked if authorization]
