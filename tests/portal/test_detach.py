"""What keeps a command on a node: started once, kept by nobody but its keeper, told of from files."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from portal import detached
from tests.running import ROOT, until

PROGRAM = """
import os, sys

def main(argv, secret=None):
    print("given", argv, os.getcwd(), os.environ["MARK"], flush=True)
    if argv[0] == "fail":
        sys.exit(7)
    if argv[0] == "break":
        raise ValueError("a mistake")
    if argv[0] == "become":
        os.execv("/bin/sh", ["sh", "-c", "echo became; exec sleep 60"])
"""


PROGRAMS = detached.Programs()


def begin(programs=PROGRAMS, **env):
    """What waits on a node for its words."""
    return subprocess.Popen(
        ["/bin/sh", "-c", programs.command().line.replace("python3", sys.executable, 1)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env})  # fmt: skip


def tell(process, *words, text="", programs=PROGRAMS):
    line = json.dumps([str(word) for word in words])
    process.stdin.write(programs.data + f"{line}\n{text}".encode())


def call(*words, text="", programs=PROGRAMS, **env):
    process = begin(programs, **env)
    tell(process, *words, text=text, programs=programs)
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    yield folder
    if call("signal", folder, "KILL") == "sent\n":
        end_of(folder)


@pytest.fixture
def programs(tmp_path):
    place = tmp_path / "programs"
    place.mkdir()
    (place / "program.py").write_text(PROGRAM)
    return detached.Programs(place, loads=("program",))


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


def test_a_program_is_a_command_too(folder, programs):
    call("start", folder, text=order(["fail"], program="program"), programs=programs)
    assert end_of(folder)["status"] == 7
    assert (folder / "out").read_text() == f"given ['fail'] {folder} m\n"


def test_a_node_with_another_python_than_the_portals_compiles_programs_itself(folder, programs, tmp_path, monkeypatch):
    monkeypatch.setattr(detached, "MAGIC_NUMBER", b"another")
    others = detached.Programs(tmp_path / "programs", loads=["program"])
    assert others.data != programs.data
    call("start", folder, text=order(["fail"], program="program"), programs=others)
    assert end_of(folder)["status"] == 7


def test_a_mistake_in_a_program_is_in_its_output(folder, programs):
    call("start", folder, text=order(["break"], program="program"), programs=programs)
    assert end_of(folder)["status"] == 1
    assert "ValueError: a mistake" in (folder / "err").read_text()


HELD = """
import os
import _ctypes

_address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")

def prctl(option, value):
    if option == 1:  # PR_SET_PDEATHSIG: in the command's process, before it is the command
        open(os.environ["HELD"]).read()
    _ctypes.call_function(_address, (option, value, 0, 0, 0))
"""


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_signal_is_not_lost_on_a_command_that_is_about_to_begin(folder, tmp_path, name):
    place, held = tmp_path / "held", tmp_path / "fifo"
    place.mkdir()
    (place / "prctl.py").write_text(HELD)
    os.mkfifo(held)
    text = order(["/bin/sh", "-c", "exec sleep 60"])
    call("start", folder, text=text, programs=detached.Programs(place), HELD=str(held))
    assert call("signal", folder, name) == "sent\n"
    held.write_text("go on")
    assert end_of(folder)["signal"] == getattr(signal, f"SIG{name}")


def test_a_command_that_is_not_there_is_said(folder):
    call("start", folder, text=order(["/nonexistent/program"]))
    end = end_of(folder)
    assert end["status"] == 127
    assert "No such file" in end["fault"]


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_the_end_is_written_down_though_the_disk_is_full(small_disk):
    folder = small_disk / "run"
    call("start", folder, text=order(["/bin/sh", "-c", "cat /dev/zero > all 2> /dev/null; exit 3"]))
    assert end_of(folder)["status"] == 3
    assert observed(folder)[-2][0]["exit"]["status"] == 3


def test_it_is_started_once_in_a_folders_life(folder):
    text = order(["/bin/sh", "-c", "echo ran"])
    assert call("start", folder, text=text) == "started\n"
    end_of(folder)
    assert call("start", folder, text=text) in ("ran already\n", "runs already\n")
    assert (folder / "out").read_text() == "ran\n"


def test_nothing_of_ours_lies_on_the_node(folder):
    call("start", folder, text=order(["/bin/sh", "-c", "true"]))
    end_of(folder)
    assert {path.name for path in folder.iterdir()} == {
        "begun", "control", "life", "lock", "out", "err", "exit", "keeper.log"
    }  # fmt: skip


def test_one_that_waits_and_is_not_needed_ends_without_a_word():
    process = begin()
    process.stdin.write(PROGRAMS.data)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0


def opened_below(pid, place):
    with contextlib.suppress(FileNotFoundError):  # one was just closed
        return [file for file in map(os.readlink, Path(f"/proc/{pid}/fd").iterdir()) if file.startswith(str(place))]
    return [place]


def test_one_that_has_observed_to_the_end_observes_again(tmp_path):
    process = begin()
    process.stdin.write(PROGRAMS.data)
    for n in range(3):
        folder = tmp_path / f"run{n}"
        call("start", folder, text=order(["/bin/sh", "-c", "echo begun; exec sleep 60"]))
        process.stdin.write(json.dumps(["observe", str(folder), "0"]).encode() + b"\n")
        process.stdin.flush()
        until(lambda: opened_below(process.pid, tmp_path), seconds=20, what="it to listen")
        assert call("signal", folder, "KILL") == "sent\n"
        told = []
        while not told or "sha256" not in told[-1]:
            told.append(json.loads(process.stdout.readline()))
        assert [word["exit"]["signal"] for word in told if "exit" in word] == [9]
        until(lambda: not opened_below(process.pid, tmp_path), seconds=20, what="it to close what it has opened")
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0


SLEEPS = ["/bin/sh", "-c", "echo became; exec sleep 60"]


def keeper_of(folder):
    """The process that has the run's lock open."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and any(
                os.readlink(file) == str(folder / "lock") for file in (process / "fd").iterdir()
            ):
                return int(process.name)
    return None


def child_of(pid):
    """A process tells its parent in the second field after its name."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and int((process / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                return int(process.name)
    return None


@pytest.mark.parametrize("argv", [["become"], SLEEPS])
def test_the_command_is_in_a_session_of_its_own_and_ends_with_its_keeper(folder, programs, argv):
    more = {"program": "program"} if argv == ["become"] else {}
    call("start", folder, text=order(argv, **more), programs=programs)
    until(lambda: "became" in text_of(folder / "out"), what="the command")
    keeper = keeper_of(folder)
    command = child_of(keeper)
    assert os.getsid(command) == os.getpgid(command) == command
    assert os.getsid(keeper) != os.getsid(0)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not is_alive(command), what="the command's end")
    assert call("signal", folder, "TERM") == "gone\n"


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_session_that_lasts_as_long_as_its_command_is_answered_when_it_begins(folder):
    """As the SSH server of a node has it that ends what a session leaves behind."""
    process = begin(COXSWAIN_STAY="1")
    tell(process, "start", folder, text=order(SLEEPS))
    process.stdin.close()
    with process.stdout, process.stderr:
        assert process.stdout.read() == b"started\n"
        assert process.stderr.read() == b""
        assert process.poll() is None
        assert keeper_of(folder) == process.pid
        call("signal", folder, "TERM")
        process.wait(20)
    assert end_of(folder)["signal"] == 15


def log_of(*frames):
    return b"".join(struct.pack(">cHIIQ", kind, 0, rank, len(data), 1) + data for kind, rank, data in frames)


def observed(folder, at=0):
    """[(word, bytes)] to the end of it."""
    told, text = [], call("observe", folder, at).encode("latin-1", errors="surrogateescape")
    while text:
        line, text = text.split(b"\n", 1)
        word = json.loads(line)
        told.append((word, text[: word.get("size", 0)]))
        text = text[word.get("size", 0) :]
    return told


def test_everything_is_told_before_the_end_and_then_the_checksums(folder):
    log = log_of((b"o", 3, b"one\n"), (b"e", 0, b"two"), (b"n", 0, b"late"), (b"s", 0, b"said"))
    folder.mkdir()
    (folder / "log").write_bytes(log)
    call("start", folder, text=order(["/bin/sh", "-c", "exit 3"]))
    end_of(folder)
    told = observed(folder, 5)
    assert b"".join(data for _, data in told) == log[5:]
    assert told[0][0] == {"log": 5, "size": len(log) - 5}
    assert [name for word, _ in told for name in ("log", "exit", "sha256") if name in word] == [
        "log", "exit", "sha256"
    ]  # fmt: skip
    assert told[-1][0]["sha256"] == {
        "o": sha256(b"one\n").hexdigest(), "e": sha256(b"two").hexdigest(), "s": sha256(b"latesaid").hexdigest()
    }  # fmt: skip


def test_a_frame_that_was_not_written_to_its_end_is_in_no_checksum(folder):
    call("start", folder, text=order(["/bin/sh", "-c", "true"]))
    end_of(folder)
    (folder / "log").write_bytes(log_of((b"o", 0, b"whole\n"), (b"o", 0, b"not whole\n"))[:-3])
    assert observed(folder)[-1][0] == {"sha256": {"o": sha256(b"whole\n").hexdigest()}}


def test_the_end_is_told_at_once(folder):
    call("start", folder, text=order(SLEEPS))
    process = begin()
    tell(process, "observe", folder, 0)
    process.stdin.close()
    with process.stdout, process.stderr:
        assert "beat" in json.loads(process.stdout.readline())
        call("signal", folder, "TERM")
        rest = process.stdout.read().decode()
        process.wait(20)
    assert '"signal": 15' in rest


def test_what_has_not_begun_is_waited_for(folder):
    process = begin()
    tell(process, "observe", folder, 0)
    process.stdin.close()
    with process.stdout, process.stderr:
        assert json.loads(process.stdout.readline()) == {"never": True}
        call("start", folder, text=order(["/bin/sh", "-c", "exit 4"]))
        rest = process.stdout.read().decode()
        process.wait(20)
    assert '"status": 4' in rest


def test_while_checksums_are_computed_there_are_beats(tmp_path, monkeypatch):
    """A head node that is busy with them for minutes is not taken for silent."""
    monkeypatch.syspath_prepend(ROOT / "portal" / "onnode")
    detach = importlib.import_module("detach")
    seconds = iter(range(1000))
    monkeypatch.setattr(detach, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    (tmp_path / "log").write_bytes(log_of(*[(b"o", 0, bytes(1 << 20))] * 20))
    beats = []
    assert detach.digests(tmp_path / "log", lambda: beats.append(1)) == {"o": sha256(bytes(20 << 20)).hexdigest()}
    assert len(beats) == 20


def test_a_time_limit_is_kept_by_the_node_and_leaves_time_to_save(folder):
    script = "trap 'echo saved; exit 9' TERM; echo became; while :; do sleep 0.05; done"
    call("start", folder, text=order(["/bin/bash", "-c", script], seconds=0.3))
    end = end_of(folder)
    assert (end["limit"], end["status"]) == (True, 9)
    assert "saved" in (folder / "out").read_text()


def test_what_is_deaf_to_its_time_limit_is_killed(folder):
    script = "trap '' TERM; while :; do sleep 0.05; done"
    call("start", folder, text=order(["/bin/bash", "-c", script], seconds=0.3))
    end = end_of(folder)
    assert (end["limit"], end["signal"]) == (True, 9)


DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 99)
        os.execve("/bin/sleep", ["daemon-of-a-test", "300"], {})
    os._exit(0)
os.wait()
print("left", flush=True)
"""


def test_a_daemon_with_an_empty_environment_ends_with_it(folder):
    call("start", folder, text=order([sys.executable, "-c", DAEMON]))
    end = end_of(folder)
    assert (end["status"], end["left"]) == (0, 1)
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # others' processes come and go
            assert b"daemon-of-a-test" not in (process / "cmdline").read_bytes()


def test_only_one_at_a_time_holds_the_fence(folder, tmp_path):
    fence = tmp_path / "fence"
    call("start", folder, text=order(SLEEPS, alone=str(fence)))
    other = order(["/bin/sh", "-c", "echo other"], alone=str(fence))
    assert call("start", tmp_path / "other", text=other) == f"busy {folder}\n"
    assert not (tmp_path / "other" / "out").exists()
    call("signal", folder, "KILL")
    end_of(folder)
    assert call("start", tmp_path / "other", text=other) == "started\n"
    end_of(tmp_path / "other")


@pytest.mark.parametrize("by", ["mark", "fence"])
def test_what_is_left_is_found_by_its_mark_or_by_its_fence(folder, tmp_path, by):
    fence = tmp_path / "fence"
    call("start", folder, text=order(SLEEPS, alone=str(fence), env={"COXSWAIN_RUN": "of-a-test"}))
    until(lambda: "became" in text_of(folder / "out"), what="the command")
    command = child_of(keeper_of(folder))
    words = ("COXSWAIN_RUN=of-a-test", "") if by == "mark" else ("COXSWAIN_RUN=another", fence)
    assert call("sweep", *words) in ("1\n", "2\n")
    until(lambda: not is_alive(command), what="its end")
    assert call("sweep", *words) == "0\n"


def test_a_secret_is_in_no_memory_of_what_goes_on(folder, programs):
    secret = "s3cret-of-the-test"
    call("start", folder, text=order(["become"], program="program", secret=secret), programs=programs)
    until(lambda: "became" in text_of(folder / "out"), what="the command")
    keeper = until(lambda: keeper_of(folder), what="the keeper")
    until(lambda: b"finish" in Path(f"/proc/{keeper}/cmdline").read_bytes(), what="an empty memory")
    for pid in (keeper, child_of(keeper)):
        assert secret.encode() not in memory_of(pid)
    call("signal", folder, "KILL")
    assert end_of(folder)["signal"] == 9


def test_what_is_asked_as_soon_as_it_was_started_is_heard(tmp_path, programs):
    """Though its keeper is just being executed anew, to forget the secret."""
    for number in range(8):
        folder = tmp_path / str(number)
        call("start", folder, text=order(["become"], program="program", secret="s"), programs=programs)
        os.close(os.open(folder / "control", os.O_WRONLY | os.O_NONBLOCK))  # somebody reads it
        call("signal", folder, "KILL")
        assert end_of(folder)["signal"] == 9


def memory_of(pid):
    found = []
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if " rw" in line:
                try:
                    memory.seek(start)
                    found.append(memory.read(end - start))
                except (OSError, ValueError):
                    continue
    assert found
    return b"".join(found)


# Whether it lives: yes, no, or nobody can say


def word_of(folder):
    """The first thing that is told of it."""
    process = begin()
    tell(process, "observe", folder, 0)
    process.stdin.close()
    with process.stdout, process.stderr:
        word = json.loads(process.stdout.readline())
        process.kill()
        process.wait(20)
    return word


def loop(path):
    """What no file system can say anything of: as one that does not answer, but for everybody."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", ["lock", "begun"])
def test_where_the_file_system_does_not_say_whether_it_lives_nobody_takes_it_for_dead(folder, name):
    call("start", folder, text=order(SLEEPS))
    assert "beat" in word_of(folder)
    (folder / name).rename(folder / "aside")
    loop(folder / name)
    assert "Too many levels" in word_of(folder)["unknown"]
    (folder / name).unlink()
    (folder / "aside").rename(folder / name)
    assert "beat" in word_of(folder)
    call("signal", folder, "KILL")
    assert end_of(folder)["signal"] == 9


def test_one_whose_folder_is_just_being_deleted_is_not_said_to_be_dead(folder):
    call("start", folder, text=order(SLEEPS))
    keeper = keeper_of(folder)
    (folder / "lock").unlink()
    assert word_of(folder) == word_of(folder) == {"never": True}
    os.kill(keeper, signal.SIGKILL)


def test_a_dead_one_is_dead_only_where_it_can_be_seen(folder):
    call("start", folder, text=order(SLEEPS))
    os.kill(keeper_of(folder), signal.SIGKILL)
    until(lambda: "gone" in word_of(folder))
    began = json.loads((folder / "begun").read_text())
    for here, told in (({"host": "elsewhere"}, "unknown"), ({"boot": "another life"}, "gone")):
        (folder / "begun").write_text(json.dumps({**began, **here}))
        assert told in word_of(folder)
    (folder / "begun").write_text(json.dumps({**began, "host": "elsewhere"}))
    assert "it was started on elsewhere" in word_of(folder)["unknown"]


def test_what_is_asked_of_one_of_which_nothing_is_known_is_not_answered_with_its_end(folder):
    call("start", folder, text=order(SLEEPS))
    (folder / "control").rename(folder / "aside")
    (folder / "lock").rename(folder / "lock.aside")
    loop(folder / "lock")
    assert call("signal", folder, "TERM").startswith("unknown ")
    (folder / "begun").unlink()
    loop(folder / "begun")
    assert "unknown" in json.loads(call("look", folder))
    (folder / "aside").rename(folder / "control")
    (folder / "lock.aside").replace(folder / "lock")
    assert call("signal", folder, "KILL").strip() == "sent"
    assert end_of(folder)["signal"] == 9
