"""What becomes of a schedule's times: each once, by its rules, in the name of somebody who may."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from accounts.models import AuditEvent, User
from clusters.models import Cluster, EngineVersion
from clusters.specification import Specification
from jobs import schedules
from jobs.actions import create_job, delete_job
from jobs.cron import Cron
from jobs.dispatch import dispatch_all
from jobs.models import Job, Run, Schedule
from jobs.retries import retry_due
from jobs.schedules import (
    LATE,
    MOST_MADE_UP,
    change_calendar,
    create_schedule,
    delete_schedule,
    fire_due,
    run_now,
    switch_schedule,
)
from portal.errors import PortalError
from tests.clouds.bad import Died, MemoryCloud

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

AT = datetime(2026, 6, 1, 9, 0, tzinfo=UTC)  # a Monday
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def job(lab, bob):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="2026.1", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", engine_version=engine, status="running", node_count=1,
        cores_per_node=1,
    )  # fmt: skip
    return Job.objects.create(
        workspace=lab, cluster=cluster, name="harmonics", git_url="https://git.test/a", command="a.py", created_by=bob
    )


def hourly(job, by, next_at=AT, **rules):
    """Its times are each full hour."""
    found = create_schedule(job, Cron.read("0 * * * *", "UTC"), by=by, **rules)
    Schedule.objects.filter(pk=found.pk).update(next_at=next_at)
    found.refresh_from_db()
    return found


def history(schedule):
    return [(one.outcome, one.count) for one in schedule.firings.order_by("pk")]


def end_runs():
    Run.objects.unfinished().update(status="finished", turn=now(), ended=now())


def test_a_time_makes_one_run_in_its_owners_name_and_the_next_one_is_known(job, bob):
    schedule = hourly(job, bob)
    assert fire_due(AT - timedelta(seconds=1)) == 0
    assert fire_due(AT + timedelta(seconds=1)) == 1
    assert fire_due(AT + timedelta(seconds=1)) == 0
    run = Run.objects.get()
    assert (run.started_by, run.number, run.schedule, run.output.folder) == (
        bob, 1, schedule, f"outputs/{job.workspace.uuid}/{run.uuid}",
    )  # fmt: skip
    schedule.refresh_from_db()
    assert schedule.next_at == AT + HOUR
    assert history(schedule) == [("ran", 1)]
    assert schedule.firings.get().run == run
    assert AuditEvent.objects.get(verb="started").actor == bob.uuid


def test_a_deactivated_one_brings_nothing_and_when_activated_makes_up_for_nothing(job, bob):
    schedule = hourly(job, bob, missed="all", overlap="queue")
    assert switch_schedule(schedule, on=False, by=bob)
    assert fire_due(AT + HOUR) == 0
    assert switch_schedule(schedule, on=True, by=bob)
    schedule.refresh_from_db()
    assert schedule.next_at > now()
    assert not switch_schedule(schedule, on=True, by=bob)


@pytest.mark.parametrize(
    ("missed", "begun", "told"),
    [
        ("skip", 0, [("missed", 3)]),
        ("once", 1, [("missed", 2), ("ran", 1)]),
        ("all", 3, [("ran", 1), ("ran", 1), ("ran", 1)]),
    ],
)
def test_what_was_missed_while_the_portal_was_away_goes_by_its_rule(job, bob, missed, begun, told):
    schedule = hourly(job, bob, missed=missed, overlap="queue", most_runs=10)
    assert fire_due(AT + 2 * HOUR + LATE + timedelta(minutes=1)) == begun
    assert history(schedule) == told
    schedule.refresh_from_db()
    assert schedule.next_at == AT + 3 * HOUR


def test_a_time_that_is_seen_a_little_late_is_not_missed(job, bob):
    hourly(job, bob, missed="skip")
    assert fire_due(AT + timedelta(minutes=4)) == 1


def test_no_more_than_some_are_made_up_for_after_a_long_time(job, bob):
    schedule = hourly(job, bob, missed="all", overlap="queue", most_runs=10)
    fire_due(AT + 100 * HOUR)
    assert Run.objects.count() == 10
    assert history(schedule)[0] == ("missed", 100 - MOST_MADE_UP)
    assert "no more than 10" in schedule.firings.earliest("pk").reason


def test_skip_leaves_out_what_comes_while_a_run_goes_on_and_tells_it_in_one_row(job, bob):
    schedule = hourly(job, bob, overlap="skip")
    for hours in range(4):
        fire_due(AT + hours * HOUR)
    assert history(schedule) == [("ran", 1), ("skipped", 3)]
    assert schedule.firings.latest("pk").reason == "A run of it had not ended."
    end_runs()
    assert fire_due(AT + 4 * HOUR) == 1


def test_times_left_out_in_a_row_are_one_row_behind_the_run_that_was_in_their_way(job, bob):
    schedule = hourly(job, bob, overlap="skip", missed="all")
    assert fire_due(AT) == 1
    fire_due(AT + HOUR)
    end_runs()
    assert fire_due(AT + 4 * HOUR) == 1  # of three times that were come to at once
    assert history(schedule) == [("ran", 1), ("skipped", 1), ("ran", 1), ("skipped", 2)]
    fire_due(AT + 6 * HOUR)
    assert history(schedule)[3:] == [("skipped", 4)]
    last = schedule.firings.latest("pk")
    assert (last.due, last.until) == (AT + 3 * HOUR, AT + 6 * HOUR)


def test_many_times_that_are_left_out_cost_no_more_questions_than_two(job, bob):
    found = [hourly(job, bob, overlap="skip") for _ in range(12)]
    assert fire_due(AT) == 12
    asked = []
    for of, hours in ((found[:2], 1), (found[2:], 1), (found[:2], 2), (found[2:], 2)):  # rows begin, and then go on
        Schedule.objects.filter(pk__in=[one.pk for one in found]).update(next_at=None)
        Schedule.objects.filter(pk__in=[one.pk for one in of]).update(next_at=AT + hours * HOUR)
        with CaptureQueriesContext(connection) as questions:
            fire_due(AT + hours * HOUR)
        asked.append(len(questions))
    assert all(history(one) == [("ran", 1), ("skipped", 2)] for one in found)
    assert asked[0] == asked[1]
    assert asked[2] == asked[3]


def test_queue_lets_times_wait_until_there_is_room_in_their_order(job, bob):
    schedule = hourly(job, bob, overlap="queue")
    for hours in range(3):
        fire_due(AT + hours * HOUR)
    assert history(schedule) == [("ran", 1), ("queued", 1), ("queued", 1)]
    end_runs()
    assert fire_due(AT + 2 * HOUR) == 1
    assert history(schedule) == [("ran", 1), ("ran", 1), ("queued", 1)]
    delete_schedule(schedule, by=bob)
    end_runs()
    assert fire_due(AT + 2 * HOUR) == 0
    assert history(schedule)[-1] == ("skipped", 1)
    assert "Deleted by Bob" in schedule.firings.latest("pk").reason


def test_cancel_ends_the_oldest_run_for_the_new_one(job, bob):
    hourly(job, bob, overlap="cancel", most_runs=2)
    Cluster.objects.update(status="paused")  # all of them wait
    for hours in range(4):
        fire_due(AT + hours * HOUR)
    assert list(Run.objects.order_by("pk").values_list("status", flat=True)) == ["cancelled", "cancelled", "new", "new"]
    assert Run.objects.earliest("pk").cancelled_by == bob


def test_excluded_days_of_the_workspace_and_of_the_schedule_are_left_out_and_said(job, bob, lab):
    schedule = hourly(job, bob, excluded=[["2026-06-01", "2026-06-01", "Whit Monday"]])
    other = hourly(job, bob, heeds_calendar=False)
    change_calendar(lab, [["2026-06-02", "2026-06-03", "Move"]], by=bob)
    assert fire_due(AT) == 1
    end_runs()
    for schedule_of in (schedule, other):
        Schedule.objects.filter(pk=schedule_of.pk).update(next_at=AT + 24 * HOUR)
    assert fire_due(AT + 24 * HOUR) == 1
    reasons = list(schedule.firings.order_by("pk").values_list("reason", flat=True))
    assert reasons == ["Excluded: Whit Monday (2026-06-01).", "Excluded: Move (2026-06-02 to 2026-06-03)."]
    assert set(history(other)) == {("ran", 1)}


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (lambda bob, lab: lab.members.filter(user=bob).update(role="viewer"), "may not run jobs in lab any more"),
        (lambda bob, lab: lab.members.filter(user=bob).delete(), "may not run jobs in lab any more"),
        (lambda bob, lab: User.objects.filter(pk=bob.pk).update(is_active=False), "locked out"),
        (lambda bob, lab: Schedule.objects.update(owner=None), "has to take it over"),
        (lambda bob, lab: Cluster.objects.update(status="terminated"), "Choose another cluster"),
    ],
)
def test_why_nothing_begins_is_said_and_gone_once_it_is_mended(job, bob, lab, alice, happens, says):
    schedule = hourly(job, bob)
    happens(bob, lab)
    assert fire_due(AT) == fire_due(AT + HOUR) == 0
    schedule.refresh_from_db()
    assert says in schedule.trouble
    assert history(schedule) == [("skipped", 2)]
    Cluster.objects.update(status="running")
    switch_schedule(schedule, on=False, by=alice)
    switch_schedule(schedule, on=True, by=alice)
    Schedule.objects.update(next_at=AT + 2 * HOUR)
    assert fire_due(AT + 2 * HOUR) == 1
    assert Run.objects.get().started_by == alice
    schedule.refresh_from_db()
    assert schedule.trouble == ""


def test_more_ranks_than_its_cluster_has_are_said(job, bob):
    Job.objects.update(ranks=5)
    schedule = hourly(job, bob)
    assert fire_due(AT) == 0
    schedule.refresh_from_db()
    assert "rank" in schedule.trouble


@pytest.mark.parametrize("moment", ["jobs.schedules.claimed", "jobs.schedules.made"])
@pytest.mark.parametrize("queued", [False, True])
def test_whoever_dies_in_between_has_done_nothing_and_the_next_one_does_it_once(job, bob, monkeypatch, moment, queued):
    schedule = hourly(job, bob, overlap="queue" if queued else "skip")
    seen = []

    def die(name):
        seen.append(name)
        if name == moment:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(schedules, "failpoint", die)
        with pytest.raises(Died):
            fire_due(AT)
    assert moment in seen
    assert not Run.objects.exists()
    assert fire_due(AT) == 1
    assert history(schedule) == [("ran", 1)]


def test_what_is_wrong_with_one_schedule_keeps_no_other_from_its_time(job, bob, monkeypatch):
    bad, good = hourly(job, bob), hourly(job, bob)
    real = schedules.turn_of

    def turn_of(schedule, *more):
        if schedule.pk == bad.pk:
            raise RuntimeError("broken")
        return real(schedule, *more)

    monkeypatch.setattr(schedules, "turn_of", turn_of)
    assert schedules.fire_due(AT) == 1
    assert Run.objects.get().schedule == good


def test_a_job_has_no_more_than_so_many_schedules(job, bob, monkeypatch):
    monkeypatch.setattr(schedules, "MOST_OF_A_JOB", 2)
    hourly(job, bob), hourly(job, bob)
    with pytest.raises(PortalError, match="has 2 schedules already"):
        schedules.create_schedule(job, Cron("0 * * * *", "UTC"), by=bob)


def test_an_attempt_after_a_failure_counts_as_a_run_of_the_schedule(job, bob):
    Job.objects.update(retries=1, retry_delay=0)
    schedule = hourly(job, bob)
    fire_due(AT)
    assert Run.objects.get().move("failed", turn=now(), ended=now(), code="exit")
    retry_due()
    assert schedule.runs.count() == 2
    assert fire_due(AT + HOUR) == 0
    assert history(schedule) == [("ran", 1), ("skipped", 1)]


def test_a_run_now_is_besides_its_times(job, bob):
    schedule = hourly(job, bob)
    run = run_now(schedule, by=bob)
    schedule.refresh_from_db()
    assert schedule.next_at == AT
    assert schedule.firings.get().run == run
    assert schedule.firings.get().reason == "Run now, by Bob."


def test_the_schedules_of_a_deleted_job_end_with_it(job, bob):
    schedule = hourly(job, bob)
    fire_due(AT)
    delete_job(job, by=bob)
    assert fire_due(AT + 5 * HOUR) == 0
    assert history(schedule) == [("ran", 1)]
    with pytest.raises(PortalError, match="was deleted"):
        run_now(schedule, by=bob)


def test_a_run_with_a_cluster_of_its_own_begins_at_its_time_and_an_error_is_said(lab, alice, monkeypatch):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="2026.1", defaults={"packages": []})
    wanted = Specification(MemoryCloud.types[0], 2, (engine.kind, engine.version))
    job, _ = create_job(
        lab, name="own", dedicated=wanted.kept, by=alice, git_url="https://git.test/a", reference="", command="a.py"
    )
    schedule = hourly(job, alice, most_runs=10)
    assert fire_due(AT) == 1
    run = schedule.runs.get()
    assert run.cluster.dedicated
    dispatch_all()
    assert run.cluster.last_task is not None
    lab.status = "failed"
    lab.save()
    assert fire_due(AT + HOUR) == 0
    schedule.refresh_from_db()
    assert "FAILED" in schedule.trouble


@pytest.mark.django_db(transaction=True)
def test_two_processes_that_come_to_a_time_at_once_make_one_run(job, bob):
    for _ in range(20):
        hourly(job, bob)
    barrier, begun = Barrier(2), []

    def one():
        barrier.wait(10)
        try:
            begun.append(fire_due(AT))
        finally:
            connections.close_all()

    threads = [Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    fire_due(AT)  # what one of them had left to the other, who was not done
    assert Run.objects.count() == 20
    assert sorted(Run.objects.values_list("number", flat=True)) == list(range(1, 21))


def test_when_nothing_is_due_a_look_is_two_questions(job, bob, django_assert_num_queries):
    hourly(job, bob)
    with django_assert_num_queries(2):
        assert fire_due(AT - HOUR) == 0
    assert connection.vendor
