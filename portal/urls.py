from django.urls import include, path

from portal import guides, views
from portal.admin import site

handler400 = views.bad_request
handler500 = views.server_error
urlpatterns = [
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("guide/aws/", guides.aws, name="aws-guide"),
    path("accounts/", include("allauth.account.urls")),
    path("accounts/security/", include("allauth.mfa.urls")),
    path("accounts/sessions/", include("allauth.usersessions.urls")),
    path("accounts/connections/", include("allauth.socialaccount.urls")),
    path("accounts/", include("allauth.socialaccount.providers.openid_connect.urls")),
    path("admin/", site.urls),
    path("", include("portal.tasks.urls")),
    path("", include("accounts.urls")),
    path("", include("workspaces.urls")),
    path("", include("usage.urls")),
    path("", include("clusters.urls")),
    path("", include("jobs.urls")),
]
