"""Looking after own machines: pools are checked when that is due, and their computers looked at all the time."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from functools import partial
from uuid import UUID

from django.db import DatabaseError
from django.db.models import Q, QuerySet

from portal import ssh
from portal.clouds.machines import certificates, leaving, standing
from portal.clouds.machines.check import Finding, check
from portal.clouds.machines.models import Computer, Pool
from portal.errors import PortalError, Refused
from portal.tasks import live
from portal.tasks.threads import DATABASE, LEASES, apart
from portal.tasks.watch import SharingWatcher
from portal.text import uuid_in
from workspaces import checks
from workspaces.models import CloudConfig

logger = logging.getLogger(__name__)

LOOK_EVERY = 20.0  # seconds
ANSWER_WITHIN = 15.0  # seconds
LOOK = "cat /proc/sys/kernel/random/boot_id /proc/loadavg"
AT_ONCE = 32  # computers of a pool that are asked at a time


class PoolCheckWatcher(SharingWatcher):
    """Checks the pools for which that is due."""

    kind = "pool-check"
    rung_by = (live.WATCH_CHECKS,)

    async def wanted(self) -> set[int]:
        return await LEASES(_due)()

    async def look_after(self, pk: int) -> None:
        pool, new, computers = await DATABASE(_to_check)(pk)
        if pool is None:
            return
        await _look_for_keys(pool, new)
        findings = await check(pool, computers)
        keys, _ = await _keys_of([one.computer for one in findings if one.another_key])
        await DATABASE(_write_down)(pool, findings, keys)


class ComputerWatcher(SharingWatcher):
    """Looks whether the computers of a pool answer, over connections that are kept."""

    kind = "pool"
    rung_by = (live.WATCH_CHECKS,)

    def __init__(self) -> None:
        self.connections = ssh.Connections()
        self.turns = asyncio.Semaphore(AT_ONCE)

    async def wanted(self) -> set[int]:
        return await LEASES(_watched)()

    async def look_after(self, pk: int) -> None:
        while True:
            pool, new, computers = await DATABASE(_to_check)(pk)
            if pool is None:
                return
            await _look_for_keys(pool, [one for one in new if not one.host_shown])
            await self._look(pool, computers)
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, pool: Pool, computers: Sequence[Computer]) -> None:
        answers: dict[int, tuple[str, float]] = {}
        silent: dict[int, str] = {}
        await asyncio.gather(*(self._ask(one, certificates.host(pool, one), answers, silent) for one in computers))
        try:
            await DATABASE(_write_looks)(pool, answers, silent)
        except DatabaseError as error:
            logger.warning("what was seen of pool %s could not be written down: %s", pool.uuid, error)
        back = [one for one in computers if one.is_leaving and one.pk in answers]
        if back:
            for computer, why in await apart(partial(leaving.sweep, back)):
                logger.warning("%s stays taken: %s (%s)", computer, why.message, why.evidence)
            await DATABASE(_ring)(pool)

    async def _ask(
        self, computer: Computer, host: ssh.Host, answers: dict[int, tuple[str, float]], silent: dict[int, str]
    ) -> None:
        async with self.turns:
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    answer = await self.connections.run(host, LOOK, seconds=ANSWER_WITHIN, most=4096)
                answers[computer.pk] = _seen(answer.text)
            except Refused as error:
                if computer.state == Computer.State.READY:
                    logger.info("%s: %s", computer, error)
                    await DATABASE(_want_check)(computer.pool)
            except (PortalError, TimeoutError) as error:
                self.connections.drop(host)
                silent[computer.pk] = str(error) or f"no answer within {ANSWER_WITHIN:.0f} seconds"
            except ValueError as error:
                silent[computer.pk] = f"an answer that is none: {error}"

    def close(self) -> None:
        self.connections.close()


def _seen(said: str) -> tuple[str, float]:
    """Boot id and load, which come after what the account's shell may say. Raises `ValueError`."""
    boot_id, loads = said.splitlines()[-2:]
    load = float(loads.partition(" ")[0])
    if uuid_in(boot_id) is None or not math.isfinite(load):
        raise ValueError(said[-100:])
    return boot_id, load


async def _look_for_keys(pool: Pool, computers: Sequence[Computer]) -> None:
    """Of those whose host key is to be confirmed."""
    if computers:
        shown, silent = await _keys_of(computers)
        await DATABASE(_write_keys)(pool, shown, silent)


async def _keys_of(computers: Iterable[Computer]) -> tuple[dict[int, str], dict[int, str]]:
    """The host keys that they show now, and why others show none, by primary key."""
    shown: dict[int, str] = {}
    silent: dict[int, str] = {}

    async def ask(computer: Computer) -> None:
        try:
            shown[computer.pk] = await ssh.host_key_of(computer.address, computer.port)
        except PortalError as error:
            silent[computer.pk] = " ".join(filter(None, [error.message, error.evidence]))

    await asyncio.gather(*(ask(computer) for computer in computers))
    return shown, silent


def _due() -> set[int]:
    return set(standing.due().filter(account__in=_accounts()).values_list("pk", flat=True))


def _watched() -> set[int]:
    """Of a configuration that was deleted, those that have still to be cleaned after a cluster."""
    has_some = Q(computers__isnull=False, account__in=_accounts())
    return set(Pool.objects.filter(has_some | Q(computers__is_leaving=True)).values_list("pk", flat=True))


def _accounts() -> QuerySet[CloudConfig, UUID]:
    return CloudConfig.objects.live().values_list("uuid", flat=True)


def _to_check(pk: int) -> tuple[Pool | None, list[Computer], list[Computer]]:
    """The pool with its computers: those whose host key is to be confirmed, and the others."""
    pool = Pool.objects.filter(pk=pk).first()
    if pool is None:
        return None, [], []
    computers = list(pool.computers.select_related("pool").order_by("pk"))
    return pool, [one for one in computers if not one.host_public], [one for one in computers if one.host_public]


def _ring(pool: Pool, *also: str) -> None:
    config = CloudConfig.objects.select_related("organization").filter(uuid=pool.account).first()
    live.ring(*also, *(config.live_names() if config else ()))


def _write_down(pool: Pool, findings: Sequence[Finding], keys: dict[int, str]) -> None:
    standing.write_down(pool, findings, keys)
    checks.renew(pool.account)
    _ring(pool, live.WATCH_CHECKS)


def _write_keys(pool: Pool, shown: dict[int, str], silent: dict[int, str]) -> None:
    if standing.write_keys(shown, silent):
        _ring(pool)


def _write_looks(pool: Pool, answers: dict[int, tuple[str, float]], silent: dict[int, str]) -> None:
    if standing.write_looks(pool, answers, silent):
        _ring(pool, live.WATCH_CHECKS)


def _want_check(pool: Pool) -> None:
    standing.want_check_again(pool)
    live.ring(live.WATCH_CHECKS)
