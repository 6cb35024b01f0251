"""What a cloud holds in our name and no row accounts for is told, and ended; nothing else is."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest
from django.db.models.functions import Now

from accounts.models import AuditEvent
from clusters import reconcile, watch
from clusters.models import Cluster, EngineVersion
from portal.clouds import HostKey, NodesSpec, Passing, Tags, WorkspaceSpec
from portal.models import installation
from portal.tasks.models import Output, Task
from tests.clouds.bad import AccountOf, MemoryCloud
from workspaces.models import CloudConfig, Stray, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rings")]


@pytest.fixture
def cloud(monkeypatch, lab):
    """With the network and the filesystem of lab."""
    made = MemoryCloud()
    monkeypatch.setattr(CloudConfig, "account", AccountOf(made))
    made.ensure_network(lab.spec)
    made.ensure_filesystem(lab.spec)
    return made


@pytest.fixture
def tide(lab, cloud):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="5.0.2", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=2, status="running",
        engine_version=engine,
    )  # fmt: skip
    make_nodes(cloud, cluster.tags)
    return cluster


def make_nodes(cloud, tags):
    cloud.ensure_nodes(NodesSpec(tags, "tide", "local.2", (HostKey("", ""),) * 2, ()))


def look(config, later=timedelta()):
    """One look at everything that the configuration's clouds hold, so much later than the one before."""
    Stray.objects.update(first_seen=Now() - later)
    places = reconcile.places(config.pk)

    async def compare():
        for place in places:
            await watch.CloudWatcher().compare(place)

    asyncio.run(compare())


def test_what_has_a_row_is_no_stray(tide, this_computer, cloud):
    look(this_computer)
    look(this_computer, Stray.PATIENCE)
    assert not Stray.objects.exists()
    assert len(cloud.nodes(tide.tags)) == 2


def test_a_cloud_in_which_nothing_of_ours_should_be_is_asked_seldom(lab, this_computer, cloud, monkeypatch):
    asked, looks, stop = [], iter(range(2 * watch.SELDOM)), Exception("enough")
    owners = cloud.owners

    async def next_look(seconds):
        if next(looks, None) is None:
            raise stop

    def look_at_all():
        with pytest.raises(Exception, match="enough"):
            asyncio.run(watch.CloudWatcher().look_after(this_computer.pk))

    monkeypatch.setattr(cloud, "owners", lambda portal: asked.append(1) or owners(portal))
    monkeypatch.setattr(watch.asyncio, "sleep", next_look)
    Workspace.objects.update(status="terminated")
    cloud.delete_filesystem(lab.tags())
    cloud.delete_network(lab.tags())
    look_at_all()
    assert len(asked) == 3
    make_nodes(cloud, lab.tags(uuid.uuid4()))
    looks = iter(range(3))
    look_at_all()
    assert len(asked) == 3 + 4, "something is there after all: it is looked at until it is gone"


def test_nodes_of_a_cluster_that_is_gone_are_told_and_then_ended(client, alice, tide, this_computer, cloud, harbor):
    """As when an old task made them again."""
    Cluster.objects.update(status="terminated")
    look(this_computer)
    assert len(cloud.nodes(tide.tags)) == 2, "at first sight it may only be on its way"
    client.force_login(alice)
    page = client.get("/cloud-configurations/").content.decode()
    assert "The cluster tide, which was deleted is still in This computer" in page
    assert "node tide-0, node tide-1" in page
    assert "The portal ends it" in page
    look(this_computer)
    assert len(cloud.nodes(tide.tags)) == 2
    look(this_computer, Stray.PATIENCE)
    assert cloud.leftovers(tide.tags) == []
    assert Stray.objects.get().ended
    event = AuditEvent.objects.get(verb="ended something without a row in")
    assert event.before == {"what": "The cluster tide, which was deleted", "with": "node tide-0, node tide-1"}
    assert "tide" not in client.get("/cloud-configurations/").content.decode()


def test_nodes_of_a_cluster_that_is_stopped_are_ended_and_those_of_a_paused_one_are_its_own(tide, this_computer, cloud):
    Cluster.objects.update(status="paused")
    look(this_computer)
    assert not Stray.objects.exists()
    Cluster.objects.update(status="stopped")
    look(this_computer)
    assert Stray.objects.get().name == "The cluster tide, which is STOPPED"
    tide.tasks.create(
        kind="clusters.start", title="Start cluster tide", queue="provision", output=Output.objects.create()
    )
    look(this_computer, Stray.PATIENCE)
    assert len(cloud.nodes(tide.tags)) == 2, "somebody starts it: they are wanted"
    Task.objects.update(status="finished")
    look(this_computer)
    look(this_computer, Stray.PATIENCE)
    assert cloud.leftovers(tide.tags) == []


def test_a_cluster_that_nobody_knows_is_ended_and_one_of_another_portal_is_not_seen(lab, this_computer, cloud):
    unknown = lab.tags(uuid.uuid4())
    theirs = Tags("another-portal", unknown.organization, unknown.workspace, str(uuid.uuid4()))
    odd = Tags(installation(), unknown.organization, unknown.workspace, "no uuid at all")
    for tags in (unknown, theirs, odd):
        make_nodes(cloud, tags)
    look(this_computer)
    assert {stray.subject for stray in Stray.objects.all()} == {unknown.subject, odd.subject}
    look(this_computer, Stray.PATIENCE)
    assert [bool(cloud.nodes(tags)) for tags in (unknown, theirs, odd)] == [False, True, False]


def test_what_stays_of_a_workspace_that_was_forgotten_is_told_and_never_ended_by_itself(lab, this_computer, cloud):
    Workspace.objects.update(status="terminated")
    lab.tasks.create(
        kind="workspaces.forget", title="x", queue="teardown", output=Output.objects.create(), status="finished"
    )
    look(this_computer)
    look(this_computer, Stray.PATIENCE)
    look(this_computer, Stray.PATIENCE)
    stray = Stray.objects.get()
    assert (stray.name, stray.ended) == ("The workspace lab, which was forgotten", None)
    assert "leaves it alone" in stray.outlook
    assert cloud.filesystems


def test_what_a_task_has_not_done_with_is_left_to_it(tide, alice, this_computer, cloud):
    Cluster.objects.update(status="terminated")
    output = Output.objects.create()
    task = Task.objects.create(kind="clusters.delete", title="x", subject=tide, queue="teardown", output=output)
    look(this_computer)
    look(this_computer, Stray.PATIENCE)
    assert not Stray.objects.exists()
    Task.objects.filter(pk=task.pk).update(status="finished")
    look(this_computer)
    Task.objects.filter(pk=task.pk).update(status="new")
    look(this_computer, Stray.PATIENCE)
    assert len(cloud.nodes(tide.tags)) == 2, "a task was begun meanwhile"


def test_what_went_by_itself_is_forgotten_and_its_patience_begins_anew(tide, this_computer, cloud):
    Cluster.objects.update(status="terminated")
    look(this_computer)
    cloud.delete_nodes(tide.tags)
    look(this_computer, Stray.PATIENCE)
    assert Stray.objects.get().ended
    assert not AuditEvent.objects.filter(verb__startswith="ended").exists(), "the portal did nothing"
    make_nodes(cloud, tide.tags)
    look(this_computer)
    assert len(cloud.nodes(tide.tags)) == 2


@pytest.mark.parametrize("known", [True, False])
def test_a_filesystem_is_deleted_only_where_somebody_has_asked_for_that(
    client, alice, lab, this_computer, cloud, known
):
    tags = lab.tags()
    if known:
        type(lab).objects.update(status="terminated")
    else:
        tags = Tags(tags.portal, tags.organization, *[str(uuid.uuid4())] * 2)
        cloud.ensure_filesystem(WorkspaceSpec(tags))
    look(this_computer)
    look(this_computer, Stray.PATIENCE)
    assert bool(cloud.leftovers(tags)) is not known
    if not known:
        client.force_login(alice)
        page = client.get("/cloud-configurations/").content.decode()
        assert "It may hold people&#x27;s data, or be another portal&#x27;s: the portal leaves it alone." in page


def test_one_that_cannot_be_ended_says_why(client, alice, tide, this_computer, cloud, monkeypatch):
    Cluster.objects.update(status="terminated")
    look(this_computer)

    def refuse(tags):
        raise Passing("The cloud has too much to do.")

    monkeypatch.setattr(cloud, "delete_nodes", refuse)
    look(this_computer, Stray.PATIENCE)
    client.force_login(alice)
    page = client.get("/cloud-configurations/").content.decode()
    assert "It could not be ended, and that is tried again every minute. The cloud has too much to do." in page
    assert Stray.objects.there().exists()


def test_a_cloud_that_does_not_answer_changes_nothing(tide, this_computer, cloud, monkeypatch):
    Cluster.objects.update(status="terminated")
    look(this_computer)

    def silent(portal):
        raise Passing("The cloud does not answer.")

    monkeypatch.setattr(cloud, "owners", silent)
    with pytest.raises(Passing):
        look(this_computer, Stray.PATIENCE)
    assert Stray.objects.there().exists()


def test_a_workspace_of_which_nothing_is_left_in_the_cloud_is_told(client, alice, lab, this_computer, cloud):
    client.force_login(alice)
    words = "The network and the filesystem of lab are not in This computer any more"
    look(this_computer)
    assert words not in " ".join(client.get("/cloud-configurations/").content.decode().split())
    cloud.delete_filesystem(lab.tags())
    cloud.delete_network(lab.tags())
    look(this_computer)
    assert words in " ".join(client.get("/cloud-configurations/").content.decode().split())
    cloud.ensure_network(lab.spec)
    look(this_computer)
    assert words not in " ".join(client.get("/cloud-configurations/").content.decode().split())


def test_a_cluster_in_a_workspace_that_nobody_knows_is_left_alone(lab, this_computer, cloud):
    """It may run for another portal, whose database was once a copy of ours."""
    ours = lab.tags()
    theirs = Tags(ours.portal, str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4()))
    make_nodes(cloud, theirs)
    look(this_computer)
    look(this_computer, Stray.PATIENCE)
    assert len(cloud.nodes(theirs)) == 2
    assert "the portal leaves it alone" in Stray.objects.get().outlook


def test_one_that_cannot_be_looked_at_hinders_no_other(lab, this_computer, cloud, monkeypatch):
    first, second = (lab.tags(uuid.uuid4()) for _ in range(2))
    make_nodes(cloud, first)
    look(this_computer)
    make_nodes(cloud, second)
    leftovers = cloud.leftovers

    def some(tags):
        if tags == first:
            raise Passing("The cloud has too much to do.")
        return leftovers(tags)

    monkeypatch.setattr(cloud, "leftovers", some)
    look(this_computer)
    look(this_computer, Stray.PATIENCE)
    assert not cloud.nodes(second)


def test_a_workspace_that_became_ready_while_the_cloud_was_asked_is_not_told_as_missing(lab, this_computer, cloud):
    cloud.delete_filesystem(lab.tags())
    cloud.delete_network(lab.tags())
    type(lab).objects.update(status="inprogress")
    (place,) = reconcile.places(this_computer.pk)
    type(lab).objects.update(status="ready")
    reconcile.compare(place, set())
    assert type(lab).objects.get().missing_since is None
