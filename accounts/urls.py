from django.urls import path

from accounts import views

urlpatterns = [path("first/<str:token>/", views.first_administrator, name="first-administrator")]
