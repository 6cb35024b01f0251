"""How a run is started and ended, as far as the database and the ledger go."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion
from jobs import plans, watch
from jobs.dispatch import dispatch
from jobs.models import Run
from portal import ssh
from portal.errors import Passing, PortalError, Refused
from portal.tasks.ledger import retry_task, run_task
from portal.tasks.models import Output, StepStatus, Task
from workspaces.models import Workspace


@pytest.mark.django_db(transaction=True)
def test_the_task_of_a_run_that_failed_to_start_cannot_start_it_once_more(begun_run, bob, client, monkeypatch):
    started = []

    def start(*_, **__):
        started.append(1)
        raise Refused("The disk is full.")

    monkeypatch.setattr(plans.detached, "start", start)
    task = begun_run.last_task
    monkeypatch.setattr(Workspace, "cloud", Cloud())
    Run.objects.filter(pk=begun_run.pk).update(observed=True)
    monkeypatch.setattr(plans, "end_what_is_left", lambda *_: "")
    monkeypatch.setattr(plans.ssh, "run", lambda *_, **__: ssh.Answer(0, b"", b""))
    run_task(task.pk)
    begun_run.refresh_from_db()
    task.refresh_from_db()
    assert (begun_run.status, task.status) == (Run.Status.FAILED, "failed")
    with pytest.raises(PortalError, match="Start it anew"):
        retry_task(task, by=bob)
    client.force_login(bob)
    page = client.get(task.get_absolute_url()).content.decode()
    assert "Try again" not in page
    assert "Start it anew" in page
    client.post(f"/tasks/{task.uuid}/retry/")
    run_task(task.pk)
    assert len(started) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("kind", "ranks", "slots"), [("bodo", 1, 3), ("bodo", None, 2), ("mpi", 1, 2)])
def test_the_first_worker_of_a_bodo_program_of_one_rank_has_a_place_beside_it(
    begun_run, monkeypatch, kind, ranks, slots
):
    orders = []

    def start(*_, argv, **__):
        orders.append(json.loads(argv[1]))
        raise Refused("That is enough.")

    monkeypatch.setattr(plans.detached, "start", start)
    monkeypatch.setattr(Workspace, "cloud", Cloud())
    monkeypatch.setattr(plans, "end_what_is_left", lambda *_: "")
    monkeypatch.setattr(plans.ssh, "run", lambda *_, **__: ssh.Answer(0, b"", b""))
    EngineVersion.objects.filter(pk=begun_run.cluster.engine_version_id).update(kind=kind)
    Run.objects.filter(pk=begun_run.pk).update(ranks=ranks, observed=True)
    run_task(begun_run.last_task.pk)
    (order,) = orders
    assert order["home"][order["hostfile"].rpartition("/")[2]] == f"tide-1:{slots}\n"
    assert order["environment"].get("BODO_NUM_WORKERS") == ("2" if slots == 3 else None)
    assert order["home"][order["environment"]["COXSWAIN_HOSTFILE"].rpartition("/")[2]] == "tide-1:2\n"
    assert order["environment"]["COXSWAIN_SHARED"] == order["shared"]


class Cloud:
    """One that says nothing of its nodes."""

    def nodes(self, tags):
        return []


@pytest.mark.django_db(transaction=True)
def test_what_a_run_left_is_looked_for_once_so_that_the_next_run_is_not_ended_by_it(begun_run, bob, monkeypatch):
    sweeps = []

    def sweep(hosts, uuid, **_):
        sweeps.append(uuid)
        return [ssh.Answer(0, b"0", b"") for _ in hosts]

    monkeypatch.setattr(plans.detached, "sweep", sweep)
    monkeypatch.setattr(plans.ssh, "run", lambda *_, **__: ssh.Answer(0, b"", b""))
    cluster = begun_run.cluster
    Cluster.objects.filter(pk=cluster.pk).update(occupied_by=begun_run.uuid)
    following = Run.objects.create(job=begun_run.job, cluster=cluster, number=2, output=Output.objects.create())
    Run.objects.filter(pk=begun_run.pk).update(status="finished", ended=now(), may_be_left=True)
    assert dispatch(cluster.pk) is None
    Cluster.objects.filter(pk=cluster.pk).update(occupied_by=None)
    assert dispatch(cluster.pk) is None  # something of the one before may still be there
    Cluster.objects.filter(pk=cluster.pk).update(occupied_by=begun_run.uuid)
    task = begun_run.last_task
    task.steps.filter(name__in=("launch",)).update(status=StepStatus.DONE)
    run_task(task.pk)  # looks, lets go of the cluster, and waits for the checksums
    assert not Run.objects.get(pk=begun_run.pk).may_be_left
    following.refresh_from_db()
    assert following.last_task
    assert Cluster.objects.get(pk=cluster.pk).occupied_by == following.uuid
    Run.objects.filter(pk=begun_run.pk).update(observed=True)
    Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1))
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "finished"
    assert set(sweeps) == {str(begun_run.uuid)}
    assert len(sweeps) == 2  # the head node, and the others


@pytest.mark.django_db(transaction=True)
def test_a_run_that_begins_while_one_still_looks_for_what_another_left_is_not_ended_by_it(begun_run, monkeypatch):
    """Two may look for the same, and one of them has found all of it."""
    cluster, asked = begun_run.cluster, []
    Run.objects.filter(pk=begun_run.pk).update(status="finished", ended=now(), may_be_left=True)

    def sweep(hosts, uuid, *, alone="", others=False):
        asked.append(bool(alone) or others)
        Run.objects.get_or_create(
            job=begun_run.job, number=2,
            defaults={"cluster": cluster, "status": "inprogress", "started": now(), "output": Output.objects.create()},
        )  # fmt: skip
        return [ssh.Answer(0, b"1" if len(asked) == 1 else b"0", b"") for _ in hosts]

    monkeypatch.setattr(plans.detached, "sweep", sweep)
    plans.sweep(begun_run)
    assert asked == [True, True, False, False]  # the head node and the others, twice
    watch._sweep(begun_run.pk)
    assert len(asked) == 4, "there is nothing left to look for"


@pytest.mark.django_db
@pytest.mark.parametrize("is_deleted", [True, False])
def test_nobody_is_told_to_wait_for_the_nodes_of_a_cluster_that_was_deleted(begun_run, monkeypatch, is_deleted):
    said = []

    class Work:
        subject = begun_run
        log = staticmethod(said.append)

    def silent(*_, **__):
        raise Passing("tide-0 does not answer.")

    monkeypatch.setattr(plans, "end_what_is_left", lambda *_: "tide-0")
    monkeypatch.setattr(plans.ssh, "run", silent)
    if is_deleted:
        Cluster.objects.filter(pk=begun_run.cluster_id).update(status="terminated")
    Run.objects.filter(pk=begun_run.pk).update(started=now())
    plans.clean_up(Work)
    assert ("until the node answers" in " ".join(said)) is not is_deleted
    assert ("stays on the shared filesystem" in " ".join(said)) is is_deleted


@pytest.mark.django_db
def test_the_page_of_a_cancelled_run_says_of_no_step_that_it_was_undone(client, begun_run, bob):
    begun_run.last_task.steps.filter(name="launch").update(status=StepStatus.UNDONE)
    client.force_login(bob)
    assert ", undone" not in client.get(begun_run.get_absolute_url()).content.decode()


@pytest.mark.django_db
def test_who_asks_for_a_run_or_cancels_it_is_told_what_of_it_stays(client, begun_run, bob):
    client.force_login(bob)
    asks = client.get(reverse("new-job", args=[begun_run.workspace.uuid])).content.decode()
    assert "belongs onto the shared filesystem, at $COXSWAIN_SHARED" in asks
    assert "<small>each line of its output live, with its rank</small>" in asks, "a shell command is not on every core"
    assert "its own folder goes" in client.get(f"{begun_run.get_absolute_url()}cancel/").content.decode()


@pytest.mark.django_db
def test_who_cancels_a_run_on_the_page_of_its_task_is_named(client, begun_run, bob, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    client.force_login(bob)
    client.post(f"/tasks/{begun_run.last_task.uuid}/cancel/")
    begun_run.refresh_from_db()
    assert begun_run.cancelled_by == bob


class Waits(Exception):
    pass


class Told:
    """What a step is given, which notes what it says, and ends where it would wait."""

    def __init__(self, run):
        self.subject, self.said, self.memo = run, [], {"looked": True}

    def log(self, sentence):
        self.said.append(sentence)

    def wait(self, seconds, detail):
        raise Waits(detail)

    def save(self):
        pass

    lives = save


class FullCloud:
    def nodes(self, tags):
        return [type("Node", (), {"refuses": "the disk is full"})]


@pytest.mark.django_db
@pytest.mark.parametrize("dedicated", [True, False])
def test_a_cluster_of_its_own_with_a_full_disk_is_not_waited_for_for_ever(begun_run, monkeypatch, dedicated):
    monkeypatch.setattr(Workspace, "cloud", FullCloud())
    Cluster.objects.update(dedicated=dedicated)
    for minutes in (14, 16):
        Run.objects.filter(pk=begun_run.pk).update(turn=now() - timedelta(minutes=minutes), started=None)
        run = Run.objects.get(pk=begun_run.pk)
        ends = dedicated and minutes > 15
        with pytest.raises(Refused if ends else Waits, match=r"takes no run.*: the disk is full"):
            plans.launch(Told(run))


@pytest.mark.django_db
@pytest.mark.parametrize("dedicated", [True, False])
def test_an_output_whose_end_nobody_tells_is_said_to_be_without_it_and_its_own_cluster_goes(begun_run, dedicated):
    Cluster.objects.update(dedicated=dedicated)
    for minutes in (9, 11):
        Run.objects.filter(pk=begun_run.pk).update(ended=now() - timedelta(minutes=minutes))
        work = Told(Run.objects.get(pk=begun_run.pk))
        if dedicated and minutes > 10:
            plans.keep(work)
            assert work.said == ["The head node has told no checksums: the end of the output may be missing."]
        else:
            with pytest.raises(Waits, match="checksums"):
                plans.keep(work)
