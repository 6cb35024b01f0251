"""Several do what they may at the same moment: nobody waits in a ring, and what comes of it is one after the other.

The world of `test_schedules`, in threads, each with a connection of its own. ROUNDS: how many; ROUND_SEED: from where.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
from django.db import connection, connections
from django.db.models import F

from accounts.actions import remove_member
from accounts.models import Membership
from clusters import idle
from clusters.actions import create_cluster, delete_cluster, pause_cluster, resume_cluster
from clusters.models import Cluster, EngineVersion
from jobs.actions import start_run
from jobs.models import Job, Run
from portal import ssh
from portal.errors import PortalError
from portal.tasks import ledger
from portal.tasks.models import Task
from tests.clouds.bad import MemoryCloud
from tests.jobs.test_schedules import World, take_up, world  # noqa: F401
from workspaces.actions import change_workspace_role, delete_workspace, remove_workspace_member
from workspaces.models import Workspace, WorkspaceMember

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_heartbeat", "rings")]

ROUNDS = int(os.environ.get("ROUNDS", "200" if connection.vendor == "postgresql" else "25"))
SEED = int(os.environ.get("ROUND_SEED", "1"))
TOGETHER = 4


class OneAtATime:
    """What a test keeps in memory in place of a cloud or of nodes is changed by one thread at a time."""

    def __init__(self, inside):
        self.inside, self.lock = inside, threading.RLock()

    def __getattr__(self, name):
        found = getattr(self.inside, name)
        if not callable(found):
            return found

        def call(*arguments, **named):
            with self.lock:
                return found(*arguments, **named)

        return call


class Crowd:
    def __init__(self, made, monkeypatch, dice):
        self.world, self.dice = made, dice
        made.trouble.on = False
        made.cloud = OneAtATime(made.cloud)
        made.nodes = OneAtATime(made.nodes)
        for name in ("start", "send_signal", "look", "sweep"):
            monkeypatch.setattr(f"jobs.plans.detached.{name}", getattr(made.nodes, name))
        self.spare = None
        self.done = Counter()

    # What may be done at once, as functions of no arguments. What they are done to is chosen before.

    def acts(self):
        us, one = self.world, self.world.one
        run, begun = one(Run.objects.all()), one(Run.objects.filter(status="inprogress"))
        cluster = one(Cluster.objects.live())
        failed = one(Cluster.objects.filter(status="failed"))
        tasks = list(Task.objects.unfinished())
        found = [us.make_run, us.make_run, us.watch, us.watch, self.make_cluster, *self.of_spare()]
        found += [partial(take_up, task.pk) for task in tasks] * 2
        found += [partial(self.person_goes, remove_workspace_member), partial(self.person_goes, remove_member)]
        if run:
            found += [partial(us.cancel_run)] * 2
        if begun:
            found += [
                us.program_ends,
                partial(us.observe, Run.objects.select_related("cluster", "output").get(pk=begun.pk)),
            ]
        if cluster:
            found += [partial(delete_cluster, cluster, by=us.alice), us.cancel_task, us.repair]
            found += [partial(pause_cluster, cluster, by=us.alice), partial(resume_cluster, cluster, by=us.alice)]
            found += [us.change, us.scale, idle.look, self.time_passes, self.time_passes]
        if failed:
            found += [partial(ledger.retry_task, failed.last_task, by=us.alice)] * 2
            found += [partial(delete_cluster, failed, by=us.alice)] * 2
        return found

    def time_passes(self):
        by = timedelta(minutes=40)
        for cluster in Cluster.objects.live():
            rows = Cluster.objects.filter(pk=cluster.pk)
            rows.update(auto_pause=60, last_active=F("last_active") - by, warned=F("warned") - by)
        idle.look()

    def make_cluster(self):
        self.cluster_in(self.world.lab)

    def cluster_in(self, workspace):
        if workspace.clusters.live().count() < 2:
            create_cluster(
                workspace, name=f"c{workspace.clusters.count()}", instance_type=MemoryCloud.types[0], node_count=2,
                engine_version=self.world.engine, by=self.world.bob,
            )  # fmt: skip

    def of_spare(self):
        """A workspace of its own, to be deleted while a cluster is made in it."""
        if self.spare is None or self.spare.clusters.exists() or self.spare.tasks.exists():
            config = self.world.lab.cloud_config
            self.spare = Workspace.objects.create(
                organization=config.organization, cloud_config=config, name=f"spare {Workspace.objects.count()}",
                region="memory", status="ready",
            )  # fmt: skip
            self.spare.keep_login_key(*ssh.new_key("spare"))
        return [partial(self.cluster_in, self.spare), partial(delete_workspace, self.spare, by=self.world.alice)] * 2

    def person_goes(self, how):
        """Bob is removed from the workspace, or from the organization; afterwards he is there again."""
        rows = WorkspaceMember if how is remove_workspace_member else Membership
        mine = rows.objects.select_related("user").filter(user=self.world.bob).first()
        if mine and rows is WorkspaceMember:
            change_workspace_role(mine, self.dice.choice(["user", "viewer"]), by=self.world.alice)
        if mine:
            how(mine, by=self.world.alice)

    def come_back(self):
        lab, bob = self.world.lab, self.world.bob
        Membership.objects.get_or_create(organization=lab.organization, user=bob)
        WorkspaceMember.objects.get_or_create(workspace=lab, user=bob, defaults={"role": "user"})

    def at_once(self, acts):
        barrier, wrong = threading.Barrier(len(acts)), []

        def do(act):
            try:
                barrier.wait(20)
                act()
            except PortalError:
                self.done["said in words"] += 1
            except BaseException as error:  # noqa: BLE001
                wrong.append((act, error))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=do, args=[act]) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
        assert wrong == []

    def is_right_now(self):
        self.world.at_any_moment()
        lost = Cluster.objects.live().filter(workspace__status__in=Workspace.ENDING)
        assert not lost.exists(), f"{list(lost)} in a workspace that is being taken apart"
        for cluster in Cluster.objects.exclude(occupied_by=None):
            assert cluster.runs.filter(uuid=cluster.occupied_by).exists()


def test_whatever_is_done_at_once_nobody_waits_in_a_ring(world, monkeypatch):  # noqa: F811
    EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})
    dice = random.Random(SEED)  # noqa: S311
    crowd = Crowd(world(SEED), monkeypatch, dice)
    for number in range(ROUNDS):
        acts = crowd.acts()
        crowd.at_once([dice.choice(acts) for _ in range(TOGETHER)])
        try:
            crowd.is_right_now()
        except AssertionError as error:
            raise AssertionError(f"round {number} of ROUND_SEED={SEED}: {error}") from error
        crowd.come_back()
        for task in Task.objects.unfinished()[:2]:
            take_up(task.pk)
        if number % 20 == 19:
            crowd.world.heal()
    crowd.world.heal()
    crowd.world.is_right()
    # What comes of a round is the threads' affair; that much of it was done is not.
    assert Task.objects.filter(status="finished").count() >= ROUNDS // 10


def test_a_form_that_is_sent_four_times_at_once_starts_one_run(lab, bob, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    engine = EngineVersion.objects.create(kind="mpi", version="5", packages=[])
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", engine_version=engine, status="running", node_count=1, cores_per_node=2
    )
    job = Job.objects.create(workspace=lab, cluster=cluster, name="a", git_url="https://git.test/a", command="a.py")
    key, together, found, wrong = uuid4(), threading.Barrier(4), [], []

    def send():
        try:
            together.wait(20)
            found.append(start_run(job, by=bob, uuid=key))
        except Exception as error:  # noqa: BLE001
            wrong.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert found == [Run.objects.get()] * 4
