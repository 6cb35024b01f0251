"""A run that failed is tried again, as often and as late as was asked for; and what a shell command is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion
from clusters.specification import Specification
from jobs.actions import cancel_run, create_job, delete_job, dismiss_run
from jobs.models import Job, Run
from jobs.plans import _words, how_many_ranks
from jobs.retries import retry_due
from portal.clouds import InstanceType
from workspaces.models import WorkspaceMember

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

WORDS = {"git_url": "https://git.test/a", "reference": "", "command": "a.py"}


@pytest.fixture(autouse=True)
def no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def tide(lab):
    return Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=3, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip


@pytest.fixture
def first(lab, tide, bob):
    _, run = create_job(lab, name="tides", cluster=tide, by=bob, retries=2, retry_delay=60, **WORDS)
    return run


def fails(run, code="rank_failed", **more):
    """As the watch process writes it down."""
    Run.objects.filter(pk=run.pk).update(status="inprogress", started=now(), code=code)
    run.refresh_from_db()
    assert run.move("failed", ended=now(), **more)
    run.refresh_from_db()
    return run


def comes(run):
    """The time of its next attempt."""
    Run.objects.filter(pk=run.pk, retry_at__isnull=False).update(retry_at=now() - timedelta(seconds=1))
    retry_due()
    return Run.objects.filter(retry_of=run).first()


def test_it_is_tried_again_after_the_delay_until_it_has_had_all_attempts_and_only_then_needs_somebody(first):
    fails(first)
    assert timedelta(seconds=50) < first.retry_at - now() < timedelta(seconds=61)
    assert not first.needs_you
    assert retry_due() == 0, "before its time"
    second = comes(first)
    assert (second.attempt, second.number, second.command, second.cluster) == (2, 2, "a.py", first.cluster)
    first.refresh_from_db()
    assert first.retry_at is None
    assert comes(first) == second, "once"
    third = comes(fails(second))
    fails(third)
    assert (third.attempt, third.retry_at, third.needs_you) == (3, None, True)
    assert comes(third) is None
    assert Run.objects.count() == 3


def test_the_attempt_is_what_the_run_was_not_what_the_job_has_become(first):
    fails(first)
    Job.objects.update(command="b.py", retries=0)
    assert comes(first).command == "a.py"


def test_an_attempt_that_is_finished_or_cancelled_is_not_tried_again(first, bob):
    second = comes(fails(first))
    Run.objects.filter(pk=second.pk).update(status="inprogress")
    second.refresh_from_db()
    second.move("finished", ended=now())
    assert comes(second) is None
    first.refresh_from_db()
    assert not first.needs_you


@pytest.mark.parametrize(("on_timeout", "again"), [(False, False), (True, True)])
def test_what_its_time_limit_has_ended_is_tried_again_only_where_that_was_asked_for(first, on_timeout, again):
    Run.objects.update(retry_on_timeout=on_timeout)
    fails(first, code="time_limit")
    assert (first.retry_at is not None) == again
    assert first.needs_you != again


@pytest.mark.parametrize("code", ["ranks", "credential", "cluster_gone"])
def test_what_time_does_not_mend_is_not_tried_again(first, code):
    fails(first, code=code)
    assert first.retry_at is None


def test_somebody_may_say_that_it_is_not_tried_again(client, first, bob, vera):
    fails(first)
    page = reverse("run", args=[first.uuid])
    client.force_login(vera)
    seen = client.get(page).content.decode()
    assert "attempt 2 of 3" in seen
    assert "Do not try again" not in seen
    client.force_login(bob)
    assert "Do not try again" in client.get(page).content.decode()
    client.post(reverse("dismiss-run", args=[first.uuid]))
    assert comes(first) is None
    assert not dismiss_run(first, by=bob)


def test_a_deleted_job_is_not_tried_again(first, bob):
    fails(first)
    delete_job(first.job, by=bob)
    assert comes(first) is None


def test_whoever_may_run_jobs_no_more_starts_no_attempt_and_the_page_says_so(client, first, bob, alice):
    fails(first)
    WorkspaceMember.objects.filter(user=bob).update(role="viewer")
    assert comes(first) is None
    first.refresh_from_db()
    assert first.needs_you
    client.force_login(alice)
    assert (
        "not tried again: Whoever asked for it may not"
        in client.get(reverse("run", args=[first.uuid])).content.decode()
    )


def test_where_the_cluster_is_gone_meanwhile_the_page_says_so(first):
    fails(first)
    Cluster.objects.update(status="terminated")
    assert comes(first) is None
    first.refresh_from_db()
    assert first.needs_you
    assert "tide is TERMINATED" in first.advice


def test_an_attempt_on_a_cluster_of_its_own_gets_one_like_that_of_the_first(lab, bob):
    engine = EngineVersion.objects.get(kind="mpi")
    wanted = Specification(InstanceType("local.2", "Memory", 2, 2, 4.0), 3, (engine.kind, engine.version))
    _, run = create_job(lab, name="own", dedicated=wanted.kept, by=bob, retries=1, **WORDS)
    fails(run)
    Job.objects.update(dedicated=Specification(InstanceType("local.1", "", 1, 1, 1.0), 1, wanted.engine).kept)
    second = comes(run)
    assert second.cluster != run.cluster
    assert second.cluster.dedicated
    assert (second.cluster.instance_type, second.cluster.node_count, second.cluster.cores) == ("local.2", 3, 6)


def test_what_is_wrong_with_one_keeps_no_other_from_its_attempt(first, lab, tide, bob, monkeypatch):
    _, other = create_job(lab, name="ebb", cluster=tide, by=bob, retries=1, **WORDS)
    fails(first)
    fails(other)
    Run.objects.filter(pk=first.pk).update(retry_at=now() - timedelta(hours=1))
    from jobs import retries

    real = retries.start_run

    def broken(job, **words):
        if job == first.job:
            raise RuntimeError("broken")
        return real(job, **words)

    monkeypatch.setattr(retries, "start_run", broken)
    assert comes(other) is not None
    first.refresh_from_db()
    assert first.retry_at is not None, "later"


def test_a_shell_command_is_one_rank_of_a_shell_and_a_python_program_one_on_each_core(first, lab, tide, bob):
    command = "make && mpiexec -n $COXSWAIN_CORES ./solver | tee out"
    _, run = create_job(lab, name="shell", cluster=tide, by=bob, kind="shell", **WORDS | {"command": command})
    assert (_words(run), how_many_ranks(run)) == ({"program": "/bin/sh", "command": ["-c", command]}, 1)
    assert (_words(first), how_many_ranks(first)) == ({"program": "python", "command": ["a.py"]}, 6)


def test_the_form_takes_a_shell_command_as_it_is_and_keeps_retries_in_seconds(client, lab, tide, bob):
    client.force_login(bob)
    typed = {"name": "build", "cluster": tide.uuid, "git_url": "https://git.test/a", "kind": "shell"}
    typed |= {"command": "make\r\n./run > out", "retries": "3", "retry_delay": "5", "retry_on_timeout": "on"}
    answer = client.post(reverse("new-job", args=[lab.uuid]), typed)
    job = Job.objects.get(name="build")
    assert answer.url == reverse("run", args=[job.runs.get().uuid])
    assert (job.kind, job.command) == ("shell", "make\n./run > out"), "each line is one"
    assert (job.retries, job.retry_delay, job.retry_on_timeout) == (3, 300, True)
    run = job.runs.get()
    assert (run.kind, run.retries, run.retry_delay, run.retry_on_timeout) == ("shell", 3, 300, True)
    page = client.get(reverse("job", args=[job.uuid])).content.decode()
    assert "up to 3 times, 5 minutes later, also after its time limit" in page
    edit = client.get(reverse("edit-job", args=[job.uuid]))
    assert "make\n./run &gt; out</textarea>" in edit.content.decode()
    form = edit.context["form"]
    assert [form[name].value() for name in ("kind", "retries", "retry_delay")] == ["shell", 3, 5]


@pytest.mark.parametrize(
    ("field", "typed", "words"),
    [
        ("retries", "99", "between 0 and 20"),
        ("retry_delay", "-1", "between 0 and 1,440"),
        ("command", "", "Fill this in"),
    ],
)
def test_bad_values_get_their_sentence_at_the_field(client, lab, tide, bob, field, typed, words):
    client.force_login(bob)
    sent = {"name": "build", "cluster": tide.uuid, "git_url": "https://git.test/a", "kind": "shell", "command": "make"}
    form = client.post(reverse("new-job", args=[lab.uuid]), sent | {field: typed}).context["form"]
    assert words in form.errors[field][0]


def test_cancelling_the_next_attempt_ends_the_row_of_them(first, bob):
    second = comes(fails(first))
    assert cancel_run(second, by=bob)
    assert comes(second) is None
    assert Run.objects.count() == 2
