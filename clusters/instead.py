"""What may be had instead of a cluster for whose nodes the cloud had no room."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from urllib.parse import urlencode

from portal.errors import NoRoom
from portal.tasks.ledger import Work
from portal.tasks.models import StepStatus, Task

_KEY = "instead"  # of a step's memo


@dataclass(frozen=True)
class Instead:
    """A part of the address of the form that makes a cluster, and of the button that leads there."""

    query: str
    words: str


def remember(work: Work, error: NoRoom) -> None:
    """As long as the step is not tried again."""
    work.memo[_KEY] = [asdict(one) for one in error.alternatives]


def instead(task: Task | None) -> list[Instead]:
    """Of a task that has failed."""
    if task is None:
        return []
    step = task.steps.filter(status=StepStatus.FAILED).first()
    found = []
    for one in step.memo.get(_KEY, ()) if step else ():
        words = [f"of {one['instance_type']}"] if one.get("instance_type") else []
        words += [f"in {one['zone']}"] if one.get("zone") else []
        found.append(Instead(urlencode({name: value for name, value in one.items() if value}), " ".join(words)))
    return found
