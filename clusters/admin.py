"""Clusters with their nodes, to read; and engine versions, which staff offer."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from clusters.models import Cluster, ClusterQuerySet, EngineVersion, InstanceRole, Node
from portal.admin import ReadOnlyInline, StaffAdmin, list_link, shown, site


class NodeInline(ReadOnlyInline):
    model = Node
    fields = ("rank", "hostname", "condition", "address", "private_address", "cloud_id", "seen")

    @admin.display(description="state")
    def condition(self, node: Node) -> SafeString:
        return shown(node.badge)


@admin.register(Cluster, site=site)
class ClusterAdmin(StaffAdmin):
    list_display = ("name", "workspace", "state", "instance_type", "node_count", "engine_version", "created")
    list_select_related = ("workspace", "engine_version")
    list_filter = ("status", ("created", admin.DateFieldListFilter))
    search_fields = ("name__istartswith", "workspace__name__istartswith")
    search_help_text = "The beginning of its name or of its workspace's, or the id from its address."
    narrows = ("workspace__id__exact",)
    fields = (
        "name", "description", "workspace", "state", "instance_type", "cores_per_node", "node_count", "engine_version",
        "auto_repair", "note",
        "created_by", "created", "uuid", "runs",
    )  # fmt: skip
    inlines = (NodeInline,)

    def get_queryset(self, request: HttpRequest) -> ClusterQuerySet:
        found: Any = super().get_queryset(request)
        rows: ClusterQuerySet = found.with_lost_nodes()
        return rows

    @admin.display(description="status")
    def state(self, cluster: Cluster) -> SafeString:
        return shown(cluster.badge)

    @admin.display(description="on it")
    def runs(self, cluster: Cluster) -> SafeString:
        return list_link("Runs", "jobs.run", cluster__id=cluster.pk)


@admin.register(InstanceRole, site=site)
class InstanceRoleAdmin(StaffAdmin):
    list_display = ("name", "workspace", "condition", "arn", "created")
    list_select_related = ("workspace",)
    list_filter = ("status",)
    search_fields = ("name__istartswith", "arn__istartswith", "workspace__name__istartswith")
    search_help_text = "The beginning of its name, of its ARN or of its workspace's name."
    fields = ("name", "description", "arn", "workspace", "condition", "created_by", "created", "uuid")

    @admin.display(description="status")
    def condition(self, role: InstanceRole) -> SafeString:
        return shown(role.badge)


@admin.register(EngineVersion, site=site)
class EngineVersionAdmin(StaffAdmin):
    """One that clusters have is kept, because they are made with it again when they are repaired: it is not offered."""

    list_display = ("__str__", "packages", "offered")
    list_filter = ("kind", "offered")
    search_fields = ("version__istartswith",)
    fields = ("kind", "version", "packages", "offered")
    changeable = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return site.has_permission(request)
