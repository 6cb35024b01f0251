"""Clusters on clouds that are slow, full, refusing and forgetful; and one that dies half-way."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db.models import F
from django.utils.timezone import now

from clusters import plans
from clusters.actions import create_cluster, delete_cluster
from clusters.models import Cluster, EngineVersion
from portal import ssh
from portal.clouds import Can
from portal.errors import PortalError, Refused
from portal.tasks import ledger, registry
from portal.tasks.models import Output, Task
from portal.tasks.output import stream_bytes
from tests.clouds.bad import AccountOf, Died, Dying, Forgetful, Full, MemoryCloud, Refusing, Slow, WholeCloud
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]


@pytest.fixture
def memory():
    return MemoryCloud()


@pytest.fixture
def on(monkeypatch, lab, alice):
    """A cluster being made on this cloud. What needs a real node is left out: `tests/chaos` has it."""
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    monkeypatch.setattr(ssh, "run_on_all", lambda hosts, command, **_: [ssh.Answer(0, b"", b"") for _ in hosts])
    for step in ("introduce_nodes", "install_engine", "try_mpi", "forget_nodes"):
        assert hasattr(plans, step)
    kept = [s for s in plans.CREATE.steps if s.name in ("check", "keys", "document", "role", "nodes", "reach")]
    create = replace(plans.CREATE, steps=kept)
    delete = replace(plans.DELETE, steps=[*create.teardown(), plans.DELETE.steps[-1]])
    for plan in (create, delete):
        monkeypatch.setitem(registry.plans, plan.kind, plan)
    lab.keep_login_key(*ssh.new_key("test"))

    def make(cloud, nodes=3):
        monkeypatch.setattr(CloudConfig, "account", AccountOf(cloud))
        return create_cluster(
            lab,
            name="tide",
            instance_type=MemoryCloud.types[0],
            node_count=nodes,
            engine_version=EngineVersion.objects.get(kind="mpi"),
            by=alice,
        )

    return make


def go_on(cluster, rounds=30):
    """Do what is due until the task has ended, as if no time passed while it waits."""
    task = cluster.last_task
    for _ in range(rounds):
        ledger.run_task(task.pk)
        task.refresh_from_db()
        if task.is_finished:
            break
        Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1), lease_until=None, lease=None)
    cluster.refresh_from_db()
    return task


def test_a_good_cloud(on, memory):
    cluster = on(memory)
    assert go_on(cluster).status == "finished"
    assert cluster.status == "running"
    assert [node.state for node in cluster.nodes.all()] == ["answers"] * 3


def test_what_is_made_is_written_down_for_the_owner_of_the_account_until_nothing_is_left(on, memory, lab, alice):
    cluster = on(Full(memory, 2))
    assert go_on(cluster).status == "failed"
    store, name = lab.cloud_config.account.store, f"deployments/{lab.uuid}/{cluster.uuid}.json"
    document = json.loads(store.get(name))
    assert document["nodes"] == ["tide-0", "tide-1", "tide-2"]
    assert (document["uuid"], document["portal"]) == (str(cluster.uuid), cluster.tags.portal)
    assert "PRIVATE" not in store.get(name).decode()
    delete_cluster(cluster, by=alice)
    assert go_on(cluster).status == "finished"
    assert store.list() == []


@pytest.mark.parametrize("spoilt", [lambda cloud: cloud, Slow, Forgetful])
def test_where_a_cloud_has_roles_a_cluster_has_one_of_its_own_for_as_long_as_it_lives(
    on, lab, alice, monkeypatch, spoilt
):
    whole = WholeCloud()
    monkeypatch.setattr(CloudConfig, "can", whole.can)
    cluster = on(spoilt(whole))
    assert go_on(cluster, 60).status == "finished"
    assert list(whole.roles.values()) == [cluster.tags]
    delete_cluster(cluster, by=alice)
    task = go_on(cluster, 60)
    assert (task.status, whole.roles) == ("finished", {})
    names = [step.name for step in task.steps.filter(status="done")]
    assert names.index("undo-nodes") < names.index("undo-role")


def test_a_cluster_whose_nodes_have_a_role_of_the_owners_makes_none(on, monkeypatch):
    whole = WholeCloud()
    monkeypatch.setattr(CloudConfig, "can", whole.can)
    cluster = on(whole)
    Cluster.objects.filter(pk=cluster.pk).update(role="reader")
    assert go_on(cluster).status == "finished"
    assert whole.roles == {}


def test_where_a_cloud_has_no_roles_the_step_is_left_out(on, memory):
    cluster = on(memory)
    task = go_on(cluster)
    assert (task.status, task.steps.get(name="role").status) == ("finished", "left out")


def test_nothing_is_made_while_another_portal_works_on_it(on, memory, lab):
    cluster = on(memory)
    store = lab.cloud_config.account.store
    theirs = store.lock(f"deployments/{lab.uuid}/{cluster.uuid}.json", owner="another portal", seconds=600)
    ledger.run_task(cluster.last_task.pk)
    step = cluster.last_task.steps.get(name="document")
    assert step.status == "running"
    assert step.detail.startswith("Another portal that shares")
    assert memory.nodes(cluster.tags) == []
    store.release(theirs)
    assert go_on(cluster).status == "finished"


def test_a_slow_cloud_is_waited_for(on, memory):
    cluster = on(Slow(memory, looks=4))
    assert go_on(cluster).status == "finished"
    assert cluster.status == "running"


def test_a_full_cloud_is_said_in_words_and_what_was_made_can_be_deleted(on, memory, alice):
    cluster = on(Full(memory, 2))
    task = go_on(cluster)
    assert (task.status, cluster.status) == ("failed", "failed")
    assert task.cause
    assert not task.cause.startswith("Something went wrong")
    delete_cluster(cluster, by=alice)
    assert go_on(cluster).status == "finished"
    assert cluster.status == "terminated"
    assert memory.leftovers(cluster.tags) == []


def test_a_refusing_cloud_makes_nothing(on, memory):
    cluster = on(Refusing(memory))
    task = go_on(cluster)
    assert (task.status, cluster.status) == ("failed", "failed")
    assert [step.status for step in task.steps.all()][:2] == ["failed", "waiting"]
    assert memory.leftovers(cluster.tags) == []


def test_a_cloud_that_forgets_to_answer_makes_each_node_once(on, memory):
    cluster = on(Forgetful(memory))
    assert go_on(cluster).status == "finished"
    assert [node.rank for node in memory.nodes(cluster.tags)] == [0, 1, 2]


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_worker_that_dies_in_the_middle_of_a_call_is_followed_by_another(on, memory, call):
    cluster = on(Dying(memory, call=call))
    try:
        ledger.run_task(cluster.last_task.pk)
    except Died:
        Task.objects.update(lease_until=now() - timedelta(seconds=1))
    assert go_on(cluster).status == "finished"
    assert [node.rank for node in memory.nodes(cluster.tags)] == [0, 1, 2]


def test_a_cancelled_cluster_leaves_nothing(on, memory):
    cluster = on(Slow(memory, looks=10))
    ledger.run_task(cluster.last_task.pk)
    assert ledger.cancel_task(cluster.last_task)
    assert go_on(cluster).status == "cancelled"
    assert cluster.status == "terminated"
    assert memory.leftovers(cluster.tags) == []


def test_a_cluster_is_not_deleted_while_it_is_made(on, memory, alice):
    cluster = on(Slow(memory))
    ledger.run_task(cluster.last_task.pk)
    with pytest.raises(PortalError, match="INPROGRESS"):
        delete_cluster(cluster, by=alice)


def test_nodes_that_boot_for_minutes_are_asked_for_once_and_looked_at_ever_less_often(on, memory):
    asked = []

    class Booting(Slow):
        def ensure_nodes(self, spec, *, token=""):
            asked.append(spec)
            return self.inner.ensure_nodes(spec)

    cluster = on(Booting(memory, looks=100))
    task = cluster.last_task
    waits = []
    for _ in range(20):
        ledger.run_task(task.pk)
        task.refresh_from_db()
        waits.append(task.wake_at - now())
        Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1))
        task.steps.filter(status="running").update(started=F("started") - waits[-1])
    seconds = [wait.total_seconds() for wait in waits]
    assert max(seconds[:4]) <= 1 < 4 < min(seconds[-4:]) <= max(seconds) <= 5
    assert sum(seconds) > 50, "few looks"
    assert len(asked) == 1
    said = b"".join(stream_bytes(Output.objects.get(pk=task.output_id))).decode().splitlines()
    assert len(said) <= 4


def test_why_a_node_is_asked_for_again_is_said(on, memory):
    cluster = on(Slow(memory, looks=2))
    for _ in range(4):
        ledger.run_task(cluster.last_task.pk)
        Task.objects.update(wake_at=now() - timedelta(seconds=1))
    memory.kill(cluster.tags, 1)
    task = go_on(cluster)
    assert task.status == "finished"
    said = b"".join(stream_bytes(Output.objects.get(pk=task.output_id))).decode()
    assert "Asked again for tide-1. The cloud has taken it back." in said


def test_a_node_that_never_comes_leaves_its_last_words(on, memory, monkeypatch):
    cluster = on(Slow(memory, looks=10_000))
    monkeypatch.setattr(Slow, "ensure_nodes", lambda self, spec, *, token="": memory.ensure_nodes(spec))
    monkeypatch.setattr(memory, "console", lambda tags, rank: f"kernel panic on {rank}\n")
    task = cluster.last_task
    ledger.run_task(task.pk)
    task.steps.filter(name="reach").update(started=now() - timedelta(hours=1))
    Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1))
    ledger.run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.evidence) == ("failed", "tide-0: kernel panic on 0")
    assert task.cause.startswith("Gave up after 15 minutes: 0 of 3 nodes have booted")


def test_what_is_wrong_with_a_node_that_has_never_answered_may_pass(on, memory, monkeypatch):
    cluster = on(memory)
    answers = [Refused("tide-0 shows another host key than it was given."), *([ssh.Answer(0, b"", b"")] * 2)]
    monkeypatch.setattr(ssh, "run_on_all", lambda hosts, command, **_: answers)
    task = cluster.last_task
    ledger.run_task(task.pk)
    task.refresh_from_db()
    step = task.steps.get(name="reach")
    assert (task.status, step.detail.split(": ")[1]) == (
        "inprogress", "tide-0 shows another host key than it was given."
    )  # fmt: skip
    answers[0] = ssh.Answer(0, b"", b"")
    assert go_on(cluster).status == "finished"


def test_a_node_is_known_by_the_key_that_it_made_itself_until_another_computer_takes_its_place(on, monkeypatch):
    cloud = WholeCloud()
    nodes = WholeCloud.nodes
    monkeypatch.setattr(
        WholeCloud,
        "nodes",
        lambda self, tags: [replace(one, own_key="/etc/own.pub", ready="/run/ready") for one in nodes(self, tags)],
    )
    asked, made = [], {}

    def on_all(hosts, command, **_):
        asked.append(command)
        return [ssh.Answer(0, b"", b"") for _ in hosts]

    def each(calls, **_):
        for host, command, _ in calls:
            assert command == "cat /etc/own.pub"
            made[host.name] = (host.host_key, ssh.new_key(host.name)[1])
        return [ssh.Answer(0, made[host.name][1].encode(), b"") for host, *_ in calls]

    monkeypatch.setattr(ssh, "run_on_all", on_all)
    monkeypatch.setattr(ssh, "run_each", each)
    monkeypatch.setattr(Cluster, "can", MemoryCloud.can | {Can.OWN_KEYS})
    cluster = on(cloud, nodes=2)
    go_on(cluster)
    assert "test -e /run/ready && hostname" in asked
    for node in cluster.nodes.all():
        given, own = made[node.hostname]
        assert given.startswith("ecdsa-"), "its server shows its own to whoever knows none"
        assert node.host.host_key == node.pinned == ssh.public_key(own)
        assert node.host_key.public not in (given, own), "what takes its place gets another one"
    one = cluster.nodes.get(rank=1)
    plans._write_down(cluster, [replace(nodes(cloud, cluster.tags)[1], id="another computer")])
    assert cluster.nodes.get(rank=1).pinned == one.host_public
