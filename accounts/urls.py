from django.urls import path

from accounts.views import audit, joining, organizations, people, profile, tokens

urlpatterns = [
    path("first/<str:token>/", joining.first_administrator, name="first-administrator"),
    path("organizations/", organizations.organizations, name="organizations"),
    path("organizations/new/", organizations.new_organization, name="new-organization"),
    path("organizations/switch/", organizations.switch_organization, name="switch-organization"),
    path("organization/", organizations.organization, name="organization"),
    path("organization/settings/", organizations.organization_settings, name="organization-settings"),
    path("organization/leave/", people.leave_organization, name="leave-organization"),
    path("organization/delete/", organizations.remove_organization, name="delete-organization"),
    path("organization/audit/", audit.audit, name="audit"),
    path("organization/audit/csv/", audit.audit_csv, name="audit-csv"),
    path("organization/tokens/", tokens.tokens, name="tokens"),
    path("organization/tokens/new/", tokens.new_token, name="new-token"),
    path("people/", people.people, name="people"),
    path("people/<uuid:uuid>/", people.one_person, name="person"),
    path("people/<uuid:uuid>/unlock/", people.unlock_person, name="unlock-person"),
    path("people/<uuid:uuid>/remove/", people.remove_person, name="remove-person"),
    path("invitation/", joining.invitation, name="invitation"),
    path("invitations/<uuid:uuid>/resend/", people.resend, name="resend-invitation"),
    path("invitations/<uuid:uuid>/withdraw/", people.withdraw, name="withdraw-invitation"),
    path("invitations/<str:token>/", joining.invitation_link, name="invitation-link"),
    path("profile/", profile.profile, name="profile"),
    path("profile/data/", profile.profile_data, name="profile-data"),
    path("profile/delete/", profile.delete_profile, name="delete-profile"),
]
