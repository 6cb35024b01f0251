"""Clusters on which nothing goes on: when that is so, who is told, what the timers do, and who is faster."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from smtplib import SMTPRecipientsRefused

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db.models import F
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import AuditEvent
from clusters import idle, watch
from clusters.actions import (
    edit_cluster,
    pause_cluster,
    repair_cluster,
    resume_cluster,
    snooze_cluster,
)
from clusters.models import Cluster, Terminal
from clusters.samples import Sample
from jobs.actions import start_run
from jobs.dispatch import dispatch_all
from jobs.models import Job, Run
from jobs.plans import leave_cluster
from portal.clouds import Can
from portal.errors import Conflict, PortalError
from portal.tasks import ledger
from portal.tasks.models import Task
from tests.clouds.bad import Refusing
from tests.clusters.test_bad_clouds import go_on
from tests.clusters.test_life import cloud, make, nodes  # noqa: F401
from tests.pages.test_pages import make_run
from tests.running import until
from workspaces.models import WorkspaceMember

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]


def back(cluster, minutes):
    """Everything that was written down of its timers was so many minutes ago."""
    by = timedelta(minutes=minutes)
    Cluster.objects.filter(pk=cluster.pk).update(last_active=F("last_active") - by, warned=F("warned") - by)
    cluster.refresh_from_db()


def timed(cluster, pause=60, shutdown=0):
    Cluster.objects.filter(pk=cluster.pk).update(auto_pause=pause, auto_shutdown=shutdown)
    cluster.refresh_from_db()
    return cluster


def is_now(cluster):
    cluster.refresh_from_db()
    return cluster.status


@pytest.fixture
def tide(make):  # noqa: F811
    return timed(make())


@pytest.fixture
def job(tide, lab, alice):
    return Job.objects.create(
        workspace=lab, cluster=tide, name="flights", git_url="https://git.test/f", command="f.py", created_by=alice
    )


def warned_and_due(cluster, minutes=61):
    back(cluster, minutes - 10)
    idle.look()
    back(cluster, 10)


def test_an_idle_cluster_is_warned_of_and_then_paused(tide, cloud):  # noqa: F811
    back(tide, 49)
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning is None
    back(tide, 2)
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning.does == "pauses"
    assert tide.warning.acts_at - now() < timedelta(minutes=10)
    back(tide, 10)
    idle.look()
    assert is_now(tide) == "pausing"
    task = tide.last_task
    assert (task.kind, task.asked_by) == ("clusters.pause", None)
    assert task.title == "Pause cluster tide: auto pause after 1 hour without activity"
    event = AuditEvent.objects.latest("pk")
    assert (event.verb, event.actor, event.after) == (
        "paused",
        None,
        {"why": "auto pause after 1 hour without activity"},
    )
    go_on(tide)
    assert is_now(tide) == "paused"
    assert [node.state for node in cloud.memory.nodes(tide.tags)] == ["stopped"] * 2, "their disks are kept"


def test_a_page_says_that_it_was_paused_by_itself_or_by_somebody(client, tide, alice, vera):
    client.force_login(vera)
    warned_and_due(tide)
    idle.look()
    go_on(tide)
    assert "Paused by itself</a> at" in page(client, tide)
    resume_cluster(tide, by=alice)
    go_on(tide)
    assert is_now(tide) == "running"
    pause_cluster(tide, by=alice)
    go_on(tide)
    assert "Paused by itself" not in page(client, tide)


def test_it_comes_back_under_its_names_and_its_time_begins_again(tide, alice):
    names = [node.hostname for node in tide.nodes.all()]
    warned_and_due(tide)
    idle.look()
    go_on(tide)
    resume_cluster(tide, by=alice)
    go_on(tide)
    assert is_now(tide) == "running"
    assert [node.hostname for node in tide.nodes.all()] == names
    assert now() - tide.last_active < timedelta(minutes=1)
    idle.look()
    assert is_now(tide) == "running"


@pytest.mark.parametrize(("minutes", "lead"), [(60, 10), (20, 10), (19, 9.5), (6, 3), (1, 0.5)])
def test_short_timers_warn_at_half_time(tide, minutes, lead):
    timer = timed(tide, minutes).timer
    assert timer.acts_at - timer.warns_at == timedelta(minutes=lead)


def test_never_is_never(make):  # noqa: F811
    cluster = timed(make(), 0, 0)
    back(cluster, 60 * 24 * 365)
    assert cluster.timer is None
    assert idle.look() == []
    assert is_now(cluster) == "running"


def test_who_was_away_warns_first_and_waits_as_long_as_the_warning_says(tide):
    back(tide, 60 * 24)  # no watch process was there for a day
    idle.look()
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning.acts_at - now() > timedelta(minutes=9)
    back(tide, 9)
    idle.look()
    assert is_now(tide) == "running"
    back(tide, 2)
    idle.look()
    assert is_now(tide) == "pausing"


def test_a_cloud_that_cannot_pause_is_not_asked_to_and_no_page_speaks_of_it(tide, client, alice, cloud, monkeypatch):  # noqa: F811
    monkeypatch.setattr("workspaces.models.CloudConfig.can", property(lambda self: frozenset(Can) - {Can.PAUSE}))
    warned_and_due(tide)
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warned is None
    client.force_login(alice)
    assert "Auto pause" not in page(client, tide)
    form = client.get(reverse("edit-cluster", args=[tide.uuid])).content.decode()
    assert "auto_pause" not in form
    with pytest.raises(PortalError, match="cannot do this: pause"):
        edit_cluster(tide, {"auto_pause": 30}, by=alice)


# What counts


def use_by_run(cluster, job, alice):
    start_run(job, by=alice)


def use_by_waiting_run(cluster, job, alice):
    Cluster.objects.filter(pk=cluster.pk).update(status="inprogress")
    start_run(job, by=alice)
    Cluster.objects.filter(pk=cluster.pk).update(status="running")


def use_by_terminal(cluster, job, alice):
    Terminal.objects.create(cluster=cluster, hostname="tide-0", person=alice)


USES = [use_by_run, use_by_waiting_run, use_by_terminal]


@pytest.mark.parametrize("use", USES)
def test_what_goes_on_keeps_it(tide, job, alice, use):
    use(tide, job, alice)
    for _ in range(5):
        back(tide, 30)
        idle.look()
        assert is_now(tide) == "running"
        assert tide.warning is None


@pytest.mark.parametrize("use", USES)
def test_what_begins_after_the_warning_takes_it_back(tide, job, alice, use, rings):
    back(tide, 55)
    idle.look()
    assert is_now(tide)
    assert tide.warning
    use(tide, job, alice)
    rings.clear()
    with_commits(idle.look)
    until(lambda: f"cluster.{tide.uuid}" in rings, what="news for pages")
    assert is_now(tide) == "running"
    assert tide.warning is None


def with_commits(act):
    from django.test import TestCase

    with TestCase.captureOnCommitCallbacks(execute=True):
        return act()


def test_the_time_begins_at_the_end_of_a_run_also_where_nobody_watched(tide, job, alice):
    run = start_run(job, by=alice)
    back(tide, 300)
    Run.objects.filter(pk=run.pk).update(status="finished", ended=now())
    leave_cluster(run)
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning is None
    assert now() - tide.last_active < timedelta(minutes=1)


def test_what_people_do_is_activity_and_what_nobody_asked_for_is_none(tide, alice):
    back(tide, 40)
    before = tide.last_active
    repair_cluster(tide, by=None)
    go_on(tide)
    assert is_now(tide) == "running"
    assert tide.last_active == before
    repair_cluster(tide, by=alice)
    go_on(tide)
    assert is_now(tide) == "running"
    assert tide.last_active > before
    back(tide, 40)
    before = tide.last_active
    edit_cluster(tide, {"auto_pause": 5}, by=alice)
    assert is_now(tide)
    assert tide.last_active > before, "a shorter time does not pause it at once"


def test_an_auto_pause_that_somebody_cancels_begins_the_time_again(tide, alice):
    warned_and_due(tide)
    idle.look()
    task = tide.last_task
    ledger.cancel_task(task, by=alice)
    go_on(tide)
    assert is_now(tide) == "running"
    assert tide.warning is None
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning is None


# Auto shutdown


def test_auto_shutdown_deletes_it(make):  # noqa: F811
    cluster = timed(make(), 0, 120)
    warned_and_due(cluster, 121)
    assert cluster.warning.does == "is deleted"
    idle.look()
    assert is_now(cluster) == "terminating"
    go_on(cluster)
    assert is_now(cluster) == "terminated"
    assert AuditEvent.objects.filter(verb="deleted").latest("pk").after == {
        "why": "auto shutdown after 2 hours without activity"
    }


def test_the_shutdown_of_a_paused_cluster_goes_on_from_its_last_activity(make):  # noqa: F811
    cluster = timed(make(), 60, 120)
    warned_and_due(cluster)
    idle.look()
    go_on(cluster)
    assert is_now(cluster) == "paused"
    assert cluster.timer.verb == "delete"
    back(cluster, 48)
    idle.look()
    assert is_now(cluster) == "paused"
    assert cluster.warning is None, "it has 11 minutes more"
    back(cluster, 2)
    idle.look()
    assert is_now(cluster) == "paused"
    assert cluster.warning.does == "is deleted"
    back(cluster, 10)
    idle.look()
    assert is_now(cluster) == "terminating"


def test_a_run_that_waits_for_a_paused_cluster_keeps_it(make, lab, alice):  # noqa: F811
    cluster = timed(make("paused"), 0, 60)
    job = Job.objects.create(workspace=lab, cluster=cluster, name="a", git_url="https://git.test/a", command="a.py")
    start_run(job, by=alice)
    for _ in range(3):
        back(cluster, 59)
        idle.look()
    assert is_now(cluster) == "paused"


@pytest.mark.parametrize("status", ["stopped", "failed", "scaling"])
def test_what_was_stopped_or_has_failed_stays_for_people(make, status):  # noqa: F811
    cluster = timed(make(status), 60, 60)
    back(cluster, 600)
    idle.look()
    assert is_now(cluster) == status
    assert cluster.warned is None


@pytest.mark.parametrize(("pause", "shutdown", "verb"), [(60, 60, "delete"), (60, 30, "delete"), (30, 60, "pause")])
def test_the_timer_that_is_due_first_acts(make, pause, shutdown, verb):  # noqa: F811
    assert timed(make(), pause, shutdown).timer.verb == verb


# Who is told


@pytest.fixture
def mail_goes_out(settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.PORTAL_URL = "https://portal.test"


def test_who_made_it_and_who_may_change_it_are_mailed_once(tide, alice, bob, vera, charlie, mail_goes_out):
    Cluster.objects.filter(pk=tide.pk).update(created_by=bob)
    type(alice).objects.filter(pk=alice.pk).update(time_zone="Asia/Tokyo")
    back(tide, 51)
    for _ in range(3):
        idle.send(idle.look())
    assert sorted(message.to[0] for message in mail.outbox) == ["alice@example.org", "bob@example.org"]
    theirs = {message.to[0]: message for message in mail.outbox}
    assert re.fullmatch(r"\[Coxswain\] tide pauses at \d\d:\d\d JST", theirs["alice@example.org"].subject)
    assert theirs["bob@example.org"].subject.endswith("UTC")
    assert f"https://portal.test/clusters/{tide.uuid}/\n" in theirs["bob@example.org"].body
    assert "its nodes stop, and keep their disks" in theirs["bob@example.org"].body


def test_who_does_not_want_to_know_or_is_not_there_any_more_is_not_mailed(tide, alice, bob, mail_goes_out):
    Cluster.objects.filter(pk=tide.pk).update(created_by=bob)
    WorkspaceMember.objects.filter(user=bob).delete()
    type(alice).objects.filter(pk=alice.pk).update(notify_idleness=False)
    back(tide, 51)
    assert idle.look() == []
    assert is_now(tide)
    assert tide.warning


def test_a_mail_server_that_is_away_stops_no_timer(tide, mail_goes_out, monkeypatch):
    def away(*_):
        raise ConnectionRefusedError

    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", away)
    back(tide, 51)
    idle.send(idle.look())
    back(tide, 10)
    idle.look()
    assert is_now(tide) == "pausing"


def test_an_address_that_a_mail_server_refuses_keeps_no_warning_from_others(
    tide, alice, bob, mail_goes_out, monkeypatch
):
    Cluster.objects.filter(pk=tide.pk).update(created_by=bob)
    deliver = EmailBackend.send_messages

    def refuse(self, messages):
        for message in messages:
            if message.to == ["alice@example.org"]:
                raise SMTPRecipientsRefused({message.to[0]: (550, b"no such user")})
            deliver(self, [message])

    monkeypatch.setattr(EmailBackend, "send_messages", refuse)
    back(tide, 51)
    idle.send(idle.look())
    assert [message.to[0] for message in mail.outbox] == ["bob@example.org"]


def fail_to_pause(tide, cloud):  # noqa: F811
    warned_and_due(tide)
    idle.look()
    cloud.inner = Refusing(cloud.memory)
    cloud.inner.stop_nodes = cloud.inner._refuse
    assert go_on(tide).status == "failed"


def test_an_auto_pause_that_fails_is_mailed_once_and_on_the_page(client, tide, alice, bob, cloud, mail_goes_out):  # noqa: F811
    Cluster.objects.filter(pk=tide.pk).update(created_by=bob)
    fail_to_pause(tide, cloud)
    mail.outbox.clear()
    for _ in range(3):
        idle.send(idle.look())
    assert sorted(message.to[0] for message in mail.outbox) == ["alice@example.org", "bob@example.org"]
    assert {message.subject for message in mail.outbox} == {
        "[Coxswain] Failed: Pause cluster tide: auto pause after 1 hour without activity"
    }
    assert "The cloud does not accept these credentials." in mail.outbox[0].body
    assert "its nodes may run still" in mail.outbox[0].body
    client.force_login(bob)
    assert "The portal began it by itself: Pause cluster tide: auto pause after 1 hour" in page(client, tide)


def test_a_pause_that_somebody_asked_for_and_that_fails_is_mailed_to_nobody(tide, alice, cloud, mail_goes_out):  # noqa: F811
    pause_cluster(tide, by=alice)
    cloud.inner = Refusing(cloud.memory)
    cloud.inner.stop_nodes = cloud.inner._refuse
    assert go_on(tide).status == "failed"
    assert idle.look() == []


def test_another_failure_of_the_same_cluster_is_another_mail(tide, alice, cloud, mail_goes_out):  # noqa: F811
    fail_to_pause(tide, cloud)
    assert len(idle.look()) == 1
    cloud.inner = cloud.memory
    repair_cluster(tide, by=alice)
    assert go_on(tide).status == "finished"
    assert idle.look() == []
    fail_to_pause(tide, cloud)
    assert len(idle.look()) == 1


def test_who_mends_it_at_the_same_moment_is_not_told_that_this_has_failed(tide, alice, cloud, mail_goes_out):  # noqa: F811
    fail_to_pause(tide, cloud)
    (seen,) = idle._with_failures()
    repair_cluster(tide, by=alice)
    assert idle._tell(seen) == []


def test_what_is_wrong_with_one_cluster_keeps_no_timer_of_others(tide, make, monkeypatch, caplog):  # noqa: F811
    other = timed(make(name="ebb"))
    back(tide, 51)
    back(other, 51)
    idle.look()
    act = idle._act

    def breaks(cluster, timer):
        if cluster == tide:
            raise ZeroDivisionError
        act(cluster, timer)

    monkeypatch.setattr(idle, "_act", breaks)
    back(tide, 10)
    back(other, 10)
    idle.look()
    assert (is_now(tide), is_now(other)) == ("running", "pausing")
    assert f"the timers of cluster {tide.uuid}" in caplog.text


def test_mails_that_the_server_does_not_take_are_sent_again_and_given_up_in_the_end(
    tide, mail_goes_out, monkeypatch, caplog
):
    tries = []

    deliver = EmailBackend.send_messages

    def away(self, messages):
        tries.append(messages)
        if len(tries) != 3:
            raise ConnectionRefusedError
        return deliver(self, messages)

    monkeypatch.setattr(EmailBackend, "send_messages", away)
    monkeypatch.setattr(watch, "RESEND", (0.0, 0.0, 0.0))
    back(tide, 51)
    mails = idle.look()
    asyncio.run(watch._send(mails))
    assert (len(tries), len(mail.outbox)) == (3, 1)
    asyncio.run(watch._send(mails))
    assert "1 mails of timers were not sent, and are given up" in caplog.text
    assert len(mail.outbox) == 1


def test_what_nobody_has_thought_of_while_mails_are_sent_is_in_the_log(monkeypatch, caplog):
    monkeypatch.setattr(idle, "send", lambda mails: 1 / 0)
    asyncio.run(watch._send([mail.EmailMessage()]))
    assert "ZeroDivisionError" in caplog.text


# Pages


def words(answer):
    return " ".join(answer.content.decode().split())


def page(client, cluster):
    return words(client.get(cluster.get_absolute_url()))


def test_the_page_says_why_the_time_goes_on_or_not(client, tide, job, vera, alice):
    client.force_login(vera)
    assert "Idle since" in page(client, tide)
    assert "After 1 hour without activity" in page(client, tide)
    Terminal.objects.create(cluster=tide, hostname="tide-0", person=alice)
    start_run(job, by=alice)
    said = page(client, tide)
    assert re.search("Active now: *<div>flights, run 1 is on it</div>", said)
    assert "<div>Alice has a terminal on tide-0</div>" in said
    assert "Idle since" not in said


def test_how_busy_its_cores_were_is_evidence_that_does_not_count(client, tide, vera, monkeypatch):
    sample = Sample(now().timestamp(), 0.25, 100, 1000, None, None)
    busy = sample._replace(cpu=0.75)
    monkeypatch.setattr("clusters.samples.of", lambda pks, seconds: {pk: [sample, busy] for pk in pks})
    client.force_login(vera)
    back(tide, 51)
    idle.look()
    said = page(client, tide)
    assert "Its cores were busy for 50 % of the last 10 minutes, which does not count." in said
    assert "It pauses at" in said


def test_a_warning_is_on_the_page_and_in_the_list_and_one_click_takes_it_back(client, tide, lab, bob, vera):
    back(tide, 55)
    idle.look()
    client.force_login(vera)
    assert "It pauses at" in page(client, tide)
    assert "snooze" not in page(client, tide)
    client.force_login(bob)
    address = reverse("clusters", args=[lab.uuid])
    assert "pauses at" in words(client.get(address))
    client.post(re.search(r'action="(/clusters/[^"]+/snooze/)"', page(client, tide))[1])
    assert "It pauses at" not in page(client, tide)
    assert "pauses at" not in words(client.get(address))
    event = AuditEvent.objects.latest("pk")
    assert (event.verb, event.actor_name) == ("snoozed", "bob@example.org")


def test_the_dashboard_tells_those_who_can_do_something(client, tide, job, make, lab, alice, bob, vera):  # noqa: F811
    """However many clusters there are that are newer."""
    leave_cluster(start_run(job, by=alice))
    Run.objects.update(status="finished")
    for number in range(9):
        make(name=f"later{number}")
    back(tide, 55)
    idle.look()
    for address in (reverse("dashboard"), reverse("workspace-dashboard", args=[lab.uuid])):
        client.force_login(vera)
        assert "Nobody uses these clusters" not in client.get(address).content.decode()
        client.force_login(bob)
        body = client.get(address).content.decode()
        assert "Nobody uses these clusters" in body
        assert f"/clusters/{tide.uuid}/snooze/" in body


def test_sessions_by_ssh_are_evidence_and_count_where_a_setting_says_so(client, tide, vera, settings):
    client.force_login(vera)
    assert "Whether people are signed in by ssh cannot be told here" in page(client, tide)
    tide.nodes.update(guests=0)
    assert "Nobody is signed in by ssh. They do not count" not in page(client, tide)
    assert "Nobody is signed in by ssh." in page(client, tide)
    tide.nodes.filter(rank=1).update(guests=2)
    assert "Sessions by ssh: 2 on tide-1. They do not count as activity." in page(client, tide)
    back(tide, 55)
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning
    settings.SSH_IS_ACTIVITY = True
    assert "Active now: <div>Sessions by ssh: 2 on tide-1</div>" in page(client, tide).replace(": <", ": <")
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning is None
    tide.nodes.update(state="silent")
    back(tide, 55)
    idle.look()
    assert is_now(tide) == "running"
    assert tide.warning, "a node that does not answer tells nothing of today"


def test_what_cannot_be_snoozed_any_more_is_said(tide, bob):
    warned_and_due(tide)
    idle.look()
    with pytest.raises(Conflict, match="tide is PAUSING"):
        snooze_cluster(tide, by=bob)


def test_timers_are_changed_while_it_lives(client, tide, alice):
    client.force_login(alice)
    address = reverse("edit-cluster", args=[tide.uuid])
    form = client.get(address).content.decode()
    assert 'name="auto_pause_0" value="1"' in form
    sent = {"name": "tide", "auto_pause_0": "2", "auto_pause_1": "days", "auto_shutdown_1": "never", "auto_repair": ""}
    client.post(address, sent)
    tide.refresh_from_db()
    assert (tide.auto_pause, tide.auto_shutdown) == (2880, 0)
    event = AuditEvent.objects.latest("pk")
    assert (event.before, event.after) == ({"auto pause": "1 hour"}, {"auto pause": "2 days"})
    client.post(address, {**sent, "auto_pause_1": "never", "auto_shutdown_0": "100", "auto_shutdown_1": "days"})
    tide.refresh_from_db()
    assert tide.auto_pause == 2880, "nothing is changed where a field is wrong"


# Who is faster


@pytest.mark.parametrize("use", USES)
def test_what_began_after_the_decision_is_seen_by_the_pause_itself(tide, job, alice, use):
    warned_and_due(tide)
    timer = tide.timer
    use(tide, job, alice)
    with pytest.raises(Conflict):
        pause_cluster(tide, by=None, timer=timer)
    assert is_now(tide) == "running"
    assert not Task.objects.filter(kind="clusters.pause").exists()


def test_a_snooze_after_the_decision_wins(tide, bob):
    warned_and_due(tide)
    timer = tide.timer
    snooze_cluster(tide, by=bob)
    with pytest.raises(Conflict, match="since"):
        pause_cluster(tide, by=None, timer=timer)


def test_nothing_is_decided_twice(tide):
    warned_and_due(tide)
    timer = tide.timer
    pause_cluster(tide, by=None, timer=timer)
    with pytest.raises(PortalError):
        pause_cluster(tide, by=None, timer=timer)
    idle.look()
    assert Task.objects.filter(kind="clusters.pause").count() == 1


def test_a_run_that_is_asked_for_while_it_pauses_takes_the_pause_back(tide, job, alice):
    warned_and_due(tide)
    idle.look()
    task = tide.last_task
    assert is_now(tide) == "pausing"
    run = start_run(job, by=alice)
    assert run.is_waiting
    go_on(tide)
    task.refresh_from_db()
    assert task.status == "cancelled"
    assert is_now(tide) == "running"
    dispatch_all()
    run.refresh_from_db()
    assert not run.is_waiting


def test_a_pause_that_somebody_asked_for_does_not_give_way(tide, job, alice):
    pause_cluster(tide, by=alice)
    start_run(job, by=alice)
    go_on(tide)
    assert is_now(tide) == "paused"


def test_a_run_that_nobody_saw_in_time_is_found_before_the_nodes_stop(tide, job, alice, monkeypatch):
    warned_and_due(tide)
    idle.look()
    monkeypatch.setattr("jobs.actions.give_way", lambda cluster: None)
    start_run(job, by=alice)
    go_on(tide)
    assert is_now(tide) == "running"


def test_no_run_is_started_where_a_timer_deletes_it_at_that_moment(tide, job, alice):
    timed(tide, 0, 60)
    warned_and_due(tide)
    idle.look()
    with pytest.raises(PortalError, match="is TERMINATING"):
        start_run(job, by=alice)
    assert not Run.objects.exists()


def test_a_run_whose_time_is_in_weeks_lets_its_cluster_be_paused_and_has_it_back_then(tide, job, bob):
    run = start_run(job, by=bob, due=now() + timedelta(weeks=3))
    warned_and_due(tide)
    idle.look()
    go_on(tide)
    assert is_now(tide) == "paused"
    dispatch_all()
    assert is_now(tide) == "paused"
    Run.objects.filter(pk=run.pk).update(due=now() - timedelta(seconds=1))
    dispatch_all()
    assert tide.last_task.title == "Resume cluster tide for flights, run 1"


def test_a_cluster_is_kept_awake_for_a_run_whose_time_is_soon(tide, job, bob):
    start_run(job, by=bob, due=now() + timedelta(minutes=50))
    warned_and_due(tide)
    idle.look()
    assert is_now(tide) == "running"


def test_no_timer_deletes_a_cluster_that_a_run_is_to_begin_on_in_weeks(tide, job, bob, client):
    run = start_run(job, by=bob, due=now() + timedelta(weeks=3))
    timed(tide, pause=0, shutdown=60)
    warned_and_due(tide)
    idle.look()
    assert is_now(tide) == "running"
    client.force_login(bob)
    assert "flights, run 1 waits for it" in client.get(tide.get_absolute_url()).content.decode()
    Run.objects.filter(pk=run.pk).update(status="cancelled")
    warned_and_due(tide)
    idle.look()
    assert tide.last_task.kind == "clusters.delete"


def test_who_is_on_a_cluster_is_named_however_many_runs_came_after(tide, job, alice, client):
    on = make_run(job, 1, "inprogress", turn=now())
    Cluster.objects.filter(pk=tide.pk).update(occupied_by=on.uuid)
    for number in range(2, 14):
        make_run(job, number, "finished", turn=now(), ended=now())
    make_run(job, 14, "new", started=None)
    client.force_login(alice)
    page = client.get(tide.get_absolute_url())
    assert "flights, run 1 is on it" in page.content.decode()
    assert "flights, run 14 waits for it" in page.content.decode()
    assert [run.number for run in page.context["runs"]] == [*range(14, 4, -1)]
    assert page.context["on_it"] == "flights, run 1 is on it"
