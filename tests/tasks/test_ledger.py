"""The rules of long work, each with a test that fails when the rule is broken."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.files.storage import storages
from django.db import transaction
from django.utils.timezone import now

from portal.clouds import Can
from portal.errors import Passing, Pending, PortalError, Refused
from portal.models import installation
from portal.tasks import ledger, locks, queue, registry
from portal.tasks.history import progress
from portal.tasks.keeping import keep_due
from portal.tasks.ledger import break_off, cancel_task, retry_task, run_task, start_task
from portal.tasks.models import STATES, Output, StepStatus, Stream, Task, TaskStatus
from portal.tasks.output import read, stream_bytes
from portal.tasks.plans import Plan, StepPlan
from tests.clouds.bad import MemoryStore
from tests.running import until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings", "no_queue")]

NAMES = ("one", "two", "three")


class WorkerDied(BaseException):
    """Like a SIGKILL: nothing after it runs in this worker."""


@pytest.fixture
def no_queue(monkeypatch):
    pushed = []
    monkeypatch.setattr(queue, "push", lambda task: pushed.append(task.pk))
    return pushed


class World:
    """What the steps do something to. Each makes a thing of its name, and finds before it makes."""

    def __init__(self):
        self.things: list[str] = []
        self.calls: list[str] = []
        self.settled: list[str] = []
        self.do = {}
        self.undo = {}

    def step(self, name):
        def do(work):
            self.calls.append(name)
            self.do.get(name, lambda work: None)(work)
            if name not in self.things:
                self.things.append(name)
            self.do.get(f"{name} after", lambda work: None)(work)

        def undo(work):
            self.calls.append(f"undo {name}")
            self.undo.get(name, lambda work: None)(work)
            if name in self.things:
                self.things.remove(name)

        return StepPlan(name, f"Make {name}", do, undo)


@pytest.fixture
def world(monkeypatch):
    world = World()
    world.plan = plan_of(world, *(world.step(name) for name in NAMES))
    monkeypatch.setattr(registry, "plans", {"test": world.plan})
    return world


def plan_of(world, *steps, **more):
    return Plan(
        "test", "Make three things in", "made", steps, queue="provision",
        **{"settle": lambda task: world.settled.append(task.status)} | more,
    )  # fmt: skip


def plan_is(plan):
    registry.plans["test"] = plan


@pytest.fixture
def task(world, lab, alice):
    return start_task(lab, "test", by=alice)


def lease_runs_out(task):
    Task.objects.filter(pk=task.pk).update(lease_until=now() - timedelta(seconds=1))


def is_due(task):
    Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1))


def said(task):
    return b"".join(stream_bytes(Output.objects.get(pk=task.output_id))).decode().splitlines()


def statuses(task):
    return [step.status for step in task.steps.all()]


def test_steps_are_done_in_order_and_the_outcome_is_settled(task, world):
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, world.calls, world.settled) == ("finished", list(NAMES), ["finished"])
    assert statuses(task) == ["done"] * 3
    assert task.lease is None
    task.output.refresh_from_db()
    assert task.output.ended


DISGUISED = "na\u202egpj.\u2066exe\x1b[31m\x07\u200f"


@pytest.mark.parametrize("undoes", [True, False])
def test_what_others_have_written_is_read_on_a_page_as_it_is(task, world, undoes):
    """No character in it turns the order of others round, or is a command of a terminal."""

    def refuse(work):
        raise Refused(f"No {DISGUISED}.", evidence=f"first\n{DISGUISED}\rlast", advice=f"Ask {DISGUISED}.")

    plan_is(replace(world.plan, undoes_on_failure=undoes))
    world.do["two"] = refuse
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.cause, task.evidence, task.advice) == (
        "No nagpj.exe.", "first\nnagpj.exe\nlast", "Ask nagpj.exe.",
    )  # fmt: skip


def test_a_task_has_ended_whether_its_output_can_be_kept_or_not(task, world, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    world.do["one"] = lambda work: work.log("a sentence")
    with monkeypatch.context() as patch:
        patch.setattr(storages["outputs"], "save", full)
        run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, world.settled) == ("finished", ["finished"])
    assert "No space left on device" in caplog.text
    assert "taken over" not in caplog.text
    assert not Output.objects.get(pk=task.output_id).is_kept
    keep_due(threading.Event())
    assert Output.objects.get(pk=task.output_id).is_kept


@pytest.mark.parametrize("when", ["", " after"])
@pytest.mark.parametrize("where", NAMES)
def test_a_worker_may_die_anywhere(task, world, where, when):
    def die(work):
        world.do.clear()
        raise WorkerDied

    world.do[f"{where}{when}"] = die
    with pytest.raises(WorkerDied):
        run_task(task.pk)
    calls = len(world.calls)
    run_task(task.pk)  # too early: the dead worker's lease still runs
    assert len(world.calls) == calls
    lease_runs_out(task)
    assert list(Task.objects.due()) == [task]
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "finished"
    assert world.things == list(NAMES)
    done_before = NAMES[: NAMES.index(where)]
    assert [world.calls.count(name) for name in done_before] == [1] * len(done_before)
    assert task.resumed == 1
    assert any("went away" in line for line in said(task))


def test_a_worker_that_was_only_slow_writes_nothing(task, world):
    def overtaken(work):
        world.do.clear()
        lease_runs_out(task)
        run_task(task.pk)  # another worker takes over, and finishes
        task.steps.update(detail="as the other left it")
        work.log("I was slow")

    world.do["two"] = overtaken
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "finished"
    assert {step.detail for step in task.steps.all()} == {"as the other left it"}
    assert "I was slow" not in said(task)
    assert world.settled == ["finished"]


def test_a_passing_fault_gives_the_worker_back_and_is_tried_again(task, world):
    faults = [Passing("Busy."), Passing("Busy.")]

    def busy(work):
        if faults:
            raise faults.pop()

    world.do["one"] = busy
    for _ in range(2):
        run_task(task.pk)
        task.refresh_from_db()
        assert task.status == "inprogress"
        assert task.lease is None
        assert task.wake_at > now()
        is_due(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "finished"
    assert len([line for line in said(task) if line.startswith("Busy. Trying again")]) == 2


def test_a_fault_that_does_not_pass_fails_with_cause_evidence_and_advice(task, world):
    def busy(work):
        raise Passing("Busy.", evidence="code 503", advice="Come back tomorrow.")

    world.do["two"] = busy
    run_task(task.pk)
    is_due(task)
    task.steps.filter(name="two").update(faulty_since=now() - timedelta(minutes=9))
    run_task(task.pk)
    is_due(task)
    assert Task.objects.get(pk=task.pk).status == "inprogress"
    task.steps.filter(name="two").update(faulty_since=now() - timedelta(minutes=11))
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.cause, task.evidence) == ("failed", "Busy.", "code 503")
    assert task.advice == "Come back tomorrow."
    assert statuses(task) == ["done", "failed", "waiting"]
    assert world.settled == ["failed"]


def test_a_refusal_is_not_tried_again(task, world):
    def refuse(work):
        raise Refused("Your account may have 0 nodes of this type.")

    world.do["two"] = refuse
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.cause) == ("failed", "Your account may have 0 nodes of this type.")
    assert world.calls == ["one", "two"]


def test_a_bug_is_logged_and_not_shown(task, world, caplog):
    def bug(work):
        raise KeyError("internal detail")

    world.do["two"] = bug
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "failed"
    assert f"Ask about task {task.uuid}" in task.cause
    assert "internal detail" not in task.cause + task.evidence + "".join(said(task))
    assert "internal detail" in caplog.text


def test_a_step_that_waits_gives_the_worker_back_and_keeps_its_memo(task, world):
    def wait(work):
        seen = work.memo.setdefault("looks", 0)
        if seen < 2:
            work.memo["looks"] = seen + 1
            work.log(f"look {seen}")
            work.wait(5, f"{seen} of 2 ready")

    world.do["two"] = wait
    for look in range(2):
        run_task(task.pk)
        task.refresh_from_db()
        step = task.steps.get(name="two")
        assert (step.status, step.detail, step.deaths) == ("running", f"{look} of 2 ready", 0)
        assert task.lease is None
        run_task(task.pk)  # not yet
        assert Task.objects.get(pk=task.pk).lease is None
        is_due(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "finished"
    assert [line for line in said(task) if line.startswith("look")] == ["look 0", "look 1"]


def test_a_step_that_waits_for_too_long_fails_and_says_for_what(task, world):
    def wait(work):
        work.record.started = now() - timedelta(hours=1)
        work.wait(5, "2 of 3 nodes answer")

    world.do["two"] = wait
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "failed"
    assert task.cause == "Gave up after 20 minutes: 2 of 3 nodes answer."


@pytest.mark.parametrize("where", NAMES)
def test_cancelling_undoes_what_was_begun_the_last_first(task, world, where):
    world.do[f"{where} after"] = lambda work: cancel_task(Task.objects.get(pk=task.pk))
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "cancelled"
    assert world.things == []
    begun = NAMES[: NAMES.index(where) + 1]
    assert [c for c in world.calls if c.startswith("undo")] == [f"undo {name}" for name in reversed(begun)]
    assert world.settled == ["cancelled"]


def test_a_task_that_was_cancelled_before_it_began_does_nothing(task, world):
    assert cancel_task(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, world.calls) == ("cancelled", [])
    assert not cancel_task(task)


def test_a_cancel_that_comes_just_before_the_end_is_written_is_heard(task, world, monkeypatch):
    """Whoever asked was told that it is being cancelled."""
    asked = []

    def ask(name):
        if name == "test.settle.before" and not asked:
            asked.append(cancel_task(Task.objects.get(pk=task.pk)))

    monkeypatch.setattr(ledger, "failpoint", ask)
    run_task(task.pk)
    task.refresh_from_db()
    assert (asked, task.status) == ([True], "cancelled")
    assert world.things == []


def test_cancelling_a_task_that_waits_does_not_wait(task, world):
    world.do["two"] = lambda work: work.wait(3600)
    run_task(task.pk)
    cancel_task(task)
    assert list(Task.objects.due()) == [task]
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, world.things) == ("cancelled", [])


@pytest.mark.parametrize("where", NAMES)
def test_a_worker_may_die_while_undoing(task, world, where):
    world.do["three after"] = lambda work: cancel_task(Task.objects.get(pk=task.pk))

    def die(work):
        world.undo.clear()
        raise WorkerDied

    world.undo[where] = die
    with pytest.raises(WorkerDied):
        run_task(task.pk)
    lease_runs_out(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, world.things) == ("cancelled", [])
    assert "three" not in world.calls[4:]  # nothing is made again


def test_undoing_may_wait(task, world):
    looks = []

    def wait(work):
        looks.append(1)
        if len(looks) < 3:
            work.wait(1, "still stops")

    world.undo["two"] = wait
    world.do["three after"] = lambda work: cancel_task(Task.objects.get(pk=task.pk))
    for _ in range(3):
        run_task(task.pk)
        is_due(task)
    task.refresh_from_db()
    assert (task.status, world.things, len(looks)) == ("cancelled", [], 3)


def test_a_person_may_try_again_from_the_step_that_failed(task, world, alice):
    def refuse(work):
        world.do.clear()
        raise Refused("No.")

    world.do["two"] = refuse
    run_task(task.pk)
    task.refresh_from_db()
    retry_task(task, by=alice)
    assert (task.status, task.cause) == ("new", "")
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "finished"
    assert world.calls == ["one", "two", "two", "three"]
    with pytest.raises(PortalError):
        retry_task(task, by=alice)


def test_a_task_ends_and_waits_whatever_characters_a_machine_has_said(task, world):
    def wait_once(work):
        if not work.memo.get("waited"):
            work.memo["waited"] = True
            work.wait(0, "a\0b")

    world.do["one"] = wait_once

    def refuse(work):
        work.log("c\0d")
        raise Refused("No.", evidence="e\0f")

    world.do["two"] = refuse
    run_task(task.pk)
    assert task.steps.get(name="one").detail == "ab"
    until(lambda: Task.objects.due().filter(pk=task.pk).exists(), what="the next millisecond")
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.evidence) == ("failed", "ef")


def test_a_step_that_kills_workers_is_given_up(task, world):
    def die(work):
        raise WorkerDied

    world.do["two"] = die
    for _ in range(ledger.MOST_DEATHS + 1):
        with pytest.raises(WorkerDied):
            run_task(task.pk)
        lease_runs_out(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert task.cause == "Stopped at “Make two”: it ended our worker 6 times."


def test_one_unfinished_task_per_subject(task, lab, alice):
    with pytest.raises(PortalError, match="lab is being worked on already"), transaction.atomic():
        start_task(lab, "test", by=alice)


def test_a_finished_task_makes_room_for_the_next(task, lab, alice):
    run_task(task.pk)
    assert start_task(lab, "test", by=alice).status == "new"


def test_a_hint_for_a_task_that_has_ended_costs_one_question(task, world, django_assert_num_queries):
    run_task(task.pk)
    calls = list(world.calls)
    with django_assert_num_queries(1):
        run_task(task.pk)
    assert world.calls == calls


def test_the_outcome_and_its_meaning_are_one_transaction(task, world):
    def unsettled(task):
        raise WorkerDied

    plan_is(replace(world.plan, settle=unsettled))
    with pytest.raises(WorkerDied):
        run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "inprogress"


def test_a_plan_that_changed_under_a_task_fails_it_with_words(task, world):
    plan_is(replace(world.plan, steps=[world.step("other")]))
    run_task(task.pk)
    task.refresh_from_db()
    assert "upgraded" in task.cause


def test_two_vocabularies_have_a_word_for_each_status():
    assert set(STATES) == set(TaskStatus.values)
    assert STATES[TaskStatus.INPROGRESS].badge.word == "INPROGRESS"
    assert STATES[TaskStatus.FINISHED].api_word == "SUCCEEDED"


def test_what_a_step_says_has_no_credentials(task, world):
    world.do["one"] = lambda work: work.log("cloning https://bob:s3cret@git.example.org/x")
    run_task(task.pk)
    assert "s3cret" not in "".join(said(task))


def test_teardown_is_the_build_backwards(world):
    assert [step.name for step in world.plan.teardown()] == ["undo-three", "undo-two", "undo-one"]


def test_queueing_waits_for_the_commit(world, lab, alice, no_queue, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        start_task(lab, "test", by=alice)
        assert no_queue == []
    assert len(no_queue) == 1


def test_steps_undone_are_marked(task, world):
    world.do["two after"] = lambda work: cancel_task(Task.objects.get(pk=task.pk))
    run_task(task.pk)
    assert statuses(task) == [StepStatus.UNDONE, StepStatus.UNDONE, StepStatus.WAITING]


def test_output_belongs_to_the_task(task, world):
    world.do["one"] = lambda work: work.log("hello")
    run_task(task.pk)
    output = Output.objects.get(pk=task.output_id)
    assert output.portal == output.head == len("hello\n")
    assert [piece.stream for piece in read(output, 0)] == [Stream.PORTAL]


def test_when_a_step_begins_the_one_before_is_stored_as_done(task, world):
    seen = []
    world.do["two"] = lambda work: seen.append(statuses(task))
    run_task(task.pk)
    assert seen == [["done", "running", "waiting"]]


def test_a_step_that_only_looks_is_stored_with_what_it_found(task, world):
    plan_is(replace(world.plan, steps=[replace(step, looks=step.name == "two") for step in world.plan.steps]))
    seen = []

    def look(work):
        seen.append(statuses(task))
        if len(seen) == 1:
            work.wait(5, "not there yet")

    world.do["two"] = look
    run_task(task.pk)
    assert seen == [["running", "waiting", "waiting"]]
    assert statuses(task) == ["done", "running", "waiting"]
    assert task.steps.get(name="two").detail == "not there yet"
    is_due(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, world.calls.count("one")) == ("finished", 1)


# Plans that take back what they did when they fail, and end in any case with the same steps


@pytest.fixture
def ending(world):
    one, two, three = (world.step(name) for name in NAMES)
    plan_is(plan_of(world, one, two, replace(three, always=True, undo=None), undoes_on_failure=True))
    return world


def refuse(work):
    raise Refused("There is no room.", evidence="full", advice="Make some.")


def test_what_was_done_is_taken_back_by_a_failure_and_the_last_step_is_done(ending, task):
    ending.do["two"] = refuse
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.cause, task.evidence) == ("failed", "There is no room.", "full")
    assert ending.calls == ["one", "two", "undo two", "undo one", "three"]
    assert statuses(task) == ["undone", "failed", "done"]
    assert ending.settled == ["failed"]


@pytest.mark.parametrize("where", ["undo two", "undo one", "three"])
def test_a_worker_may_die_while_a_failure_is_taken_back(ending, task, where):
    def die(work):
        table.clear()
        raise WorkerDied

    ending.do["two"] = refuse
    table = ending.do if where == "three" else ending.undo
    table[where.removeprefix("undo ")] = die
    with pytest.raises(WorkerDied):
        run_task(task.pk)
    ending.do.clear()  # were it gone on with, it would work now
    lease_runs_out(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.cause) == ("failed", "There is no room.")
    assert ending.things == ["three"]
    assert ending.settled == ["failed"]


def test_the_last_step_is_done_after_a_cancel_too_and_its_failure_changes_no_outcome(ending, task):
    ending.do["two"] = lambda work: (cancel_task(task), work.save())
    ending.do["three"] = refuse
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.cause) == ("cancelled", "")
    assert statuses(task) == ["undone", "undone", "failed"]
    assert "There is no room. Make some." in said(task)


def test_steps_that_were_done_keep_their_times_when_they_are_taken_back(ending, task):
    ending.do["two"] = refuse
    run_task(task.pk)
    one = task.steps.get(name="one")
    two = task.steps.get(name="two")
    assert one.finished <= two.started


# What is told to whom


def test_a_look_that_found_nothing_new_rings_nobody(task, world, rings, django_capture_on_commit_callbacks):
    world.do["two"] = lambda work: work.wait(5, "1 of 2 ready")
    run_task(task.pk)
    is_due(task)
    with django_capture_on_commit_callbacks() as rung:
        run_task(task.pk)
    assert rung == []
    world.do["two"] = lambda work: work.wait(5, "2 of 2 ready")
    is_due(task)
    with django_capture_on_commit_callbacks() as rung:
        run_task(task.pk)
    assert rung


def test_who_is_woken_while_looking_looks_again_at_once(task, world):
    def look(work):
        ledger.wake(task.pk)  # what it waits for has come, after it looked
        work.wait(3600, "not there yet")

    world.do["two"] = look
    run_task(task.pk)
    assert list(Task.objects.due()) == [task]
    world.do["two"] = lambda work: work.wait(3600, "not there yet")
    run_task(task.pk)
    assert not Task.objects.due().exists()


# Trying again


def ends_in(world, during, **then):
    plan_is(replace(world.plan, during=during, then=then))


@pytest.fixture
def failed(world, lab, alice):
    ends_in(world, "terminating", finished="terminated", failed="failed", cancelled="failed")
    world.do["two"] = refuse
    task = start_task(lab, "test", by=alice)
    assert lab.status == "terminating"
    run_task(task.pk)
    task.refresh_from_db()
    lab.refresh_from_db()
    assert (task.status, lab.status) == ("failed", "failed")
    del world.do["two"]
    return task


def test_trying_again_puts_the_subject_where_it_was_and_opens_the_output(failed, lab, alice):
    retry_task(failed, by=alice)
    lab.refresh_from_db()
    failed.output.refresh_from_db()
    assert (lab.status, failed.output.ended) == ("terminating", False)
    run_task(failed.pk)
    lab.refresh_from_db()
    failed.output.refresh_from_db()
    assert (lab.status, failed.output.ended) == ("terminated", True)


def test_only_what_was_done_last_is_tried_again(failed, lab, alice):
    later = start_task(lab, "test", by=alice)
    for _ in range(2):  # while it goes on, and after
        with pytest.raises(PortalError, match="Something else was done since"):
            retry_task(failed, by=alice)
        run_task(later.pk)


def test_it_is_not_tried_again_on_a_subject_that_has_gone_on(failed, lab, alice, world):
    type(lab).objects.filter(pk=lab.pk).update(status="ready")
    with pytest.raises(PortalError, match="lab is READY since"):
        retry_task(failed, by=alice)
    failed.refresh_from_db()
    lab.refresh_from_db()
    assert (failed.status, lab.status) == ("failed", "ready")


def test_a_task_that_took_back_what_it_had_done_is_not_tried_again(ending, lab, alice):
    ending.do["two"] = refuse
    task = start_task(lab, "test", by=alice)
    run_task(task.pk)
    with pytest.raises(PortalError, match="was taken back"):
        retry_task(task, by=alice)


def test_a_subject_in_the_wrong_status_gets_no_task(world, lab, alice):
    ends_in(world, "inprogress", finished="ready", failed="failed", cancelled="failed")
    with pytest.raises(PortalError, match="lab cannot be made while it is READY"), transaction.atomic():
        start_task(lab, "test", by=alice)
    assert not Task.objects.exists()


def test_a_plan_that_this_portal_does_not_have_ends_in_words_and_frees_the_subject(world, lab, alice):
    ends_in(world, "terminating", finished="terminated", failed="failed", cancelled="failed")
    task = start_task(lab, "test", by=alice)
    registry.plans.clear()
    run_task(task.pk)
    task.refresh_from_db()
    lab.refresh_from_db()
    assert (task.status, lab.status) == ("failed", "failed")
    assert "no plan" in task.cause
    assert ledger.why_not_again(task)


def test_undoing_does_not_wait_for_ever(task, world):
    world.undo["two"] = lambda work: work.wait(1, "2 nodes still stop")
    world.do["three after"] = lambda work: cancel_task(Task.objects.get(pk=task.pk))
    run_task(task.pk)
    step = task.steps.get(name="two")
    step.memo["undoing"] = (now() - timedelta(minutes=21)).isoformat()
    step.save()
    is_due(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.cause) == ("failed", "Gave up after 20 minutes: 2 nodes still stop.")


def wait_of(task):
    task.refresh_from_db()
    return round((task.wake_at - now()).total_seconds())


def test_what_is_still_coming_is_waited_for_and_asked_again_by_its_token(task, world):
    asked = []

    def request(token):
        asked.append(token)
        return Pending("the gateway comes up", 40, token=f"operation {len(asked)}") if len(asked) < 3 else None

    world.do["two"] = lambda work: work.ask(request)
    run_task(task.pk)
    assert wait_of(task) == 40
    assert task.steps.get(name="two").detail == "the gateway comes up"
    for _ in range(2):
        is_due(task)
        run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, asked) == ("finished", ["", "operation 1", "operation 2"])
    assert "token" not in task.steps.get(name="two").memo


def test_undoing_is_not_given_the_token_of_doing(task, world):
    asked = []
    world.do["one"] = lambda work: work.ask(lambda token: Pending("comes", 5, token="of doing"))
    one, two, three = world.plan.steps
    plan_is(plan_of(world, replace(one, undo=lambda work: work.ask(asked.append)), two, three))
    run_task(task.pk)
    cancel_task(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, asked) == ("cancelled", [""])


def test_what_will_never_come_by_itself_fails_at_once(task, world):
    world.do["one"] = lambda work: work.ask(lambda token: Pending("Held by its owner.", 5, code="held", final=True))
    run_task(task.pk)
    task.refresh_from_db()
    assert (task.status, task.cause) == ("failed", "Held by its owner.")


def test_no_patience_is_used_up_before_what_was_promised_is_late(task, world):
    starts = now() + timedelta(hours=3)
    world.do["one"] = lambda work: work.ask(lambda token: Pending("in the queue", 60, starts=starts))
    run_task(task.pk)
    task.steps.filter(name="one").update(started=now() - timedelta(hours=2))
    is_due(task)
    run_task(task.pk)
    assert wait_of(task) == 60
    starts = now() - timedelta(minutes=1)
    is_due(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "failed"
    assert task.cause.startswith("Gave up")


def test_a_step_that_its_cloud_cannot_do_is_left_out_and_never_undone(world, lab, alice, monkeypatch):
    monkeypatch.setattr(type(lab), "can", frozenset({Can.NETWORK}))
    one, two, three = world.plan.steps
    plan_is(plan_of(world, replace(one, needs=Can.NETWORK), replace(two, needs=Can.ROLE), three))
    task = start_task(lab, "test", by=alice)
    assert statuses(task) == ["waiting", "left out", "waiting"]
    world.do["three"] = lambda work: work.wait(5)
    run_task(task.pk)
    cancel_task(task)
    run_task(task.pk)
    task.refresh_from_db()
    assert task.status == "cancelled"
    assert statuses(task) == ["undone", "left out", "undone"]
    assert not [call for call in world.calls if "two" in call]
    assert progress(task).steps == 2


@pytest.mark.parametrize(("waited", "soon"), [(0, 1), (12, 3), (60, 5)])
def test_who_waits_looks_again_the_sooner_the_shorter_that_has_taken(task, world, waited, soon):
    world.do["two"] = lambda work: work.wait(work.soon(5), "not yet")
    run_task(task.pk)
    task.steps.filter(name="two").update(started=now() - timedelta(seconds=waited))
    is_due(task)
    run_task(task.pk)
    left = Task.objects.get(pk=task.pk).wake_at - now()
    assert soon - 0.5 < left.total_seconds() <= soon + 0.1


# Alone among portals that share an account


@pytest.fixture
def account(world, lab, monkeypatch):
    """Another portal's hand on the store in which the lab has its lock."""
    plan_is(replace(world.plan, locks=True))
    monkeypatch.setattr(locks, "RENEW_EVERY", 0.01)
    store = MemoryStore()
    monkeypatch.setattr(type(lab), "lock", (store, "workspaces/lab"))
    return store


def of_another(store, seconds=60):
    return store.lock("workspaces/lab", owner="another portal", seconds=seconds)


def test_two_portals_do_not_work_on_one_subject_at_once(task, world, account):
    theirs = of_another(account)
    run_task(task.pk)
    assert (world.calls, Task.objects.get(pk=task.pk).status) == ([], "inprogress")
    assert task.steps.first().detail.startswith("Another portal")
    account.release(theirs)
    world.do["two"] = lambda work: of_another(account) and pytest.fail("it was not alone")
    is_due(task)
    run_task(task.pk)
    assert (world.calls, world.settled) == (list(NAMES), ["finished"])
    assert of_another(account)


def test_a_task_that_waits_for_another_portal_is_cancelled_at_once(task, world, account):
    of_another(account)
    run_task(task.pk)
    cancel_task(Task.objects.get(pk=task.pk))
    run_task(task.pk)
    assert (world.calls, world.settled, statuses(task)) == ([], ["cancelled"], ["waiting"] * 3)
    assert of_another(account)


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_task_that_ends_in_any_way_lets_other_portals_in(task, world, account, outcome):
    def end(work):
        if outcome == "failed":
            raise Refused("No.")
        cancel_task(work.task)

    world.do["two"] = end
    run_task(task.pk)
    assert world.settled == [outcome]
    assert of_another(account)


def test_a_task_that_waits_keeps_other_portals_out(task, world, account):
    world.do["two"] = lambda work: None if len(world.calls) > 2 else work.wait(500, "not yet")
    run_task(task.pk)
    account.now = lambda: time.time() + 550
    assert of_another(account) is None
    is_due(task)
    run_task(task.pk)
    assert world.settled == ["finished"]


def test_who_waits_for_a_moment_again_and_again_asks_for_the_lock_once_each_time(task, world, account, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_EVERY", 600)
    asked, lock = [], account.lock
    monkeypatch.setattr(account, "lock", lambda name, **how: asked.append(how["seconds"]) or lock(name, **how))
    world.do["two"] = lambda work: None if len(world.calls) > 5 else work.wait(2, "not yet")
    for _ in range(3):
        run_task(task.pk)
        is_due(task)
    assert asked == [locks.TERM] * 3
    account.now = lambda: time.time() + 40
    assert of_another(account) is None, "whoever goes on may be late"


def test_what_a_portal_has_locked_that_died_is_free_after_a_while(task, world, account):
    def die(work):
        raise WorkerDied

    world.do["two"] = die
    with pytest.raises(WorkerDied):
        run_task(task.pk)
    assert of_another(account) is None
    account.now = lambda: time.time() + locks.TERM + 1
    assert of_another(account)


def test_the_next_worker_of_a_task_has_its_lock_although_it_ran_out(task, world, account):
    world.do["two"] = lambda work: None if len(world.calls) > 2 else work.wait(5, "not yet")
    run_task(task.pk)
    account.now = lambda: time.time() + 3600
    is_due(task)
    run_task(task.pk)
    assert world.settled == ["finished"]


def test_the_lock_of_a_task_that_had_ended_when_its_worker_died_holds_up_no_other_of_this_portal(
    task, world, lab, alice, account, monkeypatch
):
    def die(point):
        if point == "test.settle.after":
            raise WorkerDied

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "failpoint", die)
        with pytest.raises(WorkerDied):
            run_task(task.pk)
    assert of_another(account) is None
    world.things.clear()
    following = start_task(lab, "test", by=alice)
    run_task(following.pk)
    assert Task.objects.get(pk=following.pk).status == "finished"
    assert of_another(account)


def dies_alone(task, monkeypatch):
    """Right after the store has said that it is alone, and before that is written down."""

    def die(*_):
        raise WorkerDied

    with monkeypatch.context() as patch:
        patch.setattr(locks.Alone, "__init__", die)
        with pytest.raises(WorkerDied):
            run_task(task.pk)
    assert Task.objects.get(pk=task.pk).fence is None


def follows(lab, alice):
    """Another task of the lab; what its step waits for."""
    task = start_task(lab, "test", by=alice)
    run_task(task.pk)
    return task.steps.first().detail


def test_the_lock_of_a_task_that_died_before_it_was_written_down_holds_up_no_other_of_this_portal(
    task, world, lab, alice, account, monkeypatch
):
    dies_alone(task, monkeypatch)
    lease_runs_out(task)
    cancel_task(Task.objects.get(pk=task.pk))
    run_task(task.pk)
    assert world.settled == ["cancelled"]
    assert of_another(account) is None
    follows(lab, alice)
    assert world.settled == ["cancelled", "finished"]


def test_the_lock_of_a_task_that_was_broken_off_is_taken_where_nobody_can_be_at_work(
    task, world, lab, alice, account, monkeypatch
):
    dies_alone(task, monkeypatch)
    lease_runs_out(task)
    assert break_off(Task.objects.get(pk=task.pk))
    follows(lab, alice)
    assert world.settled == ["finished"]


def test_where_somebody_may_be_at_work_on_what_was_broken_off_the_lock_runs_out_and_that_is_said(
    task, world, lab, alice, account, monkeypatch
):
    dies_alone(task, monkeypatch)
    assert break_off(Task.objects.get(pk=task.pk))
    ends = account.holder("workspaces/lab").until
    said = f"“{task}” was broken off, and somebody may still be at work on it, until {ends:%H:%M:%S} UTC at the latest"
    assert follows(lab, alice) == said
    assert world.calls == []
    account.now = lambda: ends.timestamp() + 1
    is_due(lab.last_task)
    run_task(lab.last_task.pk)
    assert world.settled == ["finished"]


def test_a_lock_of_this_portals_name_that_it_knows_nothing_of_is_another_portals(task, world, lab, account):
    theirs = account.lock("workspaces/lab", owner=f"{installation()}/{uuid4()}", seconds=60)
    run_task(task.pk)
    assert task.steps.first().detail == "A portal that has this one's id, and is not this one, works on it"
    assert (world.calls, account.holder("workspaces/lab")) == ([], theirs)


def test_whose_lock_is_lost_stops_before_the_next_step_and_says_so(task, world, account):
    def lose(work):
        account.now = lambda: time.time() + 3600
        assert of_another(account, seconds=36000)
        until(lambda: not work.alone._until, what="the loss to be noticed")

    world.do["two"] = lose
    run_task(task.pk)
    task.refresh_from_db()
    assert (world.calls, world.settled) == (["one", "two"], ["failed"])
    assert task.cause.startswith("Another portal may work on this now")
    assert of_another(account)  # it is still theirs
    assert account.locks["workspaces/lab"].owner == "another portal"


def test_a_lock_that_was_anothers_in_between_is_a_lost_one(task, world, account):
    world.do["two"] = lambda work: None if len(world.calls) > 2 else work.wait(5, "not yet")
    run_task(task.pk)
    account.now = lambda: time.time() + 3600
    account.release(of_another(account))
    is_due(task)
    run_task(task.pk)
    assert (world.calls, world.settled) == (["one", "two"], ["failed"])
    retry_task(Task.objects.get(pk=task.pk), by=task.asked_by)
    run_task(task.pk)
    assert world.settled[-1] == "finished"


def test_a_lock_is_not_relied_on_while_its_store_is_away(task, world, account, monkeypatch):
    def away(*_, **__):
        raise Passing("The store is away.")

    def cut_off(work):
        monkeypatch.setattr(account, "lock", away)
        work.alone._until = time.monotonic() + locks.MARGIN - 1

    world.do["two"] = cut_off
    run_task(task.pk)
    assert (world.calls, world.settled) == (["one", "two"], ["failed"])


def test_a_store_that_is_away_is_waited_for_before_anything_is_done(task, world, account, monkeypatch):
    def away(*_, **__):
        raise Passing("The store is away.")

    with monkeypatch.context() as patch:
        patch.setattr(account, "lock", away)
        run_task(task.pk)
    assert (world.calls, Task.objects.get(pk=task.pk).status) == ([], "inprogress")
    is_due(task)
    run_task(task.pk)
    assert world.settled == ["finished"]
