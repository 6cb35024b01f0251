from django.urls import path

from clusters import connect, views

urlpatterns = [
    path("workspaces/<uuid:uuid>/clusters/", views.clusters, name="clusters"),
    path("workspaces/<uuid:uuid>/clusters/new/", views.new_cluster, name="new-cluster"),
    path("clusters/<uuid:uuid>/", views.cluster, name="cluster"),
    path("clusters/<uuid:uuid>/repair/", views.repair, name="repair-cluster"),
    path("clusters/<uuid:uuid>/auto-repair/", views.auto_repair, name="auto-repair"),
    path("clusters/<uuid:uuid>/terminal/", connect.terminal, name="terminal"),
    path("clusters/<uuid:uuid>/key/", connect.key, name="cluster-key"),
    path("clusters/<uuid:uuid>/hostfile/", connect.hostfile, name="refresh-hostfile"),
    path("clusters/<uuid:uuid>/delete/", views.remove_cluster, name="delete-cluster"),
]
