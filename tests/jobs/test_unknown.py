"""That nobody can say whether a run lives is no word of its end."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from django.utils.timezone import now

from jobs import plans, watch
from jobs.models import Run
from jobs.watch import MOST_FAULTS, MOST_FRUITLESS, UNLISTED, Observer
from portal import ssh
from portal.clouds import CloudNode, NodeState
from portal.errors import Passing, Refused
from tests.clouds.bad import AccountOf, MemoryCloud
from tests.jobs.test_watch import Node as Says
from tests.jobs.test_watch import frame
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rings")]


def line(word):
    return json.dumps(word).encode() + b"\n"


END = line({"exit": {"status": 3, "signal": None, "ended": 1.0, "now": 2.0, "verdict": None}}) + line({"sha256": {}})
OTHER_KEY = Refused("tide-1 shows another host key than the one it was given. Not connecting.")
CUT = Passing("The connection to tide-1 broke.")


class Head(MemoryCloud):
    """A cloud that lists the head node; `hides` says when it does not."""

    def __init__(self, run):
        super().__init__()
        self.of, self.state, self.hides = run.cluster.tags, NodeState.RUNNING, lambda: False

    def inventory(self, portal):
        node = CloudNode("node-1", 0, "tide-1", self.state, "10.0.0.1", 22, None, "ubuntu", "/home/ubuntu", "/shared")
        return {} if self.hides() else {self.of: [node]}


@pytest.fixture
def watched(begun_run, monkeypatch):
    """The run is watched to its end; the head node says one answer after the other when it is asked how it goes.

    The last answer is for ever, and an error is that it cannot be asked. `pauses` are the seconds between.
    """
    run = begun_run
    head = Head(run)
    monkeypatch.setattr(CloudConfig, "account", AccountOf(head))
    asked, pauses, silent, clock = [], [], [], [1000.0]

    class Telling:
        def __init__(self, *_):
            pass

        async def __aenter__(self):
            asked.append(1)
            answer = run.answers[min(len(asked), len(run.answers)) - 1]
            if isinstance(answer, Exception):
                raise answer
            return Says(answer)

        async def __aexit__(self, *_):
            pass

    async def sleep(seconds):
        pauses.append(seconds)
        clock[0] += seconds
        silent.append(await Run.objects.filter(pk=run.pk, silent_since__isnull=False).aexists())

    monkeypatch.setattr(watch.detached, "observe", Telling)
    monkeypatch.setattr(watch.asyncio, "sleep", sleep)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def go(*answers):
        run.answers = answers
        asyncio.run(Observer(run.pk, ssh.Connections()).run())
        run.refresh_from_db()
        return SimpleNamespace(run=run, asked=len(asked), pauses=pauses, silent=silent)

    return SimpleNamespace(go=go, head=head)


@pytest.mark.parametrize(
    "answer",
    [
        b"Welcome to tide-1!\n",
        b"\xff\xfe\n" * 100,
        b"[]\n",
        line({"unknown": "Stale file handle"}),
        line({"unknown": "it was started on tide-2, and this is tide-1"}),
        b"",
        OTHER_KEY,
        CUT,
    ],
    ids=["words", "garbage", "no object", "file system", "another node", "nothing", "another key", "cut"],
)
def test_a_run_of_which_nothing_is_known_for_minutes_goes_on_and_its_end_is_seen(watched, answer):
    seen = watched.go(*[answer] * (MOST_FRUITLESS - 1), END)
    assert seen.asked == MOST_FRUITLESS
    assert sum(seen.pauses) > (100 if answer is CUT else 500)
    assert all(seen.silent), "its page says that nothing is known of it"
    assert (seen.run.exit_status, seen.run.observed, seen.run.silent_since) == (3, True, None)


def test_a_cut_connection_never_ends_a_run_while_its_cloud_says_that_the_node_runs(watched):
    assert watched.go(*[CUT] * (4 * MOST_FRUITLESS), END).run.exit_status == 3


def test_a_node_that_its_cloud_does_not_list_for_a_moment_is_not_gone(watched):
    asked = []
    watched.head.hides = lambda: asked.append(1) or len(asked) < UNLISTED / 2
    assert watched.go(*[CUT] * int(UNLISTED), END).run.exit_status == 3


@pytest.mark.parametrize("how", ["listed as gone", "not listed", "its cluster is deleted"])
def test_a_node_that_is_gone_ends_its_run(watched, begun_run, how):
    if how == "listed as gone":
        watched.head.state = NodeState.GONE
    else:
        watched.head.hides = lambda: True
    if how == "its cluster is deleted":
        type(begun_run.cluster).objects.filter(pk=begun_run.cluster_id).update(status="terminating")
    seen = watched.go(CUT)
    assert (seen.run.status, seen.run.observed) == ("failed", True)
    assert (sum(seen.pauses) > UNLISTED) == (how == "not listed")


@pytest.mark.parametrize(
    "answer", [b"", b"no node of this cluster\n", OTHER_KEY], ids=["nothing", "words", "another key"]
)
def test_a_computer_that_outlives_its_cluster_ends_its_run(watched, begun_run, answer):
    """It answers as ever, and has nothing to say of a run any more."""
    type(begun_run.cluster).objects.filter(pk=begun_run.cluster_id).update(status="terminated")
    seen = watched.go(answer)
    assert (seen.run.status, seen.run.observed, seen.asked) == ("failed", True, 1)


def test_a_run_whose_computer_was_started_again_says_so(watched):
    run = watched.go(line({"gone": True, "rebooted": True})).run
    assert (run.status, run.cause) == ("failed", "tide-1 was started again while the run was on it.")
    assert run.evidence == "Its kernel is another one than when the run began."


def test_what_a_run_has_spoilt_itself_is_not_looked_at_for_minutes(watched):
    log = frame(b"x", 0, b"spoilt")
    seen = watched.go(line({"log": 0, "size": len(log)}) + log)
    assert (seen.run.status, seen.run.code, seen.asked) == ("failed", "not_followed", MOST_FAULTS)
    assert sum(seen.pauses) < 10


def test_a_node_whose_processes_cannot_be_counted_is_not_taken_for_a_clean_one(begun_run, monkeypatch):
    """Its sweep ended well, and said something else than a number."""
    Run.objects.filter(pk=begun_run.pk).update(may_be_left=True, status="failed", ended=now())
    for text in (b"", b"Last login: Thu", b"\xff"):
        monkeypatch.setattr(ssh, "run_each", lambda calls, said=text, **_: [ssh.Answer(0, said, b"")] * len(calls))
        assert plans.sweep(begun_run) == ("tide-1", {})
        begun_run.refresh_from_db()
        assert begun_run.may_be_left
    monkeypatch.setattr(ssh, "run_each", lambda calls, **_: [ssh.Answer(0, b"0\n", b"")] * len(calls))
    assert plans.sweep(begun_run) == ("", {})
    begun_run.refresh_from_db()
    assert not begun_run.may_be_left


def test_a_run_is_looked_for_where_it_was_started_and_not_where_runs_are_started_now(begun_run):
    node, folder = begun_run.kept_at()
    assert (node.rank, folder) == (0, f"/shared/.runs/{begun_run.uuid}"), "started by a portal that did not write it"
    begun_run.cluster.nodes.create(rank=1, hostname="tide-2", address="127.0.0.2", state="answers")
    Run.objects.filter(pk=begun_run.pk).update(head_rank=1, place="/scratch/a-run")
    host, folder, _ = asyncio.run(Observer(begun_run.pk, ssh.Connections())._target())
    assert (host.name, folder) == ("tide-2", "/scratch/a-run")
