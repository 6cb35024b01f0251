from django.urls import path

from clusters.views import changes, clusters, connect, create, roles, several, strays

urlpatterns = [
    path("workspaces/<uuid:uuid>/clusters/", clusters.clusters, name="clusters"),
    path("workspaces/<uuid:uuid>/clusters/new/", create.new_cluster, name="new-cluster"),
    path("workspaces/<uuid:uuid>/clusters/change/", several.change_clusters, name="change-clusters"),
    path("clusters/<uuid:uuid>/", clusters.cluster, name="cluster"),
    path("clusters/<uuid:uuid>/repair/", changes.repair, name="repair-cluster"),
    path("clusters/<uuid:uuid>/keep/", changes.keep, name="keep-cluster"),
    path("clusters/<uuid:uuid>/pause/", changes.pause, name="pause-cluster"),
    path("clusters/<uuid:uuid>/resume/", changes.resume, name="resume-cluster"),
    path("clusters/<uuid:uuid>/stop/", changes.stop, name="stop-cluster"),
    path("clusters/<uuid:uuid>/start/", changes.start, name="start-cluster"),
    path("clusters/<uuid:uuid>/restart/", changes.restart, name="restart-cluster"),
    path("clusters/<uuid:uuid>/scale/", changes.scale, name="scale-cluster"),
    path("clusters/<uuid:uuid>/edit/", changes.edit, name="edit-cluster"),
    path("clusters/<uuid:uuid>/forget/", changes.forget, name="forget-cluster"),
    path("clusters/<uuid:uuid>/auto-repair/", changes.auto_repair, name="auto-repair"),
    path("clusters/<uuid:uuid>/snooze/", changes.snooze, name="snooze-cluster"),
    path("clusters/<uuid:uuid>/terminal/", connect.terminal, name="terminal"),
    path("clusters/<uuid:uuid>/key/", connect.key, name="cluster-key"),
    path("clusters/<uuid:uuid>/hostfile/", connect.hostfile, name="refresh-hostfile"),
    path("workspaces/<uuid:uuid>/instance-roles/", roles.instance_roles, name="instance-roles"),
    path("workspaces/<uuid:uuid>/instance-roles/new/", roles.new_instance_role, name="new-instance-role"),
    path("instance-roles/<uuid:uuid>/", roles.instance_role, name="instance-role"),
    path("instance-roles/<uuid:uuid>/validate/", roles.validate, name="validate-instance-role"),
    path("instance-roles/<uuid:uuid>/remove/", roles.remove, name="remove-instance-role"),
    path("instance-roles/<uuid:uuid>/forget/", roles.forget, name="forget-instance-role"),
    path("left-behind/<uuid:uuid>/", strays.stray, name="stray"),
    path("left-behind/<uuid:uuid>/adopt/", strays.adopt, name="adopt-stray"),
    path("clusters/<uuid:uuid>/delete/", changes.remove_cluster, name="delete-cluster"),
]
