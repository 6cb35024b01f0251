"""What the apps have told the ground floor, which imports none of them: in `ready` of their `apps.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.http import HttpRequest

    from portal.tasks.plans import Plan
    from portal.tasks.subjects import Subject

OUTCOMES = {"finished", "failed", "cancelled"}  # of a task

plans: dict[str, Plan] = {}  # by kind
subjects: dict[str, type[Subject]] = {}  # by the name before the dot in live names
enter: Callable[[HttpRequest, Subject], None]  # the page is in this subject's workspace
record: Callable[..., None]  # the audit entry of what somebody did to a task: verb, task, by


def add_subject(model: type[Subject], *its_plans: Plan) -> None:
    subjects[str(model._meta.model_name)] = model
    for plan in its_plans:
        assert plan.kind not in plans, plan.kind
        plans[plan.kind] = plan


def set_place(*, enter: Callable[[HttpRequest, Any], None], record: Callable[..., None]) -> None:
    """Who knows what a workspace is, and keeps the audit."""
    globals().update(enter=enter, record=record)


def faults(queues: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with the plans, in words; for the checks at the start."""
    for plan in plans.values():
        names = [step.name for step in plan.steps]
        if len(set(names)) != len(names):
            yield f"The plan {plan.kind} has two steps of one name."
        if plan.queue not in queues:
            yield f"The plan {plan.kind} is for the queue {plan.queue}, which does not exist."
        if bool(plan.during) != (set(plan.then) == OUTCOMES):
            yield f"The plan {plan.kind} does not say what its subject becomes."
