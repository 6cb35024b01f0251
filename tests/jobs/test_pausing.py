"""A run that wants it has its cluster paused when it has ended: however it did, once, and not under anybody's feet."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import AuditEvent
from clusters import idle
from clusters.models import Cluster, Terminal
from jobs import dispatch
from jobs.actions import cancel_run, dismiss_run, start_run
from jobs.dispatch import dispatch_all
from jobs.models import Job, Run
from portal.clouds import Can
from portal.tasks.models import Task
from tests.clouds.bad import Refusing
from tests.clusters.test_bad_clouds import go_on
from tests.clusters.test_idle import is_now, mail_goes_out  # noqa: F401
from tests.clusters.test_life import cloud, make, nodes  # noqa: F401
from tests.web import words
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]


@pytest.fixture
def tide(make):  # noqa: F811
    return make()


@pytest.fixture
def job(tide, lab, alice):
    return Job.objects.create(
        workspace=lab, cluster=tide, name="flights", git_url="https://git.test/f", command="f.py", created_by=alice,
        pauses=True,
    )  # fmt: skip


def ends(run, outcome="finished", **more):
    """As the watch process and the run's task leave it."""
    Run.objects.filter(pk=run.pk, turn=None).update(turn=now())
    Run.objects.filter(pk=run.pk).update(status="inprogress", started=now())
    run.refresh_from_db()
    assert run.move(outcome, ended=now(), **more)
    Cluster.objects.filter(occupied_by=run.uuid).update(occupied_by=None)
    run.tasks.update(status="finished", finished=now())
    run.refresh_from_db()
    return run


def said(run):
    run.refresh_from_db()
    return run.paused


def pauses():
    return Task.objects.filter(kind="clusters.pause").count()


@pytest.mark.parametrize("outcome", ["finished", "failed", "cancelled"])
def test_its_cluster_is_paused_when_it_has_ended_in_whatever_way(client, tide, job, bob, vera, outcome):
    run = start_run(job, by=bob)
    client.force_login(vera)
    page = words(client.get(run.get_absolute_url()))
    assert "tide is paused when the run has ended, unless another run waits for it or somebody is on it." in page
    dispatch_all()
    assert (is_now(tide), pauses()) == ("running", 0)
    ends(run, outcome)
    dispatch_all()
    assert is_now(tide) == "pausing"
    task = tide.last_task
    assert (task.title, task.asked_by) == ("Pause cluster tide after flights, run 1, as its job has it", None)
    entry = AuditEvent.objects.get(verb="paused")
    assert (entry.actor, entry.after) == (None, {"why": "after flights, run 1, as its job has it"})
    go_on(tide)
    dispatch_all()
    assert (is_now(tide), pauses()) == ("paused", 1)
    assert said(run) == "tide was paused: nothing else used it when the run had ended."
    assert said(run) in words(client.get(run.get_absolute_url()))


def test_where_the_pause_fails_a_mail_and_its_page_say_what_it_was(client, tide, job, bob, cloud, mail_goes_out):  # noqa: F811
    Cluster.objects.update(created_by=bob)
    ends(start_run(job, by=bob))
    dispatch_all()
    cloud.inner = Refusing(cloud.memory)
    cloud.inner.stop_nodes = cloud.inner._refuse
    assert go_on(tide).status == "failed"
    mails = [one for _ in range(2) for one in idle.look() if one.to == ["bob@example.org"]]
    title = "Pause cluster tide after flights, run 1, as its job has it"
    assert [one.subject for one in mails] == [f"[Coxswain] Failed: {title}"]
    assert "auto pause" not in mails[0].body.lower()
    client.force_login(bob)
    assert f"The portal began it by itself: {title}." in words(client.get(tide.get_absolute_url()))


def test_without_that_choice_it_stays_as_it_is(tide, job, bob):
    Job.objects.update(pauses=False)
    job.refresh_from_db()
    ends(start_run(job, by=bob))
    dispatch_all()
    assert (is_now(tide), pauses()) == ("running", 0)


def test_the_last_of_several_runs_pauses_it(tide, job, bob):
    first, second = start_run(job, by=bob), start_run(job, by=bob)
    ends(first)
    assert dispatch_all() == 1
    assert (is_now(tide), said(first)[:22]) == ("running", "tide was not paused. t")
    second.refresh_from_db()
    assert second.turn
    ends(second)
    dispatch_all()
    assert is_now(tide) == "pausing"
    assert said(second).startswith("tide was paused")


def test_not_while_somebody_has_a_terminal_there_nor_later(tide, job, bob):
    run = ends(start_run(job, by=bob))
    terminal = Terminal.objects.create(cluster=tide, hostname="tide-0", person=bob)
    dispatch_all()
    assert said(run) == "tide was not paused. tide is in use."
    terminal.delete()
    dispatch_all()
    assert (is_now(tide), pauses()) == ("running", 0)


def test_a_run_that_is_asked_for_at_the_same_moment_wins(tide, job, bob, cloud):  # noqa: F811
    ends(start_run(job, by=bob))
    dispatch_all()
    assert is_now(tide) == "pausing"
    run = start_run(job, by=bob)
    assert go_on(tide).status == "cancelled"
    assert is_now(tide) == "running"
    assert dispatch_all() == 1
    run.refresh_from_db()
    assert run.turn


def test_whoever_dies_before_it_is_paused_has_done_nothing_and_the_next_one_does_it(tide, job, bob, monkeypatch):
    run = ends(start_run(job, by=bob))
    real = dispatch.pause_cluster

    def dies(*args, **kwargs):
        real(*args, **kwargs)
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(dispatch, "pause_cluster", dies)
    dispatch_all()
    assert (is_now(tide), pauses(), said(run)) == ("running", 0, "")
    monkeypatch.setattr(dispatch, "pause_cluster", real)
    dispatch_all()
    dispatch_all()
    assert (is_now(tide), pauses()) == ("pausing", 1)


def test_not_before_the_runs_own_task_has_ended(tide, job, bob):
    run = start_run(job, by=bob)
    ends(run)
    run.tasks.update(status="inprogress", finished=None)
    dispatch_all()
    assert (is_now(tide), said(run)) == ("running", "")
    run.tasks.update(status="finished", finished=now())
    dispatch_all()
    assert is_now(tide) == "pausing"


def test_while_it_is_tried_again_it_goes_on_and_the_last_attempt_decides(tide, job, bob):
    Job.objects.update(retries=1)
    job.refresh_from_db()
    run = ends(start_run(job, by=bob), "failed", code="rank_failed")
    assert run.retry_at
    dispatch_all()
    assert (is_now(tide), said(run)) == ("running", "")
    dismiss_run(run, by=bob)
    dispatch_all()
    assert is_now(tide) == "pausing"


def test_a_run_that_is_called_off_before_its_time_pauses_nothing(tide, job, bob):
    run = start_run(job, by=bob, due=now() + timedelta(days=3))
    assert cancel_run(run, by=bob)
    dispatch_all()
    assert is_now(tide) == "running"
    assert said(run) == "tide was not paused: the run was called off before its time."


def test_a_cloud_that_cannot_pause_is_not_asked_and_its_form_has_no_such_field(client, tide, job, bob, monkeypatch):
    edit, new = reverse("edit-job", args=[job.uuid]), reverse("new-job", args=[job.workspace.uuid])
    client.force_login(bob)
    assert "pauses" in client.get(edit).context["form"].fields
    assert "pauses" in client.get(new).context["form"].fields
    run = ends(start_run(job, by=bob))
    monkeypatch.setattr(CloudConfig, "can", property(lambda self: frozenset(Can) - {Can.PAUSE}))
    for page in (edit, new):
        assert "pauses" not in client.get(page).context["form"].fields
    dispatch_all()
    assert is_now(tide) == "running"
    assert said(run).startswith("tide was not paused. ")


def test_spot_nodes_cannot_be_paused_and_the_form_says_so(client, tide, job, bob, make):  # noqa: F811
    swift = make(name="swift")
    Cluster.objects.filter(pk=swift.pk).update(spot=True)
    client.force_login(bob)
    edit = reverse("edit-job", args=[job.uuid])
    typed = {"name": "flights", "command": "f.py", "git_url": "https://git.test/f", "cluster": swift.uuid}
    errors = client.post(edit, typed | {"pauses": "on"}).context["form"].errors
    assert errors == {"pauses": ["swift has spot nodes, and these cannot be paused."]}
    assert client.post(edit, typed).status_code == 302
    assert "pauses" not in client.get(edit).context["form"].fields
