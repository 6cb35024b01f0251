from django.urls import path

from clusters import connect, views

urlpatterns = [
    path("workspaces/<uuid:uuid>/clusters/", views.clusters, name="clusters"),
    path("workspaces/<uuid:uuid>/clusters/new/", views.new_cluster, name="new-cluster"),
    path("clusters/<uuid:uuid>/", views.cluster, name="cluster"),
    path("clusters/<uuid:uuid>/repair/", views.repair, name="repair-cluster"),
    path("clusters/<uuid:uuid>/pause/", views.pause, name="pause-cluster"),
    path("clusters/<uuid:uuid>/resume/", views.resume, name="resume-cluster"),
    path("clusters/<uuid:uuid>/stop/", views.stop, name="stop-cluster"),
    path("clusters/<uuid:uuid>/start/", views.start, name="start-cluster"),
    path("clusters/<uuid:uuid>/restart/", views.restart, name="restart-cluster"),
    path("clusters/<uuid:uuid>/scale/", views.scale, name="scale-cluster"),
    path("clusters/<uuid:uuid>/edit/", views.edit, name="edit-cluster"),
    path("clusters/<uuid:uuid>/forget/", views.forget, name="forget-cluster"),
    path("clusters/<uuid:uuid>/auto-repair/", views.auto_repair, name="auto-repair"),
    path("clusters/<uuid:uuid>/terminal/", connect.terminal, name="terminal"),
    path("clusters/<uuid:uuid>/key/", connect.key, name="cluster-key"),
    path("clusters/<uuid:uuid>/hostfile/", connect.hostfile, name="refresh-hostfile"),
    path("clusters/<uuid:uuid>/delete/", views.remove_cluster, name="delete-cluster"),
]
