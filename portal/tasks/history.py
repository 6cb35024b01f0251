"""How long things usually take, from what they took before; so that progress and remaining time are not made up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from statistics import quantiles

from django.utils.timezone import now

from portal.tasks.models import Step, StepStatus, Task, TaskStatus

ENOUGH = 3  # tasks before we say anything about time
LOOK_BACK = 50


@dataclass(frozen=True)
class Usual:
    p50: timedelta
    p90: timedelta


@dataclass(frozen=True)
class Progress:
    """Of a task: which step it is at, 0 of 0 where it has none; once enough like it have finished, how far in time."""

    step: int
    steps: int
    title: str
    samples: int
    usual: dict[str, Usual]
    each: list[tuple[Step, Usual | None]]  # the steps that apply, with what they usually take
    percent: int | None = None
    total: timedelta | None = None
    remaining: timedelta | None = None


def usual_whole(kind: str, cloud: str) -> tuple[int, Usual | None]:
    """How many tasks of this kind on this cloud have finished, of the latest ones, and how long they took in all."""
    like_it = Task.objects.filter(kind=kind, cloud=cloud, status=TaskStatus.FINISHED, started__isnull=False)
    times = like_it.order_by("-pk").values_list("started", "finished")[:LOOK_BACK]
    seconds = [(finished - started).total_seconds() for started, finished in times if started and finished]
    return len(seconds), _usual(seconds) if len(seconds) >= ENOUGH else None


def _usual(seconds: list[float]) -> Usual:
    cuts = quantiles(seconds, n=10, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 9
    return Usual(timedelta(seconds=cuts[4]), timedelta(seconds=cuts[8]))


def usual_steps(task: Task) -> tuple[int, dict[str, Usual]]:
    """How many tasks of this kind on this cloud have finished, and what each step of theirs took."""
    like_it = Task.objects.filter(kind=task.kind, cloud=task.cloud, status=TaskStatus.FINISHED).exclude(pk=task.pk)
    pks = list(like_it.order_by("-pk").values_list("pk", flat=True)[:LOOK_BACK])
    if len(pks) < ENOUGH:
        return len(pks), {}
    took: dict[str, list[float]] = defaultdict(list)
    done = Step.objects.filter(task__in=pks, status=StepStatus.DONE, started__isnull=False, finished__isnull=False)
    for step in done:
        if step.elapsed is not None:
            took[step.name].append(step.elapsed.total_seconds())
    return len(pks), {name: _usual(seconds) for name, seconds in took.items()}


def progress(task: Task) -> Progress:
    steps = list(task.steps.exclude(status=StepStatus.LEFT_OUT))
    samples, usual = usual_steps(task)
    if not steps:
        return Progress(0, 0, "", samples, usual, [])
    now_at = next((n for n, step in enumerate(steps) if step.status != StepStatus.DONE), len(steps) - 1)
    done = task.status == TaskStatus.FINISHED
    percent = total = remaining = None
    if usual and not task.is_cancelling:
        expected = [usual[s.name].p50.total_seconds() if s.name in usual else 0.0 for s in steps]
        whole = sum(expected) or 1.0
        past = sum(expected[:now_at])
        current = steps[now_at]
        if current.started and current.status != StepStatus.DONE:
            past += min((now() - current.started).total_seconds(), expected[now_at] * 0.95)
        total = timedelta(seconds=whole)
        remaining = timedelta(seconds=max(0.0, whole - past)) if not task.is_finished else None
        percent = 100 if done else min(99, int(100 * past / whole))
    each = [(step, usual.get(step.name)) for step in steps]
    return Progress(now_at + 1, len(steps), steps[now_at].title, samples, usual, each, percent, total, remaining)
