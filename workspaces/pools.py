"""What people do with own machines: pools, and the computers in them. Each is one transaction and one audit entry.

Whoever calls has found that the person administers the organization of the cloud configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from django.db.models import Count, Exists, Q, QuerySet

from accounts import audit
from accounts.models import User
from portal.clouds.machines import certificates, standing
from portal.clouds.machines.models import Computer, Pool, elsewhere
from portal.errors import Conflict, PortalError
from portal.tasks import live
from workspaces import checks
from workspaces.models import CloudConfig

MOST_AT_ONCE = 100  # computers that are added
MOST = 500  # computers of a pool
MOST_POOLS = 50  # of a cloud configuration: all of their computers are looked at all the time


def pools_of(config: CloudConfig) -> QuerySet[Pool]:
    """With how many computers there are (`all`), are free, are to be confirmed, and are refused or away (`bad`)."""
    bad = Q(computers__state__in=(Computer.State.REFUSED, Computer.State.AWAY))
    free = Q(
        ~Exists(elsewhere("computers__")),
        computers__state=Computer.State.READY,
        computers__is_disabled=False,
        computers__subject="",
        computers__marked="",
    )
    return (
        Pool.objects.filter(account=config.uuid)
        .annotate(
            all=Count("computers"),
            free=Count("computers", free),
            unconfirmed=Count("computers", Q(computers__host_public="")),
            bad=Count("computers", bad),
        )
        .order_by("name")
    )


def _record(verb: str, row: Pool | Computer, config: CloudConfig, by: User, **words: Mapping[str, object]) -> None:
    audit.record(
        verb, row, organization=config.organization, by=by, **{name: dict(said) for name, said in words.items()}
    )


def _changed(config: CloudConfig) -> None:
    checks.renew(config.uuid)
    live.ring(live.WATCH_CHECKS, *config.live_names())


@audit.atomic()
def create_pool(
    config: CloudConfig,
    *,
    name: str,
    user: str,
    base: str,
    by: User,
    uuid: UUID,
    alone: bool = False,
    like: Pool | None = None,
) -> Pool:
    """With an authority of its own. Asked twice with one `uuid`, the second call returns what the first made.

    With the computers of a pool that it is to be `like`, and their keys as somebody has confirmed them: another account
    on these. Raises `Conflict` where the configuration was deleted meanwhile, and `PortalError` where it has too many.
    """
    if not CloudConfig.objects.select_for_update(no_key=True).live().filter(pk=config.pk).exists():
        raise Conflict(f"The cloud configuration {config} was deleted.")
    pools = Pool.objects.filter(account=config.uuid).exclude(uuid=uuid)
    if pools.count() >= MOST_POOLS:
        raise PortalError(f"A cloud configuration has {MOST_POOLS} pools at most.")
    pool = Pool(uuid=uuid, account=config.uuid, name=name, user=user, base=base, alone=alone)
    certificates.new_authority(pool)
    made = {field: getattr(pool, field) for field in ("name", "user", "base", "alone", "key_public", "key_private")}
    pool, is_new = Pool.objects.get_or_create(uuid=uuid, account=config.uuid, defaults=made)
    if is_new:
        after = {"account": user, "base folder": base, "for one workspace": alone}
        _record("created", pool, config, by, after=after)
        if like:
            _copy(like, pool, by)
        _changed(config)
    return pool


def _copy(like: Pool, pool: Pool, by: User) -> None:
    known = like.computers.exclude(host_public="").order_by("pk")
    made = [Computer(pool=pool, address=one.address, port=one.port, host_public=one.host_public) for one in known]
    for one in Computer.objects.bulk_create(made):
        standing.tell(one, f"{by} has added it, with the host key that was confirmed in the pool {like}.")
    standing.want_check(pool)


def why_not(config: CloudConfig, region: str) -> str:
    """Why no further workspace is made on this pool, as a sentence; empty where one may be."""
    alone = Pool.objects.filter(account=config.uuid, name__iexact=region, alone=True).first()
    if alone is None or not config.workspaces.live().filter(region__iexact=region).exists():
        return ""
    return f"The pool {alone} is for one workspace alone, and has one."


def beside(pool: Pool) -> QuerySet[Pool]:
    """Pools of its configuration that have computers of its."""
    keys = pool.computers.exclude(host_public="").values("host_public")
    others = Pool.objects.filter(account=pool.account, computers__host_public__in=keys).exclude(pk=pool.pk)
    return others.distinct().order_by("name")


@audit.atomic()
def delete_pool(config: CloudConfig, pool: Pool, *, by: User) -> None:
    """With its computers' rows and their history. Raises `PortalError` while a cluster has one, or a workspace is here.

    The computers themselves are not touched: the line in `authorized_keys` and the base folder are their owner's.
    """
    locked = Pool.objects.select_for_update().filter(pk=pool.pk).first()
    if locked is None:
        return
    list(locked.computers.held())
    # Whoever makes a workspace has this row: they have made it, or find no pool.
    list(CloudConfig.objects.select_for_update(no_key=True).filter(pk=config.pk))
    if config.workspaces.live().filter(region__iexact=pool.name).exists():
        raise Conflict("Delete the workspaces in this pool first.")
    if taken := list(locked.computers.exclude(subject="")[:3]):
        raise Conflict(f"Computers of this pool are taken still: {', '.join(map(str, taken))}.")
    names = [one.where for one in locked.computers.all()]
    _record("deleted", locked, config, by, before={"account": locked.user, "computers": names})
    locked.delete()
    _changed(config)


@audit.atomic()
def add_computers(config: CloudConfig, pool: Pool, places: Sequence[tuple[str, int]], *, by: User) -> list[Computer]:
    """Those of these addresses and ports that the pool does not have. Nothing signs in before their keys are confirmed.

    Raises `PortalError` where the pool would have too many.
    """
    locked = Pool.objects.held().filter(pk=pool.pk).first()
    if locked is None:
        raise Conflict(f"The pool {pool} was deleted.")
    have = set(locked.computers.values_list("address", "port"))
    new = [place for place in dict.fromkeys(places) if place not in have]
    if len(have) + len(new) > MOST:
        raise PortalError(f"A pool has {MOST} computers at most.")
    made = [Computer(pool=locked, address=address, port=port) for address, port in new]
    Computer.objects.bulk_create(made)
    for one in made:
        standing.tell(one, f"{by} has added it.")
        _record("added", one, config, by, after={"pool": pool.name, "address": one.where})
    standing.want_check(locked)
    _changed(config)
    return made


@audit.atomic()
def confirm_keys(config: CloudConfig, pool: Pool, keys: Iterable[tuple[UUID, str]], *, by: User) -> list[Computer]:
    """From now on these computers are known by these keys: pairs of a uuid and the fingerprint that a person has seen.

    Raises `Conflict` where one shows another key by now, and confirms none then. Those that are confirmed stay so.
    """
    seen = dict(keys)
    if not Pool.objects.held().filter(pk=pool.pk).exists():
        raise Conflict(f"The pool {pool} was deleted.")
    confirmed = list(pool.computers.held().filter(uuid__in=seen, host_public=""))
    for one in confirmed:
        if not one.host_shown or one.fingerprint_shown != seen[one.uuid]:
            raise Conflict(f"{one.where} shows another host key by now. Compare it again.")
        one.host_public, one.host_shown = one.host_shown, ""
        one.save(update_fields=["host_public", "host_shown"])
        standing.tell(one, f"{by} has confirmed its host key, {one.fingerprint}.")
        _record("host key confirmed", one, config, by, after={"pool": pool.name, "host key": one.fingerprint})
    if confirmed:
        standing.want_check(pool, somebody_waits=True)
        _changed(config)
    return confirmed


@audit.atomic()
def accept_new_key(config: CloudConfig, computer: Computer, seen: str, *, by: User) -> None:
    """It is known by the key that it shows now, instead of the one that was confirmed. `seen`: that one's fingerprint.

    Raises `Conflict` where it shows another one by now, or the confirmed one again.
    """
    list(Pool.objects.held().filter(pk=computer.pool_id))
    locked = Computer.objects.held().filter(pk=computer.pk).first()
    if locked is None or not locked.host_shown or locked.fingerprint_shown != seen:
        raise Conflict("It does not show this key any more. Nothing was changed.")
    before = locked.fingerprint
    locked.host_public, locked.host_shown = locked.host_shown, ""
    locked.save(update_fields=["host_public", "host_shown"])
    standing.tell(locked, f"{by} has accepted its new host key, {locked.fingerprint}.")
    _record("host key changed", locked, config, by, before={"host key": before}, after={"host key": locked.fingerprint})
    standing.want_check(locked.pool, somebody_waits=True)
    _changed(config)


@audit.atomic()
def set_disabled(config: CloudConfig, computer: Computer, is_disabled: bool, *, by: User) -> None:
    """Whether clusters may get it. One that has it keeps it."""
    if not Computer.objects.filter(pk=computer.pk, is_disabled=not is_disabled).update(is_disabled=is_disabled):
        return
    word = "disabled" if is_disabled else "enabled"
    standing.tell(computer, f"{by} has {word} it.")
    _record(word, computer, config, by, after={"pool": computer.pool.name})
    _changed(config)


@audit.atomic()
def remove_computer(config: CloudConfig, computer: Computer, *, by: User) -> None:
    """Its row and its history. Raises `Conflict` while a cluster has it, or it is about to be cleaned after one."""
    locked = Computer.objects.select_for_update().filter(pk=computer.pk).first()
    if locked is None:
        return
    if not locked.may_be_removed:
        raise Conflict(f"{locked} is taken. Delete its cluster first.")
    before = {"pool": computer.pool.name, "address": locked.where, "host key": locked.fingerprint}
    if locked.is_taken:
        before["not cleaned after the cluster"] = locked.subject
    _record("removed", locked, config, by, before=before)
    locked.delete()
    _changed(config)


def check_now(config: CloudConfig, pool: Pool) -> None:
    """Asked for twice, it is done once. The answer comes to the pages."""
    standing.want_check(pool, somebody_waits=True)
    _changed(config)


def hold(config: CloudConfig) -> None:
    """Lock its pools and their computers: before its own row, by whoever writes to both."""
    locked = list(Pool.objects.select_for_update().filter(account=config.uuid).order_by("pk"))
    list(Computer.objects.held().filter(pool__in=locked))


def forget(config: CloudConfig) -> None:
    """All pools, for the end of the configuration. Raises `Conflict` while one of their computers is taken."""
    rows = Pool.objects.select_for_update().filter(account=config.uuid)
    taken = Computer.objects.filter(pool__in=list(rows)).exclude(subject="")
    if names := [str(one) for one in taken[:3]]:
        raise Conflict(f"Computers of its pools are taken still: {', '.join(names)}.")
    Pool.objects.filter(account=config.uuid).delete()
