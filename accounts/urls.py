from django.urls import path

from accounts import views

urlpatterns = [
    path("first/<str:token>/", views.first_administrator, name="first-administrator"),
    path("organizations/", views.organizations, name="organizations"),
    path("organizations/new/", views.new_organization, name="new-organization"),
    path("organizations/switch/", views.switch_organization, name="switch-organization"),
    path("organization/", views.organization, name="organization"),
    path("organization/settings/", views.organization_settings, name="organization-settings"),
    path("organization/leave/", views.leave_organization, name="leave-organization"),
    path("organization/delete/", views.remove_organization, name="delete-organization"),
    path("organization/audit/", views.audit, name="audit"),
    path("organization/audit/csv/", views.audit_csv, name="audit-csv"),
    path("organization/tokens/", views.tokens, name="tokens"),
    path("organization/tokens/new/", views.new_token, name="new-token"),
    path("people/", views.people, name="people"),
    path("people/<uuid:uuid>/", views.one_person, name="person"),
    path("people/<uuid:uuid>/unlock/", views.unlock_person, name="unlock-person"),
    path("people/<uuid:uuid>/remove/", views.remove_person, name="remove-person"),
    path("invitation/", views.invitation, name="invitation"),
    path("invitations/<uuid:uuid>/resend/", views.resend, name="resend-invitation"),
    path("invitations/<uuid:uuid>/withdraw/", views.withdraw, name="withdraw-invitation"),
    path("invitations/<str:token>/", views.invitation_link, name="invitation-link"),
    path("profile/", views.profile, name="profile"),
    path("profile/data/", views.profile_data, name="profile-data"),
    path("profile/delete/", views.delete_profile, name="delete-profile"),
]
