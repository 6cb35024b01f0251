from django.urls import path

from clusters.views import clusters, connect

urlpatterns = [
    path("workspaces/<uuid:uuid>/clusters/", clusters.clusters, name="clusters"),
    path("workspaces/<uuid:uuid>/clusters/new/", clusters.new_cluster, name="new-cluster"),
    path("clusters/<uuid:uuid>/", clusters.cluster, name="cluster"),
    path("clusters/<uuid:uuid>/repair/", clusters.repair, name="repair-cluster"),
    path("clusters/<uuid:uuid>/pause/", clusters.pause, name="pause-cluster"),
    path("clusters/<uuid:uuid>/resume/", clusters.resume, name="resume-cluster"),
    path("clusters/<uuid:uuid>/stop/", clusters.stop, name="stop-cluster"),
    path("clusters/<uuid:uuid>/start/", clusters.start, name="start-cluster"),
    path("clusters/<uuid:uuid>/restart/", clusters.restart, name="restart-cluster"),
    path("clusters/<uuid:uuid>/scale/", clusters.scale, name="scale-cluster"),
    path("clusters/<uuid:uuid>/edit/", clusters.edit, name="edit-cluster"),
    path("clusters/<uuid:uuid>/forget/", clusters.forget, name="forget-cluster"),
    path("clusters/<uuid:uuid>/auto-repair/", clusters.auto_repair, name="auto-repair"),
    path("clusters/<uuid:uuid>/terminal/", connect.terminal, name="terminal"),
    path("clusters/<uuid:uuid>/key/", connect.key, name="cluster-key"),
    path("clusters/<uuid:uuid>/hostfile/", connect.hostfile, name="refresh-hostfile"),
    path("clusters/<uuid:uuid>/delete/", clusters.remove_cluster, name="delete-cluster"),
]
