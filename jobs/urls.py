from django.urls import path

from jobs.views import dashboard, examples, jobs, lists, runs, schedules, several
from jobs.views.goto import go_to

urlpatterns = [
    path("", dashboard.dashboard, name="dashboard"),
    path("go-to/", go_to, name="go-to"),
    path("runs/", lists.all_runs, name="all-runs"),
    path("workspaces/<uuid:uuid>/dashboard/", dashboard.workspace_dashboard, name="workspace-dashboard"),
    path("workspaces/<uuid:uuid>/jobs/", lists.jobs, name="jobs"),
    path("workspaces/<uuid:uuid>/jobs/new/", jobs.new_job, name="new-job"),
    path("workspaces/<uuid:uuid>/runs/", lists.runs, name="runs"),
    path("workspaces/<uuid:uuid>/runs/change/", several.change_runs, name="change-runs"),
    path("jobs/<uuid:uuid>/", jobs.job, name="job"),
    path("jobs/<uuid:uuid>/edit/", jobs.edit_job, name="edit-job"),
    path("jobs/<uuid:uuid>/delete/", jobs.remove_job, name="delete-job"),
    path("jobs/<uuid:uuid>/cluster/", jobs.move_job, name="move-job"),
    path("jobs/<uuid:uuid>/credential/", jobs.job_credential, name="job-credential"),
    path("jobs/<uuid:uuid>/run/", jobs.run_job, name="run-job"),
    path("jobs/<uuid:uuid>/run/with-changes/", jobs.run_job_with_changes, name="run-job-with-changes"),
    path("jobs/<uuid:uuid>/mail/", jobs.job_mail, name="job-mail"),
    path("jobs/<uuid:uuid>/schedules/new/", schedules.new_schedule, name="new-schedule"),
    path("schedules/<uuid:uuid>/", schedules.schedule, name="schedule"),
    path("schedules/<uuid:uuid>/edit/", schedules.edit_schedule, name="edit-schedule"),
    path("schedules/<uuid:uuid>/turn/", schedules.turn_schedule, name="turn-schedule"),
    path("schedules/<uuid:uuid>/run/", schedules.run_schedule, name="run-schedule"),
    path("schedules/<uuid:uuid>/delete/", schedules.remove_schedule, name="delete-schedule"),
    path("workspaces/<uuid:uuid>/excluded-days/", schedules.excluded_days, name="excluded-days"),
    path("runs/<uuid:uuid>/", runs.run, name="run"),
    path("runs/<uuid:uuid>/cancel/", runs.cancel, name="cancel-run"),
    path("runs/<uuid:uuid>/compare/", runs.compare, name="compare-runs"),
    path("runs/<uuid:uuid>/repeat/", runs.repeat, name="repeat-run"),
    path("runs/<uuid:uuid>/dismiss/", runs.dismiss, name="dismiss-run"),
    path("runs/<uuid:uuid>/with-changes/", runs.run_with_changes, name="run-with-changes"),
    path("examples/<slug:name>/<path:file>", examples.example_file, name="example-file"),
]
