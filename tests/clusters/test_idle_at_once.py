"""A timer fires while somebody begins to use the cluster: in whichever order, whoever uses it wins.

ROUNDS: how many; ROUND_SEED: from where. Each round is the same two things, in threads with a connection of their
own, in another order.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from datetime import timedelta
from functools import partial

import pytest
from django.db import connections
from django.utils.timezone import now

from accounts.audit import Origin
from clusters import idle, terminals
from clusters.actions import snooze_cluster
from clusters.models import Cluster, EngineVersion, Terminal
from clusters.terminals import Who, open_terminal
from jobs import actions
from jobs.actions import start_run
from jobs.dispatch import dispatch_all
from jobs.models import Job, Run
from portal.errors import PortalError
from portal.tasks.models import Task
from tests.clusters.test_bad_clouds import go_on
from tests.clusters.test_life import cloud, make, nodes  # noqa: F401

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_heartbeat", "rings")]

ROUNDS = int(os.environ.get("ROUNDS", "40"))
SEED = int(os.environ.get("ROUND_SEED", "1"))


@pytest.fixture
def tide(lab, request):
    EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})
    cluster = request.getfixturevalue("make")()
    Cluster.objects.filter(pk=cluster.pk).update(auto_pause=60)
    return cluster


def is_due(cluster, **changes):
    """Everything of the round before is over, people were warned, and the timer fires at the next look."""
    Task.objects.of(Cluster, Cluster.objects.filter(pk=cluster.pk)).delete()
    Run.objects.all().update(status="finished")
    Terminal.objects.all().delete()
    at = now()
    Cluster.objects.filter(pk=cluster.pk).update(
        status="running", occupied_by=None, warned=at - timedelta(minutes=11),
        last_active=at - timedelta(minutes=65), **changes,
    )  # fmt: skip


def fire(cluster):
    """What a watch process does that has read the cluster's row and decided."""
    row = Cluster.objects.select_related("workspace__organization", "workspace__cloud_config").get(pk=cluster.pk)
    return partial(idle._act, row, row.timer)


class Race:
    """Runs things at once. Two rounds of eight are in order, one in each; in the others whoever was first begins later.

    By how much later is looked for as in a bisection, by what came of it, so that the others are close.
    """

    ORDERED = {0: 0, 4: 1}  # of eight rounds: who comes first

    def __init__(self):
        self.dice = random.Random(SEED)  # noqa: S311
        self.rounds = 0
        self.handicap = 0.0  # seconds by which the first one begins later; the second one, where less than nothing
        self.step = 0.001
        self.ahead: int | None = None  # whom the other waits for in this round
        self.first = Counter()

    def run(self, *acts):
        """What each returned, or its refusal."""
        together, found = threading.Barrier(len(acts)), [None] * len(acts)
        over = threading.Event()
        self.ahead = self.ORDERED.get(self.rounds % 8)
        self.rounds += 1
        waits = {0: self.handicap, 1: -self.handicap}

        def do(number, act):
            try:
                together.wait(60)
                if self.ahead is None:
                    over.wait(max(0, waits.get(number, 0)))
                elif number != self.ahead:
                    over.wait(60)
                found[number] = act()
            except BaseException as error:  # noqa: BLE001
                found[number] = error
            finally:
                connections.close_all()
                if number == self.ahead:
                    over.set()

        threads = [threading.Thread(target=do, args=one) for one in enumerate(acts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
        for error in found:
            assert not isinstance(error, BaseException) or isinstance(error, PortalError), repr(error)
        return found

    def was_first(self, number):
        self.first[number] += 1
        if self.ahead is not None:
            assert number == self.ahead, "who comes first wins"
            return
        towards = -1 if number else 1
        again = self.step * towards > 0
        self.step = towards * min(0.1, max(0.0002, abs(self.step) * (2 if again else 0.5)))
        self.handicap += self.step * self.dice.uniform(0.5, 1)

    def saw_both(self):
        assert self.first[0], self.first
        assert self.first[1], self.first


def test_a_run_that_has_to_wait_keeps_its_cluster(tide, lab, alice, monkeypatch):
    """The timer fires once the run has looked at the cluster, and before others see that it waits."""
    job = Job.objects.create(workspace=lab, cluster=tide, name="a", git_url="https://git.test/a", command="a.py")
    Cluster.objects.filter(pk=tide.pk).update(auto_pause=0, auto_shutdown=60)
    is_due(tide)
    tide.nodes.filter(rank=1).update(state="silent")
    deletes = threading.Thread(target=_closing(fire(tide)))
    record = actions._record

    def then_fire(verb, run, **words):
        deletes.start()
        deletes.join(1)
        record(verb, run, **words)

    monkeypatch.setattr(actions, "_record", then_fire)
    run = start_run(job, by=alice)
    deletes.join(30)
    tide.refresh_from_db()
    assert tide.status == "running"
    assert run.is_waiting


def _closing(act):
    def do():
        try:
            act()
        finally:
            connections.close_all()

    return do


def pauses(cluster):
    return cluster.tasks.filter(kind="clusters.pause").count()


@pytest.mark.parametrize("lost", [False, True], ids=["free", "degraded"])
def test_a_run_always_wins(tide, lab, alice, lost):
    """Where a node is lost the run has to wait: then there is nothing that it could take the cluster by."""
    job = Job.objects.create(workspace=lab, cluster=tide, name="a", git_url="https://git.test/a", command="a.py")
    race = Race()
    for _ in range(ROUNDS):
        is_due(tide)
        tide.nodes.filter(rank=1).update(state="silent" if lost else "answers")
        _, run = race.run(fire(tide), lambda: start_run(job, by=alice))
        tide.refresh_from_db()
        run.refresh_from_db()
        assert pauses(tide) <= 1
        if tide.status == "running":
            assert not pauses(tide)
            race.was_first(1)
        else:
            race.was_first(0)
            assert run.is_waiting
            assert tide.occupied_by is None
            tide.nodes.update(state="answers")
            go_on(tide)  # what the worker does with the pause
            assert tide.last_task.status == "cancelled"
        tide.refresh_from_db()
        assert tide.status == "running"
        tide.nodes.update(state="answers")
        dispatch_all()
        run.refresh_from_db()
        assert not run.is_waiting, "it begins without anybody's help"
        assert Cluster.objects.get(pk=tide.pk).occupied_by == run.uuid
        Task.objects.of(Run, Run.objects.all()).delete()
    race.saw_both()


def test_a_terminal_is_open_or_refused_in_words_and_never_cut_off(tide, alice, settings):
    who = Who(alice, "", Origin())
    settings.TERMINALS = 8
    race = Race()
    for _ in range(ROUNDS):
        is_due(tide)
        _, opened = race.run(fire(tide), lambda: open_terminal(tide.uuid, 0, who, (80, 24)))
        tide.refresh_from_db()
        if isinstance(opened, PortalError):
            assert opened.message == "tide is PAUSING. Terminals can be opened while it is RUNNING."
            assert (tide.status, pauses(tide), Terminal.objects.count()) == ("pausing", 1, 0)
        else:
            assert (tide.status, pauses(tide), Terminal.objects.count()) == ("running", 0, 1)
            terminals.close(opened.uuid, "The shell ended.", Origin())
        race.was_first(0 if isinstance(opened, PortalError) else 1)
    race.saw_both()


def test_a_snooze_wins_or_is_told_that_it_was_late(tide, alice):
    race = Race()
    for _ in range(ROUNDS):
        is_due(tide)
        _, late = race.run(fire(tide), lambda: snooze_cluster(tide, by=alice))
        tide.refresh_from_db()
        assert (tide.status, pauses(tide)) == (("pausing", 1) if late else ("running", 0))
        race.was_first(0 if late else 1)
    race.saw_both()


def test_four_watch_processes_pause_it_once(tide):
    race = Race()
    for _ in range(ROUNDS // 4):
        is_due(tide)
        race.run(*[idle.look] * 4)
        assert pauses(tide) == 1
    for _ in range(ROUNDS // 4):
        is_due(tide)
        Cluster.objects.filter(pk=tide.pk).update(warned=None)
        race.run(*[idle.look] * 4)
        tide.refresh_from_db()
        assert (tide.status, bool(tide.warning)) == ("running", True)
