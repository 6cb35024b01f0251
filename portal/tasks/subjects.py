"""What tasks are done to: workspaces, clusters, runs, and what is to come."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.contenttypes.fields import GenericRelation
from django.db import models

from portal.clouds import Can, Store
from portal.states import HasStatus
from portal.tasks import registry

if TYPE_CHECKING:
    from uuid import UUID

    from portal.tasks.causes import Explanation, Way
    from portal.tasks.models import Output, Task


class Subject(HasStatus):
    """A row that tasks are done to, at most one at a time.

    Its model is told to `portal.tasks.registry` when the portal starts, under the name that live pages listen to. Its
    manager is an `accounts.access.AccessQuerySet`: who may see the subject may see its tasks, and who has the right
    that the queryset names in `changes` may cancel them and try them again.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    tasks = GenericRelation("tasks.Task", content_type_field="subject_type", object_id_field="subject_id")

    runs_programs: ClassVar[bool] = False  # has an `output`, which people's programs write
    fetched_with: ClassVar[tuple[str, ...]] = ()  # what a worker needs of it at once, as for `select_related`

    class Meta:
        abstract = True

    def fetched(self) -> None:
        """Called when it was read with all that a worker needs of it."""

    @property
    def workspace(self) -> Any:
        """The workspace that it is in, or is; None for what is an organization's alone."""
        raise NotImplementedError

    @property
    def can(self) -> frozenset[Can]:
        """What its kind of cloud can do: of a plan, the steps that need something else do not apply."""
        return frozenset(Can)

    @property
    def lock(self) -> tuple[Store, str] | None:
        """In which store, and under which name, a task is alone with it among all portals. None: there is none."""
        return None

    def get_absolute_url(self) -> str:
        raise NotImplementedError

    def crumbs(self) -> list[tuple[str, str]]:
        """From the workspace's page to this one: words and addresses."""
        return []

    def ways_out(self, why: Explanation) -> list[Way]:
        """What can be done about a failure, besides trying again, for whoever may change it. By `why.buttons`."""
        return []

    def remember_who_cancelled(self, by: Any) -> None:
        """For subjects that say so themselves when they have ended."""

    def live_names(self) -> list[str]:
        """The names that are rung when it changes: its own first, then those of what it is a part of."""
        raise NotImplementedError

    @property
    def first_status(self) -> str:
        """That a new one is in, before a worker has begun with it."""
        return next(iter(self.STATES))

    @property
    def last_task(self) -> Task | None:
        last: Task | None = self.tasks.order_by("-pk").first()
        return last


def seen_output(user: Any, uuid: UUID) -> tuple[Output, Subject] | None:
    """An output and what it is of, if this person may see that."""
    from portal.tasks.models import Task

    for model in registry.subjects.values():
        if model.runs_programs and (found := _with_output(model, user, uuid)):
            return found.output, found
    task = Task.objects.filter(output__uuid=uuid).select_related("output").order_by("-pk").first()
    of: Any = task.subject if task else None
    if task is None or of is None or type(of).objects.seen_by(user, of.uuid) is None:
        return None
    return task.output, of


def _with_output(model: type[Subject], user: Any, uuid: UUID) -> Any:
    rows: Any = model._default_manager
    return rows.where(user, rows.all().sees).filter(output__uuid=uuid).select_related("output").first()
