from django.urls import path

from portal.tasks import views

urlpatterns = [
    path("tasks/<uuid:uuid>/", views.task_page, name="task"),
    path("tasks/<uuid:uuid>/cancel/", views.cancel, name="cancel-task"),
    path("tasks/<uuid:uuid>/retry/", views.retry, name="retry-task"),
    path("outputs/<uuid:uuid>/", views.output_page, name="output"),
    path("outputs/<uuid:uuid>/frame/", views.output_frame, name="output-frame"),
    path("outputs/<uuid:uuid>/reach/", views.output_reach, name="output-reach"),
    path("outputs/<uuid:uuid>/nodes/", views.output_nodes, name="output-nodes"),
    path("outputs/<uuid:uuid>/activity/", views.output_activity, name="output-activity"),
    path("outputs/<uuid:uuid>/search/", views.output_search, name="output-search"),
    path("outputs/<uuid:uuid>/download/", views.output_download, name="output-download"),
]
