"""Clusters, their nodes, and the engine versions that run on them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import models, transaction
from django.db.models import Case, Exists, F, OuterRef, Q, Subquery, When
from django.db.models.functions import Lower, Now
from django.urls import reverse
from django.utils.timezone import now

from accounts.access import AccessQuerySet, Can
from accounts.models import User
from clusters.durations import Timer
from portal import clouds, secrets, ssh
from portal.aggregates import Pairs
from portal.prepared import prepared
from portal.states import Badge, State
from portal.tasks.causes import Explanation, Way
from portal.tasks.models import Task
from portal.tasks.subjects import Subject
from usage.amounts import Amount
from usage.models import Record
from workspaces.models import Workspace

SOON = timedelta(hours=1)  # before its time, a run has its cluster kept awake
WITHOUT_VERBS = {"UCX_TLS": "self,sm,tcp"}  # what UCX may use, which MPICH goes by where it may choose


def due_soon(path: str = "") -> Q:
    """Of runs that wait: whose time has come, or will have `SOON`. `path` leads to them."""
    return Q(**{f"{path}due": None}) | Q(**{f"{path}due__lte": Now() + SOON})


class EngineVersion(models.Model):
    """What runs on the nodes: a Bodo release, or plain MPI. `packages` are pip requirements."""

    class Kind(models.TextChoices):
        MPI = "mpi", "Plain MPI"
        BODO = "bodo", "Bodo"

    kind = models.CharField(max_length=10, choices=Kind)
    version = models.CharField(max_length=40)
    packages = models.JSONField()
    offered = models.BooleanField(default=True)  # in the form; old ones stay for the clusters that have them

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "version"], name="engine_versions_unique")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.version}"

    @property
    def slug(self) -> str:
        return f"{self.kind}-{self.version}"

    def folder(self, shared: str) -> str:
        """Where it is installed, once for all clusters of a workspace."""
        return f"{shared}/.engines/{self.slug}"

    @property
    def environment(self) -> dict[str, str]:
        """For `mpiexec -n N`: without it, every rank of a Bodo program tries to spawn workers of its own."""
        return {"BODO_SPAWN_MODE": "0"} if self.spawns else {}

    @property
    def spawns(self) -> bool:
        """Whether a program of one rank starts workers by itself: `bodo.pandas` does, the first beside the rank."""
        return self.kind == self.Kind.BODO


class ClusterQuerySet(AccessQuerySet["Cluster"]):
    workspace_path = "workspace"
    changes = Can.MANAGE_CLUSTERS

    def whole(self) -> ClusterQuerySet:
        return self.with_lost_nodes()

    def live(self) -> ClusterQuerySet:
        return self.filter(status__in=Cluster.LIVE)

    def shared(self) -> ClusterQuerySet:
        """Those on which anybody may run something: not those that belong to one run."""
        return self.filter(dedicated=False)

    def not_begun(self) -> ClusterQuerySet:
        """Those of runs whose time has not come, or that wait for a place: nothing of them is made yet."""
        begun = Cluster.objects.filter(pk=OuterRef("pk"), tasks__isnull=False).order_by()
        return self.filter(~Exists(begun), dedicated=True, status=Cluster.Status.NEW)

    def ready(self) -> ClusterQuerySet:
        """Those on which runs can be: RUNNING with all of their nodes."""
        lost = Node.objects.lost().filter(cluster=OuterRef("pk")).order_by()
        return self.filter(~Exists(lost), status=Cluster.Status.RUNNING)

    def free(self) -> ClusterQuerySet:
        """Those that something may begin on now: nobody is on them."""
        return self.ready().filter(occupied_by=None)

    def opening_terminals(self) -> ClusterQuerySet:
        """As `Cluster.opens_terminals`."""
        kept = Q(status=Cluster.Status.FAILED, kept_until__isnull=False)
        return self.filter(Q(status=Cluster.Status.RUNNING) | kept)

    def in_use(self, verb: str = "") -> ClusterQuerySet:
        """Those that a run is on or waits for, or on which a terminal is open: their timers do not go on.

        A run whose time is not `SOON` needs no nodes until then, and only keeps its cluster from the timer that would
        delete it: `verb` is what is about to be done. Sessions by ssh count where a setting says so. What else uses a
        cluster has its place here: a kernel of a notebook that is busy.
        """
        this = Cluster.objects.filter(pk=OuterRef("pk")).order_by()
        uses = Q(occupied_by__isnull=False)
        waits = Q() if verb == "delete" else due_soon("runs__")
        uses |= Q(Exists(this.filter(runs__status="inprogress"))) | Q(Exists(this.filter(waits, runs__status="new")))
        uses |= Q(Exists(this.filter(terminals__isnull=False)))
        if settings.SSH_IS_ACTIVITY:
            uses |= Q(Exists(this.filter(nodes__guests__gt=0, nodes__state=Node.State.ANSWERS)))
        return self.filter(uses)

    def warned_first(self) -> Case:
        """For `order_by`: those that will be paused or deleted soon, because nothing goes on there, come first."""
        return Case(When(status__in=Cluster.TIMED, warned__gt=F("last_active"), then=0), default=1)

    def with_lost_nodes(self) -> ClusterQuerySet:
        """For lists: the badges of all of them cost no query."""
        lost = Node.objects.lost().filter(cluster=OuterRef("pk")).order_by().values("cluster")
        return self.annotate(_lost_nodes=Subquery(lost.values(names=Pairs("rank", "hostname"))))

    def for_lists(self) -> ClusterQuerySet:
        """Without what is long and in no row of a list."""
        long = ("key_public", "key_private", "note", "description", "extra_tags", "role", "zone", "hourly_price")
        return self.select_related("engine_version").defer(*long, "engine_version__packages")

    def last_tasks(self, clusters: Collection[Cluster]) -> dict[int, Task]:
        """The last task of each of these, with what a row of a list says of it. By the cluster's primary key."""
        tasks = _last_tasks([cluster.pk for cluster in clusters]) if clusters else []
        return {task.subject_id: task for task in tasks}


@prepared
def _last_tasks(clusters: list[int]) -> models.QuerySet[Task]:
    kind = ContentType.objects.get_for_model(Cluster)
    last = Task.objects.filter(subject_type=kind, subject_id=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    pks = Cluster.objects.filter(pk__in=clusters).values(last=Subquery(last))
    return Task.objects.filter(pk__in=pks).only(
        "uuid", "kind", "title", "status", "cancel_asked", "subject_id", "asked_by", "created"
    )


class Cluster(Subject):
    """Nodes of one instance type with an engine version, ready for MPI."""

    fetched_with = ("workspace__organization", "workspace__cloud_config", "engine_version")

    class Status(models.TextChoices):
        NEW = "new"
        INPROGRESS = "inprogress"
        RUNNING = "running"
        PAUSING = "pausing"
        PAUSED = "paused"
        RESUMING = "resuming"
        STOPPING = "stopping"
        STOPPED = "stopped"
        RESTARTING = "restarting"
        SCALING = "scaling"
        FAILED = "failed"
        TERMINATING = "terminating"
        TERMINATED = "terminated"

    DELETED: ClassVar[set[str]] = {Status.TERMINATING, Status.TERMINATED}
    LIVE: ClassVar[list[str]] = [status for status in Status.values if status != "terminated"]
    # What a cluster that was RUNNING is while its usage goes on: its nodes run, or may until somebody removes them.
    STILL_USED: ClassVar[set[str]] = {
        *(Status.RUNNING, Status.INPROGRESS, Status.RESTARTING, Status.SCALING, Status.FAILED),
    }
    DEGRADED: ClassVar[str] = "degraded"  # no status of its own: RUNNING, and a node is lost
    WITHOUT_CORES: ClassVar[set[str]] = {Status.PAUSED, Status.STOPPED, Status.TERMINATED}  # no node of it runs
    KEEP: ClassVar = timedelta(minutes=30)  # for somebody who wants to look at what failed
    TIMED: ClassVar[set[str]] = {Status.RUNNING, Status.PAUSED}  # in which a timer may do something
    # Which task leads from where to where is said by the plans; docs/clusters.md is made of both. A status that a task
    # is done in follows FAILED, where a task of it that has failed can be tried again.
    STATES: ClassVar[Mapping[str, State]] = {
        Status.NEW: State(Badge.waiting("NEW")),
        # TERMINATED: it was left behind in its cloud, and somebody wants it back.
        Status.INPROGRESS: State(
            Badge.working("INPROGRESS"), follows={Status.NEW, Status.FAILED, Status.RUNNING, Status.TERMINATED}
        ),
        Status.RUNNING: State(
            Badge.good("RUNNING"),
            follows={
                *(Status.INPROGRESS, Status.PAUSING, Status.RESUMING),
                *(Status.RESTARTING, Status.SCALING),
            },
        ),
        DEGRADED: State(Badge.warning("DEGRADED")),
        Status.PAUSING: State(Badge.working("PAUSING"), follows={Status.RUNNING, Status.FAILED}),
        Status.PAUSED: State(
            Badge.waiting("PAUSED", "bi-pause-circle-fill"), follows={Status.PAUSING, Status.RESUMING}
        ),
        Status.RESUMING: State(Badge.working("RESUMING"), follows={Status.PAUSED, Status.FAILED}),
        Status.STOPPING: State(Badge.working("STOPPING"), follows={Status.RUNNING, Status.PAUSED, Status.FAILED}),
        Status.STOPPED: State(
            Badge.waiting("STOPPED", "bi-stop-circle-fill"), follows={Status.STOPPING, Status.RESTARTING}
        ),
        Status.RESTARTING: State(Badge.working("RESTARTING"), follows={Status.RUNNING, Status.STOPPED, Status.FAILED}),
        Status.SCALING: State(Badge.working("SCALING"), follows={Status.RUNNING, Status.PAUSED}),
        Status.FAILED: State(
            Badge.bad("FAILED"),
            follows={
                *(Status.NEW, Status.INPROGRESS, Status.PAUSING, Status.RESUMING),
                *(Status.STOPPING, Status.RESTARTING, Status.SCALING, Status.TERMINATING),
            },
        ),
        Status.TERMINATING: State(
            Badge.working("TERMINATING"),
            follows={
                *(Status.NEW, Status.INPROGRESS, Status.RUNNING, Status.PAUSING, Status.PAUSED, Status.RESUMING),
                *(Status.STOPPING, Status.STOPPED, Status.RESTARTING, Status.SCALING, Status.FAILED),
            },
        ),
        Status.TERMINATED: State(Badge.gone("TERMINATED"), follows={Status.TERMINATING, Status.NEW, Status.INPROGRESS}),
    }

    workspace = models.ForeignKey(Workspace, models.PROTECT, related_name="clusters")
    name = models.CharField(max_length=40)
    description = models.CharField(max_length=200, blank=True)
    instance_type = models.CharField(max_length=40)
    cores_per_node = models.PositiveSmallIntegerField()
    node_count = models.PositiveSmallIntegerField()
    scale_to = models.PositiveSmallIntegerField(null=True, editable=False)  # how many nodes somebody wants it to have
    engine_version = models.ForeignKey(EngineVersion, models.PROTECT, related_name="+")
    status = models.CharField(max_length=12, choices=Status, default=Status.NEW)
    auto_pause = models.PositiveIntegerField(default=0)  # minutes without activity; 0: never
    auto_shutdown = models.PositiveIntegerField(default=0)  # as above; then it is deleted
    last_active = models.DateTimeField(db_default=Now(), editable=False)  # see `clusters.idle`
    warned = models.DateTimeField(null=True, editable=False)  # that a timer is about to act; over once it is active
    told_of = models.BigIntegerField(null=True, editable=False)  # the task of whose failure people know
    zone = models.CharField(max_length=40, blank=True)  # empty: the cloud chooses
    spot = models.BooleanField(default=False)
    role = models.CharField(max_length=620, blank=True)  # of an `InstanceRole`; empty: its nodes have one of its own
    extra_tags = models.JSONField(default=dict, blank=True)  # of people, written on everything of it
    hourly_price = models.DecimalField(max_digits=10, decimal_places=5, null=True)  # of a node, in US dollars
    key_public = models.TextField(blank=True)  # the nodes' key for each other, and for the person's ssh
    key_private = secrets.EncryptedField(blank=True, editable=False)
    fabric = models.CharField(max_length=20, blank=True)  # by which MPI goes from node to node, in UCX's word
    without_verbs = models.BooleanField(default=False, editable=False)  # MPI fails here where it may use EFA
    note = models.CharField(max_length=400, blank=True)  # what the cloud wants people to know of its nodes
    auto_repair = models.BooleanField(default=False)  # when a node is gone; see `actions.repair_what_is_gone`
    occupied_by = models.UUIDField(null=True, editable=False)  # what has it for itself: the uuid of a run
    dedicated = models.BooleanField(default=False, editable=False)  # to one run: it is ended with that
    hostfile_is_old = models.BooleanField(default=False, editable=False)  # nodes came; see `clusters.hostfile`
    kept_until = models.DateTimeField(null=True, editable=False)  # then nodes of a creation that has failed are stopped
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)

    possible: Collection[str] = ()  # what can be done to it, where a page has asked `life.possible`

    objects = ClusterQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["status", "workspace"], name="cluster_by_status")]
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "name"], condition=~Q(status="terminated"), name="live_cluster_names_unique"
            ),
            models.CheckConstraint(
                condition=Q(
                    status__in=[
                        *("new", "inprogress", "running", "pausing", "paused", "resuming", "stopping", "stopped"),
                        *("restarting", "scaling", "failed", "terminating", "terminated"),
                    ]
                ),
                name="cluster_status_known",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def environment(self) -> dict[str, str]:
        """Of whatever runs MPI on its nodes."""
        return self.engine_version.environment | (WITHOUT_VERBS if self.without_verbs else {})

    @property
    def fabric_words(self) -> str:
        """What MPI uses between nodes, for people; empty where that is not known."""
        if self.without_verbs:
            return "TCP: with EFA, the small MPI program failed"
        return {"srd": "EFA", "tcp": "TCP"}.get(self.fabric, self.fabric)

    def get_absolute_url(self) -> str:
        return reverse("cluster", args=[self.uuid])

    def crumbs(self) -> list[tuple[str, str]]:
        return [("Clusters", reverse("clusters", args=[self.workspace.uuid])), (self.name, self.get_absolute_url())]

    def move(self, to: str, **fields: Any) -> bool:
        """As every subject; and its usage begins, goes on or ends with it, in one transaction."""
        with transaction.atomic():
            if not super().move(to, **fields):
                return False
            if to == self.Status.RUNNING:
                self._begin_usage()
            elif to not in self.STILL_USED:
                Record.objects.end(self.uuid)
        return True

    def _begin_usage(self) -> None:
        """By the row as it is now, which `move` has locked: this one may have been read before it was scaled."""
        row = Cluster.objects.select_related("workspace__organization", "created_by").get(pk=self.pk)
        workspace, person = row.workspace, row.created_by
        Record(
            organization=workspace.organization.uuid,
            workspace=workspace.uuid,
            workspace_name=workspace.name,
            cluster=row.uuid,
            cluster_name=row.name,
            person=person.uuid if person else None,
            person_name=person.email if person else "",
            instance_type=row.instance_type,
            cores_per_node=row.cores_per_node,
            node_count=row.node_count,
            spot=row.spot,
            hourly_price=row.hourly_price,
        ).begin()

    @property
    def instance_role(self) -> InstanceRole | None:
        """The registered role that its nodes have. None: one of its own, or one that is registered no more."""
        return self.workspace.instance_roles.live().filter(arn=self.role).first() if self.role else None

    @property
    def used(self) -> Amount:
        """Since it was made, until now."""
        return Record.objects.of(self.uuid, until=now())

    def ways_out(self, why: Explanation) -> list[Way]:
        """Forms for one like it, filled in with what may be had instead; its cloud configuration, where that may help;
        and to keep what there is of its nodes.
        """
        new = reverse("new-cluster", args=[self.workspace.uuid])
        found = []
        for one in why.alternatives:
            chosen = [(name, value) for name, value in vars(one).items() if value]
            query = urlencode([("like", self.uuid), *chosen])
            found.append(Way(f"Make one like it with {one}", f"{new}?{query}", "sliders"))
        if not found and {"other-type", "other-zone"} & {*why.buttons}:
            found.append(Way("Make one like it with another choice", f"{new}?like={self.uuid}", "sliders"))
        found += self.workspace.ways_out(why)
        if "keep" in why.buttons and self.is_kept:
            keep = reverse("keep-cluster", args=[self.uuid])
            found.append(
                Way(f"Keep the nodes for {self.KEEP.seconds // 60} minutes", keep, "hourglass-split", changes=True)
            )
        return found

    @property
    def is_kept(self) -> bool:
        """Its creation has failed, and what there is of its nodes is taken away at `kept_until`."""
        return self.status == self.Status.FAILED and self.kept_until is not None

    @property
    def opens_terminals(self) -> bool:
        """Also while somebody may want to look at what failed."""
        return self.status == self.Status.RUNNING or self.is_kept

    def release(self, holder: uuid.UUID, *, used: bool = False) -> bool:
        """Let others on it. False when this holder had let go already. `used`: it was active until now."""
        active = {"last_active": Now()} if used else {}
        return bool(Cluster.objects.filter(pk=self.pk, occupied_by=holder).update(occupied_by=None, **active))

    def note_activity(self) -> bool:
        """Its timers begin again. False while it is in a status in which they do nothing."""
        return bool(Cluster.objects.filter(pk=self.pk, status__in=self.TIMED).update(last_active=Now()))

    @property
    def timer(self) -> Timer | None:
        """The one of its timers that acts next, where nothing happens until then."""
        return self.next_timer(pauses=clouds.Can.PAUSE in self.can, gives_back=self.takes)

    @property
    def warning(self) -> Timer | None:
        """The timer that people were warned of. Nobody is asked."""
        if self.warned is None or self.warned <= self.last_active:
            return None
        return self.next_timer(pauses=True, gives_back=self.takes)

    def next_timer(self, *, pauses: bool, gives_back: bool = False) -> Timer | None:
        """As `timer`, where whoever asks says whether its cloud can pause it, and what it is to delete it."""
        pause = self.auto_pause if pauses and self.status == self.Status.RUNNING else 0
        delete = self.auto_shutdown if self.status in self.TIMED else 0
        if not pause and not delete:
            return None
        verb, minutes = ("pause", pause) if pause and (not delete or pause < delete) else ("delete", delete)
        warned = self.warned if self.warned and self.warned > self.last_active else None
        return Timer(verb, minutes, self.last_active, warned, gives_back)

    def hostfile_is_written(self) -> None:
        """The hostfile on /shared lists its nodes. Not where it is scaled since this row was read."""
        as_read = Cluster.objects.filter(pk=self.pk, status=self.Status.RUNNING, node_count=self.node_count)
        as_read.update(hostfile_is_old=False)

    @property
    def members(self) -> NodeQuerySet:
        """Its nodes by rank, without those that are about to go because it has fewer now."""
        return self.nodes.filter(rank__lt=self.node_count)

    @property
    def stem(self) -> str:
        """What its nodes are called, before the rank: what it was called when the first of them was made.

        Of no meaning where they have names of their own.
        """
        if self.takes:
            return self.name
        head = self.nodes.order_by("rank").first()
        return head.hostname.rpartition("-")[0] if head else self.name

    @property
    def is_free(self) -> bool:
        """RUNNING, and nobody on it; not whether all its nodes are there."""
        return self.status == self.Status.RUNNING and self.occupied_by is None

    @property
    def lost_nodes(self) -> list[str]:
        """Those that answered once and do not any more, by rank; asked of the database, unless a list has done so."""
        if "_lost_nodes" in self.__dict__:
            names: dict[str, str] = self.__dict__["_lost_nodes"] or {}
            return [names[rank] for rank in sorted(names, key=int)]
        return list(Node.objects.lost().filter(cluster=self).values_list("hostname", flat=True))

    @property
    def is_degraded(self) -> bool:
        """RUNNING, and not with all of its nodes: a program on all cores of it would fail."""
        return self.status == self.Status.RUNNING and bool(self.lost_nodes)

    @property
    def state(self) -> str:
        """The status, or DEGRADED."""
        return self.DEGRADED if self.is_degraded else self.status

    @property
    def cores(self) -> int:
        return self.cores_per_node * self.node_count

    @property
    def can(self) -> frozenset[clouds.Can]:
        """Of a cloud: it keeps no disks of spot nodes, so that those cannot be paused."""
        return self.workspace.can - {clouds.Can.PAUSE} if self.spot else self.workspace.can

    @property
    def takes(self) -> bool:
        """Whether its nodes are computers that are there, and not made for it."""
        return clouds.Can.MAKE not in self.workspace.can

    @property
    def tags(self) -> clouds.Tags:
        return self.workspace.tags(self.uuid)

    def belongs_to(self, field: str) -> str:
        return f"{self.workspace.organization.uuid}/cluster/{self.uuid}/{field}"

    @property
    def key(self) -> str:
        return secrets.unseal(self, "key_private")

    @property
    def hostfile(self) -> str:
        """Where the hostfile lies on the shared filesystem, as the nodes see it."""
        head = self.nodes.order_by("rank").first()
        return f"{head.shared if head else '/shared'}/.hostfile-{self.uuid}"

    @property
    def engine_folder(self) -> str:
        head = self.nodes.order_by("rank").first()
        return self.engine_version.folder(head.shared if head else "/shared")

    def live_names(self) -> list[str]:
        return [f"cluster.{self.uuid}", *self.workspace.live_names()]


class InstanceRoleQuerySet(AccessQuerySet["InstanceRole"]):
    workspace_path = "workspace"
    changes = Can.MANAGE_CLUSTERS

    def live(self) -> InstanceRoleQuerySet:
        return self.exclude(status=InstanceRole.Status.TERMINATED)

    def staying(self) -> InstanceRoleQuerySet:
        """Neither removed nor being removed."""
        return self.exclude(status__in=(InstanceRole.Status.TERMINATING, InstanceRole.Status.TERMINATED))

    def active(self) -> InstanceRoleQuerySet:
        """Those that a cluster can be given."""
        return self.filter(status=InstanceRole.Status.ACTIVE)


class InstanceRole(Subject):
    """A role of the cloud account's owner, registered in a workspace: what nodes of a cluster may do in the account.

    The role itself stays its owner's. The portal gives it what every node needs, and takes that away again.
    """

    fetched_with = ("workspace__organization", "workspace__cloud_config")

    class Status(models.TextChoices):
        NEW = "new"
        INPROGRESS = "inprogress"
        ACTIVE = "active"
        FAILED = "failed"
        TERMINATING = "terminating"
        TERMINATED = "terminated"

    STATES: ClassVar[Mapping[str, State]] = {
        Status.NEW: State(Badge.waiting("NEW")),
        Status.INPROGRESS: State(Badge.working("INPROGRESS"), follows={Status.NEW, Status.ACTIVE, Status.FAILED}),
        Status.ACTIVE: State(Badge.good("ACTIVE"), follows={Status.INPROGRESS}),
        Status.FAILED: State(Badge.bad("FAILED"), follows={Status.NEW, Status.INPROGRESS, Status.TERMINATING}),
        Status.TERMINATING: State(Badge.working("TERMINATING"), follows={Status.ACTIVE, Status.FAILED}),
        Status.TERMINATED: State(
            Badge.gone("TERMINATED"),
            follows={Status.NEW, Status.INPROGRESS, Status.ACTIVE, Status.FAILED, Status.TERMINATING},
        ),
    }

    workspace = models.ForeignKey(Workspace, models.PROTECT, related_name="instance_roles")
    name = models.CharField(max_length=80)
    arn = models.CharField(max_length=620)  # the cloud's name of it
    description = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=12, choices=Status, default=Status.NEW)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)

    objects = InstanceRoleQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "workspace", Lower("name"), condition=~Q(status="terminated"), name="live_instance_role_names_unique"
            ),
            models.UniqueConstraint(
                fields=["workspace", "arn"], condition=~Q(status="terminated"), name="live_instance_roles_unique"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["new", "inprogress", "active", "failed", "terminating", "terminated"]),
                name="instance_role_status_known",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("instance-role", args=[self.uuid])

    def crumbs(self) -> list[tuple[str, str]]:
        roles = ("Instance roles", reverse("instance-roles", args=[self.workspace.uuid]))
        return [roles, (self.name, self.get_absolute_url())]

    @property
    def can(self) -> frozenset[clouds.Can]:
        return self.workspace.can

    def ways_out(self, why: Explanation) -> list[Way]:
        return self.workspace.ways_out(why)

    def live_names(self) -> list[str]:
        return [f"instancerole.{self.uuid}", *self.workspace.live_names()]

    @property
    def clusters(self) -> ClusterQuerySet:
        """Those whose nodes have it."""
        return Cluster.objects.live().filter(workspace=self.workspace_id, role=self.arn)

    def is_registered_elsewhere(self) -> bool:
        """In another workspace, of whichever organization: the account's role is the same one."""
        return InstanceRole.objects.staying().filter(arn=self.arn).exclude(pk=self.pk).exists()

    def detach(self) -> bool:
        """Take away from the account's role what the portal gave it. False: it is registered elsewhere, and keeps it.

        Raises `PortalError`. Whoever registers it elsewhere meanwhile has it attached.
        """
        account = self.workspace.cloud_config.account
        if self.is_registered_elsewhere():
            return False
        account.detach_role(self.arn)
        if self.is_registered_elsewhere():  # since then, and attached before we took it away
            account.attach_role(self.arn)
        return True


class NodeQuerySet(models.QuerySet["Node"]):
    def lost(self) -> NodeQuerySet:
        return self.filter(state__in=Node.LOST).order_by("rank")


class Node(models.Model):
    """One computer of a cluster, as the portal last saw it."""

    class State(models.TextChoices):
        ASKED = "asked"
        ANSWERS = "answers"
        FROZEN = "frozen"  # takes connections, and does not answer on them
        SILENT = "silent"  # exists, as far as is known, and takes no connection
        STOPPED = "stopped"  # because somebody wanted that; its disks are kept
        GONE = "gone"  # the cloud does not list it, or lists it as stopped

    PAGE: ClassVar[dict[str, Badge]] = {
        State.ASKED: Badge.waiting("WAITING"),
        State.ANSWERS: Badge.good("ANSWERS"),
        State.FROZEN: Badge.warning("FROZEN", "bi-snow"),
        State.SILENT: Badge.warning("UNREACHABLE", "bi-question-circle-fill"),
        State.STOPPED: Badge.waiting("STOPPED", "bi-pause-circle-fill"),
        State.GONE: Badge.bad("GONE"),
    }
    MUTE: ClassVar[set[str]] = {State.FROZEN, State.SILENT}  # it exists, as far as is known, and does not answer
    LOST: ClassVar[set[str]] = {*MUTE, State.GONE}
    # What a lost one's state means, behind its name.
    MEANS: ClassVar[dict[str, str]] = {
        State.FROZEN: "takes connections and does not answer: it hangs, or is too busy",
        State.SILENT: "takes no connection, and the cloud does not say that it is gone",
        State.GONE: "is gone: the cloud says that it does not run any more",
    }

    cluster = models.ForeignKey(Cluster, models.CASCADE, related_name="nodes")
    rank = models.PositiveSmallIntegerField()
    hostname = models.CharField(max_length=80)
    host_public = models.TextField(blank=True)
    host_private = secrets.EncryptedField(blank=True, editable=False)
    # The one that it has made itself, once that is pinned: then the two above are for whatever takes its place.
    host_own = models.TextField(blank=True, editable=False)
    cloud_id = models.CharField(max_length=120, blank=True)
    address = models.CharField(max_length=253, blank=True)  # from the portal; a name, where a cloud goes by names
    port = models.PositiveIntegerField(default=22)
    via = models.PositiveSmallIntegerField(
        null=True, editable=False
    )  # the rank of the node that leads there, if one does
    private_address = models.CharField(max_length=253, blank=True)  # from the other nodes
    door = models.CharField(max_length=1000, blank=True)  # a socket by which the portal comes in, if not by address
    certificate = models.TextField(blank=True, editable=False)  # of the workspace's login key, where one is wanted
    key_certificate = models.TextField(blank=True, editable=False)  # and of the cluster's key
    user = models.CharField(max_length=40, blank=True)
    home = models.CharField(max_length=400, blank=True)
    shared = models.CharField(max_length=400, default="/shared")
    state = models.CharField(max_length=10, choices=State, default=State.ASKED)
    seen = models.DateTimeField(null=True)  # when it last answered
    notice = models.CharField(max_length=200, blank=True)  # what its cloud has announced, such as that it takes it away
    guests = models.PositiveSmallIntegerField(null=True, editable=False)  # sessions by ssh of people; null: not told

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["rank"]
        constraints = [models.UniqueConstraint(fields=["cluster", "rank"], name="one_node_per_rank")]

    def __str__(self) -> str:
        return self.hostname

    @property
    def means(self) -> str:
        """What its state means, where it is lost and nobody wanted that."""
        return self.MEANS.get(self.state, "") if self.cluster.status == Cluster.Status.RUNNING else ""

    @property
    def badge(self) -> Badge:
        """That it is gone is no trouble where somebody wanted that."""
        wanted = {*Cluster.DELETED, Cluster.Status.STOPPING, Cluster.Status.STOPPED, Cluster.Status.RESTARTING}
        is_wanted = self.state == self.State.GONE and self.cluster.status in wanted
        return Badge.gone("GONE") if is_wanted else self.PAGE[self.state]

    def belongs_to(self, field: str) -> str:
        assert field == "host_private", field
        return self.cluster.belongs_to(f"host-{self.rank}")

    @property
    def host_key(self) -> clouds.HostKey:
        """That it was made with; without a private one where it was not made for us."""
        return clouds.HostKey(secrets.unseal(self, "host_private") if self.host_private else "", self.host_public)

    @property
    def pinned(self) -> str:
        """The public host key that it is known by."""
        return self.host_own or self.host_public

    def make_host_key(self) -> None:
        """That is given to whatever computer is made for it next. Not saved."""
        # Of another kind than the one that a node makes for itself, which its server shows to whoever knows none.
        kind = "ecdsa-sha2-nistp256" if clouds.Can.OWN_KEYS in self.cluster.can else "ssh-ed25519"
        private, self.host_public = ssh.new_key(self.hostname, kind)
        secrets.seal(self, "host_private", private)

    @property
    def host(self) -> ssh.Host:
        """For the portal's own connections."""
        key = self.cluster.workspace.login_key
        via = None if self.via is None else self.cluster.nodes.get(rank=self.via)
        return ssh.Host(
            self.hostname,
            self.address,
            self.port,
            self.user,
            key,
            self.pinned,
            self.door,
            via=via.host if via else None,
            certificate=self.certificate,
        )


class Terminal(models.Model):
    """A person's terminal on a node, as long as it is open. The row goes with it; that it was stays in the audit."""

    uuid = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    cluster = models.ForeignKey(Cluster, models.CASCADE, related_name="terminals")
    hostname = models.CharField(max_length=80)
    person = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    opened = models.DateTimeField(auto_now_add=True)
    seen = models.DateTimeField(db_default=Now())  # when the process that has it last said so

    def __str__(self) -> str:
        return self.hostname
