"""Workspaces, who is in them, and cloud configurations, for staff to read."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from portal.admin import ReadOnlyInline, StaffAdmin, list_link, list_links, shown, site
from portal.clouds.machines.models import Computer, Event, Pool
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


@admin.register(Pool, site=site)
class PoolAdmin(StaffAdmin):
    list_display = ("name", "user", "base", "alone", "checked", "created")
    search_fields = ("name__istartswith",)
    search_help_text = "The beginning of its name."
    fields = (
        "name", "account", "user", "base", "alone", "key_public", "check_due", "check_asked", "checked", "created",
        "uuid", "machines",
    )  # fmt: skip

    @admin.display(description="in it")
    def machines(self, pool: Pool) -> SafeString:
        return list_link("Computers", "machines.computer", pool__id=pool.pk)


class EventInline(ReadOnlyInline):
    model = Event
    fields = ("at", "words", "subject")
    verbose_name_plural = "history"


@admin.register(Computer, site=site)
class ComputerAdmin(StaffAdmin):
    list_display = ("__str__", "pool", "address", "condition", "subject", "seen", "checked")
    list_select_related = ("pool",)
    list_filter = ("state", "is_disabled", "is_leaving")
    search_fields = ("hostname__startswith", "address__startswith", "subject")
    search_help_text = "The beginning of its hostname or address, or the id of the cluster that has it."
    narrows = ("pool__id__exact",)
    fields = (
        "hostname", "pool", "address", "port", "condition", "host_public", "host_shown", "cores", "vcpus", "memory_gib",
        "architecture", "failing", "boot_id", "silence", "load", "subject", "rank", "taken", "is_leaving", "left",
        "marked", "seen", "checked", "created", "uuid",
    )  # fmt: skip
    inlines = (EventInline,)

    @admin.display(description="status")
    def condition(self, computer: Computer) -> SafeString:
        return shown(computer.badge)


@admin.register(Event, site=site)
class EventAdmin(StaffAdmin):
    """What became of computers."""

    list_display = ("at", "computer", "words", "subject")
    list_select_related = ("computer",)
    search_fields = ("subject",)
    search_help_text = "The id of the cluster that it is about."
    narrows = ("computer__id__exact",)
    fields = ("at", "computer", "words", "subject")
