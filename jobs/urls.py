from django.urls import path

from jobs import views

urlpatterns = [path("examples/<slug:name>/<path:file>", views.example_file, name="example-file")]
