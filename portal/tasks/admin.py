"""Tasks with their steps, and what goes on between them and the workers, for staff."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.safestring import SafeString
from django.utils.timezone import now
from redis.exceptions import RedisError

from portal.admin import ReadOnlyInline, StaffAdmin, portal_link, shown, site
from portal.errors import PortalError
from portal.tasks import queue, registry
from portal.tasks.leases import WatchProcess
from portal.tasks.ledger import cancel_task, retry_task
from portal.tasks.models import Step, Task

MOST_SHOWN = 50


class KindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, kind) for kind in registry.plans]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


class StepInline(ReadOnlyInline):
    model = Step
    fields = ("position", "title", "status", "detail", "deaths", "started", "finished")


@admin.register(Task, site=site)
class TaskAdmin(StaffAdmin):
    list_display = ("title", "state", "asked_by", "worker", "resumed", "created")
    list_select_related = ("asked_by",)
    list_filter = ("status", KindFilter, "cancel_asked", ("created", admin.DateFieldListFilter))
    search_fields = ("title__istartswith",)
    search_help_text = "The beginning of its title, or the id from its address."
    fields = (
        "title", "kind", "state", "cause", "evidence", "advice", "asked_by", "cancel_asked", "queue", "worker",
        "lease_until", "wake_at", "resumed", "created", "started", "finished", "uuid", "shown_output",
    )  # fmt: skip
    inlines = (StepInline,)
    actions = ("try_again", "cancel")

    @admin.display(description="status")
    def state(self, task: Task) -> SafeString:
        return shown(task.badge)

    @admin.display(description="output")
    def shown_output(self, task: Task) -> SafeString:
        return portal_link("output", task.output.uuid)

    @admin.action(description="Try again (those that failed)")
    def try_again(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        def do(task: Task) -> None:
            retry_task(task, by=request.user)
            self.record("tried again", task.subject, request, after={"task": task.title})

        self.do_to_each(request, queryset, do, "Tried again")

    @admin.action(description="Cancel (what was begun is undone)")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        def do(task: Task) -> None:
            if not cancel_task(task, by=request.user):
                raise PortalError("It had ended already.")
            self.record("cancelled", task.subject, request, after={"task": task.title})

        self.do_to_each(request, queryset, do, "Asked to cancel")

    def get_urls(self) -> list[Any]:
        page = path("queues/", site.admin_view(self.queues), name="tasks_task_queues")
        return [page, *super().get_urls()]

    def queues(self, request: HttpRequest) -> HttpResponse:
        """What waits, who works, and what nobody has been told of. To look at: a queue only holds hints."""
        context: dict[str, Any] = {
            **site.each_context(request), "title": "Queues and workers", "opts": self.opts, "most": MOST_SHOWN,
            "watch_seen": WatchProcess.last_seen(), "watch_processes": WatchProcess.objects.living().order_by("name"),
        }  # fmt: skip
        due = Task.objects.due().order_by("wake_at")
        context["due"] = due[:MOST_SHOWN]
        context["working"] = Task.objects.unfinished().filter(lease_until__gte=now()).order_by("pk")[:MOST_SHOWN]
        try:
            context["lengths"] = queue.lengths()
            context["workers"] = queue.workers()
            context["untold"] = queue.missing(due[:MOST_SHOWN])
        except RedisError as error:
            context["trouble"] = str(error) or type(error).__name__
        return TemplateResponse(request, "admin/tasks/task/queues.html", context)
