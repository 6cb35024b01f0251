"""What lies and runs on the nodes of a cluster beside its runs."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion, Node
from jobs import folders
from jobs.dispatch import dispatch_all
from jobs.models import Job
from portal import detached, secrets, ssh
from portal.clouds import Refused
from portal.tasks.ledger import start_task
from portal.tasks.models import Output, Task
from tests.clouds import hands
from tests.clouds.conftest import local  # noqa: F401
from tests.pages.test_pages import make_run
from tests.running import until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]
LONG_AGO = float("-inf")


@pytest.fixture
def tide(lab):
    lab.keep_login_key(hands.private("portal"), hands.public("portal"))
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="5.0.2", defaults={"packages": []})
    return Cluster.objects.create(
        workspace=lab, name="demo", instance_type="local.1", cores_per_node=1, node_count=1, status="running",
        engine_version=engine,
    )  # fmt: skip


@pytest.fixture
def ended(tide):
    """A run that was seen to its end."""
    job = Job.objects.create(
        workspace=tide.workspace, cluster=tide, name="j", git_url="https://a.example/b", command="a.py"
    )
    return make_run(job, 1, "finished", ended=now(), observed=True)


def has_purpose(run):
    return folders._with_purpose([run.uuid, uuid.uuid4()]) == {run.uuid}


def test_a_folder_stays_until_its_run_is_seen_to_its_end_and_nobody_needs_it(ended, tide, alice, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    assert not has_purpose(ended)
    for field, value in (("status", "inprogress"), ("observed", False), ("may_be_left", True)):
        before = getattr(ended, field)
        type(ended).objects.filter(pk=ended.pk).update(**{field: value})
        assert has_purpose(ended), field
        type(ended).objects.filter(pk=ended.pk).update(**{field: before})
    Output.objects.filter(pk=ended.output_id).update(agrees=False)
    assert has_purpose(ended), "somebody has to compare it with what is stored"
    Output.objects.filter(pk=ended.output_id).update(agrees=True)
    start_task(ended, "jobs.run", title="Run", by=alice, cloud="local", output=ended.output)
    assert has_purpose(ended), "its task may have to look at it again"
    Task.objects.update(status="finished")
    type(ended).objects.filter(pk=ended.pk).update(may_be_left=True)
    tide.move(Cluster.Status.TERMINATING)
    tide.move(Cluster.Status.TERMINATED)
    assert not has_purpose(ended), "nothing can be left on nodes that are gone"


def test_only_clusters_whose_nodes_all_answer_are_looked_at(tide):
    node = Node(cluster=tide, rank=0, hostname="demo-0", host_public="", state="answers")
    secrets.seal(node, "host_private", "key")
    node.save()
    assert folders._whole() == {tide.pk}
    Node.objects.update(state="silent")
    assert folders._whole() == set()


@pytest.fixture
def node(local, tide):  # noqa: F811
    """The only one of the cluster, and real."""
    cloud = local("namespaces")
    try:
        cloud.rung()
    except Refused:
        cloud = local("landlock")
    _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, 1))
    (seen,) = hands.up(cloud, where, 1)
    row = Node(
        cluster=tide, rank=0, hostname=seen.hostname, host_public=hands.public("host 0"), address=seen.address,
        port=seen.port, user=seen.user, home=seen.home, shared=seen.shared, door=seen.door, state="answers",
    )  # fmt: skip
    secrets.seal(row, "host_private", "key")
    row.save()
    return row


def said(node, command):
    return ssh.check(node.host, command).text


def is_running(run):
    """As this computer sees it: sessions of a node may not see each other."""
    for words in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"COXSWAIN_RUN={run}".encode() in words.read_bytes():
                return True
    return False


def start(node, run):
    """A program that prints and sleeps, as the launch step would start it."""
    folder = f"{node.shared}/.runs/{run}"
    said(node, f"mkdir -p {node.shared}/.runs")
    detached.start(
        node.host, folder, argv=["/bin/sh", "-c", "echo begun; exec sleep 1000"], env={"COXSWAIN_RUN": str(run)},
        alone=folders.fence(node.home),
    )  # fmt: skip
    until(lambda: is_running(run), what="the program")
    return folder


def test_a_run_that_nobody_knows_is_ended_on_the_nodes_and_its_folder_goes(node, tide, ended):
    """Its row is missing; programs of it run, and hold the cluster's head node. What has a row stays as it was."""
    unknown = uuid.uuid4()
    type(ended).objects.filter(pk=ended.pk).update(observed=False)
    said(node, f"mkdir -p {node.shared}/.runs/{ended.uuid} {node.shared}/.runs/something-else")
    folder = start(node, unknown)
    seen = {}
    folders.clear(tide.pk, seen)
    assert set(seen) == {unknown}
    assert is_running(unknown), "seen for the first time, it may be about to get its row"
    seen[unknown] = LONG_AGO
    Cluster.objects.update(occupied_by=ended.uuid)
    folders.clear(tide.pk, seen)
    assert is_running(unknown), "a run is on the cluster, and is not to be disturbed"
    Cluster.objects.update(occupied_by=None)
    folders.clear(tide.pk, seen)
    tide.refresh_from_db()
    assert tide.occupied_by is None
    until(lambda: not is_running(unknown), what="the program's end")
    assert folder not in said(node, f"ls -d {node.shared}/.runs/*")
    assert said(node, f"ls {node.shared}/.runs").split() == sorted([str(ended.uuid), "something-else"])
    folders.clear(tide.pk, seen)
    assert seen == {}, "there is nothing more to look after"
    start(node, uuid.uuid4())  # the head node is free again


def test_the_folder_of_an_ended_run_that_could_not_be_removed_in_time_goes(node, tide, ended):
    said(node, f"mkdir -p {node.shared}/.runs/{ended.uuid}")
    folders.clear(tide.pk, {ended.uuid: LONG_AGO})
    assert said(node, f"ls {node.shared}/.runs") == ""


def test_a_cluster_is_free_again_whoever_died_while_clearing_it(node, tide):
    Cluster.objects.update(occupied_by=folders._holder(tide))
    dispatch_all()
    tide.refresh_from_db()
    assert tide.occupied_by == folders._holder(tide), "it may be at work"
    seen = {}
    folders.clear(tide.pk, seen)
    tide.refresh_from_db()
    assert tide.occupied_by == folders._holder(tide), "the first look cannot tell"
    seen[folders._holder(tide)] = LONG_AGO
    folders.clear(tide.pk, seen)
    tide.refresh_from_db()
    assert tide.occupied_by is None
    Cluster.objects.update(occupied_by=folders._holder(tide))
    folders.clear(tide.pk, seen)
    tide.refresh_from_db()
    assert tide.occupied_by == folders._holder(tide), "somebody else has begun since"
