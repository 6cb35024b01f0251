from django.urls import path

from accounts import views

urlpatterns = [
    path("first/<str:token>/", views.first_administrator, name="first-administrator"),
    path("profile/", views.profile, name="profile"),
    path("profile/data/", views.profile_data, name="profile-data"),
    path("profile/delete/", views.delete_profile, name="delete-profile"),
]
