"""Hundreds of schedules of what people ask for, what dies and what is lost; each told again by its seed.

The ledger, the plans, the dispatcher and the database are real. The cloud is in memory, nodes are a table of what runs
on them, and a worker dies by an exception that nothing catches: so a schedule takes a fraction of a second, and no
moment is left to chance. `tests/chaos` does the same to real processes. SCHEDULES: how many; SCHEDULE_SEED: from where.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db.models import F
from django.utils.timezone import now

from accounts import audit
from accounts.models import AuditChain
from clusters import actions, idle, life
from clusters.actions import create_cluster, delete_cluster, repair_cluster
from clusters.models import Cluster, EngineVersion
from clusters.specification import Specification
from jobs import plans as run_plans
from jobs.actions import cancel_run, create_job, delete_job, start_run
from jobs.causes import Cause
from jobs.dispatch import dispatch_all
from jobs.models import Job, Run
from jobs.watch import Observer, _End, _sweep, _with_leftovers
from portal import detached, ssh
from portal.detached import Alive
from portal.errors import Passing, PortalError, Refused
from portal.tasks import ledger, registry
from portal.tasks.models import Task
from tests.clouds.bad import AccountOf, Died, MemoryCloud
from usage.models import Record
from workspaces.actions import cancel
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]

SCHEDULES = int(os.environ.get("SCHEDULES", "10"))
SEED = int(os.environ.get("SCHEDULE_SEED", "1"))
STEPS = 40
CHANGES = (
    *(actions.pause_cluster, actions.pause_cluster, actions.resume_cluster, actions.resume_cluster),
    *(actions.stop_cluster, actions.start_cluster, actions.restart_cluster, actions.forget_cluster),
)


class Trouble:
    """By the dice: a worker dies before or after a call, or is so slow that another takes over and goes on beside it; a
    reply is lost, a call does not come through, the cloud refuses.
    """

    KINDS = {"": 76, "before": 4, "lost": 4, "dies before": 4, "dies after": 4, "slow": 4, "refused": 4}

    def __init__(self, dice):
        self.dice = dice
        self.on = True
        self.seen = Counter()
        self.task = None  # that is worked on

    def around(self, call):
        (kind,) = self.dice.choices(list(self.KINDS), list(self.KINDS.values())) if self.on else [""]
        self.seen[kind] += 1
        if kind == "before":
            raise Passing("The call did not come through.")
        if kind == "refused":
            raise Refused("The cloud will not.")
        if kind == "dies before":
            raise Died
        if kind == "slow" and self.task:
            task, self.task = self.task, None
            take_up(task)
        answer = call()
        if kind == "lost":
            raise Passing("The reply was lost.")
        if kind == "dies after":
            raise Died
        return answer


def take_up(task_pk):
    """Its time has come, and the lease of whoever had it is over."""
    past = now() - timedelta(seconds=1)
    Task.objects.filter(pk=task_pk).update(wake_at=past)
    Task.objects.filter(pk=task_pk).exclude(lease=None).update(lease_until=past)
    ledger.run_task(task_pk)


class Cloud:
    """The cloud in memory, with trouble around what changes something."""

    def __init__(self, trouble):
        self.memory, self.trouble = MemoryCloud(), trouble

    def __getattr__(self, name):
        method = getattr(self.memory, name)
        if not name.startswith(("ensure_", "delete_", "stop_")):
            return method
        return lambda *arguments, **more: self.trouble.around(lambda: method(*arguments, **more))


class Nodes:
    """What runs where: programs by the address of their head node and their folder. A folder outlives its node."""

    def __init__(self, trouble):
        self.trouble = trouble
        self.running: set[tuple[str, str]] = set()
        self.begun: Counter[str] = Counter()
        self.ended: dict[str, dict[str, object]] = {}

    def start(self, host, folder, **_):
        def call():
            if folder in self.begun:
                return
            if others := [where for address, where in self.running if address == host.address]:
                raise detached.Busy(others[0])
            self.begun[folder] += 1
            self.running.add((host.address, folder))

        self.trouble.around(call)

    def send_signal(self, host, folder, name):
        def call():
            is_there = (host.address, folder) in self.running
            if is_there:
                self.end(folder, status=None, signal=15)
            return Alive.YES if is_there else Alive.NO

        return self.trouble.around(call)

    def look(self, host, folder):
        return self.ended.get(folder), folder in self.begun, ""

    def sweep(self, hosts, run, *, alone="", others=False):
        def call():
            addresses = {host.address for host in hosts}
            mine = {(a, f) for a, f in self.running if a in addresses and (alone or f.endswith(run))}
            for _, folder in mine:
                self.end(folder, status=None, signal=9)
            return [ssh.Answer(0, str(len(mine)).encode(), b"") for _ in hosts]

        return self.trouble.around(call)

    def end(self, folder, *, status, signal=None):
        self.running = {(a, f) for a, f in self.running if f != folder}
        self.ended[folder] = {"status": status, "signal": signal, "verdict": None}

    def lost(self, address):
        """What ran on it has gone with it, and left no word."""
        self.running = {(a, f) for a, f in self.running if a != address}


class World:
    def __init__(self, dice, lab, alice, bob):
        self.dice, self.lab, self.alice, self.bob = dice, lab, alice, bob
        self.trouble = Trouble(dice)
        self.cloud, self.nodes = Cloud(self.trouble), Nodes(self.trouble)
        self.engine = EngineVersion.objects.get(kind="mpi")
        self.asked: list[Run] = []

    # What people do

    def make_cluster(self):
        name = f"c{Cluster.objects.count()}"
        kind = MemoryCloud.types[0]
        if Cluster.objects.live().shared().count() < 2:
            create_cluster(
                self.lab, name=name, instance_type=kind, node_count=2, engine_version=self.engine, by=self.alice
            )

    def make_run(self):
        cluster = self.dice.choice(list(Cluster.objects.shared()) or [None])
        if cluster is None:
            return
        job = Job.objects.live().filter(cluster=cluster).first()
        if job:
            self.asked.append(start_run(job, by=self.bob))
            return
        words = {"git_url": "https://git.test/a", "reference": "", "command": "a.py"}
        resumes = self.dice.random() < 0.5
        name = f"on {cluster.name} {Job.objects.count()}"
        _, run = create_job(self.lab, name=name, cluster=cluster, resumes=resumes, by=self.bob, **words)
        self.asked.append(run)

    def make_dedicated(self):
        """A run with a cluster of its own, now or somewhat later."""
        if Cluster.objects.live().filter(dedicated=True).count() > 2:
            return
        due = self.dice.choice([None, None, now() + timedelta(minutes=20)])
        if job := self.one(Job.objects.live().filter(cluster=None)):
            self.asked.append(start_run(job, by=self.bob, due=due))
            return
        wanted = Specification(MemoryCloud.types[0], 2, (self.engine.kind, self.engine.version))
        words = {"git_url": "https://git.test/a", "reference": "", "command": "a.py", "due": due}
        name = f"own {Job.objects.count()}"
        _, run = create_job(self.lab, name=name, dedicated=wanted.kept, by=self.bob, **words)
        self.asked.append(run)

    def delete_job(self):
        if job := self.one(Job.objects.live()):
            delete_job(job, by=self.bob)

    def time_comes(self):
        if run := self.one(Run.objects.waiting().exclude(due=None)):
            Run.objects.filter(pk=run.pk).update(due=now())

    def cancel_run(self):
        if run := self.one(Run.objects.all()):
            cancel_run(run, by=self.bob)

    def cancel_task(self):
        if task := self.one(Task.objects.unfinished().exclude(kind="jobs.run")):
            cancel(task, by=self.alice)

    def retry(self):
        if task := self.one(Task.objects.filter(status="failed")):
            ledger.retry_task(task, by=self.alice)

    def repair(self):
        if cluster := self.one(Cluster.objects.all()):
            repair_cluster(cluster, by=self.alice)

    def delete(self):
        if cluster := self.one(Cluster.objects.all()):
            delete_cluster(cluster, by=self.alice)

    def force_delete(self):
        if cluster := self.one(Cluster.objects.all()):
            delete_cluster(cluster, by=self.alice, force=True)

    def change(self):
        if cluster := self.one(Cluster.objects.all()):
            self.dice.choice(CHANGES)(cluster, by=self.alice)

    def scale(self):
        if cluster := self.one(Cluster.objects.all()):
            actions.scale_cluster(cluster, self.dice.choice([1, 2, 3]), by=self.alice)

    def snooze(self):
        if cluster := self.one(Cluster.objects.all()):
            actions.snooze_cluster(cluster, by=self.bob)

    # What happens

    def timers(self):
        """Time passes, and the watch process looks: clusters that nobody uses are warned of, paused and deleted."""
        by = timedelta(minutes=self.dice.choice([5, 35, 61]))
        for cluster in Cluster.objects.all():
            timers = {"auto_pause": 60, "auto_shutdown": 150 if cluster.pk % 3 == 0 else 0}
            rows = Cluster.objects.filter(pk=cluster.pk)
            rows.update(last_active=F("last_active") - by, warned=F("warned") - by, **timers)
        going = set(Run.objects.unfinished().values_list("cluster", flat=True))
        before = set(Task.objects.values_list("pk", flat=True))
        idle.look()
        begun = Task.objects.exclude(pk__in=before)
        assert not any(task.subject.dedicated for task in begun)
        assert all(task.asked_by is None and task.subject.pk not in going for task in begun), "somebody was on it"

    def node_dies(self):
        for cluster in self.some(Cluster.objects.filter(status="running")):
            node = self.dice.choice(list(cluster.nodes.all()))
            self.cloud.memory.kill(cluster.tags, node.rank)
            self.nodes.lost(node.address)
            cluster.nodes.filter(pk=node.pk).update(state="gone")

    def program_ends(self):
        for _, folder in self.some(sorted(self.nodes.running)):
            self.nodes.end(folder, status=self.dice.choice([0, 0, 0, 1]))

    def work(self):
        """A worker takes up what is due; a lease of a dead one has run out."""
        for task in self.some(Task.objects.unfinished()):
            self.trouble.task = task.pk
            take_up(task.pk)

    def see_nodes(self):
        """Of clusters that run, those that the cloud says do not: a call of a worker that lost its task may be late."""
        for cluster in Cluster.objects.filter(status="running"):
            runs = [node.rank for node in self.cloud.memory.nodes(cluster.tags) if node.running]
            cluster.nodes.exclude(rank__in=runs).update(state="gone")

    def watch(self):
        """What the watch process sees and does, as far as it is not a connection."""
        self.see_nodes()
        for run in Run.objects.filter(started__isnull=False, observed=False).select_related("cluster", "output"):
            self.observe(run)
        for pk in sorted(_with_leftovers()):
            _sweep(pk)
        dispatch_all()

    def observe(self, run):
        head = run.cluster.nodes.get(rank=0)
        folder = run.folder(head.shared)
        observer = Observer(run.pk, None)
        observer.names, observer.output = run.live_names(), run.output
        if folder in self.nodes.ended:
            observer_call(observer, "_ended", _End(self.nodes.ended[folder], now()))
            observer_call(observer, "_finish", {})
        elif (head.address, folder) not in self.nodes.running and (folder in self.nodes.begun or run.is_on_node):
            observer_call(observer, "_mark_lost", Cause("The head node went away while the run was on it."), None)
            observer_call(observer, "_finish", None)

    def one(self, rows):
        found = list(rows.order_by("pk"))
        return self.dice.choice(found) if found else None

    def some(self, rows):
        found = list(rows)
        return [self.dice.choice(found)] if found else []

    def step(self):
        what = self.dice.choices(
            [
                *(self.make_cluster, self.make_run, self.cancel_run, self.cancel_task, self.retry, self.repair),
                *(self.delete, self.node_dies, self.program_ends, self.work, self.watch),
                *(self.force_delete, self.change, self.scale, self.timers, self.snooze),
                *(self.make_dedicated, self.delete_job, self.time_comes),
            ],
            [3, 5, 2, 1, 3, 2, 1, 1, 4, 30, 12, 0.5, 6, 2, 6, 0.5, 4, 0.5, 1],
        )[0]
        with contextlib.suppress(PortalError, Died):  # it is said in words; or the process that did it is gone
            what()
        self.at_any_moment()

    def at_any_moment(self):
        on = Counter(address for address, _ in self.nodes.running)
        assert all(count == 1 for count in on.values()), f"two programs on one cluster: {self.nodes.running}"
        assert all(count == 1 for count in self.nodes.begun.values())
        for _, folder in self.nodes.running:
            run = Run.objects.select_related("cluster").get(uuid=folder.rsplit("/", 1)[-1])
            ending = run.is_finished or run.ended or run.tasks.filter(cancel_asked=True).exists()
            assert ending or run.last_task.cause or run.cluster.occupied_by == run.uuid, "its cluster was given away"
        holders = Counter(Cluster.objects.exclude(occupied_by=None).values_list("occupied_by", flat=True))
        assert all(count == 1 for count in holders.values())
        asleep = ("pausing", "paused", "resuming", "stopping", "stopped", "restarting")
        taken = Cluster.objects.filter(status__in=asleep).exclude(occupied_by=None)
        assert not taken.exists(), "nodes are taken from under a run"
        running = Cluster.objects.filter(status="running").values_list("uuid", "node_count")
        counted = dict(Record.objects.open().values_list("cluster", "node_count"))
        assert counted.items() >= set(running), "it runs, and is not counted as it is"
        also = Cluster.objects.filter(uuid__in=counted.keys() - {uuid for uuid, _ in running})
        assert set(also.values_list("status", flat=True)) <= {"inprogress", "restarting", "scaling", "failed"}

    def heal(self):
        """Nothing dies any more, and all programs end."""
        self.trouble.on = False
        Run.objects.exclude(due=None).update(due=now())
        long_ago = now() - timedelta(hours=1)
        patience = time.monotonic() + 30  # a run that is asked to end has some seconds, however fast this machine is
        while time.monotonic() < patience:
            for _, folder in sorted(self.nodes.running):
                self.nodes.end(folder, status=0)
            # Nobody waits until a deletion that has failed is tried again.
            Task.objects.filter(subject_type__model="cluster").exclude(finished=None).update(finished=long_ago)
            self.see_nodes()
            for cluster in Cluster.objects.filter(nodes__state="gone", status="running").distinct():
                repair_cluster(cluster, by=self.alice)
            for status, wake in (("paused", actions.resume_cluster), ("stopped", actions.start_cluster)):
                for cluster in Cluster.objects.filter(status=status, runs__status="new").distinct():
                    wake(cluster, by=self.alice)
            self.watch()
            unfinished = list(Task.objects.unfinished())
            left = Cluster.objects.live().filter(dedicated=True).exists()
            if not unfinished and not left and not Run.objects.unfinished().exists():
                return
            for task in unfinished:
                take_up(task.pk)
                self.at_any_moment()
        left = Cluster.objects.live().filter(dedicated=True)
        there = [(one.status, [(t.kind, t.status, t.cause) for t in one.tasks.order_by("pk")]) for one in left]
        stuck = [(str(t), t.status, t.cause, [(s.name, s.status, s.detail) for s in t.steps.all()]) for t in unfinished]
        runs = list(Run.objects.unfinished().values("status", "turn", "cluster__status"))
        pytest.fail(f"stuck: {stuck}, {there}, {runs}")

    def is_right(self):
        for run in self.asked:
            run.refresh_from_db()
            assert run.is_finished, "lost"
            begun = self.nodes.begun[run.folder("/shared")]
            assert begun <= 1
            assert run.status != "finished" or begun == 1
            assert run.status != "failed" or run.cause
        assert not Cluster.objects.exclude(occupied_by=None).exists()
        assert not self.nodes.running
        for cluster in Cluster.objects.all():
            nodes = self.cloud.memory.nodes(cluster.tags)
            ranks = list(range(cluster.node_count))
            assert not cluster.dedicated or cluster.status == "terminated", "its run is over, and it is there"
            assert cluster.status in ("running", "paused", "stopped", "failed", "terminated"), cluster.status
            if cluster.status in ("stopped", "terminated"):
                assert nodes == [], "left"
            if cluster.status == "paused":
                assert not any(node.is_coming for node in nodes), "it costs"
            if cluster.status == "running":
                assert [node.rank for node in nodes if node.running] == ranks
                assert [node.rank for node in cluster.nodes.all()] == ranks
        rows = {str(uuid) for uuid in Cluster.objects.values_list("uuid", flat=True)}
        assert {subject for _, subject in self.cloud.memory.clusters} <= rows
        assert not any(audit.verify(chain) for chain in AuditChain.objects.all())


def observer_call(observer, name, *arguments):
    """What it does with the database, in this thread."""
    return vars(type(observer))[name].__wrapped__(observer, *arguments)


@pytest.fixture
def world(monkeypatch, lab, alice, bob):
    def make(seed):
        world = World(random.Random(seed), lab, alice, bob)  # noqa: S311
        monkeypatch.setattr(CloudConfig, "account", AccountOf(world.cloud))
        for name in ("start", "send_signal", "look", "sweep"):
            monkeypatch.setattr(run_plans.detached, name, getattr(world.nodes, name))
        return world

    good = ssh.Answer(0, b"", b"")
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    monkeypatch.setattr(ssh, "run_on_all", lambda hosts, *_, **__: [good for _ in hosts])
    monkeypatch.setattr(ssh, "run", lambda *_, **__: good)
    monkeypatch.setattr(life, "introduce_nodes", lambda work: None)
    for plan in life.PLANS:
        kept = [step for step in plan.steps if step.name not in ("introduce", "engine", "try", "undo-introduce")]
        monkeypatch.setitem(registry.plans, plan.kind, replace(plan, steps=kept))
    lab.keep_login_key(*ssh.new_key("test"))
    return make


total: Counter[str] = Counter()


@pytest.mark.parametrize("seed", range(SEED, SEED + SCHEDULES))
def test_nothing_is_lost_double_left_or_stuck(world, seed):
    made = world(seed)
    for _ in range(STEPS):
        made.step()
    made.heal()
    made.is_right()
    total.update(made.trouble.seen)


def test_there_was_trouble_of_each_kind():
    assert total.total() < 200 or all(total[kind] for kind in Trouble.KINDS)
