"""A cluster that has lost a node says so, and is repaired by itself where people want that."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.utils.timezone import now

from accounts.models import AuditEvent
from clusters import watch
from clusters.actions import OWN_REPAIRS, repair_cluster, repair_what_is_gone, report_lost
from clusters.engines import offer
from clusters.forms.create import ClusterForm
from clusters.inventory import Inventory
from clusters.models import Cluster, EngineVersion, Node
from clusters.plans import REPAIR, try_mpi
from portal import secrets, ssh
from portal.errors import Passing
from portal.tasks.models import Task
from portal.tasks.threads import DATABASE
from tests.clouds.bad import AccountOf, MemoryCloud
from tests.pages.test_pages import make_run
from tests.web import words
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def queued(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def cloud(monkeypatch):
    made = MemoryCloud()
    monkeypatch.setattr(CloudConfig, "account", AccountOf(made))
    return made


@pytest.fixture
def tide(lab, alice, queued, cloud):
    """A cluster of three nodes that answer."""
    lab.keep_login_key(*ssh.new_key("test"))
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="5.0.2", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=3, status="running",
        engine_version=engine, created_by=alice,
    )  # fmt: skip
    for rank in range(3):
        make_node(cluster, rank)
    return cluster


def make_node(cluster, rank):
    node = Node(
        cluster=cluster, rank=rank, hostname=f"tide-{rank}", host_public="ssh-ed25519 AAAA", state="answers",
        address=f"10.0.0.{rank}", seen=now(),
    )  # fmt: skip
    secrets.seal(node, "host_private", "key")
    node.save()


def lose(cluster, rank, state="gone"):
    cluster.nodes.filter(rank=rank).update(state=state)


def end_repair(cluster, status="failed"):
    """What a worker would come to."""
    task = cluster.last_task
    task.status, task.finished = status, now()
    task.save()
    assert task.subject.move(REPAIR.then[status])


@pytest.mark.parametrize("state", ["silent", "gone"])
def test_a_running_cluster_with_a_lost_node_is_degraded(tide, state):
    assert (tide.badge.word, tide.api_status, tide.is_degraded, tide.lost_nodes) == (
        "RUNNING", "RUNNING", False, [],
    )  # fmt: skip
    lose(tide, 1, state)
    assert (tide.badge.word, tide.api_status, tide.is_degraded) == ("DEGRADED", "DEGRADED", True)
    assert tide.lost_nodes == ["tide-1"]
    lose(tide, 1, "answers")
    assert tide.badge.word == "RUNNING", "it is back, and nothing of the loss was kept"


@pytest.mark.parametrize("status", ["inprogress", "failed", "terminating", "terminated"])
def test_no_other_cluster_is_degraded(tide, status):
    lose(tide, 1)
    Cluster.objects.update(status=status)
    tide.refresh_from_db()
    assert (tide.is_degraded, tide.badge.word) == (False, status.upper())


def test_pages_say_which_node_is_lost_since_when_and_what_to_do(client, tide, alice, bob, lab):
    lose(tide, 1)
    for person, may in ((alice, True), (bob, False)):
        client.force_login(person)
        page = words(client.get(f"/clusters/{tide.uuid}/"))
        assert "DEGRADED" in page
        assert "tide-1 has been gone since " in page
        assert (f"/clusters/{tide.uuid}/repair/" in page) is may
        assert ("An admin of the workspace can repair it." in page) is not may
        page = words(client.get(f"/workspaces/{lab.uuid}/clusters/"))
        assert f'data-say="{tide.name}: DEGRADED"' in page
        assert "tide-1 lost" in page
        assert ">RUNNING</span>" not in page


def test_the_dashboard_says_that_a_cluster_is_degraded(client, tide, alice):
    job = tide.workspace.jobs.create(name="j", cluster=tide, git_url="https://example.org/a", command="a.py")
    make_run(job, 1, "finished", ended=now())
    lose(tide, 1)
    lose(tide, 2)
    client.force_login(alice)
    page = client.get("/").content.decode()
    assert "DEGRADED" in page
    assert "2 nodes lost" in page


def test_a_list_of_clusters_knows_their_lost_nodes(tide, lab, django_assert_num_queries):
    Cluster.objects.filter(pk=tide.pk).update(node_count=12)
    for rank in (10, 11):
        make_node(tide, rank)
    for rank in (1, 2, 10):
        lose(tide, rank, "silent")
    Cluster.objects.create(
        workspace=lab, name="ebb", instance_type="local.2", cores_per_node=2, node_count=3, status="running",
        engine_version=tide.engine_version,
    )  # fmt: skip
    with django_assert_num_queries(1):
        words = {one.name: (one.badge.word, one.lost_nodes) for one in Cluster.objects.with_lost_nodes()}
    assert words == {"tide": ("DEGRADED", ["tide-1", "tide-2", "tide-10"]), "ebb": ("RUNNING", [])}


def test_what_could_not_be_reached_is_lost_at_once(tide, rings, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        assert report_lost(tide, ["tide-1", "elsewhere-1"]) == ["tide-1"]
    assert tide.is_degraded
    wait_for(rings, f"cluster.{tide.uuid}", "watch.clusters")
    rings.clear()
    with django_capture_on_commit_callbacks(execute=True):
        assert report_lost(tide, ["tide-1"]) == []
    assert rings == [], "it is no news"


def test_a_node_that_is_gone_is_not_said_to_be_merely_silent(tide):
    lose(tide, 1, "gone")
    assert report_lost(tide, ["tide-1"]) == []
    assert tide.nodes.get(rank=1).state == "gone"


def wait_for(rings, *names):
    from tests.running import until

    until(lambda: set(names) <= set(rings), what=f"the rings {names}")


# By itself


def wants_repair(cluster):
    Cluster.objects.filter(pk=cluster.pk).update(auto_repair=True)


def repairs(cluster):
    return list(cluster.tasks.filter(kind="clusters.repair").order_by("pk"))


def test_a_cluster_is_repaired_by_itself_once_a_node_is_gone_and_not_while_it_is_silent(tide):
    wants_repair(tide)
    lose(tide, 1, "silent")
    assert repair_what_is_gone() == []
    lose(tide, 1, "gone")
    assert repair_what_is_gone() == [tide]
    (task,) = repairs(tide)
    assert task.asked_by is None
    assert repair_what_is_gone() == [], "it is being repaired"
    assert AuditEvent.objects.get(verb="repaired").actor is None


def test_a_cluster_of_which_nobody_wants_it_is_left_alone(tide):
    lose(tide, 1)
    assert repair_what_is_gone() == []


def test_a_repair_by_itself_is_tried_three_times_with_pauses_and_then_the_page_says_so(client, tide, alice):
    wants_repair(tide)
    lose(tide, 1)
    began = now()
    with time_machine.travel(began, tick=False) as clock:
        for n in range(OWN_REPAIRS):
            assert repair_what_is_gone() == [tide], n
            end_repair(tide)
            assert repair_what_is_gone() == [], "not without a pause"
            clock.shift(timedelta(minutes=n + 1))
        assert repair_what_is_gone() == []
        clock.shift(timedelta(minutes=30))
        assert repair_what_is_gone() == []
        assert len(repairs(tide)) == OWN_REPAIRS
        client.force_login(alice)
        assert (
            "It was repaired by itself 3 times, and that did not help."
            in client.get(f"/clusters/{tide.uuid}/").content.decode()
        )
        tide.refresh_from_db()
        repair_cluster(tide, by=alice)
        end_repair(tide, "finished")
        lose(tide, 1)
        assert repair_what_is_gone() == [tide], "a person has mended it: it counts anew"


def test_a_node_that_dies_again_after_each_repair_is_not_repaired_for_ever(tide):
    wants_repair(tide)
    with time_machine.travel(now(), tick=False) as clock:
        for _ in range(10):
            lose(tide, 1)
            repair_what_is_gone()
            if tide.last_task and not tide.last_task.is_finished:
                end_repair(tide, "finished")
            clock.shift(timedelta(minutes=2))
        assert len(repairs(tide)) == OWN_REPAIRS
        clock.shift(timedelta(hours=1))
        assert repair_what_is_gone() == [tide]


def test_a_cluster_that_failed_otherwise_waits_for_a_person(tide, alice):
    wants_repair(tide)
    lose(tide, 1)
    repair_cluster(tide, by=alice)
    end_repair(tide)
    assert repair_what_is_gone() == []


def test_whether_it_is_repaired_by_itself_is_changed_on_its_page_and_written_down(client, tide, alice, bob):
    client.force_login(alice)
    client.post(f"/clusters/{tide.uuid}/auto-repair/", {"on": "yes"})
    client.post(f"/clusters/{tide.uuid}/auto-repair/", {"on": "yes"})
    tide.refresh_from_db()
    assert tide.auto_repair
    event = AuditEvent.objects.get(verb="changed")
    assert (event.before, event.after) == ({"repair by itself": False}, {"repair by itself": True})
    assert "Turn off" in client.get(f"/clusters/{tide.uuid}/").content.decode()
    Cluster.objects.filter(pk=tide.pk).update(status="terminated")
    assert "Turn off" not in client.get(f"/clusters/{tide.uuid}/").content.decode()
    client.force_login(bob)
    assert client.post(f"/clusters/{tide.uuid}/auto-repair/").status_code == 403
    tide.refresh_from_db()
    assert tide.auto_repair


def test_the_newest_engine_version_of_a_kind_is_offered_first(lab, cloud):
    offer(["2026.10", "2026.8", "2026.9.1"])
    offered = [label for _, label in ClusterForm(workspace=lab).fields["engine_version"].choices]
    assert offered[1:] == ["Bodo 2026.10", "Bodo 2026.9.1", "Bodo 2026.8"]
    assert offered[0].startswith("Plain MPI")


def test_a_new_cluster_is_as_the_form_says(client, lab, alice, queued, cloud):
    client.force_login(alice)
    fields = {
        "name": "tide", "instance_type": "local.2", "node_count": 2, "auto_repair": "on",
        "engine_version": EngineVersion.objects.get(kind="mpi").pk,
        "auto_pause_1": "never", "auto_shutdown_1": "never",
    }  # fmt: skip
    client.post(f"/workspaces/{lab.uuid}/clusters/new/", fields)
    client.post(f"/workspaces/{lab.uuid}/clusters/new/", {**fields, "name": "ebb", "auto_repair": ""})
    assert dict(Cluster.objects.values_list("name", "auto_repair")) == {"tide": True, "ebb": False}


class Job:
    """Of a step: what it says."""

    def __init__(self, subject):
        self.subject, self.said, self.memo = subject, [], {}

    def log(self, words):
        self.said.append(words)


@pytest.mark.parametrize("run_is", [{"status": "inprogress"}, {"status": "new", "turn": now()}], ids=["on", "begins"])
def test_a_repair_does_not_try_mpi_on_cores_that_a_run_is_on(tide, monkeypatch, run_is):
    job = tide.workspace.jobs.create(name="j", cluster=tide, git_url="https://example.org/a", command="a.py")
    run = make_run(job, 1, **run_is)
    make_run(job, 2, "new")  # waits for its turn
    asked = []
    monkeypatch.setattr(ssh, "run", lambda *args, **_: asked.append(args) or ssh.Answer(1, b"", b""))
    work = Job(tide)
    try_mpi(work)
    assert asked == []
    assert work.said == [f"{run} goes on here: the MPI program was not tried, so as not to disturb it."]
    run.status = "finished"
    run.save()
    with pytest.raises(Passing):
        try_mpi(work)
    assert asked, "nothing is in its way any more"


# The watch


class Nodes:
    """Connections to nodes of which some do not answer."""

    def __init__(self, *deaf, hold=None, is_open=True):
        self.deaf, self.hold, self.is_open = set(deaf), hold, is_open
        self.under_way = self.most = 0
        self.asked = []

    async def run(self, host, command, *, seconds, most=0):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.asked.append(host.name)
        try:
            await (self.hold.wait() if self.hold else asyncio.sleep(0))
        finally:
            self.under_way -= 1
        if host.name in self.deaf:
            raise Passing(f"{host.name} does not answer.")
        return ssh.Answer(0, b"", b"")

    def has(self, host):
        return self.is_open

    def drop(self, host):
        pass

    def close(self):
        pass


def look(watcher):
    """One look at each cluster."""

    async def go():
        watcher.mine = await watcher.wanted()
        for _, nodes in await watch._nodes(watcher.mine):
            await watcher._look(nodes)
        await watch._seen(watcher.answered)

    async_to_sync(go)()


@pytest.mark.django_db(transaction=True)
def test_the_watch_tells_of_a_lost_node_at_once_and_of_its_return(tide, rings):
    watcher = watch.NodeWatcher()
    for deaf, states in (
        ((), ["answers", "answers", "answers"]),
        (("tide-1",), ["answers", "gone", "answers"]),  # the cloud in memory lists none
        ((), ["answers", "answers", "answers"]),
    ):
        rings.clear()
        watcher.connections = Nodes(*deaf)
        before = [node.state for node in tide.nodes.all()]
        look(watcher)
        assert [node.state for node in tide.nodes.all()] == states
        if before != states:
            wait_for(rings, f"cluster.{tide.uuid}", "watch.clusters")


@pytest.mark.django_db(transaction=True)
def test_a_node_that_answers_the_second_time_is_not_lost(tide):
    class Stale(Nodes):
        async def run(self, host, command, *, seconds, most=0):
            if host.name not in self.asked:
                self.asked.append(host.name)
                raise Passing("The kept connection was dead.")
            return await super().run(host, command, seconds=seconds)

    watcher = watch.NodeWatcher()
    watcher.connections = Stale()
    look(watcher)
    assert not tide.is_degraded


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("said", "guests"),
    [(b"3", 3), (b"0", 0), (b"", None), (b"-1", None), (b"999999", 9999), (b"9" * 50, None), (b"3 no", None)],
)
def test_sessions_of_people_are_counted_as_the_node_tells_and_nonsense_is_not(tide, said, guests):
    class Telling(Nodes):
        async def run(self, host, command, *, seconds, most=0):
            await super().run(host, command, seconds=seconds)
            return ssh.Answer(0, said if host.name == "tide-1" else b"", b"")

    tide.nodes.filter(rank=1).update(guests=7)
    watcher = watch.NodeWatcher()
    watcher.connections = Telling()
    look(watcher)
    async_to_sync(watch._count_guests)(watcher.guests)
    assert list(tide.nodes.values_list("guests", flat=True)) == [None, guests, None]


def some(count, state="answers"):
    """Nodes that are in no database, with how to reach them."""
    return [(Node(pk=n, state=state), ssh.Host(f"{state}-{n}", "10.0.0.1", 22, "u", "k")) for n in range(count)]


@pytest.mark.parametrize(("is_open", "most"), [(True, watch.AT_ONCE), (False, watch.CONNECT_AT_ONCE)])
def test_no_more_nodes_are_asked_at_once_than_can_answer(monkeypatch, is_open, most):
    monkeypatch.setattr(watch, "GAP", 0)

    async def ask_all():
        watcher = watch.NodeWatcher()
        held = asyncio.Event()
        watcher.connections = nodes = Nodes(hold=held, is_open=is_open)
        asking = asyncio.gather(*(watcher._ask(*one) for one in some(800)))
        while nodes.under_way < most:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert nodes.under_way == most
        held.set()
        assert await asking == [True] * 800
        assert nodes.most == most

    asyncio.run(ask_all())


def test_nodes_that_do_not_answer_hold_up_none_that_do(monkeypatch):
    monkeypatch.setattr(watch, "GAP", 0)

    class Half(Nodes):
        async def run(self, host, command, *, seconds, most=0):
            if host.name.startswith("silent"):
                await asyncio.Event().wait()
            return await super().run(host, command, seconds=seconds)

    async def ask_all():
        watcher = watch.NodeWatcher()
        watcher.connections = Half()
        silent = [asyncio.create_task(watcher._ask(*one)) for one in some(200, "silent")]
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            assert await asyncio.gather(*(watcher._ask(*one) for one in some(200))) == [True] * 200
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)

    asyncio.run(ask_all())


def test_nodes_are_asked_one_after_the_other_and_not_all_at_the_full_second():
    async def ask_all():
        watcher = watch.NodeWatcher()
        watcher.connections = Nodes()
        clock = asyncio.get_running_loop().time
        began = clock()
        await asyncio.gather(*(watcher._ask(*one) for one in some(100)))
        assert clock() - began >= 0.9 * 100 * watch.GAP

    asyncio.run(ask_all())


async def while_looking(watcher, condition, *clusters):
    looking = [asyncio.create_task(watcher.look_after(cluster)) for cluster in clusters]
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
    for task in looking:
        task.cancel()
    await asyncio.gather(*looking, return_exceptions=True)
    await asyncio.gather(watcher.rounds, return_exceptions=True)


def test_a_cluster_that_takes_long_holds_up_no_other(monkeypatch):
    """And is not looked at a second time meanwhile."""
    slow, other = [], []

    async def nodes(of):
        return [(pk, [pk]) for pk in sorted(of)]

    async def seen(nodes):
        pass

    async def take_long(self, of):
        if of == [1]:
            slow.append(1)
            await asyncio.Event().wait()
        other.append(1)

    monkeypatch.setattr(watch, "_nodes", nodes)
    monkeypatch.setattr(watch, "_seen", seen)
    monkeypatch.setattr(watch, "EVERY", 0)
    monkeypatch.setattr(watch.NodeWatcher, "_look", take_long)

    async def go():
        await while_looking(watch.NodeWatcher(), lambda: len(other) >= 3, 1, 2)

    asyncio.run(go())
    assert len(slow) == 1
    assert Task.objects.count() == 0


def test_a_cluster_that_cannot_be_looked_at_hinders_no_other(monkeypatch, caplog):
    """Its cloud may raise anything."""
    other = []

    async def nodes(of):
        return [(pk, [pk]) for pk in sorted(of)]

    async def seen(nodes):
        pass

    async def look(self, of):
        if of == [1]:
            raise RuntimeError("The SDK has a bug.")
        await asyncio.sleep(0.02)
        other.append(1)

    monkeypatch.setattr(watch, "_nodes", nodes)
    monkeypatch.setattr(watch, "_seen", seen)
    monkeypatch.setattr(watch, "EVERY", 0)
    monkeypatch.setattr(watch.NodeWatcher, "_look", look)

    async def go():
        await while_looking(watch.NodeWatcher(), lambda: len(other) >= 3, 1, 2)

    asyncio.run(go())
    assert "The SDK has a bug." in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_cloud_that_takes_long_is_asked_once_for_all_and_holds_up_no_database(tide, lab, monkeypatch):
    """A hundred clusters with silent nodes wait for one answer; meanwhile the others' rows are written."""
    called, answer = [], threading.Event()

    class Slow(MemoryCloud):
        def inventory(self, portal):
            called.append(portal)
            assert answer.wait(30)
            return super().inventory(portal)

    monkeypatch.setattr(CloudConfig, "account", AccountOf(Slow()))
    inventory = Inventory()

    async def go():
        places = ("workspace__organization", "workspace__cloud_config")
        cluster = await DATABASE(Cluster.objects.select_related(*places).get)(pk=tide.pk)
        asked = [asyncio.create_task(inventory.nodes(cluster)) for _ in range(100)]
        while not called:
            await asyncio.sleep(0.01)
        assert await DATABASE(Cluster.objects.count)() == 1
        assert not any(task.done() for task in asked)
        answer.set()
        assert await asyncio.gather(*asked) == [[]] * 100
        assert len(called) <= 2, "who asks while a question is under way waits for the next, all together"
        before = len(called)
        await inventory.nodes(cluster)
        assert len(called) == before + 1, "who asks later is told what is so then"

    asyncio.run(go())


@pytest.mark.django_db(transaction=True)
def test_who_waits_behind_somebody_who_goes_away_is_told_what_is_so_now(tide, monkeypatch):
    """And not what the cloud said before they asked: a node that is missing there is taken to be gone."""
    called, answers = [], [threading.Event() for _ in range(3)]

    class Slow(MemoryCloud):
        def inventory(self, portal):
            which = len(called)
            called.append(which)
            assert answers[which].wait(30)
            return {tide.tags: [f"as of question {which}"]}

    slow, inventory = Slow(), Inventory()
    monkeypatch.setattr(CloudConfig, "account", AccountOf(slow))

    async def asked(times):
        while len(called) < times:
            await asyncio.sleep(0.01)

    async def go():
        places = ("workspace__organization", "workspace__cloud_config")
        cluster = await DATABASE(Cluster.objects.select_related(*places).get)(pk=tide.pk)
        await DATABASE(lambda: cluster.tags)()
        first, goes, waits = (asyncio.create_task(inventory.nodes(cluster)) for _ in range(3))
        await asked(1)
        answers[0].set()
        await first
        await asked(2)
        goes.cancel()
        for answer in answers:
            answer.set()
        assert await waits == ["as of question 2"]

    asyncio.run(go())
