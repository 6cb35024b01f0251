from django.urls import path

from usage import views

urlpatterns = [
    path("organization/usage/", views.organization_usage, name="organization-usage"),
    path("organization/usage/csv/", views.organization_usage_csv, name="organization-usage-csv"),
    path("workspaces/<uuid:uuid>/usage/", views.workspace_usage, name="workspace-usage"),
    path("workspaces/<uuid:uuid>/usage/csv/", views.workspace_usage_csv, name="workspace-usage-csv"),
]
