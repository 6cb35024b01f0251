"""Shapes of programs that other people write: pools, launchers of their own, MPI that is ended early or never."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

SQUARES = b"[0, 1, 4, 9, 16, 25]\n"


def test_a_pool_over_all_ranks_ends_well(three):
    ended = three.run("python", "-m", "mpi4py.futures", "executor.py", files=["executor.py"])
    assert ended.verdict["good"], ended.why
    assert [ended.out(rank) for rank in range(6)] == [SQUARES, b"", b"", b"", b"", b""]


def test_an_exception_of_a_pools_task_is_named(three):
    ended = three.run("python", "-m", "mpi4py.futures", "executor.py", "raises", files=["executor.py"])
    assert (ended.first["rank"], ended.first["error"]) == (0, "LookupError: task three"), ended.why
    assert three.processes() == []


def test_a_worker_of_a_pool_that_leaves_is_named(three):
    ended = three.run("python", "-m", "mpi4py.futures", "executor.py", "leaves", files=["executor.py"])
    assert ended.first["rank"] > 0, ended.why
    assert ended.first["status"] == 5
    assert three.processes() == []


@pytest.mark.parametrize("how", ["itself", "never"])
def test_who_ends_mpi_by_itself_or_never_ends_well(three, how):
    ended = three.run("python", "finalizes.py", how, files=["finalizes.py"])
    assert ended.verdict["good"], ended.why
    assert [ended.out(rank) for rank in range(6)] == [f"{rank} goes on\n".encode() for rank in range(6)]


@pytest.mark.parametrize("how", ["itself", "never"])
def test_a_rank_that_raises_where_mpi_is_over_is_named(three, how):
    ended = three.run("python", "finalizes.py", how, "raises", files=["finalizes.py"])
    assert (ended.first["rank"], ended.first["error"]) == (2, "RuntimeError: after all"), ended.why


@pytest.mark.parametrize("runner", ["mpi4py", "mpi4py.run"])
def test_who_is_run_by_mpi4py_is_named_with_its_own_words(three, runner):
    ended = three.run("python", "-m", runner, "ends.py", "raises", "barrier", files=["ends.py"])
    assert (ended.first["rank"], ended.first["error"]) == (4, "ValueError: rank four is sad"), ended.why
    assert ended.first["aborts"] == 1


def test_an_exception_has_the_name_that_its_traceback_has(three):
    ended = three.run("python", "-c", "import json; json.loads('{')", size=1)
    last = ended.err(0).decode().splitlines()[-1]
    assert last.startswith("json.decoder.JSONDecodeError: ")
    assert ended.first["error"] == last


def test_an_exception_about_a_name_that_is_no_utf_8_is_named(three):
    ended = three.run("python", "-c", r"open(b'caf\xe9.txt')", size=2)
    assert ended.first["error"] == "FileNotFoundError: [Errno 2] No such file or directory: b'caf\\xe9.txt'"
    ended = three.run("python", "-c", r"open('caf\udce9.txt')", size=2)
    assert ended.first["error"] == "FileNotFoundError: [Errno 2] No such file or directory: 'caf\\udce9.txt'"
    ended = three.run("python", "-c", r"raise ValueError('caf\udce9')", size=2)
    assert ended.first["error"] == "ValueError: caf\udce9"


def test_programs_that_a_rank_calls_are_its_own(three):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1 + 1)'], check=True)"
    ended = three.run("python", "-c", code, size=2)
    assert ended.verdict["good"], ended.why
    assert [ended.out(rank) for rank in range(2)] == [b"2\n", b"2\n"]


def test_a_program_that_is_spawned_and_not_there_ends_the_run(three):
    ended = three.run("python", "-c", "from mpi4py import MPI; MPI.COMM_SELF.Spawn('./not-there', None, 2)", size=2)
    assert not ended.verdict["good"]
    assert {name: ended.first[name] for name in ("status", "error", "words")} == {
        "status": 127,
        "error": "./not-there: No such file or directory",
        "words": "./not-there: No such file or directory",
    }, ended.why
    assert ended.first["world"] > 0
    assert ended.seconds < 8
    assert three.processes() == []


def test_a_rank_without_memory_says_so(three):
    code = """
import resource
from mpi4py import MPI
world = MPI.COMM_WORLD
if world.rank == 1:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    kept = []
    while True:
        kept.append(bytearray(2**12))
world.Barrier()
"""
    ended = three.run("python", "-c", code, size=2)
    assert ended.first["rank"] == 1, ended.why
    assert ended.first.get("error", "") == "MemoryError", ended.why
    assert ended.seconds < 10
