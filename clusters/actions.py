"""What people do with clusters. Each is one transaction; work is queued on commit."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.urls import reverse

from accounts import audit
from accounts.access import Can
from accounts.holdings import Holding
from accounts.models import Organization, User
from clusters.models import Cluster, EngineVersion
from portal.clouds import InstanceType
from portal.clouds.errors import PortalError
from portal.tasks.ledger import start_task
from portal.tasks.models import Task
from workspaces.actions import cancel
from workspaces.models import Workspace


@transaction.atomic
def create_cluster(
    workspace: Workspace,
    *,
    name: str,
    instance_type: InstanceType,
    node_count: int,
    engine_version: EngineVersion,
    by: User,
    uuid: UUID | None = None,
) -> Cluster:
    """The cluster and the task that makes it. Asked twice with one `uuid`, it is made once. Raises `PortalError`."""
    if workspace.status != Workspace.Status.READY:
        raise PortalError(f"{workspace.name} is {workspace.badge.word}. Clusters can be made once it is READY.")
    cluster, made = Cluster.objects.get_or_create(
        uuid=uuid or uuid4(),
        workspace=workspace,
        defaults={
            "name": name,
            "instance_type": instance_type.name,
            "cores_per_node": instance_type.cores,
            "node_count": node_count,
            "engine_version": engine_version,
            "created_by": by,
        },
    )
    if made:
        start_task(cluster, "clusters.create", title=f"Create cluster {name}", by=by, cloud=workspace.cloud_config.kind)
        after = {"nodes": node_count, "instance type": instance_type.name, "engine version": str(engine_version)}
        _record("created", cluster, by=by, after=after)
    return cluster


@transaction.atomic
def repair_cluster(cluster: Cluster, *, by: User | None) -> Task:
    """Make what is missing of its nodes, and introduce them again. Raises `PortalError`."""
    if not cluster.move(Cluster.Status.INPROGRESS):
        raise PortalError(f"{cluster.name} cannot be repaired while it is {cluster.badge.word}.")
    task = start_task(
        cluster,
        "clusters.repair",
        title=f"Repair cluster {cluster.name}",
        by=by,
        cloud=cluster.workspace.cloud_config.kind,
    )
    _record("repaired", cluster, by=by)
    return task


@transaction.atomic
def delete_cluster(cluster: Cluster, *, by: User) -> Task:
    """Its nodes go, with what is on them; /shared stays. Raises `PortalError` where it is in no state for that."""
    if not cluster.move(Cluster.Status.TERMINATING):
        raise PortalError(
            f"{cluster.name} cannot be deleted while it is {cluster.badge.word}. Cancel what is going on first."
        )
    task = start_task(
        cluster,
        "clusters.delete",
        title=f"Delete cluster {cluster.name}",
        by=by,
        cloud=cluster.workspace.cloud_config.kind,
    )
    _record("deleted", cluster, by=by)
    return task


def _record(verb: str, cluster: Cluster, *, by: User | None, after: dict[str, Any] | None = None) -> None:
    workspace = cluster.workspace
    audit.record(verb, cluster, organization=workspace.organization, by=by, workspace=workspace, after=after)


def holdings(
    organization: Organization,
    *,
    seen_by: User | None = None,
    started_by: User | None = None,
    workspace: Workspace | None = None,
) -> list[Holding]:
    """Clusters that are there; of those that somebody started, the ones that are being made or repaired for them."""
    clusters = Cluster.objects.where(seen_by, Can.VIEW) if seen_by else Cluster.objects.all()
    clusters = clusters.live().filter(workspace__organization=organization)
    if workspace:
        clusters = clusters.filter(workspace=workspace)
    if started_by:  # a deletion goes on: what it has begun to take away must not stay
        tasks = Task.objects.unfinished().filter(kind__in=("clusters.create", "clusters.repair"), asked_by=started_by)
        clusters = clusters.filter(pk__in=tasks.values("subject_id"))
    return [
        Holding(
            cluster.name,
            cluster.workspace.name,
            cluster.badge,
            reverse("cluster", args=[cluster.uuid]),
            partial(_cancel_last_task, cluster),
        )
        for cluster in clusters.select_related("workspace").order_by("-pk")
    ]


def _cancel_last_task(cluster: Cluster, by: User) -> None:
    if task := cluster.last_task:
        cancel(task, by)
