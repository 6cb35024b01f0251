"""What ranks print, read and leave behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from portal import detached
from tests.running import until

from .conftest import PROGRAMS_OF_MPI, Ended

pytestmark = pytest.mark.slow


def test_lines_are_whole_and_each_is_its_ranks(three):
    ended = three.run("python", "lines.py", "2000", files=["lines.py"])
    assert ended.verdict["good"], ended.why
    for rank in range(6):
        expected = "".join(f"<r{rank} i{n:06d} {'x' * 40}> {n} z\n" for n in range(2000))
        assert ended.out(rank) == expected.encode()
    assert not [key for key in ended.streams if key[1:] not in {(0, rank) for rank in range(6)}]


def test_every_byte_of_both_streams_arrives_as_it_is(three):
    ended = three.run("python", "binary.py", files=["binary.py"])
    assert ended.verdict["good"], ended.why
    assert ended.out(0) == (
        bytes(range(256)) * 4 + b"\nnul:\0\0\0:nul\n\xff\xfe\xc3(\n\x1b[31mred\x1b[0m \xe2\x80\xae <script>\n"
        + b"y" * 5_000_000 + b"\n"
    )  # fmt: skip
    assert ended.err(0) == b"".join(b"\r%3d%% |%s|" % (n, b"#" * (n // 5)) for n in range(101)) + b"\n"


def test_stdin_is_empty_for_every_rank(three):
    ended = three.run("python", "stdin.py", files=["stdin.py"])
    assert ended.verdict["good"], ended.why
    assert [ended.out(rank) for rank in range(6)] == [f"{rank} ''\n".encode() for rank in range(6)]


@pytest.mark.parametrize(
    "words", [[], ["quiet"], ["quiet", "clean"], ["quiet", "clean", "renamed"], ["crowd"], ["quiet", "clean", "kill"]]
)
def test_nothing_of_a_run_outlives_it(three, words):
    ended = three.run("python", "daemon.py", *words, files=["daemon.py"])
    assert three.processes() == []
    assert ended.verdict["good"] is ("kill" not in words), ended.why
    if "kill" not in words:
        assert ended.verdict["left"] + ended.exit["left"] >= (242 if "crowd" in words else 2)


def started(three, *words, files, **options):
    folder = three.start(["python", *words], files=files, **options)
    until(lambda: printed(folder).count(b"is there") == 6, what="all ranks")
    return folder


def printed(folder):
    log = folder / "log"
    return b"".join(frame.data for frame, _ in detached.frames(log.read_bytes())[0]) if log.exists() else b""


def test_ranks_that_are_asked_to_end_have_time_to_save(three):
    folder = started(three, "signals.py", "saves", files=["signals.py"])
    detached.send_signal(three.host(), f"/shared/.runs/{folder.name}", "TERM")
    until((folder / "exit").exists, what="the end")
    ended = Ended(folder)
    assert [b"saved" in ended.out(rank) for rank in range(6)] == [True] * 6
    assert ended.verdict["cancelled"]
    assert three.processes() == []


def test_ranks_that_do_not_want_to_end_are_ended(three):
    folder = started(three, "signals.py", "ignores", files=["signals.py"])
    place = f"/shared/.runs/{folder.name}"
    detached.send_signal(three.host(), place, "TERM")
    until((folder / "exit").exists, seconds=10, what="the end")
    assert three.processes() == []


def test_a_kill_ends_all_ranks_on_all_nodes(three):
    folder = started(three, "signals.py", "ignores", files=["signals.py"])
    detached.send_signal(three.host(), f"/shared/.runs/{folder.name}", "KILL")
    until((folder / "exit").exists, seconds=5, what="the end")
    until(lambda: not three.processes(), seconds=5, what="the end of all ranks")
    assert json.loads((folder / "exit").read_text())["signal"] == 9


def test_a_time_limit_holds_without_the_portal(three):
    folder = started(three, "signals.py", "saves", files=["signals.py"], seconds=3)
    until((folder / "exit").exists, seconds=10, what="the end")
    ended = Ended(folder)
    assert ended.exit["limit"]
    assert b"saved" in ended.out(5)
    assert three.processes() == []


def test_a_program_is_run_as_python_runs_it(three):
    ended = three.run("python", "asmain.py", "a b", files=["asmain.py"], size=1)
    assert ended.verdict["good"], ended.why
    plain = subprocess.run(
        [sys.executable, "asmain.py", "a b"], cwd=PROGRAMS_OF_MPI, capture_output=True, text=True, check=True
    ).stdout
    inside = re.sub(r"/shared/src/[0-9a-f-]{36}", str(PROGRAMS_OF_MPI), ended.out(0).decode())
    assert inside.splitlines() == plain.splitlines()


def test_a_rank_that_is_its_wrappers_python_finds_what_one_finds_that_is_started_anew(three):
    of_engine = three.shared / "engine" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "threads.pth"

    def found(**env):
        ended = three.run("python", "finds.py", "a b", files=["finds.py"], size=1, env=env)
        assert ended.verdict["good"], (ended.why, ended.err(0))
        lines = re.sub(r"[0-9a-f-]{36}", "RUN", ended.out(0).decode()).splitlines()
        told, more = map(json.loads, lines)
        assert told["environment"].pop("PYTHONX", "") == env.get("PYTHONX", "")
        return told, set(more["modules"]), more["program"]

    forked, modules, program = found()
    anew, of_anew, _ = found(PYTHONX="a variable that says Python what to be")
    assert forked == anew
    assert program == ["finds.py", "a b"]
    assert modules - of_anew <= {"_ctypes", "_socket", "fcntl", "select"}
    assert not of_anew - modules
    # A thread that a package begins would not be in the child.
    of_engine.write_text("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n")
    try:
        assert found()[0]["threads"] > 1
    finally:
        of_engine.unlink()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-c", "import sys; print(sys.argv); sys.exit(5)", "x"], 5, "['-c', 'x']"),
        (["-m", "asmain"], 0, "asmain.py"),
        (["-u", "-X", "utf8", "-W", "error", "asmain.py"], 0, "__main__"),
        (["-m", "no_such_module"], 1, "No module named no_such_module"),
        (["not_there.py"], 2, "can't open file"),
        (["-c", "raise KeyboardInterrupt"], 1, "KeyboardInterrupt"),
        (["-c", "1/0"], 1, "ZeroDivisionError"),
        (["-c", "import sys; sys.exit(2**70)"], 255, ""),
        (["-c", "import os; os.closerange(3, 256); 1/0"], 1, "ZeroDivisionError"),
        (["-c", "import sys; sys.exit(type('No', (), {'__str__': lambda _: 1/0})())"], 1, ""),
        (["-c", "raise type('No', (Exception,), {'__str__': lambda _: 1/0})"], 1, "exception str() failed"),
        (["-c", "def"], 1, "SyntaxError"),
    ],
)
def test_options_and_ends_of_python_programs(three, words, status, said):
    ended = three.run("python", *words, files=["asmain.py"], size=1)
    assert ended.exit["status"] == status, ended.why
    assert said in (ended.out(0) + ended.err(0)).decode()
    assert "<portal>" not in ended.err(0).decode()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/bin/sh", "-c", "exit 3"], {"status": 3}),
        (["/bin/sh", "-c", "kill -11 $$"], {"signal": 11}),
        (["no-such-program"], {"status": 127}),
        (["/bin/true"], None),
    ],
)
def test_programs_that_are_no_python(three, command, expected):
    ended = three.run(*command)
    assert ended.verdict["good"] is (expected is None), ended.why
    if expected:
        assert {name: ended.first[name] for name in expected} == expected


@pytest.mark.parametrize("how", ["well", "raises", "leaves"])
def test_programs_that_ranks_spawn_are_ranks_too(three, how):
    ended = three.run("python", "spawn.py", how, files=["spawn.py"], size=2)
    assert ended.out(0, world=1).startswith(b"child 0 ''\n"), ended.why
    if how == "well":
        assert ended.verdict["good"], ended.why
        assert ended.out(0) == b"parent 0\n"
    else:
        assert (ended.first["world"], ended.first["rank"]) == (1, 1), ended.why
        assert ended.first["status"] == (1 if how == "raises" else 5)
    assert three.processes() == []


def test_it_is_said_which_ranks_have_ended_while_others_go_on(three):
    folder = three.start(["python", "leaves_early.py", "3"], files=["leaves_early.py"])
    facts = folder / "facts.json"
    told = until(lambda: facts.exists() and json.loads(facts.read_text()).get("ended"), what="that rank 1 has ended")
    assert (told["count"], told["of"], told["last"][0][0]) == (1, 6, 1)
    until((folder / "exit").exists, what="the end")
    assert Ended(folder).verdict["good"]


@pytest.mark.parametrize("words", ["", '{"status":0,"left":"many"}', '{"fails":1,"error":[]}', "[" * 20_000])
def test_a_rank_that_writes_into_its_wrappers_pipe_harms_its_own_run_alone(three, words):
    event = f"b'x' + len({words!r}).to_bytes(4, 'big') + bytes(8) + {words!r}.encode()" if words else "b'x' * 100"
    code = f"import os; fd = os.open(f'/proc/{{os.getppid()}}/fd/1', os.O_WRONLY); os.write(fd, {event})"
    ended = three.run("python", "-c", code, size=2)
    assert not ended.verdict["good"]
    assert any("broken" in failure for failure in ended.failures), ended.why


def test_nothing_is_written_into_a_file_that_has_the_number_of_our_pipe(three):
    code = "import os; f = os.open('data', os.O_RDWR | os.O_CREAT); [os.dup2(f, n) for n in range(3, 40) if n != f]"
    folder = three.start(["python", "-c", code], size=1)
    until((folder / "exit").exists, what="the end")
    assert Ended(folder).verdict["good"]
    assert (three.shared / "src" / folder.name / "data").read_bytes() == b""


@pytest.mark.parametrize("name", ["fault", "exit.new", "facts.json"])
def test_a_run_ends_though_its_program_put_a_pipe_where_our_files_are(three, name):
    code = f"import os; os.mkfifo('/shared/.runs/' + os.environ['COXSWAIN_RUN'] + '/{name}')"
    folder = three.start(["python", "-c", code], size=1)
    until((folder / "exit").exists, what="the end")
    answer = detached.OWN.call(three.host(), "observe", f"{three.nodes[0].shared}/.runs/{folder.name}", "0")
    assert '"sha256"' in answer.text.splitlines()[-1]


def test_many_ranks(three):
    """More than the nodes have cores: all of their lines arrive, and nothing is left."""
    ended = three.run("/bin/sh", "-c", "echo $PMI_RANK; echo $PMI_RANK >&2", size=120, seconds=60)
    assert ended.verdict["good"], ended.why
    assert all(ended.out(rank) == ended.err(rank) == f"{rank}\n".encode() for rank in range(120))


def test_a_node_that_dies_ends_the_run_and_is_named(three, tmp_path):
    folder = started(three, "signals.py", "ignores", files=["signals.py"])
    victim = three.folder.node(1).state()
    os.kill(victim.first.pid, 9)
    until((folder / "exit").exists, seconds=30, what="the end")
    ended = Ended(folder)
    three.restore()
    assert ended.verdict["lost"] == ["demo-1"], ended.why
    assert three.processes() == []
    assert Path(folder).exists()
    assert time.time() > ended.exit["ended"]
