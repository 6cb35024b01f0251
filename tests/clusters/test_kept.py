"""Nodes of a creation that has failed are taken away after a while, and stay for whoever wants to look at them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.timezone import now

from accounts.audit import Origin
from clusters import actions, plans, terminals
from clusters.models import Cluster, EngineVersion, Node
from portal.errors import Conflict
from portal.tasks.models import Output, Task
from tests.web import words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def tide(lab, alice, monkeypatch):
    """Its creation has failed: a node has never answered."""
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=2, status="failed",
        engine_version=EngineVersion.objects.filter(kind="mpi").first(),
    )  # fmt: skip
    task = Task.objects.create(
        kind="clusters.create", title="Create cluster tide", subject=cluster, queue="provision", status="failed",
        cause="Gave up after 15 minutes: 1 of 2 answer, waiting for tide-1.", evidence="tide-1: kernel panic",
        output=Output.objects.create(), asked_by=alice, finished=now(),
    )  # fmt: skip
    plans.note_creation(task)
    cluster.refresh_from_db()
    return cluster


def later(cluster, minutes):
    """As if so much time had passed."""
    Cluster.objects.filter(pk=cluster.pk).update(kept_until=cluster.kept_until - timedelta(minutes=minutes))
    cluster.refresh_from_db()


def test_they_are_taken_away_after_a_while_and_the_cluster_is_stopped(client, tide, alice):
    client.force_login(alice)
    page = words(client.get(tide.get_absolute_url()))
    assert "A node has not answered for 15 minutes." in page
    assert "tide-1: kernel panic" in page
    assert "What there is of its nodes is taken away at" in page
    later(tide, 14)
    assert actions.stop_what_failed() == []
    later(tide, 2)
    assert actions.stop_what_failed() == [tide]
    tide.refresh_from_db()
    assert (tide.status, tide.kept_until) == ("stopping", None)
    assert tide.last_task.kind == "clusters.stop"
    assert actions.stop_what_failed() == []


def test_an_admin_keeps_them_for_half_an_hour(client, tide, alice, bob):
    keep = reverse("keep-cluster", args=[tide.uuid])
    client.force_login(bob)
    assert keep not in words(client.get(tide.get_absolute_url()))
    client.force_login(alice)
    assert f'action="{keep}"' in words(client.get(tide.get_absolute_url()))
    later(tide, 14)
    assert "stays for 30 minutes from now" in words(client.post(keep, follow=True))
    tide.refresh_from_db()
    assert timedelta(minutes=29) < tide.kept_until - now() <= timedelta(minutes=30)
    later(tide, 29)
    assert actions.stop_what_failed() == []
    later(tide, 2)
    assert actions.stop_what_failed() == [tide]
    with pytest.raises(Conflict, match="Nothing of tide waits to be taken away"):
        actions.keep_failed(tide, by=alice)


def test_a_terminal_can_be_opened_on_a_node_that_answers_until_it_is_taken_away(client, tide, bob):
    node = Node.objects.create(cluster=tide, rank=0, hostname="tide-0", host_public="x", state="answers")
    client.force_login(bob)
    terminal = reverse("terminal", args=[tide.uuid])
    assert terminal in words(client.get(tide.get_absolute_url()))
    tide.workspace.keep_login_key("private", "public")
    opened = terminals.open_terminal(tide.uuid, 0, terminals.Who(bob, "", Origin()), (80, 24))
    assert tide.terminals.get().uuid == opened.uuid
    later(tide, 20)
    actions.stop_what_failed()
    tide.refresh_from_db()
    assert "Terminals can be opened while it is RUNNING" in terminals.why_not(tide, node)


def test_one_that_somebody_keeps_while_the_portal_stops_others_stays(tide, alice, monkeypatch):
    reef = Cluster.objects.create(
        workspace=tide.workspace, name="reef", instance_type="local.2", cores_per_node=2, node_count=2,
        status="failed", kept_until=now() - timedelta(minutes=1), engine_version=tide.engine_version,
    )  # fmt: skip
    later(tide, 16)
    stop = actions.stop_cluster

    def keep_the_other(cluster, **words):
        monkeypatch.setattr(actions, "stop_cluster", stop)
        actions.keep_failed(reef if cluster == tide else tide, by=alice)
        return stop(cluster, **words)

    monkeypatch.setattr(actions, "stop_cluster", keep_the_other)
    (stopped,) = actions.stop_what_failed()
    kept = Cluster.objects.exclude(pk=stopped.pk).get()
    assert kept.status == "failed"
    assert kept.kept_until > now() + timedelta(minutes=29)


def test_whoever_mends_it_has_it_to_themselves(tide, alice):
    task = actions.repair_cluster(tide, by=alice)
    task.status = "failed"
    plans.note_repair(task)
    Task.objects.update(status="failed")
    Cluster.objects.update(status="failed")
    tide.refresh_from_db()
    assert tide.kept_until is None
    assert actions.stop_what_failed() == []


def test_a_portal_may_take_nothing_away_by_itself(tide, settings):
    settings.FAILED_CLUSTER_MINUTES = 0
    plans.note_creation(tide.last_task)
    tide.refresh_from_db()
    assert tide.kept_until is None
