"""The life of a cluster: each status and each thing that can be asked for, whoever dies or is faster meanwhile."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils.timezone import now

from accounts.models import AuditEvent
from clusters import life
from clusters.actions import (
    delete_cluster,
    edit_cluster,
    forget_cluster,
    pause_cluster,
    repair_cluster,
    repair_what_is_gone,
    restart_cluster,
    resume_cluster,
    scale_cluster,
    start_cluster,
    stop_cluster,
)
from clusters.models import Cluster, EngineVersion, Node
from jobs.dispatch import dispatch, dispatch_all
from jobs.models import Job, Run, explained
from portal import secrets, ssh
from portal.clouds import Can, HostKey, NodesSpec, Refused
from portal.errors import Conflict, PortalError
from portal.tasks import ledger
from portal.tasks.models import Output, Task
from tests import life as page
from tests.clouds.bad import AccountOf, Died, Forgetful, Full, MemoryCloud, Refusing, Slow
from tests.clusters.test_bad_clouds import go_on
from tests.running import ROOT
from usage.models import Record
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]

# What may be asked for in which status, as it is promised; that the code's table says so is tried below.
MAY = {
    "repair": {"running", "failed"},
    "pause": {"running"},
    "resume": {"paused"},
    "stop": {"running", "paused", "failed"},
    "start": {"stopped"},
    "restart": {"running"},
    "scale": {"running", "paused"},
    "delete": {"running", "paused", "stopped", "failed"},
    "force-delete": set(Cluster.Status) - {"terminating", "terminated"},
    "forget": {"failed"},
}
ASK: dict[str, Any] = {
    "repair": repair_cluster,
    "pause": pause_cluster,
    "resume": resume_cluster,
    "stop": stop_cluster,
    "start": start_cluster,
    "restart": restart_cluster,
    "scale": lambda cluster, by: scale_cluster(cluster, 3, by=by),
    "delete": delete_cluster,
    "force-delete": lambda cluster, by: delete_cluster(cluster, by=by, force=True),
    "forget": forget_cluster,
}
ENDS = {
    "repair": "running", "pause": "paused", "resume": "running", "stop": "stopped", "start": "running",
    "restart": "running", "scale": "running", "delete": "terminated", "force-delete": "terminated",
}  # fmt: skip
BEGIN = {"pause": "running", "resume": "paused", "stop": "paused", "start": "stopped"}  # others: running


class Nodes:
    """They answer to everything, and remember what they were told of each other."""

    def __init__(self):
        self.names: list[str] = []
        self.introduced = 0

    def run_on_all(self, hosts, command, **_):
        self.names = [host.name for host in hosts]
        return [ssh.Answer(0, f"{host.name}\n".encode(), b"") for host in hosts]

    def run_each(self, calls, **_):
        self.introduced = len(list(calls))
        return [ssh.Answer(0, b"", b"") for _ in calls]

    def run(self, host, command, **_):
        words = b""
        if found := re.search(r"mpiexec -n (\d+)", command):
            cores = int(found[1])
            words = json.dumps([cores, cores * (cores - 1) // 2, sorted(self.names)]).encode()
        return ssh.Answer(0, words, b"")


@pytest.fixture
def nodes(monkeypatch, lab):
    made = Nodes()
    for name in ("run_on_all", "run_each", "run"):
        monkeypatch.setattr(ssh, name, getattr(made, name))
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    lab.keep_login_key(*ssh.new_key("test"))
    return made


@pytest.fixture
def cloud(monkeypatch, nodes):
    """The memory, around which a test may put a bad cloud."""

    class Around:
        inner = MemoryCloud()

        def __getattr__(self, name):
            return getattr(self.inner, name)

    made = Around()
    made.memory = made.inner
    account = AccountOf(made)
    monkeypatch.setattr(CloudConfig, "account", property(lambda self: account))
    return made


@pytest.fixture
def make(lab, alice, cloud):
    """As its tasks would have left it."""
    engine = EngineVersion.objects.get(kind="mpi")
    key, public = ssh.new_key("test")

    def make(status="running", nodes=2, name="tide"):
        cluster = Cluster.objects.create(
            workspace=lab, name=name, instance_type="local.1", cores_per_node=1, node_count=nodes,
            status="inprogress" if status == "running" else status,
            engine_version=engine, created_by=alice, key_public=public,
        )  # fmt: skip
        secrets.seal(cluster, "key_private", key)
        cluster.save()
        assert status != "running" or cluster.move(status)
        if status in ("running", "paused"):
            cloud.memory.ensure_nodes(NodesSpec(cluster.tags, name, "local.1", (HostKey(key, public),) * nodes, ()))
        for rank in range(nodes):
            node = Node(cluster=cluster, rank=rank, hostname=f"{name}-{rank}", host_public=public, state="answers")
            secrets.seal(node, "host_private", key)
            for seen in cloud.memory.nodes(cluster.tags)[rank : rank + 1]:
                node.cloud_id, node.address, node.private_address = seen.id, seen.address, seen.private_address
                node.user, node.home, node.seen = seen.user, seen.home, now()
            node.save()
        if status == "paused":
            cloud.memory.stop_nodes(cluster.tags)
            cluster.nodes.update(state="stopped")
        if status == "stopped":
            cluster.nodes.update(state="gone")
        return cluster

    return make


def is_true(cluster, cloud):
    """What its status says is what the cloud has; and rows and hostfile agree with that."""
    cluster.refresh_from_db()
    there = cloud.memory.nodes(cluster.tags)
    running = [node.rank for node in there if node.running]
    counted = [record.node_count for record in Record.objects.open().filter(cluster=cluster.uuid)]
    assert counted == ([cluster.node_count] if cluster.status == "running" else [])
    match cluster.status:
        case "running":
            assert running == list(range(cluster.node_count))
            assert [node.address for node in cluster.nodes.all()] == [node.address for node in there]
            assert {node.state for node in cluster.nodes.all()} == {"answers"}
        case "paused":
            assert running == []
            assert {node.state for node in there} == {"stopped"}
        case "stopped" | "terminated":
            assert there == []
        case "failed":
            pass
        case status:
            pytest.fail(f"it stays {status}")


@pytest.mark.parametrize("verb", MAY)
def test_each_thing_is_done_or_refused_in_words_in_each_status(make, alice, verb):
    cluster = make()
    for status in Cluster.Status:
        Cluster.objects.filter(pk=cluster.pk).update(status=status)
        cluster.refresh_from_db()
        offered = verb in life.possible(cluster)
        assert offered is (status in MAY[verb]), f"{status}: no button leads to a refusal"
        if offered:
            task = ASK[verb](cluster, by=alice)
            cluster.refresh_from_db()
            assert cluster.status == (life_of(verb).during if status != "new" else "new")
            assert AuditEvent.objects.latest("pk").verb == life_of(verb).participle
            assert task.asked_by == alice
            assert ledger.break_off(task)
        else:
            with pytest.raises(PortalError, match=cluster.badge.word):
                ASK[verb](cluster, by=alice)
            cluster.refresh_from_db()
            assert cluster.status == status
            assert not Task.objects.unfinished().exists()


def life_of(verb):
    return next(plan for plan in life.PLANS if life.verb(plan) == verb)


def test_a_pause_keeps_names_and_a_resume_finds_other_addresses(make, cloud, nodes, alice):
    cluster = make()
    before = {node.hostname: (node.address, node.cloud_id) for node in cluster.nodes.all()}
    pause_cluster(cluster, by=alice)
    assert cluster.status == "pausing"
    go_on(cluster)
    assert [node.state for node in cluster.nodes.all()] == ["stopped"] * 2
    nodes.introduced = 0
    resume_cluster(cluster, by=alice)
    assert go_on(cluster).status == "finished"
    after = {node.hostname: (node.address, node.cloud_id) for node in cluster.nodes.all()}
    assert before.keys() == after.keys()
    assert all(before[name][0] != after[name][0] and before[name][1] == after[name][1] for name in before)
    assert nodes.introduced == 2, "hostfile, known hosts and ssh configuration are written anew"
    is_true(cluster, cloud)


def test_a_stopped_cluster_has_no_nodes_and_a_start_makes_them_anew(make, cloud, alice):
    cluster = make()
    before = [node.cloud_id for node in cluster.nodes.all()]
    stop_cluster(cluster, by=alice)
    go_on(cluster)
    assert (cluster.status, cloud.memory.leftovers(cluster.tags)) == ("stopped", [])
    assert [node.address for node in cluster.nodes.all()] == ["", ""]
    start_cluster(cluster, by=alice)
    assert cluster.status == "restarting"
    go_on(cluster)
    assert [node.cloud_id for node in cluster.nodes.all()] != before
    is_true(cluster, cloud)


def test_a_cluster_becomes_larger_and_smaller_by_its_highest_ranks(make, cloud, nodes, alice):
    cluster = make(nodes=2)
    for size in (4, 1, 3):
        scale_cluster(cluster, size, by=alice)
        assert cluster.status == "scaling"
        assert go_on(cluster).status == "finished"
        assert [node.hostname for node in cluster.nodes.all()] == [f"tide-{rank}" for rank in range(size)]
        assert nodes.introduced == size
        assert [node.rank for node in cloud.memory.nodes(cluster.tags)] == list(range(size))
        is_true(cluster, cloud)


@pytest.mark.parametrize("size", [1, 3])
def test_a_paused_cluster_that_is_scaled_is_resumed(make, cloud, alice, size):
    cluster = make("paused")
    scale_cluster(cluster, size, by=alice)
    assert go_on(cluster).status == "finished"
    assert (cluster.status, cluster.nodes.count()) == ("running", size)
    is_true(cluster, cloud)


@pytest.mark.parametrize("size", [0, 65, 2])
def test_a_size_that_is_none_is_refused_at_its_field(make, alice, size):
    with pytest.raises(PortalError) as refused:
        scale_cluster(make(nodes=2), size, by=alice)
    assert refused.value.field == "node_count"


def test_a_cluster_for_which_there_is_no_room_to_grow_is_as_before(make, cloud, alice):
    cluster = make(nodes=2)
    cloud.inner = Full(cloud.memory, 3)
    scale_cluster(cluster, 5, by=alice)
    task = go_on(cluster)
    assert (task.status, cluster.status, cluster.node_count) == ("failed", "running", 2)
    assert "no room" in task.cause
    assert cluster.nodes.count() == 2
    is_true(cluster, cloud)


def test_a_cluster_that_could_not_be_made_as_before_has_failed_until_it_is_repaired(make, cloud, alice):
    cluster = make(nodes=2)

    class Worse(Full):
        def delete_nodes(self, tags, ranks=None, *, token=""):
            raise Refused("The cloud will not delete them.")

    cloud.inner = Worse(cloud.memory, 3)
    scale_cluster(cluster, 5, by=alice)
    task = go_on(cluster)
    assert (task.status, cluster.status, cluster.node_count) == ("failed", "failed", 2)
    assert "no room" in task.cause
    assert "will not delete them" in task.evidence
    cloud.inner = cloud.memory
    repair_cluster(cluster, by=alice)
    go_on(cluster)
    assert (cluster.status, len(cloud.memory.nodes(cluster.tags))) == ("running", 2)
    is_true(cluster, cloud)


def points(plan):
    plan = plan.on(MemoryCloud.can)
    steps = [f"{plan.kind}.{step.name}.{moment}" for step in plan.steps for moment in ("before", "after")]
    return [f"{plan.kind}.claimed", *steps, f"{plan.kind}.settle.before", f"{plan.kind}.settle.after"]


CHANGES = ("pause", "resume", "stop", "start", "restart", "scale", "force-delete")


@pytest.fixture
def at(monkeypatch):
    """Something happens once at a failpoint."""

    def at(name, happens):
        passed = []

        def failpoint(which):
            if which == name and not passed:
                passed.append(which)
                happens()

        monkeypatch.setattr(ledger, "failpoint", failpoint)
        return passed

    return at


def die():
    raise Died


@pytest.mark.parametrize("verb", CHANGES)
def test_whichever_worker_dies_at_whichever_step_it_comes_to_the_same_end(make, cloud, alice, at, verb):
    for number, point in enumerate(points(life_of(verb))):
        cluster = make(BEGIN.get(verb, "running"), name=f"c{number}")
        task = ASK[verb](cluster, by=alice)
        passed = at(point, die)
        with pytest.raises(Died):
            ledger.run_task(task.pk)
        assert passed
        Task.objects.filter(pk=task.pk).update(lease_until=now() - timedelta(seconds=1))
        assert go_on(cluster).status == "finished", point
        assert cluster.status == ENDS[verb], point
        is_true(cluster, cloud)


@pytest.mark.parametrize("verb", CHANGES[:-1])
def test_whenever_it_is_cancelled_its_status_is_true(make, cloud, alice, at, verb):
    for number, point in enumerate(["", *points(life_of(verb))[:-1]]):
        cluster = make(BEGIN.get(verb, "running"), name=f"c{number}")
        task = ASK[verb](cluster, by=alice)
        if point:
            at(point, lambda task=task: ledger.cancel_task(task))
        else:
            assert ledger.cancel_task(task)
        assert go_on(cluster).status == "cancelled", point
        assert cluster.status in {life_of(verb).then["cancelled"]}, point
        assert cluster.node_count == 2
        is_true(cluster, cloud)


@pytest.mark.parametrize("bad", [Slow, Forgetful])
def test_a_slow_or_forgetful_cloud_is_waited_for(make, cloud, alice, bad):
    cluster = make()
    cloud.inner = bad(cloud.memory)
    for verb in ("pause", "resume", "scale", "restart", "stop", "start", "delete"):
        ASK[verb](cluster, by=alice)
        assert go_on(cluster).status == "finished", verb
        is_true(cluster, cloud)


def test_a_pause_that_fails_can_be_tried_again(make, cloud, alice):
    cluster = make()

    class Angry(MemoryCloud):
        def stop_nodes(self, tags, *, token=""):
            raise Refused("The cloud will not stop them.")

    cloud.inner = Angry()
    cloud.inner.clusters = cloud.memory.clusters
    task = pause_cluster(cluster, by=alice)
    go_on(cluster)
    assert cluster.status == "failed"
    assert life.possible(cluster) == {"repair", "stop", "delete", "force-delete", "forget"}
    cloud.inner = cloud.memory
    ledger.retry_task(Task.objects.get(pk=task.pk), by=alice)
    assert Cluster.objects.get().status == "pausing"
    go_on(cluster)
    assert cluster.status == "paused"
    is_true(cluster, cloud)


# Runs


def wait_on(cluster):
    """A run that waits for its turn."""
    words = {"git_url": "https://git.test/a", "command": "a.py", "cluster": cluster}
    job = Job.objects.create(workspace=cluster.workspace, name="etl", **words)
    return Run.objects.create(job=job, number=1, output=Output.objects.create(), **words)


@pytest.mark.parametrize("verb", ["pause", "stop", "restart", "scale down"])
def test_whoever_is_on_a_cluster_keeps_its_nodes(make, alice, verb):
    cluster = make()
    run = wait_on(cluster)
    assert dispatch(cluster.pk) == run
    cluster.refresh_from_db()
    assert verb not in life.possible(cluster)
    act = ASK.get(verb) or (lambda cluster, by: scale_cluster(cluster, 1, by=by))
    with pytest.raises(Conflict, match="run 1 is on it"):
        act(cluster, by=alice)
    cluster.refresh_from_db()
    assert (cluster.status, cluster.occupied_by, cluster.node_count) == ("running", run.uuid, 2)
    assert not cluster.tasks.unfinished().exists()


def test_a_cluster_becomes_larger_under_a_run(make, cloud, alice):
    cluster = make()
    run = wait_on(cluster)
    assert dispatch(cluster.pk)
    scale_cluster(cluster, 3, by=alice)
    assert go_on(cluster).status == "finished"
    assert (cluster.occupied_by, cluster.node_count) == (run.uuid, 3)


def test_a_run_waits_on_a_paused_cluster_and_says_so_and_nothing_repairs_that(make, cloud, alice):
    cluster = make("paused")
    Cluster.objects.update(auto_repair=True)
    run = wait_on(cluster)
    assert (dispatch(cluster.pk), dispatch_all(), repair_what_is_gone()) == (None, 0, [])
    (found,) = explained(list(Run.objects.for_lists()))
    assert (found.pk, found.status) == (run.pk, "new")
    assert found.waits_for == "tide is PAUSED, and the run begins once somebody resumes it"
    resume_cluster(cluster, by=alice)
    go_on(cluster)
    assert dispatch_all() == 1


@pytest.mark.parametrize(("status", "verb"), [("paused", "resume"), ("stopped", "start")])
def test_a_run_that_waits_for_a_cluster_that_sleeps_has_the_button_that_wakes_it(
    client, make, alice, bob, status, verb
):
    cluster = make(status)
    run = wait_on(cluster)
    button = f'action="{cluster.get_absolute_url()}{verb}/"'
    for who, has in ((alice, True), (bob, False)):
        client.force_login(who)
        body = client.get(run.get_absolute_url()).content.decode()
        assert f"tide is {status.upper()}, and the run begins once somebody {verb}s it" in body
        assert (button in body, "An admin of the workspace can do that" in body) == (has, not has)


def test_nodes_stop_only_once_a_run_that_has_ended_is_cleaned_up_on_them(make, cloud, alice):
    cluster = make()
    run = wait_on(cluster)
    Run.objects.update(status="finished", turn=now())
    run.tasks.create(kind="jobs.run", title="Run 1 of etl", queue="launch", output=run.output)
    task = pause_cluster(cluster, by=alice)
    ledger.run_task(task.pk)
    assert task.steps.get(name="quiet").detail == "etl, run 1 is being cleaned up"
    assert all(node.running for node in cloud.memory.nodes(cluster.tags))
    run.tasks.update(status="finished")
    Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1))
    go_on(cluster)
    assert cluster.status == "paused"


def test_a_run_that_comes_while_a_cluster_is_paused_waits(make, alice):
    cluster = make()
    run = wait_on(cluster)
    pause_cluster(cluster, by=alice)
    assert dispatch(cluster.pk) is None
    go_on(cluster)
    assert cluster.status == "paused"
    run.refresh_from_db()
    assert run.turn is None


def test_what_a_cloud_cannot_do_is_on_no_page_and_refused(client, make, cloud, alice, monkeypatch):
    cluster = make()
    monkeypatch.setattr(CloudConfig, "can", property(lambda self: frozenset({Can.STORE, Can.MAKE})))
    client.force_login(alice)
    body = client.get(cluster.get_absolute_url()).content.decode()
    assert {verb for verb in MAY if f'"{cluster.get_absolute_url()}{verb}/"' in body} == {"stop", "delete"}
    for verb in ("pause", "restart", "scale"):
        with pytest.raises(Refused) as refused:
            ASK[verb](cluster, by=alice)
        assert refused.value.code == "not_here"
    assert Cluster.objects.get().status == "running"


# Deleting by force, and forgetting


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "start", "scale"])
def test_a_deletion_by_force_breaks_off_whatever_goes_on(make, cloud, alice, verb):
    cluster = make(BEGIN.get(verb, "running"))
    cloud.inner = Slow(cloud.memory)
    task = ASK[verb](cluster, by=alice)
    ledger.run_task(task.pk)
    with pytest.raises(PortalError, match="Wait for what is going on"):
        delete_cluster(cluster, by=alice)
    delete_cluster(cluster, by=alice, force=True)
    task.refresh_from_db()
    assert (task.status, task.output.ended) == ("cancelled", True)
    ledger.run_task(task.pk)  # as the hint in the queue says
    cloud.inner = cloud.memory
    assert go_on(cluster).status == "finished"
    is_true(cluster, cloud)
    assert cluster.status == "terminated"
    assert AuditEvent.objects.filter(verb="deleted").latest("pk").before == {"broken off": task.title}


def test_a_worker_that_is_in_the_middle_of_what_is_broken_off_writes_nothing_more(make, cloud, alice, at):
    cluster = make()
    task = pause_cluster(cluster, by=alice)
    at("clusters.pause.stop.before", lambda: delete_cluster(cluster, by=alice, force=True))
    ledger.run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, Cluster.objects.get().status) == ("cancelled", "terminating")
    assert go_on(cluster).status == "finished"
    is_true(cluster, cloud)


def fail(cluster):
    Cluster.objects.filter(pk=cluster.pk).update(status="failed")
    cluster.refresh_from_db()


def test_what_is_gone_is_forgotten_and_its_name_is_free(make, cloud, alice):
    cluster = make()
    cloud.memory.clusters.clear()
    fail(cluster)
    forget_cluster(cluster, by=alice)
    assert go_on(cluster).status == "finished"
    assert (cluster.status, cluster.key_private, cluster.nodes.first().host_private) == ("terminated", "", "")
    assert make(name="tide").pk != cluster.pk
    assert Cluster.objects.get(uuid=cluster.uuid).name == "tide"


def test_what_is_there_is_not_forgotten(make, cloud, alice):
    cluster = make()
    fail(cluster)
    forget_cluster(cluster, by=alice)
    task = go_on(cluster)
    assert (task.status, cluster.status, task.advice) == (
        "failed", "failed", "Delete the cluster instead; that takes away what is there."
    )  # fmt: skip
    assert task.evidence == "node node-1, node node-2"


def test_a_cloud_that_does_not_answer_cannot_keep_a_cluster(make, cloud, alice):
    cluster = make()
    fail(cluster)
    cloud.inner = Refusing(cloud.memory)
    cloud.inner.leftovers = cloud.inner._refuse
    forget_cluster(cluster, by=alice)
    assert go_on(cluster).status == "finished"
    assert cluster.status == "terminated"


# Editing


def test_what_is_sent_unchanged_is_no_change_in_any_status(make, alice):
    cluster = make()
    before = AuditEvent.objects.count()
    same = {name: getattr(cluster, name) for name in ("name", "description", "node_count", "engine_version")}
    assert edit_cluster(cluster, same, by=alice) == []
    assert AuditEvent.objects.count() == before
    assert edit_cluster(cluster, same | {"description": "For the tides"}, by=alice) == ["description"]
    event = AuditEvent.objects.latest("pk")
    assert (event.before, event.after) == (
        {"its description": ""}, {"its description": "For the tides"}
    )  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [("node_count", 5), ("engine_version", "another")])
def test_what_needs_a_stopped_cluster_is_refused_at_its_field_in_others(make, cloud, alice, name, value):
    cluster = make()
    if value == "another":
        value = EngineVersion.objects.create(kind="bodo", version="2026.1", packages=[])
    with pytest.raises(Conflict, match="can be changed while it is STOPPED; tide is RUNNING") as refused:
        edit_cluster(cluster, {"description": "new", name: value}, by=alice)
    assert refused.value.field == name
    assert Cluster.objects.get().description == "", "nothing was changed"
    stop_cluster(cluster, by=alice)
    go_on(cluster)
    assert edit_cluster(cluster, {name: value}, by=alice) == [name]
    start_cluster(cluster, by=alice)
    assert go_on(cluster).status == "finished"
    is_true(cluster, cloud)


def test_nodes_keep_their_names_until_they_are_made_anew(make, cloud, alice):
    cluster = make()
    edit_cluster(cluster, {"name": "ebb"}, by=alice)
    scale_cluster(cluster, 3, by=alice)
    go_on(cluster)
    assert [node.hostname for node in cluster.nodes.all()] == ["tide-0", "tide-1", "tide-2"]
    is_true(cluster, cloud)
    stop_cluster(cluster, by=alice)
    go_on(cluster)
    edit_cluster(cluster, {"name": "flood", "node_count": 2}, by=alice)
    start_cluster(cluster, by=alice)
    go_on(cluster)
    assert [node.hostname for node in cluster.nodes.all()] == ["flood-0", "flood-1"]
    is_true(cluster, cloud)


# Pages


def test_two_tabs_one_is_told_that_the_other_was_faster(client, make, alice):
    cluster = make()
    client.force_login(alice)
    address = cluster.get_absolute_url()
    first = client.post(f"{address}pause/")
    assert first.url.startswith("/tasks/")
    second = client.post(f"{address}pause/", follow=True)
    assert "tide cannot be paused while it is PAUSING. Wait for what is going on to end" in second.content.decode()
    assert cluster.tasks.filter(kind="clusters.pause").count() == 1


BUTTONS = {
    "running": {"pause", "scale", "restart", "stop", "delete"},
    "paused": {"resume", "scale", "stop", "delete"},
    "stopped": {"start", "delete"},
    "terminated": set(),
}


@pytest.mark.parametrize("status", BUTTONS)
def test_a_page_offers_what_is_possible_to_those_who_may(client, make, alice, vera, status):
    cluster = make(status)
    address = cluster.get_absolute_url()
    for who, wanted in ((alice, BUTTONS[status]), (vera, set())):
        client.force_login(who)
        body = client.get(address).content.decode()
        assert {verb for verb in MAY if f'"{address}{verb}/"' in body} == wanted
        listed = client.get(f"/workspaces/{cluster.workspace.uuid}/clusters/").content.decode()
        assert {verb for verb in MAY if f'"{address}{verb}/"' in listed} == wanted - {"restart"}


@pytest.mark.parametrize(("verb", "lost"), [("stop", "what is on their own disks"), ("restart", "terminals")])
def test_a_page_says_what_will_be_lost_first(client, make, alice, verb, lost):
    cluster = make()
    client.force_login(alice)
    address = f"{cluster.get_absolute_url()}{verb}/"
    assert lost in client.get(address).content.decode()
    assert Cluster.objects.get().status == "running"
    assert client.post(address).url.startswith("/tasks/")
    assert Cluster.objects.get().status == life_of(verb).during


def test_it_is_said_first_which_nodes_go(client, make, alice):
    cluster = make(nodes=4)
    client.force_login(alice)
    address = f"{cluster.get_absolute_url()}scale/"
    body = client.post(address, {"node_count": 2}).content.decode()
    assert "tide-2, tide-3" in body
    assert Cluster.objects.get().status == "running"
    again = client.post(address, {"node_count": 1, "sure": 2}).content.decode()
    assert "tide-1, tide-2, tide-3" in again, "sure of another number"
    assert client.post(address, {"node_count": 2, "sure": 2}).url.startswith("/tasks/")
    assert Cluster.objects.get().status == "scaling"


def test_what_has_changed_since_the_form_was_opened_is_said_at_the_field(client, make, alice):
    cluster = make("stopped")
    client.force_login(alice)
    address = f"{cluster.get_absolute_url()}edit/"
    sent = {"name": "tide", "description": "", "node_count": "5", "engine_version": cluster.engine_version_id}
    start_cluster(cluster, by=alice)
    body = client.post(address, sent).content.decode()
    assert "Its number of nodes can be changed while it is STOPPED; tide is RESTARTING." in body
    assert Cluster.objects.get().node_count == 2


def test_the_page_about_the_life_of_clusters_is_current():
    """`bin/python --test -m tests.life > docs/clusters.md` writes it anew."""
    assert (ROOT / "docs" / "clusters.md").read_text() == page.as_page()
