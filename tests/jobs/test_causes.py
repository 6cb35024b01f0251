"""What a run's page says of ranks that failed."""

from __future__ import annotations

import pytest

from jobs.causes import explain, of_ranks
from jobs.models import Run


def failure(rank, **how):
    return {"world": 0, "rank": rank, "node": f"tide-{rank // 2}", "at": rank, "status": 1, "words": "", **how}


def test_the_same_words_of_all_ranks_are_said_once():
    cause = of_ranks([failure(n, words="a.py: bad\n") for n in range(6)], 6, 6)
    assert cause.message == "All 6 ranks ended with exit status 1."
    assert cause.evidence == "a.py: bad\n(the same on 6 ranks)"


def test_words_that_differ_are_not_called_the_same():
    cause = of_ranks([failure(n, words=f"no file in.{n}\n") for n in (4, 0, 1, 2, 3, 5)], 6, 6)
    assert cause.message == "All 6 ranks ended with exit status 1."
    assert cause.evidence == "no file in.4\n(of rank 4; 6 ranks ended so)"


def test_ranks_that_said_nothing_have_no_evidence():
    cause = of_ranks([failure(n, status=2) for n in range(6)], 6, 6)
    assert (cause.message, cause.evidence) == ("All 6 ranks ended with exit status 2.", "")


STACK = """Traceback (most recent call last):
mpi4py.MPI.Exception: Invalid rank, error stack:
internal_Send_c(316): MPI_Send_c(buf=0x55d8d46f80d0, count=5, MPI_BYTE, 99, 0, MPI_COMM_WORLD) failed
internal_Send_c(234): Invalid rank has value 99 but must be nonnegative and less than 6
"""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (STACK, "mpi", "Invalid rank has value 99 but must be nonnegative and less than 6."),
        ("/engines/mpi/bin/python: No module named sim.main", "no_program_module", "there is no module sim.main."),
        (
            "python3: Error while finding module specification for 'sim.main' (ModuleNotFoundError: No module named"
            " 'sim')",
            "no_program_module",
            "there is no module sim.",
        ),
        ("ModuleNotFoundError: No module named 'yaml'", "no_module", "there is no module yaml."),
        ("python3: can't open file '/x/a.py': [Errno 2]", "no_program", "a.py is not in the source."),
        ("solve: No such file or directory", "no_command", "there is no program solve."),
        ("MemoryError", "no_memory", "there was no memory left (MemoryError)."),
    ],
)
def test_common_ends_have_a_sentence_and_a_code(words, code, message):
    cause = of_ranks([failure(2, words=words, error="mpi4py.MPI.Exception: Invalid rank, error stack:")], 1, 6)
    assert cause.message == f"Rank 2 on tide-1 ended with exit status 1: {message}"
    assert cause.code == code


ABORTED = """Traceback (most recent call last):
  File "mpi.py", line 122, in wait
    result = func(arg)
             ^^^^^^^^^
ValueError: seven
Abort(0) on node 1 (rank 1 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 0) - process 1
"""


def test_what_a_rank_said_before_it_aborted_is_the_cause():
    cause = of_ranks([failure(1, words=ABORTED, aborts=0)], 1, 6)
    assert cause.message == "Rank 1 on tide-0 called MPI_Abort with 0: ValueError: seven"
    assert cause.evidence.endswith("ValueError: seven")
    missing = ABORTED.replace("ValueError: seven", "ModuleNotFoundError: No module named 'yaml'")
    assert "name it in requirements.txt" in of_ranks([failure(1, words=missing, aborts=1)], 1, 6).advice
    bodo = missing.replace("yaml", "bodo")
    cause = of_ranks([failure(1, words=bodo, aborts=1)], 1, 6)
    assert "take another cluster" in cause.advice
    assert cause.code == "no_engine"


def test_bodo_pandas_on_several_ranks_is_told_the_number_that_helps():
    """As the launcher found it with Bodo 2026.10 on three nodes."""
    error = "AssertionError: Spawner and worker 0 must be on the same machine"
    cause = of_ranks([failure(0, world=1, words="", status=1, error=error)], 1, 2)
    assert "status 1: bodo.pandas starts ranks of its own, and the job has started several already." in cause.message
    assert cause.advice.startswith("Give the job 1 rank")
    assert cause.code == "bodo_ranks"


@pytest.mark.parametrize("words", ["", "pandas 3.0.6\n"])
def test_bodo_pandas_on_several_ranks_is_told_so_whatever_it_failed_with(words):
    error = "bodo.pandas on 2 ranks: AttributeError: cannot access submodule 'distributed_api'"
    cause = of_ranks([failure(1, words=words, status=1, error=error)], 1, 2)
    assert (cause.code, cause.advice[:19]) == ("bodo_ranks", "Give the job 1 rank")


def test_a_rank_that_only_aborted_has_no_evidence():
    words = ABORTED.splitlines()[-1]
    cause = of_ranks([failure(1, words=words, aborts=7)], 1, 6)
    assert (cause.message, cause.evidence) == ("Rank 1 on tide-0 called MPI_Abort with 7.", "")


FATAL = """Abort(873121798) on node 4 (rank 4 in comm 0): Fatal error in internal_Send: Invalid rank, error stack:
internal_Send(126): MPI_Send(buf=0x7ffccfd10aac, count=1, MPI_INT, 99, 0, MPI_COMM_WORLD) failed
internal_Send(78).: Invalid rank has value 99 but must be nonnegative and less than 6
"""


def test_a_call_that_mpi_refuses_is_not_called_an_abort_of_the_program():
    cause = of_ranks([failure(4, words=FATAL, aborts=873121798)], 1, 6)
    assert cause.message == (
        "Rank 4 on tide-2 was ended by MPI, which refused a call: "
        "Invalid rank has value 99 but must be nonnegative and less than 6."
    )
    assert cause.evidence == FATAL.strip()


def test_a_rank_that_crashes_is_told_how_to_find_the_line():
    cause = of_ranks([failure(2, signal=11, words="hello\n")], 1, 6)
    assert cause.message == "Rank 2 on tide-1 was ended by SIGSEGV."
    assert "-X faulthandler" in cause.advice
    said = "Fatal Python error: Segmentation fault\n"
    assert of_ranks([failure(2, signal=11, words=said)], 1, 6).advice == ""
    assert of_ranks([failure(2, signal=15)], 1, 6).advice == ""


def test_a_file_that_is_missing_is_named_with_where_it_is_looked_up():
    words = "FileNotFoundError: [Errno 2] No such file or directory: 'data/in.csv'\n"
    cause = of_ranks([failure(1, words=words)], 1, 6)
    assert cause.message == "Rank 1 on tide-0 ended with exit status 1: there is no file 'data/in.csv'."
    assert "looked up in the source" in cause.advice


def test_a_time_limit_tells_of_ranks_that_had_ended_before():
    run = Run(time_limit=60, ended_ranks={"count": 1, "of": 4, "last": [[3, 1_700_000_000.0]]})
    cause = explain(run, {"limit": True, "status": 143, "signal": None}, None)
    assert cause.message == "Ended after its time limit of 1 min."
    assert cause.evidence == "1 of 4 ranks had ended before, the last was rank 3 at 22:13:20 UTC."
    assert "waited for one that had ended" in cause.advice
    assert cause.code == "time_limit"
    assert explain(Run(time_limit=60), {"limit": True, "status": 143, "signal": None}, None).evidence == ""


@pytest.mark.parametrize(
    ("end", "failure", "code"),
    [
        ({"verdict": {"good": True}}, None, ""),
        ({}, {"message": "It is not known.", "code": "address"}, "address"),
        ({}, {"message": "Of an older node."}, "setup"),
        ({}, {"message": "x", "code": "y" * 1000}, "y" * 40),
        ({"fault": "no shell"}, None, "not_started"),
        ({"verdict": {"lost": ["tide-1"], "started": 4}}, None, "node_lost"),
        ({"verdict": {"mpiexec": 3}}, None, "mpiexec"),
        ({"status": 74}, None, "no_room"),
        ({"status": 1}, None, "launcher"),
    ],
)
def test_each_end_that_is_no_good_one_has_a_code(end, failure, code):
    assert explain(Run(), {"status": 1, "signal": None, **end}, failure).code == code
