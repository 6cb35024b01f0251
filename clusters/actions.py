"""What people do with clusters. Each is one transaction; work is queued on commit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import takewhile
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.timezone import now

from accounts import audit
from accounts.access import Can
from accounts.holdings import Holding
from accounts.models import Organization, User
from clusters import ceiling, hostfile, life, plans
from clusters.durations import Timer, in_words
from clusters.models import Cluster, EngineVersion, Node
from clusters.roles import role_for
from portal import clouds, ssh
from portal.clouds import InstanceType
from portal.clouds.types import not_here
from portal.errors import Conflict, PortalError
from portal.once import uuid_for
from portal.prepared import prepared_keys
from portal.tasks import live
from portal.tasks.ledger import break_off, cancel_task, start_task
from portal.tasks.models import Task, TaskStatus
from portal.tasks.plans import Plan
from workspaces.actions import cancel
from workspaces.models import Workspace

logger = logging.getLogger(__name__)

OWN_REPAIRS = 3  # how often the portal repairs a cluster by itself, without success or within RECENT
PAUSE = timedelta(minutes=1)  # after the first one that has failed; after the second, twice that
MOST_PAUSE = timedelta(minutes=30)  # until a deletion that nobody has asked for is tried again
RECENT = timedelta(hours=1)
MOST_NODES = 64
WAIT = "Wait for its end, or cancel it."
SPOT_STAYS = "Spot nodes cannot be paused: the cloud does not keep their disks."
MAKING = tuple(plan.kind for plan in (plans.CREATE, plans.REPAIR, life.RESUME, life.START, life.SCALE))
SETTLED = frozenset(
    {Cluster.Status.RUNNING, Cluster.Status.PAUSED, Cluster.Status.STOPPED, Cluster.Status.FAILED}
)  # fmt: skip
_ENDS = (plans.DELETE.kind, life.FORCE_DELETE.kind, life.FORGET.kind)
_LIVE = frozenset(Cluster.Status) - Cluster.DELETED
_STOPPED = frozenset({Cluster.Status.STOPPED})
# What may be changed: how it is called in a sentence, and in which statuses. Of a cluster with nodes, its number of
# nodes is scaled.
CHANGEABLE: dict[str, tuple[str, Collection[str]]] = {
    "name": ("Its name", SETTLED),
    "description": ("Its description", _LIVE),
    "auto_pause": ("Auto pause", _LIVE),
    "auto_shutdown": ("Auto shutdown", _LIVE),
    "auto_repair": ("Repair by itself", _LIVE),
    "node_count": ("Its number of nodes", _STOPPED),
    "engine_version": ("Its engine version", _STOPPED),
}


@audit.atomic()
def create_cluster(
    workspace: Workspace,
    *,
    name: str,
    instance_type: InstanceType,
    node_count: int,
    engine_version: EngineVersion,
    by: User | None,
    description: str = "",
    auto_pause: int = 0,
    auto_shutdown: int = 0,
    zone: str = "",
    spot: bool = False,
    role: str = "",
    extra_tags: Mapping[str, str] | None = None,
    hourly_price: Decimal | None = None,
    auto_repair: bool = False,
    dedicated: bool = False,
    uuid: UUID | None = None,
) -> Cluster:
    """The cluster and the task that makes it. Asked twice with one `uuid`, it is made once. Raises `PortalError`.

    Times are in minutes, and 0 is never. The price is that of a node, where the instance type's is not right, as it is
    not for spot nodes. One that is `dedicated` to a run gets its task by `begin_dedicated`, when the run's time has
    come.
    """
    if not 1 <= node_count <= MOST_NODES:
        raise PortalError(f"A cluster has 1 to {MOST_NODES} nodes.", field="node_count")
    workspace = locked(workspace)
    asked = {clouds.Can.ZONE: zone, clouds.Can.SPOT: spot, clouds.Can.ROLE: role, clouds.Can.PAUSE: auto_pause}
    for can, chosen in asked.items():
        if chosen and can not in workspace.can:
            raise not_here(can, workspace.cloud_config.name)
    if spot and auto_pause:
        raise PortalError(f"{SPOT_STAYS} Choose Never.", field="auto_pause")
    if workspace.status != Workspace.Status.READY:
        raise PortalError(f"{workspace.name} is {workspace.badge.word}. Clusters can be made once it is READY.")
    if role:
        role_for(workspace, role)
    cluster, made = Cluster.objects.get_or_create(
        uuid=uuid_for(Cluster, uuid, workspace=workspace),
        workspace=workspace,
        defaults={
            "name": name,
            "instance_type": instance_type.name,
            "cores_per_node": instance_type.cores,
            "node_count": node_count,
            "engine_version": engine_version,
            "description": description,
            "auto_pause": auto_pause,
            "auto_shutdown": auto_shutdown,
            "zone": zone,
            "spot": spot,
            "role": role,
            "extra_tags": dict(extra_tags or {}),
            "hourly_price": instance_type.hourly_price if hourly_price is None and not spot else hourly_price,
            "auto_repair": auto_repair,
            "dedicated": dedicated,
            "created_by": by,
        },
    )
    if made:
        if not dedicated:
            start_task(cluster, "clusters.create", by=by, cloud=workspace.cloud_config.kind)
        after = {
            "nodes": node_count,
            "instance type": instance_type.name,
            "engine version": str(engine_version),
            "auto pause": in_words(auto_pause),
            "auto shutdown": in_words(auto_shutdown),
            "repair by itself": auto_repair,
        }
        more = {"description": description, "zone": zone, "spot": spot, "role": role, "tags": cluster.extra_tags}
        _record("created", cluster, by=by, after=after | {name: value for name, value in more.items() if value})
    return cluster


@audit.atomic()
def begin_dedicated(cluster: Cluster, *, by: User | None, why: str) -> Task:
    """Make a cluster that is dedicated to a run, whose time has come: once. Raises `PortalError`."""
    workspace = locked(cluster.workspace)
    if workspace.status != Workspace.Status.READY:
        raise PortalError(f"{workspace.name} is {workspace.badge.word}. Clusters can be made once it is READY.")
    if full := ceiling.left([workspace])[workspace.pk].full:
        raise PortalError(f"{full}.")
    title = f"{plans.CREATE.title} {cluster} {why}"[:200]
    return start_task(cluster, plans.CREATE.kind, by=by, title=title, cloud=workspace.cloud_config.kind)


@audit.atomic()
def end_dedicated(cluster: Cluster) -> bool:
    """Its run is over: it is on its way to be TERMINATED then, whatever it was doing. False: it was already.

    To be called again until it is gone: a deletion that has failed is tried again after a pause, and again.
    """
    task = cluster.last_task
    if task is None:
        return cluster.move(Cluster.Status.TERMINATED)
    if not task.is_finished:
        return task.kind not in _ENDS and not task.cancel_asked and cancel_task(task)
    if task.kind in _ENDS and task.finished:
        tries = cluster.tasks.filter(kind__in=_ENDS).count()
        if now() < task.finished + min(PAUSE * 2 ** min(tries - 1, 10), MOST_PAUSE):
            return False
    delete_cluster(cluster, by=None)
    return True


def forget_secrets(workspace: Workspace) -> None:
    """At its end: the keys of its clusters, which are gone by then."""
    Cluster.objects.filter(workspace=workspace).exclude(key_private="").update(key_private="")
    Node.objects.filter(cluster__workspace=workspace).exclude(host_private="").update(host_private="")


def locked(workspace: Workspace) -> Workspace:
    """As it is now; whoever deletes it waits until we have ended."""
    rows = Workspace.objects.select_for_update(of=("self",), no_key=True)
    return rows.select_related("organization", "cloud_config").get(pk=workspace.pk)


@audit.atomic()
def repair_cluster(cluster: Cluster, *, by: User | None) -> Task:
    """Make what is missing of its nodes, and introduce them again. Raises `PortalError`."""
    return _start(cluster, plans.REPAIR, by=by)


@audit.atomic()
def pause_cluster(cluster: Cluster, *, by: User | None, timer: Timer | None = None, unused: str = "") -> Task:
    """Its nodes stop and keep their disks. Raises `PortalError`, also while a run is on it.

    With a `timer`, not unless that is due and nothing uses the cluster. `unused`: why it is paused, half a sentence;
    then not while something uses it, either.
    """
    return _start(cluster, life.PAUSE, by=by, timer=timer, unused=unused)


@audit.atomic()
def resume_cluster(cluster: Cluster, *, by: User | None, why: str = "") -> Task:
    """The nodes of a cluster that is PAUSED start again, under their names. Raises `PortalError`.

    `why`: half a sentence, where the person has asked for something else that needs it.
    """
    title = f"{life.RESUME.title} {cluster} {why}" if why else ""
    return _start(cluster, life.RESUME, by=by, title=title, after={"why": why} if why else None)


@audit.atomic()
def stop_cluster(cluster: Cluster, *, by: User | None) -> Task:
    """Its nodes go, with what is on them, and it stays. Raises `PortalError`, also while a run is on it."""
    return _start(cluster, life.STOP, by=by)


@audit.atomic()
def start_cluster(cluster: Cluster, *, by: User | None) -> Task:
    """The nodes of a cluster that is STOPPED are made anew. Raises `PortalError`."""
    return _start(cluster, life.START, by=by)


@audit.atomic()
def restart_cluster(cluster: Cluster, *, by: User | None) -> Task:
    """Its nodes stop and start again, with their disks. Raises `PortalError`, also while a run is on it."""
    return _start(cluster, life.RESTART, by=by)


@audit.atomic()
def scale_cluster(cluster: Cluster, nodes: int, *, by: User | None) -> Task:
    """It has so many nodes from now on: new ones of higher ranks, or the highest ranks go.

    Raises `PortalError`, also where nodes would go while a run is on it.
    """
    row = Cluster.objects.get(pk=cluster.pk)
    if not 1 <= nodes <= MOST_NODES:
        raise PortalError(f"A cluster has 1 to {MOST_NODES} nodes.", field="node_count")
    if row.node_count == nodes:
        raise PortalError(f"{cluster} has {nodes} node{'' if nodes == 1 else 's'} already.", field="node_count")
    title = f"Scale cluster {cluster} from {row.node_count} to {nodes} nodes"
    before, after = {"nodes": row.node_count}, {"nodes": nodes}
    task = _start(cluster, life.SCALE, by=by, title=title, alone=nodes < row.node_count, before=before, after=after)
    as_read = Cluster.objects.filter(pk=cluster.pk, node_count=row.node_count)
    if not as_read.update(scale_to=nodes):
        raise Conflict(f"{cluster} was scaled by somebody else at this moment. Look how many nodes it has now.")
    return task


@audit.atomic()
def forget_cluster(cluster: Cluster, *, by: User) -> Task:
    """It is TERMINATED, though nothing was taken away: for what is gone. Raises `PortalError`."""
    return _start(cluster, life.FORGET, by=by)


def _start(
    cluster: Cluster,
    plan: Plan,
    *,
    by: User | None,
    title: str = "",
    alone: bool = False,
    timer: Timer | None = None,
    unused: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> Task:
    """Where nobody else may be on it, a run that takes it at the same moment wins or waits.

    1. The task is made, which waits for one of it that is just ending; and then its row is ours, not RUNNING any more.
    2. A run takes it by one UPDATE of a cluster that is RUNNING, and a terminal is opened by another one: they do so
       before, and are seen here, or never.

    In this order, because the end of a task is written before what it means for the cluster.
    """
    if why := _makes_no_sense(cluster, plan):
        raise why
    if timer:
        title, after = f"{plan.title} {cluster}: {timer.why}", {"why": timer.why}
    elif unused:
        title, after = f"{plan.title} {cluster} {unused}"[:200], {"why": unused}
    task = start_task(cluster, plan.kind, by=by, title=title, cloud=cluster.workspace.cloud_config.kind)
    if alone or plan.alone:
        cluster.refresh_from_db(fields=["occupied_by"])
        if why := _somebody_is_on(cluster, plan):
            raise why
    if timer:
        _look_again(cluster, timer)
    elif unused and Cluster.objects.filter(pk=cluster.pk).in_use(life.verb(plan)).exists():
        raise Conflict(f"{cluster} is in use.")
    own = Cluster.objects.filter(pk=cluster.pk)
    own.update(warned=None) if by is None else own.update(last_active=Now())
    _record(plan.participle, cluster, by=by, before=before, after=after)
    return task


def _look_again(cluster: Cluster, timer: Timer) -> None:
    """Raises `Conflict` where the timer is not due, now that nobody else can change that any more."""
    row: Any = Cluster.objects.annotate(at=Now()).get(pk=cluster.pk)
    minutes = row.auto_pause if timer.verb == life.verb(life.PAUSE) else row.auto_shutdown
    as_seen = (minutes, row.last_active, row.warned) == (timer.minutes, timer.since, timer.warned)
    if not as_seen or not timer.warned or row.at < timer.acts_at:
        raise Conflict(f"Somebody has done something with {cluster} since.")
    if Cluster.objects.filter(pk=cluster.pk).in_use(timer.verb).exists():
        raise Conflict(f"{cluster} is in use.")


@audit.atomic()
def snooze_cluster(cluster: Cluster, *, by: User) -> None:
    """Its timers begin again, as if somebody had used it. Raises `Conflict` while it has none that could act."""
    if not cluster.note_activity():
        cluster.refresh_from_db(fields=["status"])
        raise Conflict(f"{cluster} is {cluster.badge.word}: no timer goes on there now.")
    _record("snoozed", cluster, by=by)
    live.ring(*cluster.live_names())


def why_not(cluster: Cluster, plan: Plan) -> str:
    """Why this would be refused now, as a sentence; empty where it would not be, unless somebody else is faster."""
    if why := _makes_no_sense(cluster, plan):
        return str(why)
    if cluster.status not in plan.begins:
        return f"{cluster} cannot be {plan.participle} while it is {cluster.badge.word}."
    why = _somebody_is_on(cluster, plan) if plan.alone else None
    return str(why) if why else ""


def _makes_no_sense(cluster: Cluster, plan: Plan) -> PortalError | None:
    """Whatever it is doing: its cloud cannot do this, or its run decides."""
    if cluster.dedicated and plan not in life.OF_DEDICATED:
        return Conflict(f"{cluster} belongs to a run, and is ended with it: it cannot be {plan.participle} before.")
    if cluster.spot and plan.needs == clouds.Can.PAUSE:
        return Conflict(f"{cluster}: {SPOT_STAYS}")
    if plan.needs is not None and plan.needs not in cluster.can:
        return not_here(plan.needs, cluster.workspace.cloud_config.name)
    return None


def _somebody_is_on(cluster: Cluster, plan: Plan) -> PortalError | None:
    on_it = who_is_on(cluster)
    return Conflict(f"{cluster} cannot be {plan.participle} now: {on_it}.", advice=WAIT) if on_it else None


def who_is_on(cluster: Cluster, known: Iterable[Any] | None = None) -> str:
    """Half a sentence; empty where nobody is. `known`: runs, with the one that has it among them."""
    if cluster.occupied_by is None:
        return ""
    if known is None:
        known = cluster.runs.filter(uuid=cluster.occupied_by).select_related("job")
    run = next((run for run in known if run.uuid == cluster.occupied_by), None)
    return f"{run} is on it" if run else "the portal clears its nodes, which takes some seconds"


@audit.atomic()
def edit_cluster(cluster: Cluster, wanted: Mapping[str, Any], *, by: User) -> list[str]:
    """What differs from what it has, by value, is changed; see `CHANGEABLE`. Returns the names of that.

    Raises `PortalError` at the field of something that cannot be changed now; then nothing is changed.
    """
    rows = Cluster.objects.select_for_update(of=("self",), no_key=True).select_related("engine_version")
    row = rows.get(pk=cluster.pk)
    if row.dedicated:
        raise Conflict(f"{row} belongs to a run, and is ended with it. Change what cluster its job asks for.")
    changes = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    for name in changes:
        words, statuses = CHANGEABLE[name]
        if row.status not in statuses:
            when = " or ".join(Cluster.STATES[status].badge.word for status in Cluster.Status if status in statuses)
            when = f"while it is {when}" if len(statuses) < len(SETTLED) else "once what goes on has ended"
            raise Conflict(f"{words} can be changed {when}; {cluster} is {row.badge.word}.", field=name)
    if not changes:
        return []
    if changes.get("auto_pause") and row.spot:
        raise PortalError(f"{SPOT_STAYS} Choose Never.", field="auto_pause")
    if changes.get("auto_pause") and clouds.Can.PAUSE not in cluster.can:
        raise not_here(clouds.Can.PAUSE, cluster.workspace.cloud_config.name)
    before = {CHANGEABLE[name][0].lower(): _plain(name, getattr(row, name)) for name in changes}
    Cluster.objects.filter(pk=row.pk).update(**changes, last_active=Now())
    if row.status == Cluster.Status.STOPPED:
        _rename_nodes(row, changes)
    for name, value in changes.items():
        setattr(cluster, name, value)
    after = {CHANGEABLE[name][0].lower(): _plain(name, value) for name, value in changes.items()}
    _record("changed", cluster, by=by, before=before, after=after)
    live.ring(*cluster.live_names())
    return list(changes)


def _rename_nodes(row: Cluster, changes: Mapping[str, Any]) -> None:
    """Nodes that are gone, and will be made anew: by its new name, and not more of them than it is to have."""
    row.nodes.filter(rank__gte=changes.get("node_count", row.node_count)).delete()
    for node in row.nodes.all() if "name" in changes else ():
        Node.objects.filter(pk=node.pk).update(hostname=f"{changes['name']}-{node.rank}")


def _plain(name: str, value: Any) -> Any:
    if name in ("auto_pause", "auto_shutdown"):
        return in_words(value)
    return str(value) if isinstance(value, EngineVersion) else value


def change_auto_repair(cluster: Cluster, auto_repair: bool, *, by: User) -> None:
    """Whether the portal repairs it by itself when a node is gone. Raises `PortalError` where it is deleted."""
    edit_cluster(cluster, {"auto_repair": auto_repair}, by=by)


def refresh_hostfile(cluster: Cluster, *, by: User) -> None:
    """The hostfile on /shared becomes the list of nodes. Raises `PortalError` when the head node does not take it."""
    if cluster.status != Cluster.Status.RUNNING:
        raise PortalError(
            f"{cluster} is {cluster.badge.word}. Its hostfile can be brought up to date while it is RUNNING."
        )
    nodes = list(cluster.members)
    ssh.put(nodes[0].host, cluster.hostfile, hostfile.text(cluster, nodes).encode(), mode="644")
    with audit.atomic():
        cluster.hostfile_is_written()
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
    if not some_failed() and not _with_gone_nodes():
        return []
    begun = []
    wanted = Cluster.objects.filter(gone | failed, auto_repair=True).distinct()
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
def keep_failed(cluster: Cluster, *, by: User) -> None:
    """What there is of a cluster whose creation has failed stays for `Cluster.KEEP` from now on. Raises `Conflict`."""
    kept = Cluster.objects.filter(pk=cluster.pk, status=Cluster.Status.FAILED).exclude(kept_until=None)
    if not kept.update(kept_until=Now() + Cluster.KEEP):
        raise Conflict(f"Nothing of {cluster} waits to be taken away.")
    _record("kept the nodes of", cluster, by=by, after={"minutes": Cluster.KEEP.seconds // 60})
    live.ring(*cluster.live_names())


@prepared_keys
def some_failed() -> QuerySet[Cluster]:
    return Cluster.objects.filter(status=Cluster.Status.FAILED)[:1]


@prepared_keys
def _with_gone_nodes() -> QuerySet[Cluster]:
    return Cluster.objects.filter(status=Cluster.Status.RUNNING, nodes__state=Node.State.GONE)[:1]


def stop_what_failed() -> list[Cluster]:
    """Those whose creation has failed, and whom nobody keeps any longer, are stopped. Returns those begun."""
    if not some_failed():
        return []
    begun = []
    due = Cluster.objects.filter(status=Cluster.Status.FAILED, kept_until__lte=Now())
    for cluster in due.select_related("workspace__organization", "workspace__cloud_config"):
        try:
            with audit.atomic():
                # Once: what then fails is for people. Not where somebody keeps or mends it since we looked.
                if not due.filter(pk=cluster.pk).update(kept_until=None):
                    continue
                stop_cluster(cluster, by=None)
        except PortalError as error:
            logger.info("cluster %s is not stopped now: %s", cluster.uuid, error)
        else:
            begun.append(cluster)
    return begun


@audit.atomic()
def delete_cluster(cluster: Cluster, *, by: User | None, force: bool = False, timer: Timer | None = None) -> Task:
    """Its nodes go, with what is on them; /shared stays. Raises `PortalError` where it is in no state for that.

    By force whatever is being done to it is broken off first. What a worker is just asking the cloud for may come
    after all: the cloud is asked at the end what is left, and watched later. With a `timer`, as `pause_cluster`.
    """
    if not force:
        return _start(cluster, plans.DELETE, by=by, timer=timer)
    going_on = cluster.tasks.exclude(kind__in=_ENDS)
    broken = [task.title for task in going_on.unfinished() if break_off(task)]
    return _start(cluster, life.FORCE_DELETE, by=by, before={"broken off": ", ".join(broken)} if broken else {})


def _record(
    verb: str,
    cluster: Cluster,
    *,
    by: User | None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    workspace = cluster.workspace
    audit.record(
        verb, cluster, organization=workspace.organization, by=by, workspace=workspace, before=before, after=after
    )  # fmt: skip


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
        tasks = Task.objects.unfinished().filter(kind__in=MAKING, asked_by=started_by)
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
