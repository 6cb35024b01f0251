"""A cluster that is made for one run: when it is begun, and that it is ended, whatever becomes of the run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
from django.utils.timezone import now

from clusters import actions, idle, life
from clusters.actions import begin_dedicated, delete_cluster, end_dedicated
from clusters.models import Cluster, EngineVersion, Node
from clusters.specification import Specification
from jobs.actions import cancel_run, change_job, create_job, delete_job, start_run
from jobs.dispatch import dispatch_all
from jobs.models import Job, Run, reasons
from portal.clouds import InstanceType
from portal.errors import PortalError
from portal.tasks import ledger
from portal.tasks.models import Task
from tests.accounts.test_at_once import at_once
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

TYPE = InstanceType("local.2", "Memory", 2, 2, 4.0)
WORDS = {"git_url": "https://git.test/a", "reference": "", "command": "a.py"}


@pytest.fixture(autouse=True)
def no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def wanted(db):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "5", "packages": []})
    return Specification(TYPE, 3, (engine.kind, engine.version), extra_tags={"project": "tides"})


@pytest.fixture
def job(lab, bob, wanted):
    made, _ = create_job(lab, name="Tidal harmonics", dedicated=wanted.kept, by=bob, **WORDS)
    return made


@pytest.fixture
def run(job):
    dispatch_all()
    return job.runs.select_related("cluster__workspace").get()


def why(run):
    run = Run.objects.select_related("cluster").get(pk=run.pk)
    return reasons([run]).get(run.pk)


def task_ends(subject, *, failed="", status="finished"):
    """Its last task, as a worker leaves it."""
    task = subject.last_task
    Task.objects.filter(pk=task.pk).update(status="failed" if failed else status, cause=failed, finished=now())
    task.refresh_from_db()
    plan = ledger.plan_of(task.kind)
    if plan.then:
        subject.refresh_from_db()
        if subject.status == subject.first_status:
            assert subject.move(plan.during)
        assert subject.move(plan.then[task.status])
    if plan.settle:
        plan.settle(task)
    return task


def is_running(run):
    task_ends(run.cluster)
    dispatch_all()
    run.refresh_from_db()
    assert run.turn


def ends(run, status="finished"):
    """As the watch process and its task leave it."""
    Run.objects.filter(pk=run.pk).update(status=status, ended=now(), observed=True)
    task_ends(run)


def of(run):
    """Its cluster's status, and what was begun with it last."""
    cluster = Cluster.objects.get(pk=run.cluster_id)
    return cluster.status, cluster.last_task and cluster.last_task.kind


def test_what_was_chosen_comes_back_as_it_was_kept(wanted):
    kept = replace(wanted, instance_type=replace(TYPE, hourly_price=None, free=3, there=4), zone="a", spot=True)
    again = Specification.read(kept.kept)
    assert again == replace(kept, instance_type=replace(TYPE, free=None, there=None))
    assert (str(again), again.cores) == (f"3 × local.2, Plain MPI {wanted.engine[1]}", 6)


def test_a_run_has_a_cluster_made_for_it_alone_called_after_it(run):
    cluster = run.cluster
    assert (cluster.name, cluster.node_count, cluster.cores_per_node) == ("tidal-harmonics-1", 3, 2)
    assert (cluster.dedicated, cluster.auto_pause, cluster.auto_shutdown) == (True, 0, 0)
    assert cluster.extra_tags == {"project": "tides"}
    assert of(run) == ("new", "clusters.create")
    assert why(run) == "its cluster tidal-harmonics-1 is about to be made"
    task = cluster.last_task
    task.steps.filter(name="reach").update(status="running", detail="1 of 3 have booted")
    assert why(run) == ("its cluster tidal-harmonics-1 is being made: nodes boot and answer, 1 of 3 have booted")


def test_each_run_has_another_one(job, bob):
    second = start_run(job, by=bob)
    assert second.cluster.name == "tidal-harmonics-2"
    assert Cluster.objects.count() == 2


def test_nothing_is_made_before_the_runs_time_and_once_it_has_come_it_is_made_once(lab, bob, wanted):
    soon = now() + timedelta(hours=2)
    _, run = create_job(lab, name="later", dedicated=wanted.kept, due=soon, by=bob, **WORDS)
    dispatch_all()
    assert of(run) == ("new", None)
    assert why(run).startswith("its time is ")
    Run.objects.update(due=now() - timedelta(seconds=1))
    dispatch_all()
    dispatch_all()
    assert of(run) == ("new", "clusters.create")
    assert Task.objects.count() == 1


def test_a_run_on_a_cluster_that_is_there_waits_for_its_time_and_lets_others_go_first(lab, bob, wanted, job, run):
    Cluster.objects.update(dedicated=False, status="running")
    run = job.runs.select_related("cluster").get()
    soon = now() + timedelta(hours=2)
    _, later = create_job(lab, name="later", cluster=run.cluster, due=soon, by=bob, **WORDS)
    Run.objects.filter(pk=run.pk).update(status="finished")
    assert dispatch_all() == 0
    _, sooner = create_job(lab, name="sooner", cluster=run.cluster, by=bob, **WORDS)
    assert Run.objects.get(pk=sooner.pk).turn
    ends(sooner)
    assert Run.objects.get(pk=later.pk).turn is None
    Run.objects.filter(pk=later.pk).update(due=now())
    assert dispatch_all() == 1


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_its_run_has_ended_and_is_cleaned_up_then_it_is_deleted(run, status):
    is_running(run)
    Run.objects.filter(pk=run.pk).update(status=status)
    dispatch_all()
    assert of(run) == ("running", "clusters.create"), "its output is still fetched from there"
    ends(run, status)
    dispatch_all()
    dispatch_all()
    assert of(run) == ("terminating", "clusters.delete")
    task_ends(Cluster.objects.get())
    dispatch_all()
    assert of(run) == ("terminated", "clusters.delete")
    assert Task.objects.filter(kind="clusters.delete").count() == 1


def test_a_run_that_is_cancelled_before_its_time_leaves_nothing_to_be_made(lab, bob, wanted):
    _, run = create_job(lab, name="later", dedicated=wanted.kept, due=now() + timedelta(hours=2), by=bob, **WORDS)
    cancel_run(run, by=bob)
    dispatch_all()
    assert of(run) == ("terminated", None)


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_a_run_that_is_over_while_its_cluster_is_made_has_that_taken_back(job, run, bob, end):
    if end == "cancel":
        cancel_run(run, by=bob)
    else:
        delete_job(job, by=bob)
    dispatch_all()
    task = run.cluster.last_task
    assert (task.kind, task.cancel_asked) == ("clusters.create", True)
    task_ends(run.cluster, status="cancelled")
    dispatch_all()
    assert of(run) == ("terminated", "clusters.create")


def test_a_cluster_that_cannot_be_made_fails_its_run_in_words_and_is_deleted_at_once(run):
    task_ends(run.cluster, failed="local.2 cannot be had in this-computer.")
    dispatch_all()
    run.refresh_from_db()
    assert (run.status, run.code) == ("failed", "dedicated_failed")
    assert run.cause == "tidal-harmonics-1 could not be made: local.2 cannot be had in this-computer."
    assert Cluster.objects.get().kept_until is None
    assert of(run) == ("terminating", "clusters.delete")


def test_a_deletion_that_fails_is_tried_again_after_a_pause_and_longer_ones(run, bob):
    task_ends(run.cluster)
    cancel_run(run, by=bob)
    Run.objects.update(status="cancelled")
    Task.objects.filter(kind="jobs.run").update(status="cancelled")
    dispatch_all()
    for tries, minutes in ((1, 1), (2, 2), (3, 4)):
        task = task_ends(Cluster.objects.get(), failed="The cloud does not answer.")
        dispatch_all()
        assert Task.objects.filter(kind="clusters.delete").count() == tries
        earlier = now() - timedelta(minutes=minutes, seconds=1)
        Task.objects.filter(pk=task.pk).update(finished=earlier)
        dispatch_all()
        assert Task.objects.filter(kind="clusters.delete").count() == tries + 1


def test_a_deletion_that_fails_again_and_again_is_mailed_once_and_not_as_a_timers(settings, run, bob):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    task_ends(run.cluster)
    cancel_run(run, by=bob)
    Run.objects.update(status="cancelled")
    Task.objects.filter(kind="jobs.run").update(status="cancelled")
    mails = []
    for _ in range(2):
        dispatch_all()
        task = task_ends(Cluster.objects.get(), failed="The cloud does not answer.")
        Task.objects.filter(pk=task.pk).update(finished=now() - timedelta(days=1))
        mails += [one.subject for one in idle.look() if one.to == ["bob@example.org"]]
    assert Task.objects.filter(kind="clusters.delete", status="failed").count() == 2
    assert mails == ["[Coxswain] Failed: Delete cluster tidal-harmonics-1"]


def test_people_cannot_pause_scale_edit_or_share_it(lab, job, run, alice, bob):
    task_ends(run.cluster)
    cluster = Cluster.objects.get()
    assert life.possible(cluster) <= {"repair", "delete", "force-delete", "forget"}
    for change in (
        lambda: actions.pause_cluster(cluster, by=alice),
        lambda: actions.stop_cluster(cluster, by=alice),
        lambda: actions.restart_cluster(cluster, by=alice),
        lambda: actions.scale_cluster(cluster, 1, by=alice),
        lambda: actions.edit_cluster(cluster, {"auto_pause": 60}, by=alice),
    ):
        with pytest.raises(PortalError, match="belongs to a run"):
            change()
    with pytest.raises(PortalError, match="belongs to one run"):
        create_job(lab, name="other", cluster=cluster, by=bob, **WORDS)
    with pytest.raises(PortalError, match="belongs to one run"):
        change_job(job, cluster=cluster, by=bob)


def test_no_timer_touches_it(run):
    task_ends(run.cluster)
    Cluster.objects.update(auto_pause=1, auto_shutdown=1, last_active=now() - timedelta(hours=3), warned=now())
    Run.objects.update(status="finished")
    idle.look()
    assert of(run) == ("running", "clusters.create")


def test_who_deletes_it_is_named_by_the_run_that_waited_for_it(run, alice):
    task_ends(run.cluster)
    Cluster.objects.update(occupied_by=None)
    delete_cluster(Cluster.objects.select_related("workspace__organization").get(), by=alice)
    dispatch_all()
    run.refresh_from_db()
    assert (run.status, run.cause) == ("failed", "The cluster tidal-harmonics-1 was deleted by Alice.")
    assert "made anew" in run.advice


def test_whoever_cancels_that_it_is_made_has_cancelled_the_run(run):
    task_ends(run.cluster, status="cancelled")
    dispatch_all()
    run.refresh_from_db()
    assert run.status == "failed"
    assert run.cause == "Create cluster tidal-harmonics-1 for Tidal harmonics, run 1 was cancelled."


def test_a_job_moves_to_a_cluster_that_is_there_and_back(lab, job, bob, wanted):
    engine = EngineVersion.objects.get(kind="mpi")
    tide = Cluster.objects.create(
        workspace=lab, name="tide", engine_version=engine, status="running", node_count=1, cores_per_node=2
    )
    assert change_job(job, cluster=tide, by=bob)
    assert start_run(job, by=bob).cluster == tide
    assert change_job(job, dedicated=wanted.kept, by=bob)
    job.refresh_from_db()
    assert (job.cluster, job.specification) == (None, wanted)
    with pytest.raises(PortalError, match="Choose a cluster"):
        change_job(job, cluster=None, by=bob)


def since(run, minutes):
    """Its cluster's task has ended so long ago."""
    Task.objects.filter(kind="clusters.create").update(finished=now() - timedelta(minutes=minutes))
    dispatch_all()
    run.refresh_from_db()
    return run.status


@pytest.mark.parametrize(
    ("status", "silent", "why"),
    [
        ("running", True, "tidal-harmonics-1-0 cannot be reached"),
        ("stopped", False, "it is STOPPED"),
        ("paused", False, "it is PAUSED"),
    ],
)
def test_a_cluster_that_cannot_take_its_run_for_a_quarter_of_an_hour_is_ended_and_the_run_says_why(
    run, status, silent, why
):
    task_ends(run.cluster)
    Cluster.objects.update(status=status)
    if silent:
        Node.objects.create(cluster=run.cluster, rank=0, hostname="tidal-harmonics-1-0", state="silent")
    assert since(run, 14) == "new"
    assert of(run)[1] == "clusters.create"
    assert since(run, 16) == "failed"
    assert run.cause == f"tidal-harmonics-1, which was made for this run, could not take it for 15 min: {why}."
    assert of(run) == ("terminating", "clusters.delete")


def test_a_cluster_that_is_free_takes_its_run_however_long_the_portal_was_away(run):
    task_ends(run.cluster)
    assert since(run, 600) == "new"
    assert run.turn


def test_a_cluster_that_others_use_is_waited_for_however_long_that_takes(lab, bob, job, run):
    Cluster.objects.update(dedicated=False)
    task_ends(run.cluster)
    Cluster.objects.update(occupied_by=uuid4())
    assert since(run, 600) == "new"
    assert not run.turn


def test_an_output_is_fetched_to_its_end_before_the_cluster_goes_but_not_for_ever(run):
    is_running(run)
    Run.objects.filter(pk=run.pk).update(status="finished", is_on_node=True, ended=now())
    task_ends(run)
    dispatch_all()
    assert of(run) == ("running", "clusters.create")
    Run.objects.filter(pk=run.pk).update(ended=now() - timedelta(minutes=11))
    dispatch_all()
    assert of(run) == ("terminating", "clusters.delete")


def started(job, bob, count):
    runs = [start_run(job, by=bob) for _ in range(count)]
    dispatch_all()
    return runs


def begun():
    return set(Task.objects.filter(kind="clusters.create").values_list("title", flat=True))


def test_so_many_clusters_of_runs_are_there_at_once_and_the_others_wait_in_their_order(settings, job, run, bob):
    settings.DEDICATED_PER_WORKSPACE = 2
    second, third, fourth = started(job, bob, 3)
    assert len(begun()) == 2
    assert why(second) == "its cluster tidal-harmonics-2 is about to be made"
    assert why(third) == "lab has 2 clusters of runs, and no more may be there at once; it is the next"
    assert why(fourth).endswith("at once; 1 run waits before it")
    with pytest.raises(PortalError, match="and no more may be there at once"):
        begin_dedicated(fourth.cluster, by=bob, why="")
    cancel_run(run, by=bob)
    dispatch_all()
    task_ends(run.cluster, status="cancelled")
    dispatch_all()
    dispatch_all()
    assert of(run)[0] == "terminated"
    assert of(third)[1] == "clusters.create"
    assert of(fourth) == ("new", None)
    assert why(fourth).endswith("it is the next")


def test_an_organization_has_so_many_in_all_its_workspaces(settings, job, run, bob):
    settings.DEDICATED_PER_ORGANIZATION = 1
    (second,) = started(job, bob, 1)
    assert of(second) == ("new", None)
    assert why(second).startswith(f"{job.workspace.organization} has the cluster of a run")


def test_runs_of_a_workspace_that_is_broken_are_in_nobodys_way(lab, bob, wanted, job, settings):
    settings.DEDICATED_PER_WORKSPACE = 1
    broken = Workspace.objects.create(
        organization=lab.organization, cloud_config=lab.cloud_config, name="reef", region=lab.region, status="ready"
    )
    Run.objects.update(status="cancelled")
    dispatch_all()
    _, first = create_job(broken, name="first", dedicated=wanted.kept, by=bob, **WORDS)
    _, second = create_job(lab, name="second", dedicated=wanted.kept, by=bob, **WORDS)
    Workspace.objects.filter(pk=broken.pk).update(status="failed")
    dispatch_all()
    assert of(first) == ("new", None)
    assert of(second) == ("new", "clusters.create")
    assert why(first) == f"{broken} is FAILED, and its cluster is made once that is READY"


@pytest.mark.parametrize(
    ("ranks", "why"),
    [
        ({"ranks": 7}, "The run wants 7 ranks, and a cluster of 3 × local.2 has 6 cores."),
        ({"ranks_per_node": 3}, "The run wants 3 ranks, and each node of a cluster of 3 × local.2 has 2 cores."),
    ],
)
def test_more_ranks_than_its_cluster_would_have_are_refused_before_there_is_a_run(lab, bob, wanted, ranks, why):
    with pytest.raises(PortalError) as caught:
        create_job(lab, name="tides", dedicated=wanted.kept, by=bob, due=now() + timedelta(days=1), **ranks, **WORDS)
    assert (str(caught.value), caught.value.field) == (why, "ranks")
    assert not Cluster.objects.exists()
    assert not Job.objects.exists()


def test_more_ranks_than_a_cluster_has_are_refused_unless_somebody_scales_it_or_may(lab, bob):
    tide = Cluster.objects.create(
        workspace=lab, name="tide", engine_version=EngineVersion.objects.get(kind="mpi"), status="running",
        node_count=2, cores_per_node=2,
    )  # fmt: skip
    words = WORDS | {"cluster": tide, "by": bob, "ranks": 6}
    with pytest.raises(PortalError, match="The run wants 6 ranks, and tide has 4 cores"):
        create_job(lab, name="now", **words)
    create_job(lab, name="later", due=now() + timedelta(days=1), **words)
    Cluster.objects.update(scale_to=3)
    create_job(lab, name="scaled", **words)


@pytest.mark.django_db(transaction=True)
def test_jobs_that_are_called_alike_have_clusters_that_are_called_otherwise(lab, bob, wanted):
    names = ["Tidal harmonics", "tidal-harmonics", "Tidal, harmonics", "Tidal harmonics!"]
    acts = [partial(create_job, lab, name=name, dedicated=wanted.kept, by=bob, **WORDS) for name in names]
    assert at_once(*acts) == [None] * len(names)
    assert {name[: len("tidal-harmonics-1")] for name in Cluster.objects.values_list("name", flat=True)} == {
        "tidal-harmonics-1"
    }
    assert Cluster.objects.count() == len(names)


@pytest.mark.django_db(transaction=True)
def test_watch_processes_that_look_at_once_make_no_more_than_there_is_room_for(settings, lab, bob, wanted):
    settings.DEDICATED_PER_WORKSPACE = 2
    made = [create_job(lab, name=f"tides {n}", dedicated=wanted.kept, by=bob, **WORDS)[1] for n in range(5)]
    assert at_once(*[dispatch_all] * 3) == [None] * 3
    assert len(begun()) == 2
    for run in made[:2]:
        cancel_run(run, by=bob)
    assert at_once(*[dispatch_all] * 3) == [None] * 3
    for run in made[:2]:
        task_ends(run.cluster, status="cancelled")
    assert at_once(*[dispatch_all] * 3) == [None] * 3
    dispatch_all()
    assert len(begun()) == 4
    assert Cluster.objects.filter(status="terminated").count() == 2


def test_nobody_ends_a_cluster_twice(run, bob):
    cancel_run(run, by=bob)
    assert end_dedicated(run.cluster)
    assert not end_dedicated(run.cluster)


OWN = {"cluster": "new", "own-instance_type": "local.1", "own-node_count": "2"}
TYPED = {"name": "tides", "git_url": "https://git.test/a/b/tree/main/demo", "command": "a.py 1"}


def test_who_manages_clusters_fills_one_in_and_others_run_the_job(client, lab, alice, bob):
    engine = EngineVersion.objects.get(kind="mpi").pk
    words = OWN | TYPED | {"own-engine_version": engine, "ranks": "1", "ranks_are": "node"}
    words |= {"environment_name": ["A", "B"], "environment_value": ["1", "2"]}
    address = f"/workspaces/{lab.uuid}/jobs/new/"
    client.force_login(bob)
    assert client.post(address, words).status_code == 200
    assert not Job.objects.exists()
    client.force_login(alice)
    assert client.post(address, words | {"own-node_count": "0"}).status_code == 200
    page = client.post(address, words | {"ranks": "2"}).content.decode()
    assert "The run wants 2 ranks, and each node of a cluster of 2 × local.1 has 1 core." in page
    assert not Job.objects.exists()
    assert client.post(address, words).status_code == 302
    job = Job.objects.get()
    assert (job.git_url, job.command) == ("https://git.test/a/b", "demo/a.py 1")
    assert (job.reference, job.ranks, job.ranks_per_node) == ("main", None, 1)
    assert job.environment == {"A": "1", "B": "2"}
    assert str(job.specification).startswith("2 × local.1, Plain MPI")
    client.force_login(bob)
    assert "A new one for each run: 2 × local.1" in client.get(f"/jobs/{job.uuid}/edit/").content.decode()
    edited = {"cluster": "new", "name": "tides", "git_url": job.git_url, "command": "b.py", "reference": "main"}
    assert client.post(f"/jobs/{job.uuid}/edit/", edited).status_code == 302
    job.refresh_from_db()
    assert (job.command, job.specification.node_count) == ("b.py", 2)
    client.post(f"/jobs/{job.uuid}/run/")
    assert [run.cluster.name for run in job.runs.order_by("pk")] == ["tides-1", "tides-2"]
    page = client.get(f"/workspaces/{lab.uuid}/clusters/?tab=jobs").content.decode()
    assert "for tides, run 1" in page


def test_a_time_that_has_passed_or_is_none_is_said(client, lab, bob, job):
    client.force_login(bob)
    Cluster.objects.create(
        workspace=lab, name="tide", engine_version=EngineVersion.objects.get(kind="mpi"), status="running",
        node_count=1, cores_per_node=2,
    )  # fmt: skip
    words = TYPED | {"cluster": Cluster.objects.get(name="tide").uuid}
    address = f"/workspaces/{lab.uuid}/jobs/new/"
    for due, said in (("2020-01-01T10:00", "This time has passed"), ("soon", "Give a day and a time")):
        assert said in client.post(address, words | {"due": due}).content.decode()
    later = (now() + timedelta(days=2)).strftime("%d-%m-%Y %H:%M")  # as the product writes it
    assert client.post(address, words | {"due": later}).status_code == 302
    run = Run.objects.latest("pk")
    assert run.due > now() + timedelta(days=1)
    assert run.is_waiting
    assert "its time is" in client.get(f"/runs/{run.uuid}/").content.decode()
