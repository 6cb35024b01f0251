"""`MachinesAccount`: the pools of a cloud configuration, and what there is in them. All of it is read from rows."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet

from portal.clouds.machines.cloud import OWN, MachinesCloud
from portal.clouds.machines.models import Computer, Pool
from portal.clouds.machines.rows import briefly
from portal.clouds.machines.shapes import instance_types
from portal.clouds.stores import Store
from portal.clouds.types import Can, CloudKind, Identity, InstanceType, Permission, Region, RoleSpec, Tags, not_here


class MachinesAccount:
    kind = CloudKind.MACHINES
    can = MachinesCloud.can

    def __init__(self, account: UUID) -> None:
        self._account = account
        self._clouds: dict[str, MachinesCloud] = {}

    @briefly
    def check(self) -> Identity:
        pools = list(self._pools())
        if not pools:
            return Identity(OWN, "There is no pool of computers yet.")
        computers = list(Computer.objects.filter(pool__in=pools))
        ready = sum(one.state == Computer.State.READY and not one.is_disabled for one in computers)
        return Identity(
            ", ".join(f"{pool.user}@{pool.name}" for pool in pools),
            f"{len(computers)} computers, {ready} of them ready",
        )

    @briefly
    def permissions(self) -> list[Permission]:
        """To sign in to all computers of each pool, as far as its last check says."""
        pools = list(self._pools().prefetch_related("computers"))
        if not pools:
            return [Permission("Have a pool of computers", False, "clusters are made of them: create one on this page")]
        found = []
        for pool in pools:
            computers = [one for one in pool.computers.all() if not one.is_disabled]
            out = [str(one) for one in computers if one.state != Computer.State.READY]
            granted = bool(computers) and not out
            why = "" if granted else f"not ready: {', '.join(out)}" if out else "it has no computer yet"
            name = f"Sign in to the computers of {pool} as {pool.user}"
            line = f"In ~{pool.user}/.ssh/authorized_keys on each:\n{pool.authorized_key}"
            found.append(Permission(name, granted, why, "" if granted else line))
        return found

    @briefly
    def regions(self) -> list[Region]:
        return [Region(pool.name, pool.name) for pool in self._pools()]

    @briefly
    def instance_types(self, region: str) -> list[InstanceType]:
        return instance_types(Computer.objects.offered().filter(pool__in=self._pools().filter(name=region)))

    def _pools(self) -> QuerySet[Pool]:
        return Pool.objects.filter(account=self._account).order_by("name")

    def check_role(self, name: str) -> Identity:
        raise not_here(Can.ROLE, OWN)

    def attach_role(self, name: str) -> None:
        raise not_here(Can.ROLE, OWN)

    def detach_role(self, name: str) -> None:
        raise not_here(Can.ROLE, OWN)

    def ensure_role(self, spec: RoleSpec, *, token: str = "") -> None:
        raise not_here(Can.ROLE, OWN)

    def delete_role(self, tags: Tags, *, token: str = "") -> None:
        raise not_here(Can.ROLE, OWN)

    def reading(self, bucket: str) -> str:
        raise not_here(Can.BUCKET, OWN)

    @property
    def store(self) -> Store:
        raise not_here(Can.STORE, OWN)

    def cloud(self, region: str) -> MachinesCloud:
        return self._clouds.setdefault(region, MachinesCloud(self._account, region))
