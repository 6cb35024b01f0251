"""A run that wants it has its cluster resumed, once, and not against whoever has paused it since."""

from __future__ import annotations

import pytest
from django.urls import reverse

from accounts.models import AuditEvent
from clusters import idle
from clusters.actions import pause_cluster
from clusters.models import Cluster, EngineVersion
from jobs.actions import Program, cancel_run, change_job, start_run
from jobs.dispatch import dispatch_all
from jobs.models import Job, Run, reasons
from portal.clouds import Can
from portal.tasks import ledger
from portal.tasks.models import Task
from tests.accounts.test_at_once import at_once
from tests.clouds.bad import Refusing
from tests.clusters.test_bad_clouds import go_on
from tests.clusters.test_idle import is_now, timed, warned_and_due
from tests.clusters.test_life import cloud, make, nodes  # noqa: F401
from tests.web import words
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]


@pytest.fixture
def tide(make):  # noqa: F811
    return make("paused")


@pytest.fixture
def job(tide, lab, alice):
    return Job.objects.create(
        workspace=lab, cluster=tide, name="flights", git_url="https://git.test/f", command="f.py", created_by=alice,
        resumes=True,
    )  # fmt: skip


def why(run):
    run = Run.objects.select_related("cluster").get(pk=run.pk)
    return reasons([run]).get(run.pk)


def resumptions():
    return Task.objects.filter(kind="clusters.resume").count()


def test_a_paused_cluster_is_resumed_for_a_run_which_says_so_and_begins_then(tide, job, bob):
    run = start_run(job, by=bob)
    task = tide.last_task
    assert (task.title, task.asked_by) == ("Resume cluster tide for flights, run 1", bob)
    assert why(run) == "tide resumes"
    entry = AuditEvent.objects.get(verb="resumed")
    assert (entry.actor, entry.after) == (bob.uuid, {"why": "for flights, run 1"})
    go_on(tide)
    assert is_now(tide) == "running"
    assert dispatch_all() == 1
    run.refresh_from_db()
    assert run.turn


def test_without_that_choice_it_waits_for_a_person(tide, job, bob):
    change_job(job, by=bob, resumes=False)
    run = start_run(job, by=bob)
    dispatch_all()
    assert resumptions() == 0
    assert why(run) == "tide is PAUSED, and the run begins once somebody resumes it"


def test_one_run_may_choose_otherwise_than_its_job(tide, job, bob):
    change_job(job, by=bob, resumes=False)
    start_run(job, by=bob, program=Program(tide, job.git_url, "", "f.py", None, resumes=True))
    assert resumptions() == 1
    assert AuditEvent.objects.get(verb="started").after == {"resumes a paused cluster": "yes"}


def test_however_many_ask_it_is_resumed_once(tide, job, bob):
    first, second = start_run(job, by=bob), start_run(job, by=bob)
    dispatch_all()
    assert resumptions() == 1
    assert (why(first), why(second)) == ("tide resumes", "tide resumes, and 1 more waits before it")


@pytest.mark.django_db(transaction=True)
def test_two_that_ask_at_the_same_moment_resume_it_once(lab, bob, request):
    EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})
    tide = request.getfixturevalue("make")("paused")
    asked = [
        Job.objects.create(
            workspace=lab, cluster=tide, name=name, git_url="https://git.test/f", command="f.py", resumes=True
        )
        for name in ("a", "b")
    ]
    at_once(*(lambda job=job: start_run(job, by=bob) for job in asked))
    assert Run.objects.waiting().count() == 2
    assert resumptions() == 1


def test_a_cluster_that_pauses_when_the_run_comes_is_resumed_by_the_next_look(make, job, tide, alice, bob):  # noqa: F811
    other = make(name="ebb")
    Job.objects.update(cluster=other)
    pause_cluster(other, by=alice)
    run = start_run(job, by=bob)
    assert why(run) == "ebb is PAUSING"
    go_on(other)
    assert is_now(other) == "paused"
    dispatch_all()
    assert is_now(other) == "resuming"


def test_a_pause_that_a_timer_begins_at_that_moment_gives_way_or_is_taken_back(make, job, tide, bob):  # noqa: F811
    other = timed(make(name="ebb"))
    Job.objects.update(cluster=other)
    warned_and_due(other)
    idle.look()
    start_run(job, by=bob)
    go_on(other)
    dispatch_all()
    assert is_now(other) == "running"
    assert resumptions() == 0
    assert Run.objects.get().turn


def test_a_run_does_not_resume_what_somebody_has_paused_since(tide, job, alice, bob):
    run = start_run(job, by=bob)
    go_on(tide)
    pause_cluster(tide, by=alice)
    go_on(tide)
    dispatch_all()
    assert is_now(tide) == "paused"
    assert why(run) == "tide is PAUSED, and the run begins once somebody resumes it"
    start_run(job, by=bob)  # somebody wants it after that
    assert is_now(tide) == "resuming"


def test_who_takes_back_that_it_resumes_is_not_asked_again(tide, job, bob):
    run = start_run(job, by=bob)
    ledger.cancel_task(tide.last_task, by=bob)
    go_on(tide)
    dispatch_all()
    assert (is_now(tide), resumptions()) == ("paused", 1)
    assert "once somebody resumes it" in why(run)


def test_where_it_cannot_be_resumed_the_run_fails_with_that_cause(tide, job, bob, cloud):  # noqa: F811
    run = start_run(job, by=bob)
    cloud.inner = Refusing(cloud.memory)
    assert go_on(tide).status == "failed"
    dispatch_all()
    run.refresh_from_db()
    assert run.status == "failed"
    assert run.cause == "tide could not be resumed: The cloud does not accept these credentials."
    assert run.evidence == "UnauthorizedOperation"
    assert run.code == "cluster_failed"


def test_a_run_that_was_cancelled_resumes_nothing(tide, job, alice, bob):
    change_job(job, by=bob, resumes=False)
    run = start_run(job, by=bob)
    Run.objects.update(resumes=True)
    cancel_run(run, by=bob)
    dispatch_all()
    assert resumptions() == 0


def test_the_forms_ask_for_it_and_the_job_says_so(client, tide, job, bob):
    client.force_login(bob)
    address = reverse("edit-job", args=[job.uuid])
    page = words(client.get(address))
    assert "Resume the cluster if it is paused" in page
    assert "tide</a>, resumed if it is paused" in words(client.get(job.get_absolute_url()))
    sent = {"name": "flights", "cluster": tide.uuid, "git_url": job.git_url, "command": "f.py", "reference": ""}
    client.post(address, sent)
    job.refresh_from_db()
    assert not job.resumes
    sent = {**sent, "name": "tides", "resumes": "on"}
    client.post(reverse("new-job", args=[job.workspace.uuid]), sent)
    assert Job.objects.get(name="tides").resumes
    assert is_now(tide) == "resuming"


def test_where_nothing_is_paused_no_form_asks(client, tide, job, bob, monkeypatch):
    can = frozenset(Can) - {Can.PAUSE}
    monkeypatch.setattr(CloudConfig, "can", property(lambda self: can))
    client.force_login(bob)
    for name, about in (("edit-job", job), ("new-job", job.workspace), ("run-job-with-changes", job)):
        assert "Resume the cluster" not in words(client.get(reverse(name, args=[about.uuid])))
    sent = {"name": "flights", "cluster": tide.uuid, "git_url": job.git_url, "command": "g.py", "reference": ""}
    client.post(reverse("edit-job", args=[job.uuid]), sent)
    job.refresh_from_db()
    assert (job.command, job.resumes) == ("g.py", True), "what is not asked stays"
    assert Cluster.objects.filter(status="paused").exists()
