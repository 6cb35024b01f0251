"""Workspaces, who is in them, and cloud configurations, for staff to read."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from portal.admin import StaffAdmin, list_links, shown, site
from workspaces.models import CloudConfig, Stray, Workspace, WorkspaceMember


@admin.register(CloudConfig, site=site)
class CloudConfigAdmin(StaffAdmin):
    list_display = ("name", "organization", "kind", "state", "checked", "created_by", "created")
    list_select_related = ("organization", "created_by")
    list_filter = ("kind",)
    search_fields = ("name__istartswith", "organization__name__istartswith")
    search_help_text = "The beginning of its name or of its organization's."
    narrows = ("organization__id__exact",)
    fields = ("name", "organization", "kind", "state", "checked", "findings", "created_by", "created", "uuid")

    @admin.display(description="status")
    def state(self, config: CloudConfig) -> SafeString:
        return shown(config.badge)


@admin.register(Workspace, site=site)
class WorkspaceAdmin(StaffAdmin):
    list_display = ("name", "organization", "cloud_config", "region", "state", "created_by", "created")
    list_select_related = ("organization", "cloud_config", "created_by")
    list_filter = ("status", ("created", admin.DateFieldListFilter))
    search_fields = ("name__istartswith", "organization__name__istartswith")
    search_help_text = "The beginning of its name or of its organization's, or the id from its address."
    narrows = ("organization__id__exact", "cloud_config__id__exact")
    fields = (
        "name", "organization", "cloud_config", "region", "state", "created_by", "created", "uuid", "belongings",
    )  # fmt: skip

    @admin.display(description="status")
    def state(self, workspace: Workspace) -> SafeString:
        return shown(workspace.badge)

    @admin.display(description="in it")
    def belongings(self, workspace: Workspace) -> SafeString:
        lists = {
            "People": "workspaces.workspacemember", "Clusters": "clusters.cluster", "Jobs": "jobs.job",
            "Invitations": "accounts.invitation", "API tokens": "accounts.apitoken",
        }  # fmt: skip
        return list_links(lists, workspace__id=workspace.pk)


@admin.register(Stray, site=site)
class StrayAdmin(StaffAdmin):
    """What clouds held in this portal's name, though no row accounts for it."""

    list_display = ("name", "state", "cloud_config", "region", "first_seen", "last_seen", "ended", "is_kept")
    list_select_related = ("cloud_config",)
    list_filter = (("ended", admin.EmptyFieldListFilter), "is_kept", ("first_seen", admin.DateFieldListFilter))
    search_fields = ("name__istartswith", "subject__startswith")
    search_help_text = "The beginning of its name, or of the id that it carries."
    narrows = ("cloud_config__id__exact",)
    fields = (
        "name", "state", "cloud_config", "region", "organization_tag", "workspace_tag", "subject", "things",
        "first_seen", "last_seen", "ended", "is_kept", "trouble", "uuid",
    )  # fmt: skip

    @admin.display(description="status")
    def state(self, stray: Stray) -> SafeString:
        return shown(stray.badge)


@admin.register(WorkspaceMember, site=site)
class WorkspaceMemberAdmin(StaffAdmin):
    list_display = ("user", "workspace", "role", "created")
    list_select_related = ("user", "workspace")
    list_filter = ("role",)
    search_fields = ("user__email__startswith", "workspace__name__istartswith")
    search_help_text = "The beginning of an address or of a workspace's name."
    narrows = ("user__id__exact", "workspace__id__exact")
    fields = ("user", "workspace", "role", "created")
