"""Mpiexec and what stands around the ranks come up while the source is fetched: they wait, and run nothing before."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from portal import detached
from portal.clouds.local import processes
from tests.gitserver import served
from tests.running import until

from .conftest import Ended

# What a rank finds, and a program that it spawns.
LOOK = """
import json, os, sys
from mpi4py import MPI
def found():
    names = ("PYTHONPATH", "PATH", "HOME", "PMI_SIZE", "COXSWAIN_RANK")
    return {"cwd": os.getcwd(), "argv": sys.argv, "path": sys.path, "names": sorted(os.environ),
            "values": {name: os.environ.get(name) for name in names}, "blocked": list(map(int, __import__(
            "signal").pthread_sigmask(0, ()))), "usr1": int(__import__("signal").getsignal(10))}
parent = MPI.Comm.Get_parent()
if parent != MPI.COMM_NULL:
    parent.send({**found(), "thing": __import__("thing").__file__ if "thing" in sys.argv else ""}, 0)
    parent.Disconnect()
    sys.exit()
print(json.dumps(found()), flush=True)
if MPI.COMM_WORLD.rank == 0 and "spawns" in sys.argv:
    child = MPI.COMM_SELF.Spawn(sys.executable, ["look.py", "spawned", *sys.argv[2:]])
    print(json.dumps(child.recv(source=0)), flush=True)
    child.Disconnect()
"""
# A package of the source itself, that takes as long to be built as somebody wants.
SLOW = {
    "requirements.txt": ".\n",
    "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    "[project]\nname = 'thing'\nversion = '1'\n",
    "backend.py": """
import os, time, zipfile
def build_wheel(folder, *_, **__):
    open("/shared/builds", "w").close()
    while not os.path.exists("/shared/go-on"):
        time.sleep(0.02)
    with zipfile.ZipFile(os.path.join(folder, "thing-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("thing.py", "")
        about = "thing-1.dist-info/"
        wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\\nName: thing\\nVersion: 1\\n")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(about + "RECORD", "")
    return "thing-1-py3-none-any.whl"
""",
}


class Server:
    """A repository whose server answers when it is let."""

    def __init__(self):
        self.gate = threading.Event()
        self.asked = threading.Event()
        self.gives = True

    def before(self, path):
        self.asked.set()
        assert self.gate.wait(60)
        return self.gives


@pytest.fixture
def server():
    server = Server()
    with served({"look.py": LOOK}, before=server.before) as server.url:
        yield server
        server.gate.set()


def waiting(nodes):
    """Processes that stand around a rank that is not there yet, on all nodes."""
    return [pid for pid, words in nodes.found().items() if words.split()[0].endswith("/python")
            and " --wait " in words]  # fmt: skip


def end_of(folder, seconds=30):
    until((folder / "exit").exists, seconds=seconds, what="the end")
    return json.loads((folder / "exit").read_text())


def good(folder):
    """How a run ended that must have ended well."""
    end_of(folder)
    assert (folder / "verdict.json").exists(), (facts_of(folder), (folder / "err").read_text())
    ended = Ended(folder)
    assert ended.verdict["good"], (ended.why, ended.streams)
    return ended


def facts_of(folder):
    return json.loads((folder / "facts.json").read_text())


def started(three, server, *command, **more):
    """A run whose ranks wait, on all nodes, because its source is not there."""
    folder = three.start_job(server.url, *(command or ("look.py",)), **more)
    until(lambda: len(waiting(three)) == 6, what="what stands around six ranks")
    assert not (folder / "facts.json").exists()
    return folder


def look(ended, rank=0):
    return [json.loads(line) for line in ended.out(rank).splitlines()]


def told(found, folder):
    """The same of each run."""
    words = json.dumps({name: value for name, value in found.items() if name != "names"}).replace(folder.name, "RUN")
    return {**json.loads(words), "names": found["names"]}


def test_ranks_that_waited_find_what_others_find(three, server):
    folder = started(three, server, "look.py", "spawns")
    server.gate.set()
    early, early_spawned = look(good(folder))
    assert early["values"]["PYTHONPATH"] is None  # what puts spawned programs under a wrapper is for those alone
    assert early["cwd"] == early_spawned["cwd"] == f"/shared/.runs/{folder.name}/src"
    assert facts_of(folder)["phase"] == "run"
    # One whose source needs a password has nothing of it start before the source is there.
    later = three.start_job(server.url, "look.py", "spawns", secret=json.dumps({"username": "a", "password": "b"}))
    late, late_spawned = look(good(later))
    assert told(early, folder) == told(late, later)
    assert [path for path in early_spawned["path"] if "/packages" not in path] == [
        path.replace(later.name, folder.name) for path in late_spawned["path"]
    ]
    assert not three.processes()


def test_nothing_starts_before_the_source_is_there_when_that_needs_a_password(three, server):
    """For it would be of /shared, where others may have put what reads it out of git."""
    folder = three.start_job(server.url, "look.py", secret=json.dumps({"username": "a", "password": "b"}))
    assert server.asked.wait(20)
    assert not waiting(three)
    assert not [words for words in three.processes() if "mpiexec" in words]
    server.gate.set()
    good(folder)


def test_a_source_that_cannot_be_had_is_said_and_nothing_is_left(three, server):
    folder = started(three, server)
    server.gives = False
    began = time.time()
    server.gate.set()
    assert end_of(folder)["status"] == 70
    assert end_of(folder)["ended"] - began < 2
    assert facts_of(folder)["failure"]["message"] == "The source could not be cloned."
    assert not (folder / "verdict.json").exists()
    until(lambda: not three.processes(), seconds=5, what="the end of what waited")


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9)])
def test_a_run_that_is_ended_while_its_ranks_wait_leaves_nothing(three, server, name, number):
    folder = started(three, server)
    detached.send_signal(three.host(), f"/shared/.runs/{folder.name}", name)
    end = end_of(folder, 5)
    assert (end["status"], end["signal"], end["asked"]) == (None, number, [name])
    assert not (folder / "verdict.json").exists()
    until(lambda: not three.processes(), seconds=5, what="the end of what waited")


def test_a_time_limit_holds_while_ranks_wait(three, server):
    folder = started(three, server, seconds=4)
    end = end_of(folder, 10)
    assert (end["limit"], end["signal"]) == (True, 15)
    until(lambda: not three.processes(), seconds=5, what="the end of what waited")


def test_ranks_whose_launcher_is_killed_while_they_wait_end(three, server):
    folder = started(three, server)
    (mpiexec,) = [pid for pid, words in three.found().items() if "/bin/mpiexec " in words]
    os.kill(processes.look(mpiexec).parent, signal.SIGKILL)
    assert end_of(folder, 5)["signal"] == 9
    until(lambda: not three.processes(), seconds=5, what="the end of what waited")


@pytest.mark.parametrize("what", ["mpiexec", "hydra_pmi_proxy", "python"])
def test_what_ends_before_there_is_a_source_does_the_run_no_harm(three, server, what):
    folder = started(three, server)
    os.kill(max(pid for pid, words in three.found().items() if words.split()[0].endswith(f"/{what}")), signal.SIGKILL)
    until(lambda: len(waiting(three)) < 6, what="its end")
    server.gate.set()
    ended = good(folder)
    assert [len(look(ended, rank)) for rank in range(6)] == [1] * 6
    until(lambda: not three.processes(), seconds=5, what="the end of what waited")


@pytest.mark.slow
def test_five_hundred_ranks_wait_too(three, server):
    folder = three.start_job(server.url, "-c", "print('is there')", size=500)
    until(lambda: len(waiting(three)) == 500, seconds=60, what="what stands around 500 ranks")
    server.gate.set()
    end_of(folder, 60)
    ended = good(folder)
    assert [ended.out(rank) for rank in range(500)] == [b"is there\n"] * 500
    until(lambda: not three.processes(), seconds=5, what="the end of all ranks")


def test_ranks_wait_for_packages_too_and_find_them(three):
    go_on, builds = three.shared / "go-on", three.shared / "builds"
    with served({"look.py": LOOK, **SLOW}) as url:
        folder = three.start_job(url, "look.py", "spawns", "thing")
        until(lambda: builds.exists() and len(waiting(three)) == 6, what="the build")
        assert facts_of(folder)["phase"] == "packages"
        go_on.touch()
        found, spawned = look(good(folder))
        again = three.start_job(url, "look.py", "spawns", "thing")
        kept, kept_spawned = look(good(again))
    for run, of_rank, of_spawned in ((folder, found, spawned), (again, kept, kept_spawned)):
        place = f"/shared/.runs/{run.name}"
        assert of_rank["values"]["PYTHONPATH"] == f"{place}/packages"
        assert of_spawned["thing"] == f"{place}/packages/thing.py"


def test_a_run_that_is_ended_while_packages_are_installed_leaves_nothing(three):
    files = {**SLOW, "backend.py": SLOW["backend.py"].replace("go-on", "never")}
    with served({"look.py": LOOK, **files}) as url:
        (three.shared / "builds").unlink(missing_ok=True)
        folder = three.start_job(url, "look.py")
        until(lambda: (three.shared / "builds").exists() and len(waiting(three)) == 6, what="the build")
        detached.send_signal(three.host(), f"/shared/.runs/{folder.name}", "TERM")
        assert end_of(folder, 8)["signal"] == 15
    until(lambda: not three.processes(), seconds=5, what="the end of what waited")


def test_a_shell_command_may_start_ranks_on_all_nodes_itself(three, server):
    server.gate.set()
    hosts = f"{three.nodes[0].home}/hostfile"
    program = "import mpi4py.MPI as m; print(m.COMM_WORLD.size)"
    command = f'echo first; mpiexec -n 6 -f {hosts} python -c "{program}" | sort'
    ended = good(three.start_job(server.url, "-c", command, program="/bin/sh", size=1))
    assert ended.out(0).split() == [b"first", *[b"6"] * 6]
    assert not three.processes()


@pytest.mark.parametrize("password", [{}, {"username": "a", "password": "b"}])
def test_ranks_have_secret_variables_and_what_they_print_of_them_is_hidden(three, server, password):
    server.gate.set()
    program = "import os; t = os.environ['TOKEN']; print('t:', t, len(t)); raise ValueError(t + 470 * 'x' + t)"
    secret = json.dumps({**password, "variables": {"TOKEN": "s3cret-token"}})
    folder = three.start_job(server.url, "-c", program, secret=secret)
    until((folder / "exit").exists, what="its end")
    ended = Ended(folder)
    assert {ended.out(rank) for rank in range(6)} == {b"t: [hidden] 12\n"}
    assert ended.verdict["failures"][0]["error"] == f"ValueError: [hidden]{470 * 'x'}[hidden]"  # cut in its midst
    for file in folder.rglob("*"):
        assert not file.is_file() or b"s3cret-token" not in file.read_bytes(), file
