"""What people do with clusters. Each is one transaction; work is queued on commit."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import transaction

from accounts import audit
from accounts.models import User
from clusters.models import Cluster, EngineVersion
from portal.clouds import InstanceType
from portal.clouds.errors import PortalError
from portal.tasks.ledger import start_task
from portal.tasks.models import Task
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
        after = {"nodes": f"{node_count} × {instance_type.name}", "engine": engine_version}
        _record("created", cluster, by, after)
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
    _record("repaired", cluster, by)
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
    _record("deleted", cluster, by)
    return task


def _record(verb: str, cluster: Cluster, by: User | None, after: dict[str, object] | None = None) -> None:
    workspace = cluster.workspace
    audit.record(verb, cluster, organization=workspace.organization, workspace=workspace, by=by, after=after)
