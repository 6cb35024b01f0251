"""What keeps a command on a node: started once, kept by nobody but its keeper, told of from files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import until

DETACH = Path(__file__).parents[2] / "portal" / "onnode" / "detach.py"
PROGRAM = """
import os, sys

def main(argv):
    print("given", argv, os.getcwd(), os.environ["MARK"], flush=True)
    if argv[0] == "fail":
        sys.exit(7)
    if argv[0] == "break":
        raise ValueError("a mistake")
    if argv[0] == "become":
        os.execv("/bin/sh", ["sh", "-c", "echo became; exec sleep 60"])
"""


def call(*words, text="", waiting=None):
    process = waiting or begin(*words)
    out, err = process.communicate(text)
    assert process.returncode == 0, err
    return out


def begin(*words):
    return subprocess.Popen(
        [sys.executable, "-IS", DETACH, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    yield folder
    if (folder / "pid").exists() and not (folder / "exit").exists():
        os.kill(int((folder / "pid").read_text().split()[0]), signal.SIGKILL)


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def order(argv, **more):
    return json.dumps({"argv": argv, "env": {"MARK": "m"}, **more})


def text_of(path):
    return path.read_text() if path.exists() else ""


def end_of(folder):
    until((folder / "exit").exists, what="the end")
    return json.loads((folder / "exit").read_text())


def test_a_command_runs_in_its_folder_and_its_end_is_written_down(folder):
    assert call("start", folder, text=order(["/bin/sh", "-c", "pwd; echo $MARK >&2; exit 3"])) == "started\n"
    assert end_of(folder)["status"] == 3
    assert (folder / "out").read_text() == f"{folder}\n"
    assert (folder / "err").read_text() == "m\n"


def test_a_program_is_a_command_too(folder, program):
    call("start", folder, text=order(["fail"], program=program))
    assert end_of(folder)["status"] == 7
    assert (folder / "out").read_text() == f"given ['fail'] {folder} m\n"


def test_a_mistake_in_a_program_is_in_its_output(folder, program):
    call("start", folder, text=order(["break"], program=program))
    assert end_of(folder)["status"] == 1
    assert "ValueError: a mistake" in (folder / "err").read_text()


def test_a_command_that_is_not_there_is_said(folder):
    call("start", folder, text=order(["/nonexistent/program"]))
    end = end_of(folder)
    assert end["status"] == 127
    assert "No such file" in end["fault"]


def test_it_is_started_once_in_a_folders_life(folder):
    text = order(["/bin/sh", "-c", "echo ran"])
    assert call("start", folder, text=text) == "started\n"
    end_of(folder)
    assert call("start", folder, text=text) in ("ran already\n", "runs already\n")
    assert (folder / "out").read_text() == "ran\n"


def test_one_that_waits_does_what_it_is_told_when_it_is_told(folder, program):
    waiting = begin("wait", program)
    text = json.dumps(["start", str(folder)]) + "\n" + order(["x"], program=program)
    assert call(waiting=waiting, text=text) == "started\n"
    assert end_of(folder)["status"] == 0
    assert (folder / "out").read_text().startswith("given ['x']")


def test_one_that_is_told_nothing_ends(program):
    assert call(waiting=begin("wait", program)) == ""


@pytest.mark.parametrize("argv", [["become"], ["/bin/sh", "-c", "echo became; exec sleep 60"]])
def test_the_command_is_in_a_session_of_its_own_and_ends_with_its_keeper(folder, program, argv):
    more = {"program": program} if argv == ["become"] else {}
    call("start", folder, text=order(argv, **more))
    until(lambda: "became" in text_of(folder / "out") and text_of(folder / "group"), what="the command")
    keeper, command = int((folder / "pid").read_text().split()[0]), int((folder / "group").read_text())
    assert os.getsid(command) == os.getpgid(command) == command
    assert os.getsid(keeper) != os.getsid(0)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not is_alive(command), what="the command's end")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_everything_is_told_before_the_end_and_the_end_at_once(folder):
    call("start", folder, text=order(["/bin/sh", "-c", "printf one; printf two >&2; exec sleep 60"]))
    until(lambda: text_of(folder / "err") == "two", what="the output")
    telling = begin("observe", folder, json.dumps({"out": 1, "err": 0, "setup": 0}))
    assert json.loads(telling.stdout.readline()) == {"stream": "out", "offset": 1, "size": 2}
    os.killpg(int((folder / "group").read_text()), signal.SIGTERM)
    with telling.stdin, telling.stdout, telling.stderr:
        rest = telling.stdout.read()
        telling.wait()
    assert rest.index("two") < rest.index('"exit"') < rest.index('"sha256"')
    assert '"signal": 15' in rest
