"""Every watch process has its share, nothing is looked after twice, and what a dead one had is taken over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.db.models.functions import Now

from portal.tasks import leases, watch
from portal.tasks.leases import Lease, WatchProcess
from portal.tasks.pace import AT_ONCE
from tests.running import ROOT, end_with_us, until

TERM = 2.0  # seconds, in the processes of these tests
MOST = 60


def run_out(process):
    WatchProcess.objects.filter(pk=process).update(until=Now() - timedelta(seconds=1))


# Leases


@pytest.mark.django_db
def test_a_thing_is_held_by_one_who_lives_and_by_the_next_when_he_does_not():
    one, other = WatchProcess.begin(), WatchProcess.begin()
    assert Lease.take({"run.1", "run.2"}, one) == {"run.1", "run.2"}
    assert Lease.take({"run.2", "run.3"}, other) == {"run.3"}
    assert Lease.take({"run.1"}, one) == {"run.1"}, "asked again, it is still his"
    run_out(one)
    assert Lease.take({"run.1", "run.2"}, other) == {"run.1", "run.2"}
    assert leases.held_by(one) == set()


@pytest.mark.django_db
def test_a_life_that_has_run_out_is_never_renewed_and_takes_nothing():
    process = WatchProcess.begin()
    assert WatchProcess.renew(process)
    run_out(process)
    assert not WatchProcess.renew(process)
    assert Lease.take({"run.1"}, process) == set()
    assert process not in leases.living()


@pytest.mark.django_db
def test_only_the_holder_gives_a_lease_away_or_drops_it():
    one, other = WatchProcess.begin(), WatchProcess.begin()
    Lease.take({"run.1"}, one)
    Lease.release({"run.1"}, other)
    Lease.drop({"run.1"}, other)
    assert leases.held_by(one) == {"run.1"}
    Lease.release({"run.1"}, one)
    assert Lease.take({"run.1"}, other) == {"run.1"}


@pytest.mark.django_db
def test_what_is_held_costs_one_statement_to_renew(django_assert_num_queries):
    process = WatchProcess.begin()
    Lease.take({f"run.{n}" for n in range(1000)}, process)
    with django_assert_num_queries(1):
        assert WatchProcess.renew(process)


@pytest.mark.django_db
def test_rows_of_the_dead_do_not_stay():
    dead, alive = WatchProcess.begin(), WatchProcess.begin()
    Lease.take({"run.1"}, dead)
    Lease.take({"run.2"}, alive)
    WatchProcess.objects.filter(pk=dead).update(until=Now() - timedelta(hours=1))
    leases.forget_the_dead()
    assert leases.living() == {alive}
    assert list(Lease.objects.values_list("thing", flat=True)) == ["run.2"]


@pytest.mark.django_db
def test_the_portal_is_ready_while_a_watch_process_lives(client, monkeypatch):
    monkeypatch.setattr("portal.views.redis.Redis.from_url", lambda *_, **__: contextlib.nullcontext())
    process = WatchProcess.begin()
    assert WatchProcess.is_seen()
    WatchProcess.objects.update(until=Now() - timedelta(minutes=1))
    assert not WatchProcess.is_seen()
    assert not WatchProcess.renew(process)


def test_shares_are_even_and_few_things_change_hands():
    processes = frozenset(UUID(int=n * 7919) for n in range(1, 5))
    things = [f"run.{n}" for n in range(2000)]
    before = {thing: leases.owner_of(thing, processes) for thing in things}
    assert all(400 < share < 600 for share in Counter(before.values()).values())
    gone = min(processes)
    after = {thing: leases.owner_of(thing, processes - {gone}) for thing in things}
    assert {thing for thing in things if before[thing] != after[thing]} == {
        thing for thing in things if before[thing] == gone
    }
    assert leases.owner_of("run.1", frozenset()) is None


# Looking


def test_a_flood_of_rings_is_a_few_looks_and_each_look_asks_once(monkeypatch):
    """Where nothing is new, nothing else is asked of anybody."""
    asked = []
    me = UUID(int=1)

    class Nothing(watch.SharingWatcher):
        kind, rung_by = "nothing", ("nothing",)

        async def wanted(self):
            asked.append(time.monotonic())
            return set()

        async def look_after(self, pk):
            raise AssertionError(pk)

    class Alive:
        state = watch.State(me, frozenset({me}), frozenset(), 0, float("inf"))

    async def go():
        bell = watch.Bell()
        keeper = asyncio.create_task(watch.Keeper(Nothing(), Alive(), bell).run())
        began = time.monotonic()
        rings = 0
        while time.monotonic() - began < 1:
            bell.ring()
            rings += 1
            await asyncio.sleep(0.001)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        return rings

    rings = asyncio.run(go())
    assert 3 <= len(asked) <= 10 + 2 * AT_ONCE < rings


def test_a_ring_that_comes_in_the_middle_of_a_look_has_it_look_again_at_once(monkeypatch):
    monkeypatch.setattr(watch, "LONGEST_SLEEP", 60)
    me, bell, asked = WatchProcess().pk, watch.Bell(), []

    class Wanting(watch.SharingWatcher):
        kind, rung_by = "nothing", ("nothing",)

        async def wanted(self):
            asked.append(1)
            if len(asked) == 1:
                bell.ring()  # what there is was read already
            else:
                again.set()
            return set()

        async def look_after(self, pk):
            raise AssertionError(pk)

    class Alive:
        state = watch.State(me, frozenset({me}), frozenset(), 0, float("inf"))

    async def go():
        keeper = asyncio.create_task(watch.Keeper(Wanting(), Alive(), bell).run())
        await asyncio.wait_for(again.wait(), 10)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    again = asyncio.Event()
    asyncio.run(go())
    assert len(asked) == 2


@pytest.mark.parametrize("turns", range(4))
def test_who_is_ended_just_when_it_rings_ends(turns):
    async def go():
        bell, looks = watch.Bell(), []

        async def watcher():
            while True:
                looks.append(1)
                await bell.wait(60)

        watching = asyncio.create_task(watcher())
        bell.ring()
        for _ in range(turns):
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait([watching], timeout=10)
        assert watching.cancelled()

    asyncio.run(go())


@pytest.mark.django_db(transaction=True)
def test_what_is_held_is_looked_at_while_a_lease_is_taken_and_it_is_not_lost_by_that(monkeypatch):
    """Renewing and taking are done by threads that do not wait for each other."""
    me = WatchProcess.begin()
    begun, ended = [], []

    class One(watch.SharingWatcher):
        kind, rung_by = "thing", ()

        async def wanted(self):
            return {1}

        async def look_after(self, pk):
            begun.append(pk)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(pk)

    class Alive:
        state = watch.State(me, frozenset({me}), frozenset(), 0, float("inf"))

    life, take = Alive(), Lease.take

    def renewed_meanwhile(things, holder):
        life.state = life.state._replace(at=time.monotonic(), held=leases.held_by(me))
        return take(things, holder)

    monkeypatch.setattr(Lease, "take", renewed_meanwhile)

    async def go():
        keeper = watch.Keeper(One(), life, watch.Bell())
        for _ in range(2):
            await keeper.look()
            await asyncio.sleep(0)
        assert (begun, ended) == ([1], [])
        life.state = life.state._replace(at=time.monotonic(), held=frozenset())
        monkeypatch.setattr(Lease, "take", lambda *_: set())  # by another one, who lives
        await keeper.look()
        assert ended == [1]

    asyncio.run(go())


# Processes


class Process:
    def __init__(self, folder):
        with (folder / "stderr").open("ab") as stderr:
            self.process = self._start(folder, stderr)
        self.has = set()
        threading.Thread(target=self._read, daemon=True).start()

    def _start(self, folder, stderr):
        return subprocess.Popen(
            [sys.executable, "-m", "tests.tasks.sharing", str(connection.settings_dict["NAME"]), str(TERM), str(MOST)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder), "DJANGO_SETTINGS_MODULE": "tests.settings"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=end_with_us,
        )

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                thing = int(line[1:])
                if line[0] == "+":
                    self.has.add(thing)
                else:
                    self.has.discard(thing)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(30)


@pytest.fixture
def process(tmp_path):
    made = []

    def make():
        made.append(Process(tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()


@pytest.mark.django_db(transaction=True)
def test_processes_share_out_and_what_a_killed_one_had_is_taken_over_after_its_term(process):
    everything = set(range(MOST))
    one = process()
    until(lambda: one.has == everything, what="the only process having everything")
    other = process()
    until(
        lambda: one.has and other.has and one.has | other.has == everything and not one.has & other.has,
        what="each having its share",
    )
    assert min(len(one.has), len(other.has)) > MOST / 5
    other.end(signal.SIGKILL)
    until(lambda: one.has == everything, what="the other one taking over")


@pytest.mark.django_db(transaction=True)
def test_a_process_that_is_suspended_loses_what_it_had_and_ends_it_when_it_goes_on(process):
    everything = set(range(MOST))
    one, other = process(), process()

    def share():
        return one.has and other.has and one.has | other.has == everything and not one.has & other.has

    until(share, what="each having its share")
    other.process.send_signal(signal.SIGSTOP)
    until(lambda: one.has == everything, what="the other one taking over")
    other.process.send_signal(signal.SIGCONT)
    until(share, what="each having its share again, and nothing twice")
