from django.urls import path

from clusters import views

urlpatterns = [
    path("workspaces/<uuid:uuid>/clusters/", views.clusters, name="clusters"),
    path("workspaces/<uuid:uuid>/clusters/new/", views.new_cluster, name="new-cluster"),
    path("clusters/<uuid:uuid>/", views.cluster, name="cluster"),
    path("clusters/<uuid:uuid>/repair/", views.repair, name="repair-cluster"),
    path("clusters/<uuid:uuid>/auto-repair/", views.auto_repair, name="auto-repair"),
    path("clusters/<uuid:uuid>/delete/", views.remove_cluster, name="delete-cluster"),
]
