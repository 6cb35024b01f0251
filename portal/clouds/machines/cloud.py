"""`MachinesCloud`: a pool of computers as a cloud. A node is a computer for as long as a cluster has it.

Which cluster has which is in rows: they are taken all or none, by one transaction at a time in a pool, and only then
anything is done on them. What is given back is swept and given free; while that cannot be done, because a computer is
away, it stays taken, and `leaving.py` does it later.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, NoReturn
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils.timezone import now

from portal import ssh
from portal.clouds.machines import certificates, folders, leaving, standing
from portal.clouds.machines.folders import Place
from portal.clouds.machines.models import Computer, Event, Pool
from portal.clouds.machines.rows import briefly
from portal.clouds.machines.shapes import shape
from portal.clouds.market import Market, Running
from portal.clouds.types import (
    Can,
    CloudKind,
    CloudNode,
    NodesSpec,
    NodeState,
    Offer,
    Quota,
    Resource,
    Tags,
    WorkspaceSpec,
    Zone,
    not_here,
)
from portal.errors import NoRoom, Passing, Pending, PortalError, Refused

OWN = "Own machines"

_SECONDS = 40.0  # for a script on a computer
_ASKED = 3  # computers, one after another, for what each of a pool could say
_AWAY_AFTER = 15.0  # seconds for which a computer that is given back is tried, before it is left to be swept later
_ALONE = (
    "These are computers of your own. This workspace has the account {user} to itself: others cannot read what it has. "
    "Others may use the computers meanwhile."
)
_NOTE = (
    "These are computers of your own. Workspaces of one pool are not kept apart: they share the account {user}. "
    "Whoever runs jobs in one can read and change what the others have, passwords of their jobs' repositories too. "
    "Others may use the computers meanwhile."
)


class MachinesCloud:
    kind = CloudKind.MACHINES
    can = frozenset({Can.FILESYSTEM, Can.SCALE})
    look_in = 0.5

    def __init__(self, account: UUID, region: str) -> None:
        self._account = account
        self._region = region

    # -- what there is

    def zones(self) -> list[Zone]:
        raise not_here(Can.ZONE, OWN)

    @briefly
    def offer(self, instance_type: str, nodes: int, *, zone: str = "", spot: bool = False) -> Offer:
        _refuse_what_is_not_here(zone=zone, spot=spot)
        alike = [one for one in self._computers() if shape(one) == instance_type]
        if not alike:
            return Offer(None, impossible=f"The pool {self._region} has no computers of the type {instance_type!r}.")
        if nodes > len(alike):
            has = f"has {len(alike)} of the type {instance_type}"
            return Offer(None, (_quota(alike, nodes),), impossible=f"The pool {self._region} {has}, not {nodes}.")
        return Offer(None, (_quota(alike, nodes),))

    def _computers(self) -> list[Computer]:
        return list(Computer.objects.offered().filter(pool__account=self._account, pool__name=self._region))

    @briefly
    def _pool(self) -> Pool:
        pool = Pool.objects.filter(account=self._account, name=self._region).first()
        if pool is None:
            raise _no_pool(self._region)
        return pool

    # -- filesystem

    def market(self) -> Market:
        raise not_here(Can.PRICES, OWN)

    def running(self) -> Running:
        raise not_here(Can.PRICES, OWN)

    def ensure_network(self, spec: WorkspaceSpec, *, token: str = "") -> NoReturn:
        raise not_here(Can.NETWORK, OWN)

    def delete_network(self, tags: Tags, *, token: str = "") -> NoReturn:
        raise not_here(Can.NETWORK, OWN)

    def ensure_filesystem(self, spec: WorkspaceSpec, *, token: str = "") -> None:
        if spec.choices:
            name, _ = spec.choices[0]
            raise Refused(f"{OWN} know no {name!r}.", code="unknown_choice")
        pool = self._pool()
        place = Place.of(pool, spec.tags)
        answer = self._ask_any(pool, folders.making(place), folders.marker(spec.tags))
        if answer.status == folders.NOT_OURS:
            raise Refused(f"{place.shared} is there already, and is not this workspace's.", code="not_ours")
        if answer.status:
            raise Refused(
                f"The folder of the workspace could not be made in {pool.base}.",
                evidence=answer.said,
                advice=f"See that {pool.user} may write there, and that there is room.",
            )

    def delete_filesystem(self, tags: Tags, *, token: str = "") -> Pending | None:
        if self._is_in_use(tags):
            raise Passing("The shared filesystem is still in use by nodes of its workspace.")
        pool = self._pool()
        place = Place.of(pool, tags)
        answer = self._ask_any(pool, folders.removing(place), folders.marker(tags))
        if answer.status == folders.NOT_OURS:
            raise Refused(
                f"{place.shared} is not removed: its marker is not this workspace's, or is gone.",
                advice=f"Look whose it is. Remove it by hand, or write its {folders.MARKER} anew: "
                f"{folders.marker(tags)}. Or forget the workspace: then it stays.",
                code="not_ours",
            )
        if answer.status:
            raise Refused(f"{place.shared} could not be removed.", evidence=answer.said)
        return Pending("The folder of the workspace is being removed", 2.0) if answer.text else None

    @briefly
    def _is_in_use(self, tags: Tags) -> bool:
        taken = Computer.objects.filter(pool__account=self._account, portal=tags.portal, workspace=tags.workspace)
        return taken.filter(is_leaving=False).exists()

    def _ask_any(self, pool: Pool, command: str, said: str = "") -> ssh.Answer:
        """What a computer of the pool answers: the shared path is the same for all. Raises `PortalError`."""
        trouble: PortalError | None = None
        for computer in self._likely(pool)[:_ASKED]:
            try:
                return ssh.run(certificates.host(pool, computer), command, input=said.encode(), seconds=_SECONDS + 10)
            except PortalError as error:
                trouble = error
        if trouble is None:
            raise Refused(
                f"The pool {pool} has no computer that is ready.",
                advice="Add a computer on the page of the cloud configuration, or see what its checks say.",
                code="no_computer",
            )
        raise trouble

    @briefly
    def _likely(self, pool: Pool) -> list[Computer]:
        """Those that may answer, the most likely first."""
        order = [Computer.State.READY, Computer.State.AWAY, Computer.State.REFUSED]
        confirmed = pool.computers.filter(state__in=order)
        return sorted(confirmed, key=lambda one: (order.index(Computer.State(one.state)), one.is_disabled, one.pk))

    # -- nodes

    def ensure_nodes(self, spec: NodesSpec, *, token: str = "") -> None:
        """Each computer that does not answer, and was not prepared before, is given up for another one."""
        _refuse_what_is_not_here(zone=spec.zone, spot=spec.spot, role=spec.role)
        pool = self._pool()
        place = Place.of(pool, spec.tags)
        signed = _sign(pool, place, spec)
        given_up = 0
        while True:
            computers = _take(pool, spec)
            lost = _prepare(pool, place, spec.tags, computers, signed)
            if not lost:
                return
            given_up += len(lost)
            if given_up > _ASKED * spec.nodes:
                raise Passing(f"Too many computers of {pool} do not answer.", evidence=", ".join(map(str, lost)))

    def stop_nodes(self, tags: Tags, *, token: str = "") -> NoReturn:
        raise not_here(Can.PAUSE, OWN)

    def delete_nodes(self, tags: Tags, ranks: Collection[int] | None = None, *, token: str = "") -> Pending | None:
        """None: each is free again, or is away and left to be swept."""
        computers = _give_back(tags, None if ranks is None else set(ranks))
        left = leaving.clear(computers)
        if not left:
            return None
        began = float(token) if token else time.time()
        if time.time() - began > _AWAY_AFTER:
            return None
        who = ", ".join(f"{one} ({why.message})" for one, why in left)
        return Pending(f"Not confirmed yet: {who}", 2.0, token=str(began))

    @briefly
    def nodes(self, tags: Tags) -> list[CloudNode]:
        return _seen(Computer.objects.of(tags).filter(is_leaving=False))

    def console(self, tags: Tags, rank: int) -> str:
        return ""  # computers boot without us

    @briefly
    def inventory(self, portal: str) -> dict[Tags, list[CloudNode]]:
        found: dict[Tags, list[CloudNode]] = {}
        here = Computer.objects.filter(pool__account=self._account, pool__name=self._region, portal=portal)
        for computer in here.exclude(subject="").filter(is_leaving=False).select_related("pool").order_by("rank"):
            found.setdefault(computer.tags, []).append(_node(computer))
        return found

    def owners(self, portal: str) -> set[Tags]:
        """Without those whose computers are only to be swept, which the cloud does by itself."""
        pool = self._pool()
        found = set(self.inventory(portal))
        if not self._likely(pool):
            return found
        answer = self._ask_any(pool, folders.listing(pool.base))
        theirs = (folders.owner(line) for line in answer.text.splitlines())
        return found | {tags for tags in theirs if tags and tags.portal == portal}

    def leftovers(self, tags: Tags) -> list[Resource]:
        if tags.subject == tags.workspace:
            pool = self._pool()
            if not self._likely(pool):
                return []
            place = Place.of(pool, tags)
            there = self._ask_any(pool, folders.looking(place)).text.splitlines()
            return [Resource("filesystem", place.shared)] if there else []
        return self._left(tags)

    @briefly
    def _left(self, tags: Tags) -> list[Resource]:
        return [
            Resource("computer", str(one), "away: it stays taken until it was swept", True, is_looked_after=True)
            if one.is_leaving
            else Resource("computer", str(one))
            for one in Computer.objects.of(tags)
        ]


def _no_pool(name: str) -> Refused:
    return Refused(f"There is no pool {name} any more.", code="not_found")


def _refuse_what_is_not_here(*, zone: str = "", spot: bool = False, role: str = "") -> None:
    for can, asked in ((Can.ZONE, zone), (Can.SPOT, spot), (Can.ROLE, role)):
        if asked:
            raise not_here(can, OWN)


def _quota(alike: Sequence[Computer], asked: int) -> Quota:
    free = sum(one.is_free for one in alike)
    holders = [one.subject or one.held_elsewhere or one.marked for one in alike if one.is_busy] if free < asked else []
    return Quota("computers free", asked, free, tuple(holders))


@briefly
def _take(pool: Pool, spec: NodesSpec) -> list[Computer]:
    """The cluster's computers by rank, with those that were missing: all of them or none. Raises `NoRoom`."""
    tags = spec.tags
    with transaction.atomic():
        if not Pool.objects.held().filter(pk=pool.pk).exists():  # one at a time takes: two would each have half
            raise _no_pool(pool.name)
        rows = list(pool.computers.everywhere().held().select_related("pool"))
        busy = {one.me: one.subject for one in rows if one.pool_id != pool.pk and one.holds_others_off}
        computers = sorted((one for one in rows if one.pool_id == pool.pk), key=lambda one: (one.hostname, one.pk))
        for one in computers:
            one.held_elsewhere = busy.get(one.me, "")
        alike = [one for one in computers if one.state != Computer.State.NEW and shape(one) == spec.instance_type]
        if not alike:
            raise Refused(f"The pool {pool} has no computers of the type {spec.instance_type!r}.", code="unknown_type")
        mine = {one.rank or 0: one for one in computers if one.tags == tags and not one.is_leaving}
        lost = [one for rank, one in mine.items() if rank < spec.nodes and one.is_lost]
        ranks = [rank for rank in range(spec.nodes) if rank not in mine or mine[rank] in lost]
        free = [one for one in alike if one.is_free][: len(ranks)]
        if len(free) < len(ranks):
            raise _no_room(pool, spec, alike, len(ranks), lost)
        for one in lost:
            one.is_leaving, one.left = True, now()
            one.save(update_fields=["is_leaving", "left"])
            _tell(one, f"Given up as node {one.rank} of a cluster: it {_lost(one)}.")
        for rank, one in zip(ranks, free, strict=True):
            one.portal, one.organization, one.workspace, one.subject = vars(tags).values()
            one.rank, one.taken, one.certificates = rank, now(), []
            one.save(update_fields=["portal", "organization", "workspace", "subject", "rank", "taken", "certificates"])
            _tell(one, f"Taken as node {rank} of a cluster.")
            mine[rank] = one
    return [mine[rank] for rank in range(spec.nodes)]


def _no_room(pool: Pool, spec: NodesSpec, alike: Sequence[Computer], missing: int, lost: Sequence[Computer]) -> NoRoom:
    quota = _quota(alike, missing)
    kind = spec.instance_type
    more = "" if missing == spec.nodes else " more"
    why = "".join(f"The computer {one} {_lost(one)}. " for one in lost)
    return NoRoom(
        f"{why}The pool {pool} has {quota.left} free computers of the type {kind}, and {missing}{more} are asked for.",
        held_by=quota.held_by,
    )


def _lost(computer: Computer) -> str:
    return "shows another host key" if computer.host_shown else "does not answer"


def _tell(computer: Computer, words: str) -> None:
    Event.objects.create(computer=computer, words=words, subject=computer.subject)


def _sign(pool: Pool, place: Place, spec: NodesSpec) -> list[list[str]]:
    """Each authorized key, and its certificate."""
    names = [f"workspace {spec.tags.workspace}", *[f"cluster {spec.tags.subject}"] * len(spec.authorized_keys)]
    enter = place.enter(spec.tags)
    return [  # the first is the portal's; what has another one is on the computers, for any program to copy
        [public, certificates.sign(pool, public, name, command=enter, forwards=number == 0)]
        for number, (public, name) in enumerate(zip(spec.authorized_keys, names, strict=False))
    ]


def _prepare(
    pool: Pool, place: Place, tags: Tags, computers: Sequence[Computer], signed: list[list[str]]
) -> list[Computer]:
    """Make nodes of them, all at once. Those that were given up, because they do not answer, or show another key."""
    calls = [(certificates.host(pool, one), *folders.preparing(place, tags, one, one.rank or 0)) for one in computers]
    answers = ssh.run_each(calls, seconds=_SECONDS)
    lost: list[Computer] = []
    others: list[Computer] = []
    for one, answer in zip(computers, answers, strict=True):
        if isinstance(answer, PortalError):
            if one.certificates:  # it may be busy, or rebooting: it stays this cluster's until it is known to be away
                raise answer
            _give_up(one, answer)
            lost.append(one)
        elif answer.status == folders.NO_WORKSPACE:
            raise Refused(
                "The workspace has no shared filesystem yet.",
                evidence=f"{one}: {place.shared}",
                advice="Deploy the workspace first, and see that the pool's base folder is the same on all computers.",
            )
        elif answer.status == folders.OTHER_NAME:
            raise Refused(
                f"The computer {one} calls itself {answer.text[:64]} now.",
                advice="Have it checked again on its page; then its new name is known.",
            )
        elif answer.status:
            raise Refused(f"The computer {one} could not be prepared.", evidence=answer.said)
        else:
            *lines, boot_id = answer.text.splitlines() or [""]
            if not 0 < len(boot_id) <= 40:
                raise Refused(
                    f"The computer {one} answers with something else than it was asked for.", evidence=answer.said
                )
            if not one.certificates and (mark := _unknown(one, folders.marks(lines))):
                _leave_to(one, mark)
                others.append(one)
            else:
                _is_prepared(one, boot_id, signed)
    leaving.clear(others)
    return lost + others


@briefly
def _unknown(computer: Computer, marks: Collection[str]) -> str:
    return standing.unknown(computer, marks)


@briefly
def _leave_to(computer: Computer, mark: str) -> None:
    """To the cluster of another portal that was here before."""
    computer.is_leaving, computer.left, computer.marked = True, now(), mark
    with transaction.atomic():
        still = Computer.objects.as_taken(computer).filter(is_leaving=False)
        if not still.update(is_leaving=True, left=computer.left, marked=mark):
            raise _given_back(computer)
        _tell(computer, f"Given up as node {computer.rank} of a cluster: another portal has it.")


@briefly
def _is_prepared(computer: Computer, boot_id: str, signed: list[list[str]]) -> None:
    """Certificates stay what they are as long as the keys do: who is connected by them stays so."""
    same = [key for key, _ in computer.certificates] == [key for key, _ in signed]
    computer.certificates = computer.certificates if same else signed
    still = Computer.objects.as_taken(computer).filter(is_leaving=False)
    if not still.update(certificates=computer.certificates, boot_id=boot_id[:40], seen=now()):
        raise _given_back(computer)


@briefly
def _give_up(computer: Computer, why: PortalError) -> None:
    """Nobody was let in, so nothing is on it; or the beginning of a preparation may be, and it is to be swept."""
    changes: dict[str, Any] = {"state": Computer.State.AWAY}
    if isinstance(why, Refused):
        failing = [{"name": "sign in", "message": why.message, "advice": why.advice}]
        changes = {"state": Computer.State.REFUSED, "failing": failing}
    is_outside = why.code in ("host_key", "not_let_in")
    changes |= Computer.FREE if is_outside else {"is_leaving": True, "left": now()}
    with transaction.atomic():
        if not Computer.objects.as_taken(computer).filter(is_leaving=False).update(**changes):
            raise _given_back(computer)
        _tell(computer, f"Given up as node {computer.rank} of a cluster. {why.message}"[:300])
    standing.want_check(computer.pool)


def _given_back(computer: Computer) -> Passing:
    """Somebody else has done so meanwhile, and it may be another cluster's: not ours to say anything of."""
    return Passing(f"The computer {computer} was given back meanwhile.")


@briefly
def _give_back(tags: Tags, ranks: Collection[int] | None) -> list[Computer]:
    """No node of the cluster any more, from now on; whatever is still on them. Those that were so before, too."""
    with transaction.atomic():
        found = Computer.objects.of(tags).held().select_related("pool")
        computers = [one for one in found if ranks is None or one.rank in ranks]
        for one in computers:
            if not one.is_leaving:
                one.is_leaving = True
                _tell(one, "Given back.")
            one.left = now()
            one.save(update_fields=["is_leaving", "left"])
    return computers


def _seen(computers: QuerySet[Computer]) -> list[CloudNode]:
    return [_node(one) for one in computers.select_related("pool")]


def _node(computer: Computer) -> CloudNode:
    """One that is away may come back with all that runs on it: it is no node that is gone."""
    pool = computer.pool
    place = Place.of(pool, computer.tags)
    is_there = bool(computer.certificates) and not computer.is_lost
    reason = f"The computer {computer} {_lost(computer)}." if computer.is_lost else ""
    return CloudNode(
        id=str(computer.uuid),
        rank=computer.rank or 0,
        hostname=computer.hostname,
        state=NodeState.RUNNING if is_there else NodeState.BOOTING,
        address=computer.address if is_there else None,
        port=computer.port,
        private_address=computer.address,
        user=pool.user,
        home=place.home(computer.tags, computer.rank or 0),
        shared=place.shared,
        reason=reason,
        is_away=computer.is_lost,
        note=(_ALONE if pool.alone else _NOTE).format(user=pool.user),
        host_key=computer.host_public,
        certificates=tuple(certificate for _, certificate in computer.certificates),
    )
