"""What a node says of a run is not to be trusted: programs of the run can write all of it."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import DataError, OperationalError
from django.utils.timezone import now
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import watch
from jobs.causes import explain, of_ranks, sentences, sound
from jobs.models import Run
from jobs.watch import LATE, MOST_FAULTS, MOST_FRUITLESS, Observer, RunWatcher, _pump
from portal import ssh
from portal.errors import Passing, Refused
from portal.secrets import CannotDecrypt
from tests.jobs.test_watch import Node as Says
from tests.jobs.test_watch import frame

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(10**4000),
    lambda more: st.lists(more, max_size=4) | st.dictionaries(st.text(max_size=4), more, max_size=4),
    max_leaves=8,
)
failures = st.dictionaries(
    st.sampled_from(["world", "rank", "node", "at", "words", "status", "signal", "aborts", "error", "rss", "broken"]),
    anything,
)
verdicts = st.dictionaries(
    st.sampled_from(["good", "size", "started", "failures", "failed", "lost", "mpiexec", "hydra"]),
    anything | st.lists(failures, max_size=3),
)
ends = st.fixed_dictionaries(
    {"status": st.none() | st.integers(-99, 99), "signal": st.none() | st.integers(-99, 99)},
    optional={"limit": anything, "fault": anything, "said": anything},
)


@settings(deadline=None, max_examples=100)
@given(verdict=verdicts, end=ends, failure=st.none() | st.dictionaries(st.text(max_size=8), anything))
def test_every_verdict_can_be_explained(verdict, end, failure):
    words = sound(verdict)
    cause = explain(Run(), {**end, "verdict": words}, failure)
    assert all(isinstance(said, str) for said in (cause.message, cause.evidence, cause.advice))
    assert all(isinstance(said, str) for said in sentences(words["failures"]))


def observed(run, *words):
    """What becomes of the run when the node says this, line by line."""

    async def go():
        observer = Observer(run.pk, ssh.Connections())
        await observer._target()
        messages = asyncio.Queue()
        said = (word if isinstance(word, bytes) else json.dumps(word).encode() + b"\n" for word in words)
        await _pump(Says(b"".join(said)), messages)
        while (message := messages.get_nowait()) is not None:
            if isinstance(message, Refused):
                raise message
            if await observer._take_in(*message):
                return
        await observer._store()

    asyncio.run(go())
    run.refresh_from_db()
    return run


def end(verdict, **more):
    return {"exit": {"status": 1, "signal": None, "ended": 1.0, "now": 2.0, "verdict": verdict, **more}}


FAILED = {"world": 0, "rank": 1, "node": "tide-1", "at": 5, "status": 1}


def test_all_ranks_are_all_ranks_though_the_verdict_names_the_first_ones_only():
    failures = [{"world": 0, "rank": rank, "node": "tide-1", "status": 1, "words": "no\n"} for rank in range(16)]
    cause = of_ranks(failures, 500, 500)
    assert (cause.message, cause.evidence) == (
        "All 500 ranks ended with exit status 1.",
        "no\n(the same on 500 ranks)",
    )
    assert of_ranks(failures, 400, 500).message.startswith("Rank 0 on tide-1")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("FileNotFoundError: 'caf\udce9.txt'", "FileNotFoundError: 'caf?.txt'"),  # a name that is no UTF-8
        ("ValueError: \\u0000", "ValueError: \\u0000"),  # six characters, not one
        ("ValueError: a\0b", "ValueError: ab"),
    ],
)
def test_a_run_ends_whatever_characters_its_error_has(begun_run, error, kept):
    observed(begun_run, end({"failures": [{**FAILED, "error": error, "words": error}], "failed": 1, "size": 2}))
    assert begun_run.status == Run.Status.FAILED
    assert begun_run.failures == [{**FAILED, "error": kept, "words": kept}]
    assert begun_run.cause == f"Rank 1 on tide-1 ended with exit status 1: {kept}"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "verdict", [{"lost": 5}, {"lost": [["x"]]}, {"failures": 7}, {"failures": [{}], "at": float("nan")}]
)
def test_a_run_ends_whatever_types_its_verdict_has(begun_run, verdict):
    assert observed(begun_run, end(verdict)).status == Run.Status.FAILED


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("status", "code"), [(74, "no_room"), (1, "launcher")])
def test_a_launcher_that_left_no_verdict_says_by_its_status_why(begun_run, monkeypatch, status, code):
    async def age(self, host):
        raise AssertionError("it was asked")

    monkeypatch.setattr(Observer, "_age", age)
    begun_run.cluster.nodes.create(rank=1, hostname="tide-2", address="127.0.0.2", state="answers")
    assert observed(begun_run, end(None, status=status)).code == code


@pytest.mark.django_db(transaction=True)
def test_a_setup_that_failed_without_saying_why_is_a_failure(begun_run):
    facts = {"phase": "clone\0", "subject": "caf\udce9", "failure": {"evidence": ["\0"]}}
    assert observed(begun_run, {"facts": facts}, end(None)).cause == "The run could not be set up on the head node."
    assert (begun_run.phase, begun_run.commit_subject) == ("clone", "caf?")


@pytest.mark.django_db(transaction=True)
def test_a_run_whose_end_cannot_be_written_down_is_given_up_and_not_tried_for_ever(begun_run):
    async def go(error, times):
        watcher = RunWatcher()
        for _ in range(times):
            await watcher._failed(begun_run.pk, error)
        await begun_run.arefresh_from_db()

    asyncio.run(go(OperationalError("the database is away"), 2 * MOST_FAULTS))
    asyncio.run(go(CannotDecrypt(), 2 * MOST_FAULTS))
    assert not begun_run.observed
    asyncio.run(go(DataError("no such character"), MOST_FAULTS))
    assert (begun_run.status, begun_run.observed) == (Run.Status.FAILED, True)
    assert begun_run.cause == "The portal cannot take in what the head node says of this run."


@pytest.mark.django_db(transaction=True)
def test_a_node_whose_words_end_before_they_begin_does_not_hold_a_run_for_ever(begun_run, monkeypatch):
    asked = []

    class Silent:
        def __init__(self, *_):
            asked.append(1)

        async def __aenter__(self):
            return Says(b'{"facts": {}}\n')

        async def __aexit__(self, *_):
            pass

    async def at_once(seconds):
        pass

    monkeypatch.setattr(watch.detached, "observe", Silent)
    monkeypatch.setattr(watch.asyncio, "sleep", at_once)
    asyncio.run(Observer(begun_run.pk, ssh.Connections()).run())
    begun_run.refresh_from_db()
    assert len(asked) == MOST_FRUITLESS
    assert (begun_run.status, begun_run.cause, begun_run.code) == (
        Run.Status.FAILED,
        "The head node answers, and does not say how the run goes.",
        "not_followed",
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("at", "seconds"), [(0, -62135596800.0), (2**64 - 1, 253402300799.0)])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_a_node_whose_clock_is_wrong_by_ages_breaks_no_page(begun_run, bob, client, at, seconds, zone):
    """Also where it is another day already, or still the one before."""
    type(bob).objects.filter(pk=bob.pk).update(time_zone=zone)
    log = frame(b"o", 0, b"said\n", at)
    words = json.dumps({"log": 0, "size": len(log)}).encode() + b"\n" + log
    observed(begun_run, {"facts": {"ended": {"count": 1, "of": 2, "last": [[0, seconds]]}}}, words)
    client.force_login(bob)
    for path in (f"/runs/{begun_run.uuid}/", f"/outputs/{begun_run.output.uuid}/", f"/jobs/{begun_run.job.uuid}/"):
        assert client.get(path).status_code == 200, path
    observed(begun_run, end({}, limit=True))
    assert client.get(f"/runs/{begun_run.uuid}/").status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "ended",
    [
        {"count": 10**300, "of": 2, "last": []},
        {"count": 1, "of": -(10**300), "last": []},
        {"count": 1, "of": 2, "last": [[10**300, 1]]},
    ],
)
def test_a_node_that_counts_what_cannot_be_is_not_believed(begun_run, ended):
    with pytest.raises(Refused, match="which ranks have ended"):
        observed(begun_run, {"facts": {"ended": ended}})


DISGUISED = "na\u202egpj.\u2066exe\x1b[31m\x07\r\u200f\n\u0085\u2028end"


@pytest.mark.django_db(transaction=True)
def test_what_a_program_says_of_itself_on_a_page_is_what_one_reads_there(begun_run):
    """No character that turns the order of others round, or none at all that is not seen; and no page of it."""
    failure = dict.fromkeys(("message", "evidence", "advice"), DISGUISED + "x" * 100_000)
    run = observed(
        begun_run, {"facts": {"subject": DISGUISED.replace("\r", ""), "failure": failure}}, end(None, fault=DISGUISED)
    )
    shown = [run.cause, run.evidence, run.advice, run.commit_subject]
    assert all("gpj.exe" in said for said in shown)
    for said in shown:
        assert all(char.isprintable() or char == "\n" for char in said)
    assert len(run.cause) + len(run.advice) <= 2000
    assert len(run.evidence) < 20_000


@pytest.mark.django_db(transaction=True)
def test_a_run_that_goes_on_after_its_time_limit_is_ended_by_the_portal(begun_run):
    """The node keeps the time, but what keeps it there is a process that programs of the run may stop."""
    Run.objects.filter(pk=begun_run.pk).update(time_limit=60, started=now() - timedelta(seconds=80))
    assert observed(begun_run, {"beat": 1}).status == Run.Status.INPROGRESS  # the node has its own patience
    Run.objects.filter(pk=begun_run.pk).update(started=now() - timedelta(seconds=60 + LATE + 1))
    assert observed(begun_run, {"beat": 1}).status == Run.Status.FAILED
    assert begun_run.observed
    assert begun_run.cause == "Ended by the portal, after its time limit of 1 min."


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("ago", "status", "cause"), [
    (3, 1, "The portal was stopped while the run was on its nodes."),
    (60, 1, "Rank 1 on tide-1 ended with exit status 1."),
    (0, 1, "Rank 1 on tide-1 ended with exit status 1."),
    (3, 0, ""),
])  # fmt: skip
def test_what_ends_with_its_node_ended_because_the_portal_was_stopped(begun_run, monkeypatch, ago, status, cause):
    """Its programs get a signal then, and its keeper may still have written down what they died of."""

    async def seen(self):
        return SimpleNamespace(switched_off=now() - timedelta(seconds=ago)), now()

    monkeypatch.setattr(Observer, "_head_seen", seen)
    failures = [FAILED] if status else []
    verdict = {"good": not status, "failures": failures, "failed": len(failures), "size": 2}
    observed(begun_run, end(verdict, status=status))
    assert begun_run.cause == cause


@pytest.mark.django_db(transaction=True)
def test_a_run_that_fails_before_our_eyes_waits_for_no_cloud(begun_run, monkeypatch):
    async def seen(self):
        raise AssertionError("the cloud was asked")

    monkeypatch.setattr(Observer, "_head_seen", seen)
    words = end({"failures": [FAILED], "failed": 1, "size": 2})
    words["exit"] |= {"ended": 5.0, "now": 5.0}
    observed(begun_run, words)
    assert begun_run.cause == "Rank 1 on tide-1 ended with exit status 1."


def stat(began_at):
    return b"1 (init (8) x) S " + b"0 " * 18 + str(began_at).encode() + b" 0 0"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("answer", "cause"), [
    # Its first process began 95 s after its kernel did, as in a container, and that is 5 s ago.
    (b"100.00 80.00\n%b\n100" % stat(9500),
     r"tide-2 was started again at \d\d:\d\d:\d\d UTC, while the run was on it\."),
    (b"100.00 80.00\n%b\n100" % stat(1), r"mpiexec ended with exit status 255\."),
    (b"sh: getconf: not found", r"mpiexec ended with exit status 255\."),
    (b"", r"mpiexec ended with exit status 255\."),  # its sessions do not see its first process
    (Passing("no answer"), r"tide-2 went away while the run was on it, and does not answer\."),
    (Refused("no entry"), r"mpiexec ended with exit status 255\."),
])  # fmt: skip
def test_where_mpiexec_fails_and_no_rank_tells_why_each_other_node_is_asked_what_became_of_it(
    begun_run, monkeypatch, answer, cause
):
    asked = []

    async def run(self, host, command, **more):
        asked.append(host.name)
        if isinstance(answer, Exception):
            raise answer
        return ssh.Answer(0, answer, b"")

    monkeypatch.setattr(ssh.Connections, "run", run)
    begun_run.cluster.nodes.create(rank=1, hostname="tide-2", address="127.0.0.2", state="answers")
    type(begun_run.cluster).objects.update(node_count=2)
    Run.objects.update(started=now() - timedelta(seconds=30))
    verdict = {"good": False, "failures": [], "size": 4, "started": 4, "mpiexec": 255, "hydra": "ssh: closed"}
    observed(begun_run, end(verdict))
    assert re.fullmatch(cause, begun_run.cause)
    assert begun_run.evidence == "ssh: closed"
    assert asked == ["tide-2"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("verdict", [
    {"failures": [FAILED], "failed": 1, "size": 2},
    {"failures": [], "cancelled": True},
    {"good": True},
])  # fmt: skip
def test_no_other_node_is_asked_where_a_rank_tells_why_or_people_have_ended_it(begun_run, monkeypatch, verdict):
    async def age(self, host):
        raise AssertionError("it was asked")

    monkeypatch.setattr(Observer, "_age", age)
    begun_run.cluster.nodes.create(rank=1, hostname="tide-2", address="127.0.0.2", state="answers")
    type(begun_run.cluster).objects.update(node_count=2)
    assert observed(begun_run, end(verdict)).ended
