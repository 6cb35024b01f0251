"""Who looks after what: the watch processes that live, and the things that each of them holds.

1. A process is known by a row that it renews every second. All times are the database's, so that clocks of hosts do
   not matter.
2. Each thing (a run to observe, a cluster to look at) has a lease. It is taken by one conditional UPDATE, which
   succeeds while nobody who lives holds it, and only for somebody who lives.
3. A lease has no time of its own: it is good as long as its holder's row is. One statement renews all of a process.
4. A row that has run out is never renewed: its things may be another's by then. Its process begins again under another
   id, and holds nothing.
5. Which of the living takes a thing is computed alike by all of them (`owner_of`), so that they share out evenly, and
   that few things change hands when one comes or goes.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

from django.db import models, transaction
from django.db.models import Exists, Max, OuterRef, Q
from django.db.models.functions import Now

TERM = timedelta(seconds=6)  # after which a process that has not renewed its row is taken to be dead
REMEMBERED = timedelta(minutes=1)  # how long the row of a dead one stays


class WatchProcessQuerySet(models.QuerySet["WatchProcess"]):
    def living(self) -> WatchProcessQuerySet:
        return self.filter(until__gt=Now())


class WatchProcess(models.Model):
    """One life of a watch process."""

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=80)  # host and process id, for people
    until = models.DateTimeField()

    objects = WatchProcessQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    @classmethod
    def begin(cls) -> UUID:
        """A new life for this process: its id."""
        return cls.objects.create(name=f"{socket.gethostname()}:{os.getpid()}", until=Now() + TERM).pk

    @classmethod
    def renew(cls, pk: UUID) -> bool:
        """Live on for another TERM. False: this life has run out, and what it held may be another's."""
        return bool(cls.objects.living().filter(pk=pk).update(until=Now() + TERM))

    @classmethod
    def end(cls, pk: UUID) -> None:
        """What it holds is free at once."""
        cls.objects.filter(pk=pk).delete()

    @classmethod
    def last_seen(cls) -> datetime | None:
        """When a watch process last said that it lives; by the database's clock."""
        until: datetime | None = cls.objects.aggregate(last=Max("until"))["last"]
        return until - TERM if until else None

    @classmethod
    def is_seen(cls) -> bool:
        """Whether one lives, or did until a moment ago: another then takes over."""
        return cls.objects.filter(until__gt=Now() - TERM).exists()


class LeaseQuerySet(models.QuerySet["Lease"]):
    def free(self) -> LeaseQuerySet:
        """Those that nobody who lives holds."""
        return self.filter(Q(holder=None) | ~Exists(WatchProcess.objects.living().filter(pk=OuterRef("holder"))))


class Lease(models.Model):
    """Which process looks after a thing."""

    thing = models.CharField(max_length=120, primary_key=True)
    holder = models.UUIDField(null=True, db_index=True)  # a life of a WatchProcess, perhaps long over

    objects = LeaseQuerySet.as_manager()

    def __str__(self) -> str:
        return self.thing

    @classmethod
    def take(cls, things: Collection[str], holder: UUID) -> set[str]:
        """Those of the things that the holder has now. It gets none that another one holds who lives."""
        alive = Exists(WatchProcess.objects.living().filter(pk=holder))
        held = cls.objects.filter(alive, thing__in=things, holder=holder).values_list("thing", flat=True)
        new: list[Any] = [cls(thing=thing, holder=holder) for thing in sorted(things)]
        cls.objects.bulk_create(new, ignore_conflicts=True)
        if len(got := set(held)) == len(new):  # as most are, which nobody has held before
            return got
        with transaction.atomic():
            # What another one is just taking is passed over, so that two who want many never wait for each other.
            free = cls.objects.free().filter(thing__in=things).select_for_update(of=("self",), skip_locked=True)
            cls.objects.free().filter(alive, thing__in=list(free.values_list("thing", flat=True))).update(holder=holder)
        return set(held.all())

    @classmethod
    def release(cls, things: Collection[str], holder: UUID) -> None:
        """Let another one have them."""
        cls.objects.filter(thing__in=things, holder=holder).update(holder=None)

    @classmethod
    def drop(cls, things: Collection[str], holder: UUID) -> None:
        """They are over."""
        cls.objects.filter(thing__in=things, holder=holder).delete()


def held_by(holder: UUID) -> frozenset[str]:
    return frozenset(Lease.objects.filter(holder=holder).values_list("thing", flat=True))


def living() -> frozenset[UUID]:
    return frozenset(WatchProcess.objects.living().values_list("pk", flat=True))


def forget_the_dead() -> None:
    """Rows of processes that are dead for a while, and leases that nobody wants."""
    WatchProcess.objects.filter(until__lt=Now() - REMEMBERED).delete()
    known = WatchProcess.objects.filter(pk=OuterRef("holder"))
    Lease.objects.filter(~Exists(known)).delete()


@lru_cache(maxsize=100_000)
def owner_of(thing: str, processes: frozenset[UUID]) -> UUID | None:
    """Which of the processes is to look after the thing: the same answer for everybody who asks (rendezvous hashing).

    Where one comes or goes, only the things that it gets or had change hands.
    """
    return max(processes, key=lambda one: blake2b(one.bytes + thing.encode(), digest_size=8).digest(), default=None)
