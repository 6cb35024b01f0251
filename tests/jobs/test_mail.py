"""What the person who made a job is mailed of its runs: the first at once, and what comes soon after it as one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from smtplib import SMTPRecipientsRefused

import pytest
from django.core import mail
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import User
from clusters.models import Cluster, EngineVersion
from jobs import mail as mails
from jobs.models import Job, Letter, Run
from portal.tasks.models import Output
from workspaces.models import WorkspaceMember

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture(autouse=True)
def _mail_server(settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.PORTAL_URL = "https://portal.example.org"


@pytest.fixture
def job(lab, bob):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="2026.1", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", engine_version=engine, status="running", node_count=1, cores_per_node=1
    )
    return Job.objects.create(
        workspace=lab, cluster=cluster, name="tides", git_url="https://git.test/a", command="a.py", created_by=bob
    )


def going(job, ago=60):
    return Run.objects.create(
        job=job, cluster=job.cluster, number=job.runs.count() + 1, output=Output.objects.create(), command="a.py",
        status="inprogress", started=now() - timedelta(seconds=ago),
    )  # fmt: skip


def end(run, status="failed", **said):
    assert run.move(status, ended=now(), **said)


def minutes_pass(minutes):
    Letter.objects.exclude(sent=None).update(sent=now() - timedelta(minutes=minutes))


def test_a_failure_is_told_with_its_cause_evidence_and_link_and_without_secrets(job):
    evidence = "fatal: https://bob:geheim@git.test/a\n" + "x" * 5000
    end(run := going(job), cause="Rank 1 ended with exit status 2.", evidence=evidence, advice="Look.")
    assert mails.send_due() == 1
    (letter,) = mail.outbox
    assert letter.to == ["bob@example.org"]
    assert letter.subject.endswith("tides, run 1 is FAILED")
    assert "Rank 1 ended with exit status 2. Look." in letter.body
    assert f"https://portal.example.org/runs/{run.uuid}/" in letter.body
    assert f"https://portal.example.org/jobs/{job.uuid}/#mail" in letter.body
    assert "geheim" not in letter.body
    assert len(letter.body) < 4000
    assert "cut here" in letter.body
    assert mails.send_due() == 0


def test_fifty_failures_are_two_mails(job):
    end(going(job), cause="x")
    assert mails.send_due() == 1
    for _ in range(49):
        end(going(job), cause="x")
        assert mails.send_due() == 0
    minutes_pass(16)
    assert mails.send_due() == 1
    assert len(mail.outbox) == 2
    assert "49 runs of your jobs, 49 FAILED" in mail.outbox[1].subject
    assert mail.outbox[1].body.count("https://portal.example.org/runs/") == 49


def test_success_is_told_only_where_it_is_asked_for(job):
    end(going(job), "finished")
    assert mails.send_due() == 0
    Job.objects.update(mail_success=True)
    job.refresh_from_db()
    end(going(job), "finished")
    assert mails.send_due() == 1
    assert mail.outbox[0].subject.endswith("tides, run 2 is FINISHED")


def test_a_run_longer_than_usual_is_told_once(job):
    for _ in range(3):
        end(going(job, 300), "finished")
    Job.objects.update(mail_slow=True)
    job.refresh_from_db()
    going(job, 400)
    assert mails.find_slow() == 0
    Run.objects.filter(status="inprogress").update(started=now() - timedelta(minutes=11))
    assert mails.find_slow() == 1
    assert mails.find_slow() == 0
    assert mails.send_due() == 1
    assert "It has run for 11 min" in mail.outbox[0].body
    assert "Usual is 5 min." in mail.outbox[0].body


@pytest.mark.parametrize(
    "change",
    [
        lambda job, bob: User.objects.filter(pk=bob.pk).update(notify_runs=False),
        lambda job, bob: User.objects.filter(pk=bob.pk).update(is_active=False),
        lambda job, bob: job.workspace.members.filter(user=bob).delete(),
        lambda job, bob: Job.objects.update(mail_failure=False),
        lambda job, bob: Job.objects.update(created_by=None),
    ],
)
def test_who_does_not_want_it_or_may_not_see_it_is_not_mailed(job, bob, change):
    change(job, bob)
    end(Run.objects.get(pk=going(job).pk), cause="x")
    assert mails.send_due() == 0
    assert not Letter.objects.filter(sent=None).exists()


def test_without_a_mail_server_nothing_is_kept_for_later_and_the_page_says_so(job, bob, client, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    end(going(job), cause="x")
    assert not Letter.objects.exists()
    client.force_login(bob)
    assert "This portal has no mail server" in client.get(reverse("job", args=[job.uuid])).content.decode()


def test_what_no_server_takes_is_sent_later(job, monkeypatch):
    end(going(job), cause="x")

    with monkeypatch.context() as patch:
        patch.setattr(mails, "send_mail", away)
        with pytest.raises(mails.Unsent, match="no route"):
            mails.send_due()
    assert mails.send_due() == 1


def away(*_):
    raise OSError("no route")


def test_a_server_that_takes_nothing_is_not_tried_with_everybodys_mail(job, lab, monkeypatch):
    for n in range(5):
        person = User.objects.create_user(f"{n}@example.org", "x")
        run = going(job)
        Letter.objects.create(to=person, run=run, kind="failed")
        WorkspaceMember.objects.create(workspace=lab, user=person, role="user")
    tried = []
    monkeypatch.setattr(mails, "_may_be_told", lambda person, letters: letters)
    monkeypatch.setattr(mails, "send_mail", lambda *mail: tried.append(mail) or away())
    with pytest.raises(mails.Unsent):
        mails.send_due()
    assert len(tried) == mails.TRIED
    assert Letter.objects.filter(sent=None).count() == 5


async def test_a_server_that_takes_nothing_is_asked_less_and_less_often_and_then_as_ever(monkeypatch):
    asked, clock, works_from = [], [0.0], 4000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])

    def threads(call):
        async def run():
            return call()

        return run

    def send():
        asked.append(clock[0])
        if clock[0] < works_from:
            raise mails.Unsent("no route")
        return 0

    class Bell:
        async def wait(self, seconds):
            clock[0] += seconds
            if clock[0] > 4600:
                raise EOFError

    monkeypatch.setattr(mails, "MAILS", threads)
    monkeypatch.setattr(mails, "DATABASE", threads)
    monkeypatch.setattr(mails, "find_slow", lambda: 0)
    monkeypatch.setattr(mails, "send_due", send)
    with pytest.raises(EOFError):
        await mails.MailWatcher().run(Bell())
    waits = [after - before for before, after in pairwise(asked)]
    assert waits[:6] == [10, 20, 40, 80, 160, 300]
    assert max(waits) == 300
    assert waits[-1] == 5, "as soon as it takes something"


def test_a_mail_to_somebody_whom_their_server_does_not_know_is_given_up(job, monkeypatch):
    end(going(job), cause="x")

    def refused(*_):
        raise SMTPRecipientsRefused({"bob@example.org": (550, b"no such user")})

    with monkeypatch.context() as patch:
        patch.setattr(mails, "send_mail", refused)
        assert mails.send_due() == 0
    assert mails.send_due() == 0


def test_of_what_a_job_mails_is_chosen_on_its_page(job, bob, client):
    client.force_login(bob)
    answer = client.post(reverse("job-mail", args=[job.uuid]), {"success": "on"}, follow=True)
    assert "as you have chosen" in answer.content.decode()
    job.refresh_from_db()
    assert (job.mail_failure, job.mail_success, job.mail_slow) == (False, True, False)
