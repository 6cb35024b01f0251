from django.urls import path

from workspaces.views import configs, people, workspaces

urlpatterns = [
    path("cloud-configurations/", configs.cloud_configs, name="cloud-configs"),
    path("cloud-configurations/new/", configs.new_cloud_config, name="new-cloud-config"),
    path("cloud-configurations/<uuid:uuid>/", configs.cloud_config, name="cloud-config"),
    path("cloud-configurations/<uuid:uuid>/check/", configs.check_cloud_config, name="check-cloud-config"),
    path("cloud-configurations/<uuid:uuid>/delete/", configs.remove_cloud_config, name="delete-cloud-config"),
    path("workspaces/", workspaces.workspaces, name="workspaces"),
    path("workspaces/new/", workspaces.new_workspace, name="new-workspace"),
    path("workspaces/<uuid:uuid>/", workspaces.workspace, name="workspace"),
    path("workspaces/<uuid:uuid>/settings/", workspaces.workspace_settings, name="workspace-settings"),
    path("workspaces/<uuid:uuid>/update/", workspaces.update_infrastructure, name="update-workspace"),
    path("workspaces/<uuid:uuid>/people/", people.workspace_people, name="workspace-people"),
    path("workspaces/<uuid:uuid>/people/<uuid:member>/role/", people.change_member, name="change-workspace-person"),
    path("workspaces/<uuid:uuid>/people/<uuid:member>/remove/", people.remove_member, name="remove-workspace-person"),
    path("workspaces/<uuid:uuid>/tokens/", people.workspace_tokens, name="workspace-tokens"),
    path("workspaces/<uuid:uuid>/tokens/new/", people.new_workspace_token, name="new-workspace-token"),
    path("tokens/<uuid:uuid>/revoke/", people.revoke, name="revoke-token"),
    path("workspaces/<uuid:uuid>/delete/", workspaces.remove_workspace, name="delete-workspace"),
    path("workspaces/<uuid:uuid>/forget/", workspaces.forget, name="forget-workspace"),
]
