"""Programs that use up what the portal shares with them: a disk, its files, memory, what the kernel counts for a user.

The disk is a small one, with the database, the nodes and the outputs on it, and it is really filled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import pytest

from tests.attack.test_hostile_runs import ended
from tests.chaos.test_kills import nodes_of
from tests.clouds import hands
from tests.gitserver import served
from tests.running import RunningPortal, until

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk"),
]

HONEST = "print('honest', flush=True)"
HOG = """
import ctypes, os, pathlib, resource, select, sys, threading, time
home, shared, pause = pathlib.Path.home(), pathlib.Path("/shared"), 0.003

def fills_the_disk():
    block = os.urandom(1 << 20)
    for place in (shared, home, pathlib.Path("/tmp"), pathlib.Path("/dev/shm")):
        try:
            with open(place / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(block)
                    time.sleep(pause)
        except OSError as error:
            print(place, error, flush=True)
    print("full", flush=True)
    time.sleep(1000)

def waits():
    print("ready", flush=True)
    time.sleep(1000)

def makes_files():
    for place in (shared, home):
        try:
            for n in range(10_000_000):
                (place / f"{n}.tiny").touch()
        except OSError as error:
            print(place, error, flush=True)
    print("full", flush=True)
    time.sleep(1000)

def hogs_memory():
    held = []
    while True:
        held.append(bytearray(os.urandom(4096)) * (16 << 8))

def takes_what_is_counted():
    # Watches, polls, pipes, threads: the kernel counts them for a user, or for all.
    held, libc = [], ctypes.CDLL(None, use_errno=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for what in (libc.inotify_init, lambda: libc.epoll_create(1), lambda: libc.eventfd(0, 0)):
        for _ in range(3000):
            held.append(what())
    watch = held[0]
    for folder, _, _ in os.walk("/usr"):
        libc.inotify_add_watch(watch, folder.encode(), 0xFFF)
    for _ in range(2000):
        try:
            read, write = os.pipe()
            __import__("fcntl").fcntl(write, 1031, 1 << 20)
            os.set_blocking(write, False)
            os.write(write, bytes(1 << 20))
            held += [read, write]
        except OSError:
            break
    try:
        while True:
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    except RuntimeError as error:
        print(error, flush=True)
    print("full", flush=True)
    time.sleep(1000)

globals()[sys.argv[1]]()
"""


@pytest.fixture(scope="module")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-full-"))
    words = ["mount", "-t", "tmpfs", "-o", "size=2g,nr_inodes=120k", "cx-full", str(folder)]
    if subprocess.run(words, check=False).returncode:
        folder.rmdir()
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        portal = RunningPortal(folder).start()
        try:
            yield portal
        finally:
            portal.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(portal):
    portal.call("setup")
    workspace = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    cluster = portal.call("make_cluster", workspace=workspace, nodes=1, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", seconds=90, what="running")
    return {"workspace": workspace, "cluster": cluster}


@pytest.fixture(scope="module")
def repository():
    with served({"hog.py": HOG, "honest.py": HONEST}) as url:
        yield url


# What its run becomes, and a word of why; None: somebody has to cancel it.
ENDS = {
    "fills_the_disk": "disk",
    "makes_files": "files",
    "hogs_memory": "memory",
    "takes_what_is_counted": None,
}


def make_room(portal):
    """As whoever runs the portal would."""
    for file in (portal.folder / "var").rglob("filler"):
        file.unlink()
    for file in (portal.folder / "var").rglob("*.tiny"):
        file.unlink()


def is_ready(portal):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{portal.url}/readyz", timeout=10) as answer:
        return answer.status == 200
    return False


def test_a_disk_that_is_full_to_the_last_byte_is_survived(portal, place, repository):
    """Somebody else fills it, faster than anything could be ended."""
    made = portal.call("make_job", **place, git_url=repository, command="hog.py waits", name="waits")
    until(lambda: "ready" in portal.call("read_output", run=made["run"])["text"], seconds=60, what="a run that goes on")
    with (portal.folder / "var" / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    until(lambda: not hands.of_people(nodes_of(portal, place["cluster"])), seconds=30, what="the end of its processes")
    make_room(portal)
    until(lambda: is_ready(portal), seconds=60, what="the portal is ready again")
    state = ended(portal, made["run"], 90)
    assert state["status"] == "failed", state  # why, nobody could write down, and now it is over
    honest = portal.call("make_job", **place, git_url=repository, command="honest.py", name="after a full disk")
    state = ended(portal, honest["run"], 90)
    assert state["status"] == "finished", state


@pytest.mark.parametrize("hog", ENDS)
def test_a_hog_ends_and_leaves_the_portal_as_it_was(portal, place, repository, hog):
    made = portal.call("make_job", **place, git_url=repository, command=f"hog.py {hog}", name=hog)
    run = made["run"]
    if ENDS[hog] is None:
        until(lambda: "full" in portal.call("read_output", run=run)["text"], seconds=120, what="all of it taken")
        assert is_ready(portal)
        portal.call("cancel", run=run)
        assert ended(portal, run, 60)["status"] == "cancelled"
    else:
        state = ended(portal, run, 240)
        assert state["status"] == "failed", state
        words = f"{state['cause']} {state['evidence']}".lower()
        assert ENDS[hog] in words, words
    assert is_ready(portal)
    make_room(portal)
    honest = portal.call("make_job", **place, git_url=repository, command="honest.py", name=f"after {hog}")
    state = ended(portal, honest["run"], 90)
    assert state["status"] == "finished", state
