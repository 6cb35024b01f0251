from django.urls import path

from jobs import views
from jobs.goto import go_to

urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("go-to/", go_to, name="go-to"),
    path("workspaces/<uuid:uuid>/jobs/", views.jobs, name="jobs"),
    path("workspaces/<uuid:uuid>/jobs/new/", views.new_job, name="new-job"),
    path("jobs/<uuid:uuid>/", views.job, name="job"),
    path("jobs/<uuid:uuid>/credential/", views.job_credential, name="job-credential"),
    path("jobs/<uuid:uuid>/run/", views.run_job, name="run-job"),
    path("runs/<uuid:uuid>/", views.run, name="run"),
    path("runs/<uuid:uuid>/cancel/", views.cancel, name="cancel-run"),
    path("examples/<slug:name>/<path:file>", views.example_file, name="example-file"),
]
