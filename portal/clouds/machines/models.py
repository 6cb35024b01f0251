"""Pools and their computers, and which cluster has which.

Whoever locks several of these rows in one transaction has the pool's first and then the computers', by their primary
keys: `held`. What else is locked comes after them.
"""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models import Exists, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce, Lower

from portal import secrets, ssh
from portal.clouds.types import Tags
from portal.states import Badge

SSH = 22


class PoolQuerySet(models.QuerySet["Pool"]):
    def held(self) -> PoolQuerySet:
        """Locked until the transaction ends."""
        return self.select_for_update(no_key=True).order_by("pk")


class Pool(models.Model):
    """Computers on one network with one shared path, and one account on all of them. A region, to workspaces."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    account = models.UUIDField(db_index=True, editable=False)  # of the cloud configuration
    name = models.CharField(max_length=40)  # a DNS label; workspaces have it as their region, so it stays
    user = models.CharField(max_length=32)  # the account on the computers
    alone = models.BooleanField(default=False)  # one workspace at a time is made on it: nobody else has its account
    base = models.CharField(max_length=300)  # the folder on the shared path in which everything of ours lies
    # An SSH certificate authority: the computers' administrator trusts it by one line, and what signs in has a
    # certificate of it that says who that is. Its private half is on no computer.
    key_public = models.TextField()
    key_private = secrets.EncryptedField(editable=False)
    created = models.DateTimeField(auto_now_add=True)
    check_due = models.DateTimeField(null=True, editable=False)  # when its computers are checked next; see `check`
    check_asked = models.DateTimeField(null=True, editable=False)  # somebody waits for that since then
    checked = models.DateTimeField(null=True, editable=False)

    objects = PoolQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint("account", Lower("name"), name="pool_names_unique")]

    def __str__(self) -> str:
        return self.name

    def belongs_to(self, field: str) -> str:
        return f"{self.account}/pool/{self.uuid}/{field}"

    @property
    def principal(self) -> str:
        """Which certificates the computers let in as the account: those that were made for this pool."""
        return f"coxswain-{self.uuid}"

    @property
    def authorized_key(self) -> str:
        """The line of `authorized_keys` by which the account trusts the pool's authority (sshd(8))."""
        allowed = f'cert-authority,restrict,pty,port-forwarding,principals="{self.principal}"'
        return f"{allowed} {' '.join(self.key_public.split()[:2])} coxswain {self.name}"

    @property
    def authorizing(self) -> str:
        """The command by which the account appends that line."""
        return (
            "mkdir -p -m 700 ~/.ssh && "
            f"echo '{self.authorized_key}' >> ~/.ssh/authorized_keys && chmod 600 ~/.ssh/authorized_keys"
        )


class ComputerQuerySet(models.QuerySet["Computer"]):
    def offered(self) -> ComputerQuerySet:
        """Those that clusters may have, now or once they are given back."""
        return self.filter(is_disabled=False).exclude(state=Computer.State.NEW).with_others()

    def with_others(self) -> ComputerQuerySet:
        """Each with its `held_elsewhere`."""
        return self.annotate(_held_elsewhere=Coalesce(Subquery(elsewhere("").values("subject")[:1]), Value("")))

    def everywhere(self) -> ComputerQuerySet:
        """These, and the rows of other pools that are one of these computers, as far as is known; see `Computer.me`."""
        known = self.exclude(host_public="")
        return Computer.objects.filter(Q(pk__in=self.values("pk")) | Q(host_public__in=known.values("host_public")))

    def free(self) -> ComputerQuerySet:
        """As `Computer.is_free`."""
        return self.filter(~Exists(elsewhere("")), is_disabled=False, state=Computer.State.READY, subject="", marked="")

    def of(self, tags: Tags) -> ComputerQuerySet:
        """Those that the cluster has, and those that it has given back and that are not swept yet."""
        return self.filter(**vars(tags)).order_by("rank", "pk")

    def as_taken(self, computer: Computer) -> ComputerQuerySet:
        """This one, if nobody has given it back since it was read: its cluster may have had it twice."""
        return self.filter(pk=computer.pk, subject=computer.subject, taken=computer.taken)

    def held(self) -> ComputerQuerySet:
        """Locked until the transaction ends."""
        return self.select_for_update(of=("self",), no_key=True).order_by("pk")


class Computer(models.Model):
    """One of a pool. Taken by at most one cluster at a time, and only when READY."""

    class State(models.TextChoices):
        NEW = "new"  # its host key is not confirmed yet: nothing signs in to it
        READY = "ready"
        REFUSED = "refused"  # a check failed, or it shows another host key; `failing` says which
        AWAY = "away"  # it does not answer

    PAGE: ClassVar[dict[str, Badge]] = {
        State.NEW: Badge.waiting("UNCONFIRMED"),
        State.READY: Badge.good("READY"),
        State.REFUSED: Badge.bad("REFUSED"),
        State.AWAY: Badge.warning("AWAY", "bi-question-circle-fill"),
    }

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    pool = models.ForeignKey(Pool, models.CASCADE, related_name="computers")
    address = models.CharField(max_length=253)
    port = models.PositiveIntegerField(default=SSH)
    hostname = models.CharField(max_length=64, blank=True)  # as it says itself; empty until it was checked
    state = models.CharField(max_length=10, choices=State, default=State.NEW)
    is_disabled = models.BooleanField(default=False)  # by an administrator: no cluster gets it any more
    host_public = models.TextField(blank=True)  # its host key, as an administrator has confirmed it
    host_shown = models.TextField(blank=True)  # the one that it showed last, if that is another one
    cores = models.PositiveIntegerField(default=0)
    vcpus = models.PositiveIntegerField(default=0)
    memory_gib = models.FloatField(default=0)
    architecture = models.CharField(max_length=20, blank=True)
    facts = models.JSONField(default=dict, blank=True)  # of the last check: see `check`
    failing = models.JSONField(default=list, blank=True)  # what it failed: each {"name", "message", "advice"}
    boot_id = models.CharField(max_length=40, blank=True)  # of the kernel: another one after a reboot
    checked = models.DateTimeField(null=True, editable=False)
    seen = models.DateTimeField(null=True, editable=False)  # when it last answered
    silence = models.CharField(max_length=300, blank=True)  # what came instead of an answer the last time, if any did
    load = models.FloatField(null=True)  # of the last minute, as it said when it last answered
    # The cluster, of which no pool here knows, whose folder for what is temporary is on it: another portal's, it seems.
    marked = models.CharField(max_length=80, blank=True)
    created = models.DateTimeField(auto_now_add=True)

    # Who has it, as the tags of the cluster say. All of them empty: nobody.
    portal = models.CharField(max_length=80, blank=True)
    organization = models.CharField(max_length=80, blank=True)
    workspace = models.CharField(max_length=80, blank=True)
    subject = models.CharField(max_length=80, blank=True, db_index=True)
    rank = models.PositiveIntegerField(null=True)
    taken = models.DateTimeField(null=True, editable=False)
    # By which the keys of the cluster sign in, in their order, with the keys; empty until the node is prepared.
    certificates = models.JSONField(default=list, editable=False)
    # It was given back while it did not answer: it stays taken until what is ours was ended and removed on it.
    is_leaving = models.BooleanField(default=False)
    left = models.DateTimeField(null=True, editable=False)  # when it was given back
    FREE: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("portal", "organization", "workspace", "subject"), ""),
        "rank": None,
        "taken": None,
        "certificates": [],
        "is_leaving": False,
        "left": None,
    }

    objects = ComputerQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["hostname", "address", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["pool", "address", "port"], name="one_computer_per_address"),
            models.UniqueConstraint(
                fields=["subject", "rank"],
                condition=~Q(subject="") & Q(is_leaving=False),
                name="one_computer_per_rank",
            ),
        ]
        indexes = [models.Index(fields=["hostname"], name="computers_by_name")]

    def __str__(self) -> str:
        return self.hostname or self.address

    @property
    def fingerprint(self) -> str:
        """Of its confirmed host key, as `ssh-keygen -l` shows it; empty where there is none."""
        return ssh.fingerprint(self.host_public)

    @property
    def fingerprint_shown(self) -> str:
        """Of the one that it shows, if that is another one."""
        return ssh.fingerprint(self.host_shown)

    @property
    def key_kind(self) -> str:
        """Of the key that it shows, as `ssh-keygen -l` calls it."""
        kind = self.host_shown.split()[0] if self.host_shown else ""
        return {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}.get(kind, "ECDSA" if "ecdsa" in kind else kind)

    @property
    def where(self) -> str:
        """Its address, with the port where that is not SSH's own."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return address if self.port == SSH else f"{address}:{self.port}"

    @property
    def is_taken(self) -> bool:
        return bool(self.subject)

    @property
    def may_be_removed(self) -> bool:
        """Nobody has it; or it was given back, and cannot be swept: it may never be here again."""
        return not self.is_taken or (self.is_leaving and self.state != self.State.READY)

    @property
    def held_elsewhere(self) -> str:
        """The cluster that has it by another pool, where somebody has asked for that: `with_others`."""
        return str(self.__dict__.get("_held_elsewhere", ""))

    @held_elsewhere.setter
    def held_elsewhere(self, cluster: str) -> None:
        self.__dict__["_held_elsewhere"] = cluster

    @property
    def is_busy(self) -> bool:
        """A cluster has it: by this pool, by another one, or of another portal."""
        return self.is_taken or bool(self.held_elsewhere or self.marked)

    @property
    def is_free(self) -> bool:
        """A cluster may take it now."""
        return self.state == self.State.READY and not self.is_disabled and not self.is_busy

    @property
    def me(self) -> tuple[str, str]:
        """Which computer it is. Where disks were copied, several have one host key; but a pool refuses equal names."""
        return self.host_public, self.hostname

    @property
    def holds_others_off(self) -> bool:
        """No cluster of another pool gets it. One that was given back, and lets us in no more, is nobody's."""
        return self.is_taken and not (self.is_leaving and self.state == self.State.REFUSED)

    @property
    def is_lost(self) -> bool:
        """It does not answer, or is not who it was: a cluster that has it may have another one instead."""
        return self.state == self.State.AWAY or bool(self.host_shown)

    @property
    def tags(self) -> Tags:
        """Of the cluster that has it."""
        return Tags(self.portal, self.organization, self.workspace, self.subject)

    @property
    def badge(self) -> Badge:
        if self.is_disabled:
            return Badge.gone("DISABLED")
        if self.is_leaving:
            return Badge.warning("LEAVING", "bi-question-circle-fill")
        if self.is_busy and self.state == self.State.READY:
            return Badge.working("IN USE")
        if self.state == self.State.NEW and self.host_public:
            return Badge.working("CHECKING")
        return self.PAGE[self.state]


def elsewhere(path: str) -> ComputerQuerySet:
    """In a query of pools or computers, rows by which another pool's cluster has the computer at this path of it."""
    same = {name: OuterRef(f"{path}{name}") for name in ("host_public", "hostname")}
    taken = Computer.objects.filter(**same).exclude(Q(subject="") | Q(host_public="") | Q(pk=OuterRef(f"{path}pk")))
    return taken.exclude(is_leaving=True, state=Computer.State.REFUSED).order_by()


class Event(models.Model):
    """What became of a computer: its history, for people."""

    computer = models.ForeignKey(Computer, models.CASCADE, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    words = models.CharField(max_length=300)  # a sentence
    subject = models.CharField(max_length=80, blank=True)  # the uuid of the cluster that it is about, if any

    class Meta:
        ordering: ClassVar[list[str]] = ["-pk"]

    def __str__(self) -> str:
        return self.words
