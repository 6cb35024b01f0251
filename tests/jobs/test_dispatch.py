"""Runs wait as rows. Whose turn it is, is decided once, whoever decides."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

import jobs.dispatch
from clusters.actions import delete_cluster
from clusters.models import Cluster, EngineVersion, Node
from jobs.actions import cancel_run, start_run
from jobs.dispatch import dispatch, dispatch_all
from jobs.models import Job, Run, reasons
from portal.tasks.models import Output, Task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture(autouse=True)
def no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def tide(lab):
    version = EngineVersion.objects.create(kind="mpi", version="5", packages=[])
    return Cluster.objects.create(
        workspace=lab, name="tide", engine_version=version, status="running", node_count=1, cores_per_node=2
    )


@pytest.fixture
def job(lab, tide):
    return Job.objects.create(workspace=lab, cluster=tide, name="count", git_url="https://git.test/a", command="a.py")


def ask(job, bob, runs=1):
    return [start_run(job, by=bob) for _ in range(runs)]


def end(run):
    """As its task and the watch process leave it."""
    Run.objects.filter(pk=run.pk).update(status="finished")
    run.tasks.update(status="finished")


def why(run):
    run = Run.objects.select_related("cluster").get(pk=run.pk)
    return reasons([run]).get(run.pk)


def test_on_an_idle_cluster_a_run_has_its_turn_at_once(job, bob, tide):
    (run,) = ask(job, bob)
    tide.refresh_from_db()
    assert (tide.occupied_by, run.last_task.kind) == (run.uuid, "jobs.run")
    assert why(run) is None


def test_the_others_wait_as_rows_in_the_order_in_which_they_were_asked_for(job, bob, tide):
    first, second, third = ask(job, bob, 3)
    assert Task.objects.count() == 1
    assert why(second) == "count, run 1 is on tide"
    assert why(third) == "count, run 1 is on tide, and 1 more waits before it"
    assert dispatch(tide.pk) is None
    end(first)
    tide.release(first.uuid)
    assert dispatch(tide.pk) == second
    assert dispatch(tide.pk) is None
    end(second)
    assert dispatch_all() == 1  # who ended it has died before it let go
    assert Cluster.objects.get().occupied_by == third.uuid


@pytest.mark.parametrize(
    ("status", "words"), [("new", "tide is NEW"), ("inprogress", "tide is INPROGRESS")], ids=["new", "repaired"]
)
def test_a_cluster_that_is_not_running_is_waited_for(job, bob, tide, status, words):
    Cluster.objects.update(status=status)
    (run,) = ask(job, bob)
    assert (dispatch_all(), why(run)) == (0, words)
    Cluster.objects.update(status="running")
    assert dispatch_all() == 1


def test_a_degraded_cluster_is_waited_for_and_says_which_node_is_lost(job, bob, tide):
    Node.objects.create(cluster=tide, rank=0, hostname="tide-0", state="silent")
    (run,) = ask(job, bob)
    assert dispatch_all() == 0
    assert why(run) == "tide is DEGRADED, tide-0 cannot be reached; it begins when that is repaired"
    Node.objects.update(state="answers")
    assert dispatch_all() == 1


def test_nothing_begins_where_something_may_be_left(job, bob, tide):
    before = Run.objects.create(job=job, cluster=tide, number=99, output=Output.objects.create(), status="failed")
    Run.objects.filter(pk=before.pk).update(may_be_left=True)
    (run,) = ask(job, bob)
    assert dispatch_all() == 0
    assert why(run) == "the portal looks whether something of count, run 99 is left on tide"


def test_a_run_that_begins_while_those_of_failed_clusters_are_ended_goes_on(job, bob, tide, monkeypatch):
    Cluster.objects.update(status="inprogress")
    (run,) = ask(job, bob)
    Cluster.objects.update(status="failed")
    give_up = jobs.dispatch._give_up

    def repaired_meanwhile(found):
        Cluster.objects.update(status="running")
        assert dispatch(tide.pk) == run
        give_up(found)

    monkeypatch.setattr("jobs.dispatch._give_up", repaired_meanwhile)
    dispatch_all()
    run.refresh_from_db()
    assert (run.status, run.output.ended, Cluster.objects.get().occupied_by) == ("new", False, run.uuid)


def test_a_deleted_cluster_ends_the_runs_that_wait_for_it_and_says_who_did_it(job, bob, alice, tide):
    Cluster.objects.update(occupied_by=job.uuid)
    (run,) = ask(job, bob)
    Cluster.objects.update(status="running")
    delete_cluster(tide, by=alice)
    dispatch_all()
    run.refresh_from_db()
    assert (run.status, run.cause) == ("failed", "The cluster tide was deleted by Alice.")
    assert run.output.chunks.count() == 0
    assert Output.objects.get(pk=run.output_id).ended


def test_who_waits_is_cancelled_at_once_and_its_turn_never_comes(job, bob, vera, tide):
    first, second, third = ask(job, bob, 3)
    assert cancel_run(second, by=bob)
    second.refresh_from_db()
    assert (second.status, second.cause, second.cancelled_by) == ("cancelled", "Cancelled by Bob.", bob)
    assert not cancel_run(second, by=bob)
    end(first)
    tide.release(first.uuid)
    assert dispatch(tide.pk) == third


def test_a_run_that_is_cancelled_while_its_turn_comes_leaves_the_cluster_to_the_next(job, bob, tide, monkeypatch):
    Cluster.objects.update(status="inprogress")
    first, second = ask(job, bob, 2)
    Cluster.objects.update(status="running")
    still_waiting = jobs.dispatch._still_waiting

    def meanwhile(pk):
        """The run was chosen, and the cluster taken."""
        Run.objects.filter(pk=first.pk).update(status="cancelled")
        return still_waiting(pk)

    monkeypatch.setattr(jobs.dispatch, "_still_waiting", meanwhile)
    assert dispatch(tide.pk) == second
    assert Cluster.objects.get().occupied_by == second.uuid


def test_who_dies_in_the_middle_has_done_nothing(job, bob, tide, monkeypatch):
    Cluster.objects.update(status="inprogress")
    (run,) = ask(job, bob)
    Cluster.objects.update(status="running")

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("jobs.dispatch.ledger.start_task", die)
        with pytest.raises(KeyboardInterrupt):
            dispatch(tide.pk)
    run.refresh_from_db()
    assert (Cluster.objects.get().occupied_by, run.turn) == (None, None)
    assert dispatch_all() == 1


def test_a_thousand_that_wait_cost_a_start_on_another_cluster_no_query_more(job, bob, lab, tide):
    ebb = Cluster.objects.create(
        workspace=lab, name="ebb", engine_version=tide.engine_version, status="running", node_count=1, cores_per_node=2
    )
    other = Job.objects.create(workspace=lab, cluster=ebb, name="other", git_url="https://git.test/a", command="a.py")
    (run,) = ask(other, bob)
    end(run)
    ebb.release(run.uuid)
    with CaptureQueriesContext(connection) as alone:
        (run,) = ask(other, bob)
    end(run)
    ebb.release(run.uuid)
    outputs = Output.objects.bulk_create(Output() for _ in range(1000))
    Run.objects.bulk_create(
        Run(workspace=job.workspace, job=job, cluster=tide, number=n, output=out) for n, out in enumerate(outputs, 100)
    )
    assert dispatch_all() == 1
    with CaptureQueriesContext(connection) as beside:
        ask(other, bob)
    assert len(beside) <= len(alone)
