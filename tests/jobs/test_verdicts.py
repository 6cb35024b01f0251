"""What a node says of a run is not to be trusted: programs of the run can write all of it."""

from __future__ import annotations

import asyncio
import json

import pytest
from django.db import DataError, OperationalError
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import watch
from jobs.causes import explain, of_ranks, sentences, sound
from jobs.models import Run
from jobs.watch import MOST_FAULTS, MOST_FRUITLESS, Observer, RunWatcher, _pump
from portal import ssh
from portal.secrets import CannotDecrypt
from tests.jobs.test_watch import Node as Says

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


@settings(deadline=None, max_examples=300)
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
        await _pump(Says(b"".join(json.dumps(word).encode() + b"\n" for word in words)), messages)
        while (message := messages.get_nowait()) is not None:
            await observer._take_in(*message)
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
    assert (begun_run.status, begun_run.cause) == (
        Run.Status.FAILED,
        "The head node answers, and does not say how the run goes.",
    )
