"""Why a run ended as it did, in words: from what the node says of its ranks (`Launcher.verdict`)."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from clusters.models import Cluster
from jobs.models import Run
from portal.tasks import causes
from portal.tasks.output import plain_text

MOST_EVIDENCE = 15  # lines
MOST_LINE = 500  # characters of a line that are looked at
MOST_CODE = 40  # characters
ANOTHER_CLUSTER = "Choose another cluster for the job, and run it again."
_SENTENCE = 1000  # characters of what hindered the preparation
Failure = Mapping[str, Any]
_VERDICT = {"good": bool, "cancelled": bool, "size": int, "started": int, "failed": int, "mpiexec": int, "hydra": str}
_FAILURE = {
    **dict.fromkeys(("world", "rank", "at", "status", "signal", "aborts", "rss"), int),
    **dict.fromkeys(("node", "words", "error"), str),
    "broken": bool,
}
# What MPICH adds to the words of a rank that called MPI_Abort; its "node" is a rank.
_ABORT = re.compile(r"^Abort\(-?\d+\) on node \d+ \(rank \d+ in comm \w+\): application called MPI_Abort.*\n?", re.M)
# MPICH calls it itself where a call of a program was wrong, and the program has left errors to it, as those in C do.
_FATAL = re.compile(r"^Abort\(-?\d+\) on node \d+ \(rank \d+ in comm \w+\): Fatal error in ", re.M)
# A traceback that a program printed itself and that is the last of its words: libraries do so, and abort then.
_RAISED = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)+[\w.]+(?::.*)?\s*\Z", re.M)
# What papermill raises where a cell has.
_CELL = re.compile(r'papermill\.exceptions\.PapermillExecutionError: \s*-+\s*Exception encountered at "In \[(\d+)\]"')


@dataclass(frozen=True)
class Cause:
    """A sentence, what a machine said, and the next step. Without a message, it ended well.

    `code` is for programs, and stays the same when the sentence is put better.
    """

    message: str = ""
    evidence: str = ""
    advice: str = ""
    code: str = ""

    @property
    def fields(self) -> dict[str, str]:
        """As a run has them."""
        return {"cause": self.message, "evidence": self.evidence, "advice": self.advice, "code": self.code}


def sound(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What of a verdict is as it should be. Programs of the run can write it: it may be anything that JSON can be."""
    failures, lost = (found if isinstance(found := verdict.get(name), list) else [] for name in ("failures", "lost"))
    kept = [_of_kinds(found, _FAILURE) for found in failures if isinstance(found, dict)]
    return {
        **_of_kinds(verdict, _VERDICT),
        "failures": [found for found in kept if "rank" in found],
        "lost": [name for name in lost if isinstance(name, str)],
    }


def _of_kinds(words: Mapping[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    return {
        name: words[name]
        for name, kind in kinds.items()
        if type(words.get(name)) is kind and (kind is not int or abs(words[name]) < 2**63)
    }


def explain(run: Run, end: Mapping[str, Any], failure: Mapping[str, Any] | None) -> Cause:
    """As below, or in the words that the site has for it (`portal.tasks.causes`, of the kind jobs.run)."""
    cause = _explain(run, end, failure)
    if not cause.message:
        return cause
    said = causes.explain("jobs.run", cause.code, cause.message, cause.evidence, cause.advice)
    return replace(cause, message=said.say, advice=said.advice)


def _explain(run: Run, end: Mapping[str, Any], failure: Mapping[str, Any] | None) -> Cause:
    """`end` is what the keeper wrote, with a `sound` verdict; `failure` is what hindered the run's preparation."""
    verdict: Mapping[str, Any] = end.get("verdict") or {}
    if end.get("limit"):
        message = f"Ended after its time limit of {span(run.time_limit or 0)}."
        if last := run.last_ended_rank:
            count, of = run.ended_ranks["count"], run.ended_ranks["of"]
            words = f"{count} of {of} ranks had ended before, the last was rank {last[0]} at {last[1]:%H:%M:%S} UTC."
            return Cause(
                message,
                f"{words}\n{_said(end)}".strip(),
                "The others may have waited for one that had ended: see what that one printed. If it needs longer,"
                " give the job a longer time limit.",
                "time_limit",
            )
        return Cause(message, _said(end), "If it needs longer, give the job a longer time limit.", "time_limit")
    if failure:
        message, advice = (_line(failure.get(name, ""), _SENTENCE) for name in ("message", "advice"))
        evidence, code = _lines(failure.get("evidence", "")), _line(failure.get("code", ""), MOST_CODE)
        return Cause(message or "The run could not be set up on the head node.", evidence, advice, code or "setup")
    if end.get("fault"):
        return Cause("The command could not be started on the head node.", _line(end["fault"]), code="not_started")
    if verdict.get("good"):
        return Cause()
    if failures := verdict.get("failures"):
        return of_ranks(failures, verdict.get("failed") or len(failures), verdict.get("size", 0))
    if lost := [_line(name) for name in verdict.get("lost", [])]:
        return _of_lost_nodes(lost, begun=bool(verdict.get("started")), hydra=verdict.get("hydra", ""))
    if verdict:
        return Cause(f"mpiexec {_ended(verdict.get('mpiexec'))}.", _lines(verdict.get("hydra", "")), code="mpiexec")
    if end["status"] == os.EX_IOERR:  # of launcher.py
        return Cause(
            "There was no room on the head node for what the run printed.",
            advice="Delete what is not needed from /shared, and run the job again.",
            code="no_room",
        )
    return Cause(f"What launches the ranks {_ended(end['status'], end['signal'])}.", _said(end), code="launcher")


def may_be_of_nodes(end: Mapping[str, Any]) -> bool:
    """Whether it ended as where one of its nodes is lost: with no word of a rank's own. Of a `sound` verdict."""
    verdict: Mapping[str, Any] = end.get("verdict") or {}
    if not verdict or verdict.get("good") or verdict.get("cancelled") or end.get("limit"):
        return False
    failures = verdict.get("failures")
    return not failures or bool("aborts" in failures[0] and _FATAL.search(str(failures[0].get("words", ""))))


def of_nodes(rebooted: Sequence[tuple[str, datetime]], silent: Sequence[str]) -> Cause | None:
    """Of those that were started again since it began, with when that was, and of those that do not answer."""
    if not rebooted and not silent:
        return None
    said = [f"{name} was started again at {at:%H:%M:%S} UTC, while the run was on it." for name, at in rebooted[:3]]
    said += [f"{name} went away while the run was on it, and does not answer." for name in silent[:3]]
    if more := len(rebooted) + len(silent) - len(said):
        said.append(f"So it is with {more} more nodes.")
    advice = "Repair the cluster, and run the job again." if silent else "What it has printed is kept. Run it again."
    return Cause(" ".join(said), advice=advice, code="node_lost")


def of_deletion(cluster: Cluster, *, before: datetime | None = None) -> Cause | None:
    """Where it was people who took the cluster away, and had asked for that by then: who, and what to do now."""
    task = cluster.last_task
    if task is None or task.kind != "clusters.delete" or (before and task.created > before):
        return None
    who = f" by {task.asked_by}" if task.asked_by else ""
    return Cause(f"The cluster {cluster.name} was deleted{who}.", advice=ANOTHER_CLUSTER, code="cluster_gone")


def of_ranks(failures: Sequence[Failure], failed: int, size: int) -> Cause:
    """Of ranks that failed, the first one first."""
    first = failures[0]
    words = str(first.get("words", ""))
    cell = _CELL.match(str(first.get("error", "")))
    if "aborts" in first:
        words = _ABORT.sub("", words)
    if cell:  # what papermill itself has gone through says nothing
        words = words.rpartition("PapermillExecutionError:")[2]
    evidence = _lines(words)
    last = evidence.splitlines()[-1][:MOST_LINE] if evidence else ""
    same = [found for found in failures if _outcome(found) == _outcome(first)]
    everywhere = len(same) == len(failures) and failed == size > 1  # as far as the first ones tell of all
    who = f"All {size} ranks" if everywhere else _name(first)
    if len(same) > 1:
        count = failed if len(same) == len(failures) else len(same)
        alike = all(_last_words(found) == _last_words(first) for found in same)
        remark = f"the same on {count} ranks" if alike else f"of rank {first['rank']}; {count} ranks ended so"
        evidence = f"{evidence}\n({remark})" if evidence else ""
    elif failed > 1:
        evidence = f"{evidence}\n({failed - 1} more failed after it)".strip()
    told = _line(first.get("error", ""), MOST_LINE)  # the last words may be of something else
    begins = f"Cell [{cell[1]}] of the notebook failed" if cell else f"{who} {_how(first)}"
    for pattern, code, say in _COMMON:
        if found := re.search(pattern, last) or re.search(pattern, told):
            message, advice = say(found)
            return Cause(f"{begins}: {message}", evidence, advice, code)
    if cell:
        return Cause(_sentence(begins, last), evidence, "The executed notebook shows it in its place.", "cell")
    error = str(first.get("error") or "") or (last if _RAISED.search(words) else "")
    crashed = first.get("signal") in _CRASHES and "Fatal Python error" not in words  # that is faulthandler's
    advice, code = (_OF_CRASHES, "crash") if crashed else ("", "rank")
    return Cause(_sentence(f"{who} {_how(first)}", error), evidence, advice, code)


def _outcome(failure: Failure) -> tuple[Any, ...]:
    return failure.get("error"), failure.get("status"), failure.get("signal")


def _last_words(failure: Failure) -> str:
    return str(failure.get("error") or _lines(failure.get("words", "")).rpartition("\n")[2])


def _name(failure: Failure) -> str:
    node = f" on {_line(failure['node'])}" if failure.get("node") else ""
    if failure.get("world"):
        return f"Rank {failure['rank']} of the programs that the run spawned{node}"
    return f"Rank {failure['rank']}{node}"


def _sentence(start: str, error: str) -> str:
    error = _line(error)
    return f"{start}: {error}" if error else f"{start}."


def _how(failure: Failure) -> str:
    if "aborts" in failure and _FATAL.search(str(failure.get("words", ""))):
        return "was ended by MPI, which refused a call"
    if "aborts" in failure:
        return f"called MPI_Abort with {failure['aborts']}"
    if failure.get("broken"):
        return "wrote into the portal's own pipe"
    if "signal" not in failure:
        return f"ended with exit status {failure.get('status')}"
    words = f"was ended by {signal_name(failure['signal'])}"
    if failure["signal"] == signal.SIGKILL:
        had = int(failure.get("rss") or 0) / 2**20
        words += f", perhaps for want of memory: it had {had:.1f} GiB" if had >= 0.1 else ", from outside"
    return words


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _ended(status: int | None, number: int | None = None) -> str:
    if number is None and status is not None and status < 0:
        number = -status
    return f"was ended by {signal_name(number)}" if number else f"ended with exit status {status}"


def _of_lost_nodes(lost: Sequence[str], *, begun: bool, hydra: str) -> Cause:
    names = " and ".join(lost) if len(lost) < 3 else f"{', '.join(lost[:2])} and {len(lost) - 2} more nodes"
    what = "went away while the run was on it" if begun else "could not be reached from the head node"
    return Cause(f"{names} {what}.", _lines(hydra), "Repair the cluster, and run the job again.", "node_lost")


def sentences(failures: Sequence[Failure]) -> list[str]:
    """One for each rank that failed."""
    return [_sentence(f"{_name(failure)} {_how(failure)}", str(failure.get("error") or "")) for failure in failures]


def span(seconds: int) -> str:
    """A time limit as people say it: 24 h, 1 h 30 min."""
    whole = [(seconds // 3600, "h"), (seconds % 3600 // 60, "min"), (seconds % 60, "s")]
    return " ".join(f"{count} {unit}" for count, unit in whole if count) or "0 s"


# A library that crashes says nothing; Python can say where it was called.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_OF_CRASHES = (
    "A compiled library is the usual reason. With “-X faulthandler” before the Python file, the output says in which"
    " line of the program it happens."
)
# What the last line of a rank's words says, the code of that, and what to do about it.
_COMMON: list[tuple[str, str, Callable[[re.Match[str]], tuple[str, str]]]] = [
    (
        r"^ModuleNotFoundError: No module named 'bodo'",
        "no_engine",
        lambda _: (
            "there is no module bodo.",
            "Bodo is an engine version: take another cluster, one that was made with it.",
        ),
    ),
    (
        # As `runner.py` tells it; and of the workers that it spawns.
        r"^(?:bodo\.pandas on \d+ ranks: |AssertionError: Spawner and worker 0 must be on the same machine)",
        "bodo_ranks",
        lambda _: (
            "bodo.pandas starts ranks of its own, and the job has started several already.",
            "Give the job 1 rank: bodo.pandas starts one on each core, or as many as the variable BODO_NUM_WORKERS"
            " says. Programs with @bodo.jit alone keep their ranks.",
        ),
    ),
    (
        r"^ModuleNotFoundError: No module named '([^']+)'",
        "no_module",
        lambda m: (
            f"there is no module {m[1]}.",
            f"If {m[1].split('.')[0]} is a package, name it in requirements.txt, in the top folder of the source.",
        ),
    ),
    (
        r"^\S*python\S*: (?:Error while finding module specification for '[\w.]+' \(ModuleNotFoundError: )?"
        r"No module named '?([\w.]+)'?\)?$",  # of python -m
        "no_program_module",
        lambda m: (
            f"there is no module {m[1]}.",
            f"Check the command of the job; if {m[1].split('.')[0]} is a package, name it in requirements.txt.",
        ),
    ),
    (
        r"can't open file '(?:.*/)?([^/']+)': \[Errno 2\]",
        "no_program",
        lambda m: (f"{m[1]} is not in the source.", "Check the command of the job, its path and its reference."),
    ),
    (
        r"^nbclient\.exceptions\.DeadKernelError",
        "kernel",
        lambda _: (
            "the notebook's kernel ended in the middle of a cell.",
            "A library that crashes, or want of memory, is the usual reason. The executed notebook shows how far it"
            " came.",
        ),
    ),
    (
        r"^([^:]+): No such file or directory$",
        "no_command",
        lambda m: (f"there is no program {m[1]}.", "Check its name; a program of the repository needs ./ before it."),
    ),
    (
        r"^FileNotFoundError: \[Errno 2\] No such file or directory: (['\"].+['\"])$",
        "no_file",
        lambda m: (
            f"there is no file {m[1]}.",
            "A path that does not begin with / is looked up in the source. What all nodes see is at $COXSWAIN_SHARED.",
        ),
    ),
    (
        r"^(?:MemoryError|numpy\.\S*MemoryError)\b.*",
        "no_memory",
        lambda m: (f"there was no memory left ({m[0]}).", "Take nodes with more memory, or more nodes."),
    ),
    (
        r"^(?:internal_|P?MPI)\w*\(\d+\)\.*: (.+)",  # the last line of an error stack of MPICH says what it is
        "mpi",
        lambda m: (f"{m[1].rstrip('.')}.", ""),
    ),
]


def _line(text: object, most: int = 300) -> str:
    return plain_text(str(text).encode(errors="replace").splitlines()[0] if str(text) else b"")[:most]


def _lines(text: object) -> str:
    lines = [plain_text(line) for line in str(text).encode(errors="replace").splitlines()]
    return "\n".join([line for line in lines if line.strip()][-MOST_EVIDENCE:])


def _said(end: Mapping[str, Any]) -> str:
    return _lines(end.get("said", ""))
