"""What the apps have told the ground floor, which imports none of them: in `ready` of their `apps.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from portal.tasks.plans import LEFT

if TYPE_CHECKING:
    from django.db.models import Model
    from django.http import HttpRequest

    from portal.clouds import Store
    from portal.tasks.plans import Plan
    from portal.tasks.subjects import Subject

OUTCOMES = {"finished", "failed", "cancelled"}  # of a task

plans: dict[str, Plan] = {}  # by kind
done_to: dict[str, type[Subject]] = {}  # what each plan is done to, by its kind
subjects: dict[str, type[Subject]] = {}  # by the name before the dot in live names
live: dict[str, Any] = {}  # models whose rows live pages hear about, by that name; their managers have `seen_by`
sockets: dict[str, Any] = {}  # routes of live sockets besides the pages' own, and the ASGI applications behind them
watchers: list[Callable[[], Any]] = []  # what the watch process looks after, see `portal.tasks.watch`
enter: Callable[[HttpRequest, Any], None]  # the page is in this subject's workspace
record: Callable[..., None]  # the audit entry of what somebody did to a task: verb, task, by
audit: Callable[..., Any]  # the audit entry of what staff do on the ground floor's own pages
caller: Callable[[HttpRequest], Any]  # who calls with an API token, as access asks for a person; None without one
store: Callable[[str], Store]  # of an account, by the name that an output has for it


def add_subject(model: type[Subject], *its_plans: Plan) -> None:
    subjects[str(model._meta.model_name)] = model
    add_live(model)
    for plan in its_plans:
        assert plan.kind not in plans, plan.kind
        plans[plan.kind], done_to[plan.kind] = plan, model


def add_live(model: type[Model]) -> None:
    live[str(model._meta.model_name)] = model


def add_watchers(*made_by: Callable[[], Any]) -> None:
    watchers.extend(made_by)


def add_socket(route: str, application: Any) -> None:
    sockets[route] = application


def tell(**functions: Callable[..., Any]) -> None:
    """Who knows what a workspace is, keeps the audit, and has the accounts: the functions above."""
    globals().update(functions)


def faults(queues: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with what was told, in words; for the checks at the start."""
    for name in ("enter", "record", "audit", "caller", "store"):
        if name not in globals():
            yield f"No app has told the registry what {name} is."
    for plan in plans.values():
        names = [step.name for step in plan.steps]
        if len(set(names)) != len(names):
            yield f"The plan {plan.kind} has two steps of one name."
        if plan.queue not in queues:
            yield f"The plan {plan.kind} is for the queue {plan.queue}, which does not exist."
        if bool(plan.during) != (set(plan.then) - {LEFT} == OUTCOMES):
            yield f"The plan {plan.kind} does not say what its subject becomes."
        if plan.during and plan.kind in done_to:
            states = done_to[plan.kind].STATES
            for status in sorted({plan.during, *plan.then.values()} - set(states)):
                yield f"The plan {plan.kind} speaks of the status {status}, which its subject does not have."
            for status in sorted(set(plan.begins) - {next(iter(states)), *states[plan.during].follows}):
                yield f"The plan {plan.kind} cannot begin in {status}: {plan.during} does not follow it."
            for outcome, status in plan.then.items():  # it would stay in `during` for ever
                if status in states and plan.during not in states[status].follows:
                    why = f"{status} does not follow {plan.during}"
                    yield f"The plan {plan.kind} cannot say that it has {outcome}: {why}."
