"""Plans: what is done to a subject, as data. Confirm pages and “What will happen” are made from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from portal.clouds import Can

if TYPE_CHECKING:
    from portal.tasks.ledger import Work
    from portal.tasks.models import Task

LEFT = "left"  # an outcome for `Plan.then`: the task has FAILED, and what it had begun could not be taken back


@dataclass(frozen=True)
class StepPlan:
    """One step. `do` and `undo` must be safe to call again: they find before they make."""

    name: str  # kept in the database; renaming one needs a migration
    title: str  # see also `taken`
    do: Callable[[Work], None]
    undo: Callable[[Work], None] | None = None
    undo_title: str = ""  # of the step that takes it apart, where another plan does so
    why: str = ""  # half a sentence for whoever reads what will happen
    icon: str = "bi-dot"
    patience: timedelta = timedelta(minutes=10)  # how long passing faults in a row are borne
    limit: timedelta = timedelta(minutes=20)  # how long it may wait in all, and its undoing once more
    looks: bool = False  # it only looks and changes nothing: its start need not be stored before it is called
    needs: Can | None = None  # what a kind of cloud may not be able to do: then the step does not apply
    always: bool = False  # also after the others were taken back, by a cancel or a failure
    # Where nodes are not made, but computers that are there are taken: its title, and why, in these words.
    taken: str = ""
    why_taken: str = ""
    undo_taken: str = ""

    def on(self, can: Collection[Can]) -> StepPlan:
        """In the words of a cloud that can do this."""
        if Can.MAKE in can or not self.taken:
            return self
        return replace(self, title=self.taken, why=self.why_taken, taken="")


@dataclass(frozen=True)
class Plan:
    """What is done to one kind of subject.

    `during` is the subject's status while it goes on, and `then` what it becomes, by the task's outcome; `LEFT`, which
    may be among them, is told apart from FAILED. Where `during`
    is empty, the subject's own program decides what it is (a run). `settle` is for what else an outcome means; it is
    called in the transaction that writes it.

    It may begin in the subject's first status, and in each that `during` follows by the model's STATES. So what `then`
    says must be true whichever of them it began in: a FAILED cluster is not RUNNING because its repair was cancelled.
    Where only some of them will do, `begins` names those; in the others it can only be tried again.
    """

    kind: str  # APP.VERB, kept in the database
    title: str  # of its tasks, before the subject's name
    participle: str  # “it cannot be … while it is RUNNING”
    steps: Sequence[StepPlan]
    queue: str
    during: str = ""
    then: Mapping[str, str] = field(default_factory=dict)
    begins: Collection[str] = ()
    needs: Can | None = None  # what makes no sense on a cloud that cannot do this
    alone: bool = False  # it is refused while somebody has the subject for themselves
    locks: bool = False  # of all portals that share the subject's account, one at a time does it; see `locks.py`
    settle: Callable[[Task], None] | None = None
    undoes_on_cancel: bool = True
    undoes_on_failure: bool = False
    undoes: Plan | None = None  # the plan that this one takes apart
    destroys: Sequence[str] = ()  # what is gone for ever afterwards, for the page that asks
    spares: Sequence[str] = ()  # and what stays
    gives_back: Sequence[str] = ()  # in place of `destroys` where nodes are computers that are there afterwards

    @property
    def promise(self) -> dict[str, Any]:
        """What a task keeps of its plan, so that its page and its outcome outlive the plan."""
        return {
            "then": dict(self.then),
            "undoes_on_cancel": self.undoes_on_cancel,
            "undoes_on_failure": self.undoes_on_failure,
            "destroys": self.undoes is not None,
        }

    def on(self, can: Collection[Can]) -> Plan:
        """With the steps that apply where a cloud can do this, and in its words."""
        steps = [step.on(can) for step in self.steps if step.needs is None or step.needs in can]
        takes = Can.MAKE not in can and self.gives_back
        return replace(self, steps=steps, destroys=self.gives_back if takes else self.destroys)

    def teardown(self) -> list[StepPlan]:
        """The steps that take apart whatever this plan built, in reverse."""
        return [
            StepPlan(
                f"undo-{step.name}"[:40],
                step.undo_title or f"Undo: {step.title[0].lower()}{step.title[1:]}",
                step.undo,
                icon=step.icon,
                patience=step.patience,
                limit=step.limit,
                needs=step.needs,
                taken=step.undo_taken,
            )
            for step in reversed(self.steps)
            if step.undo
        ]
