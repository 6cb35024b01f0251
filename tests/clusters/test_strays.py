"""What was left behind in a cloud is destroyed or adopted by people, and told by a command; nothing else is touched."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from threading import Thread

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import AuditEvent
from clusters import life, reconcile, strays
from clusters.models import Cluster, EngineVersion, Node
from portal import secrets, ssh
from portal.clouds import HostKey, NodesSpec, Passing, Tags, WorkspaceSpec
from portal.errors import Conflict, PortalError, Refused
from portal.models import installation
from portal.tasks import ledger, registry
from portal.tasks.models import Task
from portal.tasks.output import stream_bytes
from tests.clouds.bad import AccountOf, MemoryCloud
from tests.web import words
from workspaces.actions import delete_workspace
from workspaces.models import CloudConfig, Stray

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings", "no_heartbeat")]


@pytest.fixture
def cloud(monkeypatch, lab):
    made = MemoryCloud()
    monkeypatch.setattr(CloudConfig, "account", AccountOf(made))
    made.ensure_network(lab.spec)
    made.ensure_filesystem(lab.spec)
    return made


def make_nodes(cloud, tags, nodes=2):
    cloud.ensure_nodes(NodesSpec(tags, "tide", "local.2", (HostKey("", ""),) * nodes, ()))


@pytest.fixture
def tide(lab, cloud):
    """TERMINATED, with its keys, and nodes that a slow worker has made after all."""
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=2, status="terminated",
        engine_version=engine,
    )  # fmt: skip
    private, cluster.key_public = ssh.new_key("tide")
    secrets.seal(cluster, "key_private", private)
    cluster.save()
    for rank in range(2):
        node = Node(cluster=cluster, rank=rank, hostname=f"tide-{rank}", host_public="ssh-ed25519 AAAA", state="gone")
        secrets.seal(node, "host_private", "a key")
        node.save()
    make_nodes(cloud, cluster.tags)
    return cluster


def compare(config):
    for place in reconcile.places(config.pk):
        found = place.cloud.owners(installation())
        for stray in reconcile.compare(place, found):
            reconcile.write_down(stray, place.cloud.leftovers(stray.tags))


def unknown(lab, cloud, this_computer):
    """A workspace that the portal does not know, which is left alone until a person wants something else."""
    tags = Tags(installation(), str(lab.organization.uuid), *[str(uuid.uuid4())] * 2)
    cloud.ensure_filesystem(WorkspaceSpec(tags))
    cloud.ensure_network(WorkspaceSpec(tags))
    compare(this_computer)
    return Stray.objects.get(subject=tags.subject)


def go_on(task, rounds=10):
    for _ in range(rounds):
        ledger.run_task(task.pk)
        task.refresh_from_db()
        if task.is_finished:
            break
        Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1), lease_until=None, lease=None)
    return task


def test_an_admin_destroys_what_the_portal_leaves_alone_and_is_told_that_it_is_gone(
    client, lab, cloud, this_computer, alice
):
    stray = unknown(lab, cloud, this_computer)
    client.force_login(alice)
    assert "1 thing left behind in your cloud accounts." in words(client.get("/"))
    assert stray.get_absolute_url() in words(client.get(this_computer.get_absolute_url()))
    page = words(client.get(stray.get_absolute_url()))
    assert f"filesystem {stray.subject}" in page
    assert "It cannot be adopted." in page
    assert "That is not" in words(client.post(stray.get_absolute_url(), {"name": "yes"}))
    assert not Task.objects.exists()
    answer = client.post(stray.get_absolute_url(), {"name": stray.subject[:8]})
    task = Task.objects.get()
    assert answer.url == reverse("task", args=[task.uuid])
    assert go_on(task).status == "finished"
    assert b"Confirmed gone" in b"".join(stream_bytes(task.output))
    assert cloud.leftovers(stray.tags) == []
    assert cloud.leftovers(lab.tags()), "what has a row stays"
    stray.refresh_from_db()
    assert stray.ended
    assert stray.badge.word == "GONE"
    assert AuditEvent.objects.get(verb="destroyed what was left behind in").actor == alice.uuid
    assert client.get(answer.url).status_code == 200
    assert client.get(stray.get_absolute_url()).status_code == 200
    assert "left behind" not in words(client.get("/"))


def test_a_destruction_that_fails_says_why_and_can_be_tried_again(
    client, lab, cloud, this_computer, alice, monkeypatch
):
    stray = unknown(lab, cloud, this_computer)

    def refuse(tags, *, token=""):
        raise Refused("The role may not delete file systems.")

    with monkeypatch.context() as spoiled:
        spoiled.setattr(cloud, "delete_filesystem", refuse)
        task = go_on(strays.destroy(stray, by=alice))
    stray.refresh_from_db()
    assert (task.status, stray.badge.word, stray.ended) == ("failed", "FAILED", None)
    client.force_login(alice)
    assert "The role may not delete file systems." in words(client.get(stray.get_absolute_url()))
    client.post(reverse("retry-task", args=[task.uuid]))
    assert go_on(task).status == "finished"
    assert cloud.leftovers(stray.tags) == []


def test_nothing_is_destroyed_that_a_row_accounts_for_by_now(lab, cloud, tide, this_computer, alice):
    compare(this_computer)
    stray = Stray.objects.get()
    task = strays.destroy(stray, by=alice)
    Cluster.objects.update(status="running")
    assert go_on(task).status == "failed"
    assert len(cloud.nodes(tide.tags)) == 2
    with pytest.raises(Conflict, match="a row of the portal accounts for it"):
        strays.destroy(stray, by=alice)


def test_a_cluster_with_its_keys_is_adopted_with_the_nodes_that_are_there(
    client, lab, cloud, tide, this_computer, alice, monkeypatch
):
    monkeypatch.setattr(ssh, "run_on_all", lambda hosts, command, **_: [ssh.Answer(0, b"", b"") for _ in hosts])
    kept = [step for step in life.ADOPT.steps if step.name not in ("introduce", "engine", "try")]
    monkeypatch.setitem(registry.plans, life.ADOPT.kind, replace(life.ADOPT, steps=kept))
    lab.keep_login_key(*ssh.new_key("test"))
    before = [node.id for node in cloud.nodes(tide.tags)]
    compare(this_computer)
    stray = Stray.objects.get()
    client.force_login(alice)
    assert "Its cluster is brought back with the nodes that are there" in words(client.get(stray.get_absolute_url()))
    client.post(reverse("adopt-stray", args=[stray.uuid]))
    task = Task.objects.get(kind="clusters.adopt")
    with pytest.raises(Conflict):
        strays.destroy(stray, by=alice)
    assert go_on(task).status == "finished"
    tide.refresh_from_db()
    assert tide.status == "running"
    assert [node.cloud_id for node in tide.nodes.all()] == before
    compare(this_computer)
    assert not Stray.objects.there().exists()


def test_what_cannot_be_adopted_says_why(client, lab, cloud, tide, this_computer, alice):
    make_nodes(cloud, lab.tags(uuid.uuid4()))
    Cluster.objects.update(key_private="")
    compare(this_computer)
    client.force_login(alice)
    said = set()
    for stray in Stray.objects.there():
        said.add(reconcile.why_not_adopted(stray))
        client.post(reverse("adopt-stray", args=[stray.uuid]))
    assert said == {
        "The portal has no keys of its nodes: nobody could sign in to them.",
        "Its keys were thrown away when it was deleted: nobody could sign in to its nodes.",
    }
    assert not Task.objects.exists()


def test_what_is_being_destroyed_is_not_adopted_and_the_portal_does_not_end_it_too(cloud, tide, this_computer, alice):
    compare(this_computer)
    stray = Stray.objects.get()
    strays.destroy(stray, by=alice)
    with pytest.raises(Conflict, match="It is being destroyed"):
        strays.adopt(stray, by=alice)
    Stray.objects.update(status="ending", first_seen=now() - timedelta(hours=1))
    assert not reconcile.is_to_end(stray)


def test_what_somebody_has_tagged_at_length_hides_nothing_else(lab, cloud, tide, this_computer):
    tags = lab.tags(uuid.uuid4())
    make_nodes(cloud, replace(tags, subject="x" * 200))
    compare(this_computer)
    assert [stray.subject for stray in Stray.objects.there()] == [str(tide.uuid)]


def test_what_the_portal_is_about_to_end_by_itself_is_not_adopted(cloud, tide, this_computer, alice):
    compare(this_computer)
    stray = Stray.objects.get()
    assert reconcile.why_not_adopted(stray) == ""
    Stray.objects.update(first_seen=now() - Stray.PATIENCE + timedelta(seconds=5))
    assert not reconcile.is_to_end(stray)
    with pytest.raises(Conflict, match="The portal is ending it by itself"):
        strays.adopt(stray, by=alice)


# manage.py reconcile


def told(*arguments):
    out = StringIO()
    call_command("reconcile", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_the_command_tells_both_ways_and_changes_nothing(lab, cloud, tide, this_computer):
    Cluster.objects.create(
        workspace=lab, name="ebb", instance_type="local.2", cores_per_node=2, node_count=2, status="running",
        engine_version=tide.engine_version,
    )  # fmt: skip
    cloud.delete_network(lab.tags())
    cloud.delete_filesystem(lab.tags())
    theirs = Tags("another-portal", str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4()))
    make_nodes(cloud, theirs)
    said = told()
    assert f"only in the cloud   {tide.uuid}  The cluster tide, which was deleted." in said
    assert "The cluster ebb of lab, which is RUNNING. Repair it, or delete it." in said
    assert "The workspace lab, which is READY. Update its infrastructure" in said
    assert theirs.subject not in said
    assert not Stray.objects.exists()
    assert not Task.objects.exists()
    assert len(cloud.nodes(tide.tags)) == 2


def test_the_command_destroys_what_it_is_told_to_and_nothing_else(lab, cloud, tide, this_computer):
    other = lab.tags(uuid.uuid4())
    make_nodes(cloud, other)
    assert "is for the workers" in told("--destroy", str(tide.uuid))
    go_on(Task.objects.get())
    assert (cloud.nodes(tide.tags), len(cloud.nodes(other))) == ([], 2)
    with pytest.raises(CommandError, match="is not only in a cloud"):
        told("--destroy", str(lab.uuid))


def test_the_command_says_which_cloud_has_not_answered(lab, cloud, this_computer, monkeypatch):
    def silent(portal):
        raise Passing("The cloud does not answer.")

    monkeypatch.setattr(cloud, "owners", silent)
    with pytest.raises(CommandError, match="Not every cloud has answered"):
        told()


@pytest.mark.django_db(transaction=True)
def test_nothing_is_adopted_into_a_workspace_that_is_deleted_at_the_same_moment(
    lab, tide, alice, this_computer, monkeypatch
):
    compare(this_computer)
    stray, ask, ends = Stray.objects.get(), reconcile.why_not_adopted, []

    def delete():
        try:
            ends.append(delete_workspace(lab, by=alice))
        except PortalError as error:
            ends.append(error)
        finally:
            connection.close()

    def then_delete(row):
        """Whoever deletes it begins once it was seen to be READY, and has ended, or waits for us."""
        why = ask(row)
        deletes.start()
        deletes.join(1)
        return why

    deletes = Thread(target=delete)
    monkeypatch.setattr(reconcile, "why_not_adopted", then_delete)
    try:
        strays.adopt(stray, by=alice)
    except PortalError as error:
        ends.append(error)
    deletes.join(30)
    lab.refresh_from_db()
    tide.refresh_from_db()
    assert (lab.status, tide.status) != ("terminating", "inprogress"), ends
    assert sum(isinstance(end, PortalError) for end in ends) == 1
