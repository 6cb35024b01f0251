from django.urls import path

from accounts import views

urlpatterns = [
    path("first/<str:token>/", views.first_administrator, name="first-administrator"),
    path("organization/audit/", views.audit, name="audit"),
    path("organization/audit/csv/", views.audit_csv, name="audit-csv"),
]
