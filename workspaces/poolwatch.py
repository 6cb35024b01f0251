"""Looking after own machines: pools are checked when that is due, and their computers looked at all the time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID

from django.db import DatabaseError
from django.db.models import Q, QuerySet
from django.utils.timezone import now

from portal import ssh
from portal.clouds.machines import answers as saying
from portal.clouds.machines import certificates, folders, leaving, standing
from portal.clouds.machines.check import check
from portal.clouds.machines.findings import Finding
from portal.clouds.machines.models import Computer, Pool
from portal.errors import PortalError, Refused
from portal.prepared import prepared_keys
from portal.secrets import CannotDecrypt
from portal.tasks import live
from portal.tasks.threads import DATABASE, LEASES, apart
from portal.tasks.watch import SharingWatcher
from workspaces import checks
from workspaces.models import CloudConfig

logger = logging.getLogger(__name__)

LOOK_EVERY = 20.0  # seconds
ANSWER_WITHIN = 15.0  # seconds
LOOK = f"{folders.MARKS}; cat /proc/sys/kernel/random/boot_id /proc/loadavg"
NO_KEY = "The portal cannot open the pool's key. Ask whoever runs this portal."
AT_ONCE = 16  # computers of a pool that are asked at a time: those of another one do not wait for them
# After it was added, a computer is asked for its key all the time; later, as often as it is checked.
ASKED_FOR_KEYS = timedelta(hours=1)


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
        try:
            findings = await check(pool, computers)
        except CannotDecrypt:
            findings = [Finding(one, silence=NO_KEY) for one in computers]
        keys, _ = await _keys_of([one.computer for one in findings if one.another_key])
        await DATABASE(_write_down)(pool, findings, keys)


class ComputerWatcher(SharingWatcher):
    """Looks whether the computers of a pool answer, over connections that are kept."""

    kind = "pool"
    rung_by = (live.WATCH_CHECKS,)

    def __init__(self) -> None:
        self.connections = ssh.Connections()

    async def wanted(self) -> set[int]:
        return await LEASES(_watched)()

    async def look_after(self, pk: int) -> None:
        while True:
            pool, new, computers = await DATABASE(_to_check)(pk)
            if pool is None:
                return
            since = now() - ASKED_FOR_KEYS
            await _look_for_keys(pool, [one for one in new if not one.host_shown and one.created > since])
            await self._look(pool, computers)
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, pool: Pool, computers: Sequence[Computer]) -> None:
        answers: dict[int, standing.Look] = {}
        silent: dict[int, str] = {}
        turns = asyncio.Semaphore(AT_ONCE)
        try:
            hosts = [certificates.host(pool, one) for one in computers]
        except CannotDecrypt:
            silent = {one.pk: NO_KEY for one in computers}
        else:
            asked = zip(computers, hosts, strict=True)
            await asyncio.gather(*(self._ask(turns, one, host, answers, silent) for one, host in asked))
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
        self,
        turns: asyncio.Semaphore,
        computer: Computer,
        host: ssh.Host,
        answers: dict[int, standing.Look],
        silent: dict[int, str],
    ) -> None:
        async with turns:
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    answer = await self.connections.run(
                        host, f"{folders.marking(computer)}; {LOOK}", seconds=ANSWER_WITHIN, most=4096
                    )
                answers[computer.pk] = _seen(answer.text)
            except Refused as error:
                if computer.state == Computer.State.READY:
                    logger.info("%s: %s", computer, error)
                    await DATABASE(_want_check)(computer.pool)
            except (PortalError, TimeoutError) as error:
                self.connections.drop(host)
                silent[computer.pk] = str(error) or f"no answer within {ANSWER_WITHIN:.0f} seconds"
            except ValueError as error:
                silent[computer.pk] = f"an answer that is none: {saying.shown(str(error))}"

    def close(self) -> None:
        self.connections.close()


def _seen(said: str) -> standing.Look:
    """What comes after what the account's shell may say. Raises `ValueError`."""
    *lines, boot_id, loads = said.splitlines()
    load = saying.number(float(loads.partition(" ")[0]))
    return standing.Look(saying.boot_id(boot_id), load, folders.marks(lines))


async def _look_for_keys(pool: Pool, computers: Sequence[Computer]) -> None:
    """Of those whose host key is to be confirmed."""
    if computers:
        shown, silent = await _keys_of(computers)
        await DATABASE(_write_keys)(pool, shown, silent)


async def _keys_of(computers: Iterable[Computer]) -> tuple[dict[int, str], dict[int, str]]:
    """The host keys that they show now, and why others show none, by primary key."""
    shown: dict[int, str] = {}
    silent: dict[int, str] = {}

    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(computer: Computer) -> None:
        try:
            async with turns:
                shown[computer.pk] = await ssh.host_key_of(computer.address, computer.port)
        except PortalError as error:
            silent[computer.pk] = " ".join(filter(None, [error.message, error.evidence]))

    await asyncio.gather(*(ask(computer) for computer in computers))
    return shown, silent


def _due() -> set[int]:
    return set(standing.due().filter(account__in=_accounts()).values_list("pk", flat=True)) if _some() else set()


@prepared_keys
def _some() -> QuerySet[Pool]:
    return Pool.objects.all()[:1]


@prepared_keys
def _watched() -> QuerySet[Pool]:
    """Of a configuration that was deleted, those that have still to be cleaned after a cluster."""
    has_some = Q(computers__isnull=False, account__in=_accounts())
    return Pool.objects.filter(has_some | Q(computers__is_leaving=True))


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


def _write_looks(pool: Pool, answers: dict[int, standing.Look], silent: dict[int, str]) -> None:
    if standing.write_looks(pool, answers, silent):
        _ring(pool, live.WATCH_CHECKS)


def _want_check(pool: Pool) -> None:
    standing.want_check_again(pool)
    live.ring(live.WATCH_CHECKS)
