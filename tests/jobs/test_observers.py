"""What is slow for one run is slow for no other, and for no lease."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from datetime import timedelta

import pytest
from django.utils.timezone import now

from clusters.actions import delete_cluster
from clusters.inventory import Inventory
from jobs import watch
from jobs.watch import Observer, _End
from portal import ssh
from portal.detached import Alive
from portal.errors import Passing
from portal.tasks import leases
from portal.tasks import watch as base
from portal.tasks.leases import WatchProcess
from portal.tasks.models import Output
from portal.tasks.threads import DATABASE
from tests.clouds.bad import AccountOf, MemoryCloud
from tests.jobs.test_watch import frame
from tests.pages.test_pages import make_run
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rings")]


class Telling:
    """A head node that says what it is given to say, and then nothing more."""

    def __init__(self):
        self.words = asyncio.Queue()

    def say(self, at, data):
        self.words.put_nowait(json.dumps({"log": at, "size": len(data)}).encode() + b"\n" + data)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def read(self, most):
        return await self.words.get()


@pytest.fixture
def runs(begun_run, monkeypatch):
    """Two of them, each on its own, and what their head nodes say."""
    other = make_run(begun_run.job, 77, "inprogress", is_on_node=True)
    type(other).objects.filter(pk=other.pk).update(observed=False)
    Output.objects.filter(pk=other.output_id).update(log=0)
    told = {}

    def observe(connections, host, folder, at):
        return told.setdefault(folder.rsplit("/", 1)[-1], Telling())

    monkeypatch.setattr(watch.detached, "observe", observe)
    return begun_run, other, told


async def until(condition):
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


@DATABASE
def stored_of(run):
    """How much of its node's log."""
    return Output.objects.get(pk=run.output_id).log


@contextlib.asynccontextmanager
async def observing(*runs):
    tasks = [asyncio.create_task(Observer(run.pk, ssh.Connections()).run()) for run in runs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_store_that_takes_long_delays_no_other_run_and_makes_no_node_silent(runs, monkeypatch):
    """It takes longer than a node may say nothing; the node goes on talking meanwhile."""
    slow, other, told = runs
    monkeypatch.setattr(watch, "SILENCE", 0.5)
    entered, go_on = threading.Event(), threading.Event()
    real = Observer._append

    @DATABASE
    def wait():
        entered.set()
        assert go_on.wait(20)

    async def append(observer, segments, size):
        if observer.pk == slow.pk:
            await wait()
        await real(observer, segments, size)

    monkeypatch.setattr(Observer, "_append", append)
    log = frame(b"o", 0, b"a line\n")

    async def go():
        async with observing(slow, other):

            async def connected():
                return len(told) == 2

            await until(connected)
            told[str(slow.uuid)].say(0, log)
            await until(lambda: asyncio.to_thread(entered.is_set))
            beats = asyncio.create_task(beat())
            told[str(other.uuid)].say(0, log)

            async def stored():
                return await stored_of(other) == len(log)

            await until(stored)
            await asyncio.sleep(3 * watch.SILENCE)
            await DATABASE(slow.refresh_from_db)()
            assert slow.silent_since is None, "it was the store that said nothing, and not the node"
            go_on.set()

            async def stored_too():
                return await stored_of(slow) == len(log)

            await until(stored_too)
            beats.cancel()

    async def beat():
        while True:
            for telling in list(told.values()):
                telling.words.put_nowait(b'{"beat": 1}\n')
            await asyncio.sleep(0.1)

    try:
        asyncio.run(go())
    finally:
        go_on.set()


def test_a_cloud_that_takes_long_delays_only_the_run_that_asks_it(runs, monkeypatch):
    asking, other, told = runs
    entered, go_on = threading.Event(), threading.Event()

    class Slow(MemoryCloud):
        def inventory(self, portal):
            entered.set()
            assert go_on.wait(20)
            return super().inventory(portal)

    monkeypatch.setattr(CloudConfig, "account", AccountOf(Slow()))
    log = frame(b"o", 0, b"a line\n")

    async def go():
        observer = Observer(asking.pk, ssh.Connections(), Inventory())
        waiting = asyncio.create_task(observer._head_lives())
        await until(lambda: asyncio.to_thread(entered.is_set))
        async with observing(other):

            async def connected():
                return str(other.uuid) in told

            await until(connected)
            told[str(other.uuid)].say(0, log)

            async def stored():
                return await stored_of(other) == len(log)

            await until(stored)
        assert not waiting.done()
        go_on.set()
        assert await waiting == Alive.UNKNOWN

    try:
        asyncio.run(go())
    finally:
        go_on.set()


def test_no_lease_is_lost_while_all_that_stores_and_all_clouds_are_slow(monkeypatch):
    """For several terms."""
    monkeypatch.setattr(leases, "TERM", timedelta(seconds=1))
    monkeypatch.setattr(base, "TERM", timedelta(seconds=1))
    monkeypatch.setattr(base, "RENEW_EVERY", 0.1)
    monkeypatch.setattr(base, "MARGIN", 0.2)
    go_on = threading.Event()
    looked_after = []

    class Things(base.SharingWatcher):
        kind, rung_by = "thing", ()

        async def wanted(self):
            return {1, 2, 3}

        async def look_after(self, pk):
            looked_after.append(pk)
            await asyncio.Event().wait()

    async def go():
        running = base.Watch([Things()])
        going = asyncio.create_task(running.run())
        slow = [asyncio.create_task(DATABASE(go_on.wait)(20)) for _ in range(50)]

        async def all_of_them():
            return len(looked_after) == 3

        await until(all_of_them)
        life = running.life.state.pk
        for _ in range(30):
            await asyncio.sleep(0.1)
            assert running.life.state is not None
            assert running.life.state.pk == life
        assert sorted(looked_after) == [1, 2, 3], "none was begun again"
        go_on.set()
        await asyncio.gather(*slow)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        assert await DATABASE(WatchProcess.objects.count)() == 0, "it went, and left nothing to wait for"

    try:
        asyncio.run(go())
    finally:
        go_on.set()


def test_losing_one_lease_ends_the_work_on_that_thing_and_no_other(monkeypatch):
    monkeypatch.setattr(base, "RENEW_EVERY", 0.1)
    monkeypatch.setattr(base, "LONGEST_SLEEP", 0.1)
    begun, ended = [], []

    class Things(base.SharingWatcher):
        kind, rung_by = "thing", ()

        async def wanted(self):
            return {1, 2, 3}

        async def look_after(self, pk):
            begun.append(pk)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(pk)

    async def go():
        running = base.Watch([Things()])
        # Everything is this process's to take, whoever else lives.
        monkeypatch.setattr(leases, "owner_of", lambda thing, processes: running.life.state.pk)
        going = asyncio.create_task(running.run())

        async def all_of_them():
            return len(begun) == 3

        await until(all_of_them)
        other = await DATABASE(steal)()

        async def lost():
            return ended == [2]

        await until(lost)
        await DATABASE(WatchProcess.end)(other)

        async def again():
            return begun.count(2) == 2

        await until(again)
        assert sorted(begun) == [1, 2, 2, 3]
        assert ended == [2]
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)

    def steal():
        other = WatchProcess.begin()
        leases.Lease.objects.filter(thing="thing.2").update(holder=other)
        return other

    asyncio.run(go())


def test_a_node_that_says_nothing_is_silent_all_the_same(runs, monkeypatch):
    run, *_ = runs
    monkeypatch.setattr(watch, "SILENCE", 0.3)

    async def go():
        async with observing(run):

            async def silent():
                await DATABASE(run.refresh_from_db)()
                return run.silent_since is not None

            await until(silent)

    asyncio.run(go())
    assert run.silent_since <= now()


def test_a_head_node_that_hangs_is_not_paid_for_after_the_time_limit_of_its_run(runs, monkeypatch):
    run, *_ = runs
    monkeypatch.setattr(watch, "SILENCE", 0.3)
    long_ago = now() - timedelta(hours=2)
    type(run).objects.filter(pk=run.pk).update(started=long_ago, time_limit=3600)
    type(run.cluster).objects.filter(pk=run.cluster_id).update(dedicated=True)

    async def go():
        async with asyncio.timeout(20):
            await Observer(run.pk, ssh.Connections()).run()

    asyncio.run(go())
    run.refresh_from_db()
    assert (run.status, run.observed) == ("failed", True)
    assert run.cause == "The head node does not answer, and the time limit of 1 h is over."


def test_what_a_cloud_refuses_is_not_taken_for_a_node_that_is_gone(runs, monkeypatch):
    run, *_ = runs

    class Away(MemoryCloud):
        def inventory(self, portal):
            raise Passing("The cloud does not answer.")

    monkeypatch.setattr(CloudConfig, "account", AccountOf(Away()))
    assert asyncio.run(Observer(run.pk, ssh.Connections())._head_lives()) == Alive.UNKNOWN


@pytest.mark.parametrize("asked_first", [True, False])
def test_nodes_that_a_deletion_has_shut_are_not_said_to_have_gone_away(begun_run, alice, asked_first):
    """The launcher loses a node and asks the others, who let it in no more: it would blame all of them."""
    before = now()
    delete_cluster(begun_run.cluster, by=alice)
    verdict = {"good": False, "lost": ["tide-1"], "started": 2, "mpiexec": 255}
    end = _End({"status": 1, "signal": None, "verdict": verdict}, now() if asked_first else before)
    observer = Observer(begun_run.pk, ssh.Connections())
    observer.names = []
    asyncio.run(observer._ended(end))
    begun_run.refresh_from_db()
    why = "The cluster tide was deleted by Alice." if asked_first else "tide-1 went away while the run was on it."
    assert (begun_run.status, begun_run.cause) == ("failed", why)
