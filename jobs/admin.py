"""Jobs and their runs, for staff to read."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from jobs.models import Job, Run
from portal.admin import StaffAdmin, list_link, portal_link, shown, site


@admin.register(Job, site=site)
class JobAdmin(StaffAdmin):
    list_display = ("name", "workspace", "cluster", "git_url", "created_by", "created")
    list_select_related = ("workspace", "cluster", "created_by")
    list_filter = (("created", admin.DateFieldListFilter),)
    search_fields = ("name__istartswith", "workspace__name__istartswith")
    search_help_text = "The beginning of its name or of its workspace's, or the id from its address."
    narrows = ("workspace__id__exact", "cluster__id__exact")
    fields = (
        "name", "workspace", "cluster", "git_url", "reference", "command", "created_by", "created",
        "deleted", "deleted_by", "uuid", "runs",
    )  # fmt: skip

    @admin.display(description="runs")
    def runs(self, job: Job) -> SafeString:
        return list_link("Its runs", "jobs.run", job__id=job.pk)


@admin.register(Run, site=site)
class RunAdmin(StaffAdmin):
    list_display = ("__str__", "cluster", "state", "started_by", "created", "started", "ended")
    list_select_related = ("job", "cluster", "started_by")
    list_filter = ("status", ("created", admin.DateFieldListFilter))
    search_fields = ("job__name__istartswith",)
    search_help_text = "The beginning of the job's name, or the id from the run's address."
    narrows = ("job__id__exact", "cluster__id__exact")
    fields = (
        "job", "number", "cluster", "state", "phase", "git_url", "reference", "commit", "commit_subject", "command",
        "cores", "exit_status", "exit_signal", "cause", "code", "evidence", "advice", "started_by", "created",
        "started", "ended", "silent_since", "uuid", "shown_output",
    )  # fmt: skip

    @admin.display(description="status")
    def state(self, run: Run) -> SafeString:
        # Not `run.badge`, which asks for its task: one query a row.
        return shown(run.STATES[run.status].badge)

    @admin.display(description="output")
    def shown_output(self, run: Run) -> SafeString:
        return portal_link("run", run.uuid)
