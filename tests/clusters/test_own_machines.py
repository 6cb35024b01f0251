"""Clusters on own machines: what pages offer, who has what is missing, and what makes no sense there."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.timezone import now

from clusters import idle
from clusters.models import Cluster, EngineVersion
from portal.clouds.machines.models import Pool
from tests.web import words
from workspaces.models import CloudConfig, Workspace, WorkspaceMember

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rings")]


@pytest.fixture(autouse=True)
def no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def ours(harbor):
    return CloudConfig.objects.create(organization=harbor, name="Our cellar", kind="machines")


@pytest.fixture
def pool(ours):
    """Four computers, three of which are alike and ready."""
    made = Pool.objects.create(account=ours.uuid, name="cellar", user="mpi", base="/srv/coxswain", key_public="ssh x y")
    for number, (cores, state) in enumerate([(4, "ready"), (4, "ready"), (4, "ready"), (8, "away")]):
        made.computers.create(
            address=f"10.0.0.{number}", hostname=f"n{number}", state=state, cores=cores, vcpus=2 * cores,
            memory_gib=4.0 * cores, architecture="x86_64", host_public="ssh-ed25519 AAAA", load=0.5,
        )  # fmt: skip
    return made


@pytest.fixture
def shed(harbor, ours, pool, alice, bob):
    workspace = Workspace.objects.create(
        organization=harbor, cloud_config=ours, name="shed", region=pool.name, status="ready"
    )
    WorkspaceMember.objects.create(workspace=workspace, user=alice, role="admin")
    WorkspaceMember.objects.create(workspace=workspace, user=bob, role="user")
    return workspace


@pytest.fixture
def engine(db):
    return EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})[0]


def has(workspace, engine, pool, name="tide", nodes=2, **more):
    """A cluster, with computers of the pool."""
    cluster = Cluster.objects.create(
        workspace=workspace, name=name, instance_type="4x16", cores_per_node=4, node_count=nodes,
        engine_version=engine, **{"status": "running", **more},
    )  # fmt: skip
    free = pool.computers.free().filter(cores=4)[:nodes]
    for rank, computer in enumerate(free):
        for field, value in vars(cluster.tags).items():
            setattr(computer, field, value)
        computer.rank, computer.taken = rank, now()
        computer.save()
        cluster.nodes.create(
            rank=rank, hostname=computer.hostname, host_public=computer.host_public, cloud_id=str(computer.uuid),
            state="answers", address=computer.address, private_address=computer.address, user="mpi",
            home=f"/srv/coxswain/{workspace.uuid}/.nodes/{cluster.uuid}/{rank}",
            shared=f"/srv/coxswain/{workspace.uuid}",
        )  # fmt: skip
    return cluster


def new(workspace):
    return reverse("new-cluster", args=[workspace.uuid])


def sent(engine, **more):
    return {
        "name": "ebb", "instance_type": "4x16", "node_count": 2, "engine_version": engine.pk, "key": uuid.uuid4(),
        "auto_shutdown_0": 1, "auto_shutdown_1": "hours", **more,
    }  # fmt: skip


def test_the_form_offers_computers_that_are_alike_with_how_many_are_free(client, shed, pool, engine, alice):
    has(shed, engine, pool, nodes=1)
    client.force_login(alice)
    page = words(client.get(new(shed)))
    assert "pool cellar" in page
    assert re.search(r"4x16.*?>2 of 3<", page)
    assert re.search(r"8x32.*?>0 of 1<", page)
    assert "Nodes keep their computers&#x27; names." in page


def test_what_makes_no_sense_is_not_on_the_form(client, shed, engine, alice):
    client.force_login(alice)
    page = words(client.get(new(shed)))
    for word in ("Auto pause", "Auto shutdown", "Zone", "Spot", "Instance role", "Tags", "$", "accelerated", "disk"):
        assert word not in page.split("<main")[1], word
    assert "Give back after" in page
    assert re.search(r'name="auto_shutdown_0"[^>]*value="1"', page)
    assert re.search(r'<option value="hours" selected', page)


def test_a_cluster_is_given_back_after_an_hour_unless_somebody_says_otherwise(client, shed, pool, engine, alice):
    client.force_login(alice)
    client.post(new(shed), sent(engine))
    cluster = Cluster.objects.get()
    assert (cluster.auto_shutdown, cluster.auto_pause, cluster.hourly_price) == (60, 0, None)
    client.post(new(shed), sent(engine, name="flow", node_count=1, auto_shutdown_1="never"))
    assert Cluster.objects.get(name="flow").auto_shutdown == 0


def test_not_enough_free_says_who_has_them_with_links_for_those_who_may_see_them(
    client, harbor, ours, shed, pool, engine, alice
):
    other = Workspace.objects.create(organization=harbor, cloud_config=ours, name="x", region=pool.name, status="ready")
    has(other, engine, pool, name="secret", nodes=1)
    mine = has(shed, engine, pool, nodes=1)
    client.force_login(alice)
    page = words(client.post(new(shed), sent(engine)))
    assert "1 of the type 4x16 is free now. In use: 1 by tide, 1 by clusters of other workspaces." in page
    assert "Not enough are free: 1, and 2 asked for." in page
    assert f'1 is in use by <a href="{mine.get_absolute_url()}" >tide</a>' in page
    assert "1 is in use by another workspace." in page
    assert "secret" not in page
    assert not Cluster.objects.filter(name="ebb").exists()


def test_more_than_the_pool_has_is_refused_at_the_number(client, shed, pool, engine, alice):
    client.force_login(alice)
    page = words(client.post(new(shed), sent(engine, node_count=9)))
    assert "The pool cellar has 3 of the type 4x16, not 9." in page


def test_a_form_that_is_sent_twice_makes_one_cluster_though_its_computers_are_taken_by_then(
    client, shed, pool, engine, alice
):
    client.force_login(alice)
    form = sent(engine, node_count=3)
    client.post(new(shed), form)
    cluster = Cluster.objects.get()
    pool.computers.filter(cores=4).update(**vars(cluster.tags))
    assert client.post(new(shed), form).status_code == 302
    assert Cluster.objects.count() == 1


# What is there


def test_the_pages_of_a_cluster_speak_of_computers_and_of_nothing_that_makes_no_sense(
    client, shed, pool, engine, alice
):
    tide = has(shed, engine, pool, auto_shutdown=60)
    client.force_login(alice)
    paths = [
        tide.get_absolute_url(),
        *(reverse(f"{name}-cluster", args=[tide.uuid]) for name in ("edit", "scale", "stop", "delete")),
        *(reverse(name, args=[shed.uuid]) for name in ("clusters", "workspace-settings", "new-cluster", "new-job")),
        reverse("change-clusters", args=[shed.uuid]) + f"?what=delete&cluster={tide.uuid}",
        reverse("update-workspace", args=[shed.uuid]),
        reverse("workspace-usage", args=[shed.uuid]),
    ]
    for path in paths:
        page = words(client.get(path)).split("<main")[1].split("</main")[0]
        for word in ("Auto pause", "Auto shutdown", "Pause", "resume", "Restart", "own disk", "Spot", "Region"):
            assert word not in page, f"{word} on {path}"
        assert "$" not in page.replace("$COXSWAIN_", ""), f"a price on {path}"


def test_the_page_of_a_cluster_says_what_is_kept_apart_and_what_is_not(client, shed, pool, engine, alice, bob):
    tide = has(shed, engine, pool, note="Workspaces of one pool are not kept apart.")
    client.force_login(bob)
    page = words(client.get(tide.get_absolute_url()))
    assert "n0" in page
    assert "In the portal these computers are this cluster's alone." in page
    assert "what other people do there is in it" in page
    assert "Workspaces of one pool are not kept apart." in page
    assert "Download the key" not in page
    there = [reverse("computer", args=[computer.uuid]) for computer in pool.computers.filter(subject=tide.uuid)]
    assert not any(address in page for address in there), "that is the organization's"
    client.force_login(alice)
    page = words(client.get(tide.get_absolute_url()))
    assert len(there) == sum(f'href="{address}"' in page for address in there) == 2


def test_before_it_is_deleted_or_stopped_it_is_said_what_ends_on_the_computers(client, shed, pool, engine, alice):
    tide = has(shed, engine, pool)
    client.force_login(alice)
    for name in ("stop", "delete"):
        page = words(client.get(reverse(f"{name}-cluster", args=[tide.uuid])))
        assert "programs and terminals, which are ended" in page
        assert "The computers are free for others then" in page
    client.post(reverse("delete-cluster", args=[tide.uuid]), {"name": "tide"})
    titles = list(tide.last_task.steps.values_list("title", flat=True))
    assert "End what runs on the computers, and give them back" in titles
    assert "Stop the nodes, and delete them" not in titles


def test_what_will_happen_says_that_computers_are_taken(client, shed, alice):
    client.force_login(alice)
    page = words(client.get(new(shed)))
    assert "Take the computers" in page
    assert "Nodes boot" not in page


def test_scaling_says_how_many_are_free_which_computers_go_and_refuses_what_cannot_be_had(
    client, shed, pool, engine, alice
):
    tide = has(shed, engine, pool)
    client.force_login(alice)
    address = reverse("scale-cluster", args=[tide.uuid])
    assert "1 more is free." in words(client.get(address))
    assert "1 of the type 4x16 is free now. In use: 2 by tide." in words(client.post(address, {"node_count": 4}))
    page = words(client.post(address, {"node_count": 1}))
    assert "1 node will be given back, and what runs there is ended:" in page
    assert "n1. What lies" in page
    client.post(address, {"node_count": 3})
    assert tide.last_task.kind == "clusters.scale"


def test_it_is_edited_by_the_same_words(client, shed, pool, engine, alice):
    tide = has(shed, engine, pool, auto_shutdown=60)
    client.force_login(alice)
    address = reverse("edit-cluster", args=[tide.uuid])
    assert "Give back after" in words(client.get(address))
    client.post(address, {"name": "tide", "auto_shutdown_0": 2, "auto_shutdown_1": "hours"})
    tide.refresh_from_db()
    assert tide.auto_shutdown == 120
    assert "After 2 hours without activity" in words(client.get(tide.get_absolute_url()))


def test_people_are_warned_that_it_is_given_back(client, shed, pool, engine, alice, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    ago = now() - timedelta(minutes=51)
    tide = has(shed, engine, pool, auto_shutdown=60, last_active=ago)
    (message,) = idle.look()
    assert "tide is given back at" in message.subject
    assert "its computers are free for others" in message.body
    assert "Give back after 1 hour without activity" in message.body
    client.force_login(alice)
    assert "is given back at" in words(client.get(reverse("clusters", args=[shed.uuid])))
    assert "It is given back at" in words(client.get(tide.get_absolute_url()))
    Cluster.objects.update(last_active=ago - timedelta(minutes=20), warned=now() - timedelta(minutes=15))
    idle.look()
    assert tide.last_task.title == "Delete cluster tide: give back after 1 hour without activity"


def test_a_workspace_is_made_on_a_pool(client, harbor, ours, pool, this_computer, alice):
    client.force_login(alice)
    assert "Pool or region" in words(client.get(reverse("new-workspace")))
    CloudConfig.objects.filter(pk=this_computer.pk).delete()
    page = words(client.get(reverse("new-workspace")))
    assert "Pool </label>" in page
    assert "Make its folder on the shared path" in page
    assert "network" not in page.split("<main")[1].split("</main")[0]
    client.post(
        reverse("new-workspace"), {"name": "shed", "cloud_config": ours.uuid, "region": "cellar", "key": uuid.uuid4()}
    )
    made = Workspace.objects.get(name="shed")
    assert made.region == "cellar"
    page = words(client.get(reverse("workspace-settings", args=[made.uuid])))
    assert "<dt>Pool</dt> <dd>cellar</dd>" in page
    assert "pool cellar" in words(client.get(reverse("workspaces")))
