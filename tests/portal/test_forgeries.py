"""What programs put in the place of the files that they are kept by hinders nobody but themselves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.portal.test_detach import SLEEPS, begin, call, child_of, end_of, keeper_of, order, tell, text_of
from tests.running import until

TRUE = ["/bin/sh", "-c", "true"]


def a_folder(path):
    path.mkdir()


def a_full_folder(path):
    path.mkdir()
    (path / "in it").mkdir()
    path.chmod(0)


def a_fifo(path):
    os.mkfifo(path)


def a_link_to_itself(path):
    path.symlink_to(path)


def a_link_to_nothing(path):
    path.symlink_to("/nonexistent/place")


def an_endless_file(path):
    path.symlink_to("/dev/zero")


def a_huge_file(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def one_that_nobody_may_open(path):
    path.touch()
    path.chmod(0)


THINGS = [
    a_folder, a_full_folder, a_fifo, a_link_to_itself, a_link_to_nothing, an_endless_file, a_huge_file,
    one_that_nobody_may_open,
]  # fmt: skip


def put(thing, path):
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    thing(path)


@pytest.fixture
def started(tmp_path):
    """A command that sleeps, and what it is at last ended by, though its files say nothing any more."""
    folder = tmp_path / "run"
    call("start", folder, text=order(SLEEPS))
    until(lambda: "became" in text_of(folder / "out"), what="the command")
    keeper = keeper_of(folder)
    command = child_of(keeper)
    yield folder, keeper
    for pid in (keeper, command):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("thing", THINGS)
def test_who_asks_it_to_end_gets_an_answer(started, thing):
    folder, _ = started
    put(thing, folder / "control")
    assert call("signal", folder, "KILL") == "sent\n"


def test_who_asks_it_to_end_gets_an_answer_though_nobody_listens(started):
    folder, keeper = started
    os.kill(keeper, signal.SIGSTOP)
    control = os.open(folder / "control", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(control, bytes(4096))
    os.close(control)
    assert call("signal", folder, "KILL") == "sent\n"


@pytest.mark.parametrize(
    ("name", "thing"),
    [("life", thing) for thing in THINGS] + [("log", thing) for thing in THINGS if thing is not a_huge_file],
)
def test_who_watches_it_sees_that_it_goes_on(started, thing, name):
    folder, _ = started
    put(thing, folder / name)
    process = begin()
    tell(process, "observe", folder, 0)
    process.stdin.close()
    with process.stdout, process.stderr:
        for _ in range(2):
            assert "beat" in json.loads(process.stdout.readline())
        words = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        process.kill()
        process.wait()
    assert int(words[11]) + int(words[12]) < 0.5 * os.sysconf("SC_CLK_TCK"), "it was busy with nothing"


@pytest.mark.parametrize("thing", THINGS)
def test_the_next_command_is_started_whatever_lies_where_its_fence_is(tmp_path, thing):
    home = tmp_path / "home"
    home.mkdir()
    thing(home / ".run")
    home.chmod(0o500)
    call("start", tmp_path / "run", text=order(TRUE, alone=str(home / ".run")), HOME=str(home))
    assert end_of(tmp_path / "run")["status"] == 0


def test_who_holds_the_fence_and_says_nonsense_of_himself_is_named_shortly(tmp_path):
    fence = tmp_path / "fence"
    call("start", tmp_path / "one", text=order(SLEEPS, alone=str(fence)))
    with fence.open("r+b") as file:
        file.truncate(1 << 40)
    assert len(call("start", tmp_path / "two", text=order(TRUE, alone=str(fence)))) < 5000
    call("signal", tmp_path / "one", "KILL")
    end_of(tmp_path / "one")


@pytest.mark.parametrize("thing", THINGS)
def test_the_next_command_is_started_whatever_lies_where_its_folder_is_to_be(tmp_path, thing):
    place = tmp_path / ".runs"
    thing(place)
    call("start", place / "run", text=order(TRUE))
    assert end_of(place / "run")["status"] == 0
    shutil.rmtree(place)


@pytest.mark.parametrize("thing", THINGS)
def test_the_next_command_has_a_place_for_what_is_temporary(tmp_path, thing):
    thing(tmp_path / "tmp")
    code = "import tempfile; print(tempfile.gettempdir()); tempfile.TemporaryFile().close()"
    env = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    call("start", tmp_path / "run", text=order([sys.executable, "-c", code]), **env)
    assert end_of(tmp_path / "run")["status"] == 0
    assert (tmp_path / "run" / "out").read_text() == f"{tmp_path}/tmp\n"


@pytest.mark.parametrize("thing", THINGS)
def test_how_it_ended_is_asked_for_and_answered(tmp_path, thing):
    folder = tmp_path / "run"
    call("start", folder, text=order(["/bin/sh", "-c", "echo said; exit 3"]))
    end_of(folder)
    for name in ("out", "err"):
        put(thing, folder / name)
    told = json.loads(call("look", folder))
    assert told["exit"]["status"] == 3
    assert len(told["said"]) <= 2001
    put(thing, folder / "exit")
    assert json.loads(call("look", folder))["exit"] is None
