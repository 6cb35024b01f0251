from django.urls import path

from workspaces import views

urlpatterns = [
    path("cloud-configurations/", views.cloud_configs, name="cloud-configs"),
    path("cloud-configurations/new/", views.new_cloud_config, name="new-cloud-config"),
    path("cloud-configurations/<uuid:uuid>/", views.cloud_config, name="cloud-config"),
    path("cloud-configurations/<uuid:uuid>/delete/", views.remove_cloud_config, name="delete-cloud-config"),
    path("workspaces/", views.workspaces, name="workspaces"),
    path("workspaces/new/", views.new_workspace, name="new-workspace"),
    path("workspaces/<uuid:uuid>/", views.workspace, name="workspace"),
    path("workspaces/<uuid:uuid>/settings/", views.workspace_settings, name="workspace-settings"),
    path("workspaces/<uuid:uuid>/people/", views.workspace_people, name="workspace-people"),
    path("workspaces/<uuid:uuid>/people/<uuid:member>/role/", views.change_member, name="change-workspace-person"),
    path("workspaces/<uuid:uuid>/people/<uuid:member>/remove/", views.remove_member, name="remove-workspace-person"),
    path("workspaces/<uuid:uuid>/tokens/", views.workspace_tokens, name="workspace-tokens"),
    path("workspaces/<uuid:uuid>/tokens/new/", views.new_workspace_token, name="new-workspace-token"),
    path("tokens/<uuid:uuid>/revoke/", views.revoke, name="revoke-token"),
    path("workspaces/<uuid:uuid>/delete/", views.remove_workspace, name="delete-workspace"),
]
