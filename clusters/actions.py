"""What people do with clusters. Each is one transaction; work is queued on commit."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timedelta
from functools import partial
from itertools import takewhile
from typing import Any
from uuid import UUID, uuid4

from django.db.models import Q
from django.urls import reverse
from django.utils.timezone import now

from accounts import audit
from accounts.access import Can
from accounts.holdings import Holding
from accounts.models import Organization, User
from clusters import hostfile
from clusters.models import Cluster, EngineVersion, Node
from portal import ssh
from portal.clouds import InstanceType
from portal.errors import PortalError
from portal.tasks import live
from portal.tasks.ledger import start_task
from portal.tasks.models import Task, TaskStatus
from workspaces.actions import cancel
from workspaces.models import Workspace

logger = logging.getLogger(__name__)

OWN_REPAIRS = 3  # how often the portal repairs a cluster by itself, without success or within RECENT
PAUSE = timedelta(minutes=1)  # after the first one that has failed; after the second, twice that
RECENT = timedelta(hours=1)


@audit.atomic()
def create_cluster(
    workspace: Workspace,
    *,
    name: str,
    instance_type: InstanceType,
    node_count: int,
    engine_version: EngineVersion,
    by: User,
    auto_repair: bool = False,
    uuid: UUID | None = None,
) -> Cluster:
    """The cluster and the task that makes it. Asked twice with one `uuid`, it is made once. Raises `PortalError`."""
    workspace = _locked(workspace)
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
            "auto_repair": auto_repair,
            "created_by": by,
        },
    )
    if made:
        start_task(cluster, "clusters.create", by=by, cloud=workspace.cloud_config.kind)
        after = {
            "nodes": node_count,
            "instance type": instance_type.name,
            "engine version": str(engine_version),
            "repair by itself": auto_repair,
        }
        _record("created", cluster, by=by, after=after)
    return cluster


def _locked(workspace: Workspace) -> Workspace:
    """As it is now; whoever deletes it waits until we have ended."""
    rows = Workspace.objects.select_for_update(of=("self",), no_key=True)
    return rows.select_related("organization", "cloud_config").get(pk=workspace.pk)


@audit.atomic()
def repair_cluster(cluster: Cluster, *, by: User | None) -> Task:
    """Make what is missing of its nodes, and introduce them again. Raises `PortalError`."""
    task = start_task(cluster, "clusters.repair", by=by, cloud=cluster.workspace.cloud_config.kind)
    _record("repaired", cluster, by=by)
    return task


@audit.atomic()
def change_auto_repair(cluster: Cluster, auto_repair: bool, *, by: User) -> None:
    """Whether the portal repairs it by itself when a node is gone."""
    if not Cluster.objects.filter(pk=cluster.pk).exclude(auto_repair=auto_repair).update(auto_repair=auto_repair):
        return
    cluster.auto_repair = auto_repair
    workspace = cluster.workspace
    audit.record(
        "changed",
        cluster,
        organization=workspace.organization,
        by=by,
        workspace=workspace,
        before={"repair by itself": not auto_repair},
        after={"repair by itself": auto_repair},
    )
    live.ring(*cluster.live_names())


def refresh_hostfile(cluster: Cluster, *, by: User) -> None:
    """The hostfile on /shared becomes the list of nodes. Raises `PortalError` when the head node does not take it."""
    if cluster.status != Cluster.Status.RUNNING:
        raise PortalError(
            f"{cluster} is {cluster.badge.word}. Its hostfile can be brought up to date while it is RUNNING."
        )
    nodes = list(cluster.nodes.all())
    ssh.put(nodes[0].host, cluster.hostfile, hostfile.text(cluster, nodes).encode(), mode="644")
    with audit.atomic():
        Cluster.objects.filter(pk=cluster.pk).update(hostfile_is_old=False)
        _record("brought up to date the hostfile of", cluster, by=by, after={"nodes": len(nodes)})
        live.ring(*cluster.live_names())


@audit.atomic()
def take_key(cluster: Cluster, *, by: User) -> str:
    """The private key with which people sign in to its nodes. Raises `PortalError` while or since there is none."""
    if not cluster.key_private or cluster.status in Cluster.DELETED:
        raise PortalError(f"{cluster} is {cluster.badge.word} and has no key.")
    _record("downloaded the key of", cluster, by=by)
    return cluster.key


@audit.atomic()
def report_lost(cluster: Cluster, hostnames: Collection[str]) -> list[str]:
    """Somebody could not reach these nodes: they are SILENT, and the cluster DEGRADED, until they answer the portal.

    Returns those of which that is news. Pages and the watch process are told.
    """
    thought_well = cluster.nodes.select_for_update(no_key=True).filter(hostname__in=hostnames, state=Node.State.ANSWERS)
    lost = list(thought_well.values_list("hostname", flat=True))
    if lost:
        cluster.nodes.filter(hostname__in=lost).update(state=Node.State.SILENT)
        live.ring(*cluster.live_names(), live.WATCH_CLUSTERS)
    return lost


def own_repairs(cluster: Cluster) -> list[Task]:
    """Those that nobody has asked for, since a person did something to it; of `OWN_REPAIRS`, no more are begun.

    Newest first. One that has helped counts for a while only.
    """

    def counts(task: Task) -> bool:
        is_own = task.kind == "clusters.repair" and task.asked_by_id is None
        return is_own and (task.status == TaskStatus.FAILED or task.created > now() - RECENT)

    return list(takewhile(counts, cluster.tasks.order_by("-pk")[:OWN_REPAIRS]))


def repair_what_is_gone() -> list[Cluster]:
    """Repair the clusters of which people want that, and of which the cloud says that a node is gone.

    One whose repair has failed is tried again after a pause, but see `own_repairs`. Returns those begun.
    """
    gone = Q(status=Cluster.Status.RUNNING, nodes__state=Node.State.GONE)
    failed = Q(
        status=Cluster.Status.FAILED,
        tasks__kind="clusters.repair",
        tasks__asked_by=None,
        tasks__status=TaskStatus.FAILED,
        tasks__finished__gt=now() - RECENT,
    )
    wanted = Cluster.objects.filter(gone | failed, auto_repair=True).distinct()
    begun = []
    for cluster in wanted.select_related("workspace__organization", "workspace__cloud_config"):
        if not _may_be_repaired_now(cluster):
            continue
        try:
            repair_cluster(cluster, by=None)
        except PortalError as error:
            logger.info("cluster %s is not repaired now: %s", cluster.uuid, error)
        else:
            begun.append(cluster)
    return begun


def _may_be_repaired_now(cluster: Cluster) -> bool:
    own = own_repairs(cluster)
    if len(own) >= OWN_REPAIRS:
        return False
    failed = list(takewhile(lambda task: task.status == TaskStatus.FAILED, own))
    if failed and failed[0].finished:
        return failed[0].finished + len(failed) * PAUSE <= now()
    return cluster.status == Cluster.Status.RUNNING


@audit.atomic()
def delete_cluster(cluster: Cluster, *, by: User) -> Task:
    """Its nodes go, with what is on them; /shared stays. Raises `PortalError` where it is in no state for that."""
    task = start_task(cluster, "clusters.delete", by=by, cloud=cluster.workspace.cloud_config.kind)
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
    clusters = clusters.live().with_lost_nodes().filter(workspace__organization=organization)
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
