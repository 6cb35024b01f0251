"""Pools of the computers that tests have, as an administrator has made them: confirmed, checked, and trusting us."""

from __future__ import annotations

import uuid

from portal.clouds.machines import certificates
from portal.clouds.machines.account import MachinesAccount
from portal.clouds.machines.models import Computer, Pool
from tests.machines.computers import SHARED, USER


def make(desks, *, name="desks", base=f"{SHARED}/coxswain", account=None):
    """A pool of them all, whose line is in the account's authorized_keys."""
    pool = Pool(account=account or uuid.uuid4(), name=name, user=USER, base=base)
    certificates.new_authority(pool)
    pool.save()
    desks.paste(pool.authorized_key)
    for desk in desks:
        add(pool, desk)
    return pool


def add(pool, desk, **more):
    known = {"hostname": desk.name, "host_public": desk.host_public, "state": Computer.State.READY}
    size = {"cores": 2, "vcpus": 2, "memory_gib": 3.8, "architecture": "x86_64"}
    return Computer.objects.create(pool=pool, address=desk.address, port=desk.port, **known | size | more)


def account(desks):
    return MachinesAccount(make(desks).account)
