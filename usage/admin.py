"""Records of usage, to read."""

from __future__ import annotations

from django.contrib import admin

from portal.admin import StaffAdmin, minute, site
from usage.models import Record


@admin.register(Record, site=site)
class RecordAdmin(StaffAdmin):
    """Nobody changes or removes one: bills are made of them."""

    list_display = (
        "cluster_name", "workspace_name", "person_name", "instance_type", "node_count", "hourly_price", "since",
        "until", "minutes",
    )  # fmt: skip
    list_filter = (("month", admin.DateFieldListFilter), ("ended", admin.EmptyFieldListFilter))
    search_fields = ("cluster_name__istartswith", "workspace_name__istartswith")
    search_help_text = "The beginning of a cluster's or a workspace's name."
    narrows = ("organization__exact", "workspace__exact", "cluster__exact")
    fields = (
        "cluster_name", "cluster", "workspace_name", "workspace", "organization", "person_name", "person",
        "instance_type", "cores_per_node", "node_count", "spot", "hourly_price", "month", "since", "until", "minutes",
    )  # fmt: skip

    @admin.display(description="began")
    def since(self, record: Record) -> str:
        return minute(record.began)

    @admin.display(description="ended")
    def until(self, record: Record) -> str:
        return minute(record.ended)
