"""Computers that a cluster has given back: what is ours on them is ended and removed, and then they are free.

Only what is of that cluster: what carries its mark in its environment or has something of its folder open, and what
descends from that. Others of the same account, and other clusters of this portal or of another one, are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

from django.db import transaction
from django.db.models import Q
from django.utils.timezone import now

from portal import detached, ssh
from portal.clouds.machines import certificates, folders
from portal.clouds.machines.folders import Place
from portal.clouds.machines.models import Computer, Event
from portal.clouds.machines.rows import briefly
from portal.errors import PortalError, Refused

_SECONDS = 40.0
_Asked: TypeAlias = list[tuple[Computer, ssh.Host]]
_OTHERS = timedelta(minutes=2)  # for which whoever has given a computer back is busy with it


def sweep(computers: Sequence[Computer]) -> list[tuple[Computer, PortalError]]:
    """Those of them that wait for it, for whoever sees that they answer again: as `clear`.

    Not those that somebody is clearing just now: the same cluster may have it again before a second one has done.
    """
    return clear(_waiting([one.pk for one in computers]))


@briefly
def _waiting(pks: Sequence[int]) -> list[Computer]:
    alone = Q(left=None) | Q(left__lt=now() - _OTHERS)
    found = Computer.objects.filter(alone, pk__in=pks, is_leaving=True)
    return list(found.select_related("pool"))


def clear(computers: Sequence[Computer]) -> list[tuple[Computer, PortalError]]:
    """All at once. Those that stay taken, and why. Each comes with its pool.

    1. Nothing more begins on them: another process of the portal may be about to, and one that is away is waited for.
    2. What runs is ended. 3. What is left of it is removed.
    """
    waiting = [(one, certificates.host(one.pool, one)) for one in computers if one.is_taken and one.is_leaving]
    left: list[tuple[Computer, PortalError]] = []

    def good(asked: _Asked, answers: Sequence[ssh.Answer | PortalError]) -> _Asked:
        """Those with which to go on: it was done, and nobody was faster."""
        found = []
        for (one, host), answer in zip(asked, answers, strict=True):
            if trouble := _trouble(one, answer):
                left.append((one, trouble))
            elif _is_ours(one):
                found.append((one, host))
        return found

    calls = [(host, folders.shutting(_place(one), one.tags, one), b"") for one, host in waiting]
    shut = good(waiting, ssh.run_each(calls, seconds=_SECONDS))
    marks = [(f"{folders.MARK}={one.subject}", _place(one).cluster(one.tags)) for one, _ in shut]
    ended = good(shut, detached.end_all([host for _, host in shut], marks))
    calls = [(host, _clearing(one), b"") for one, host in ended]
    for one, _ in good(ended, ssh.run_each(calls, seconds=_SECONDS)):
        _release(one)
    ssh.hang_up([host for _, host in waiting])
    return left


def _trouble(computer: Computer, answer: ssh.Answer | PortalError) -> PortalError | None:
    if isinstance(answer, PortalError):
        return answer
    if answer.status:
        return Refused(f"What is on {computer} could not be taken away.", evidence=answer.said)
    return None


def _place(computer: Computer) -> Place:
    return Place.of(computer.pool, computer.tags)


def _clearing(computer: Computer) -> str:
    return folders.clearing(_place(computer), computer.tags, computer, home=not _has_successor(computer))


@briefly
def _is_ours(computer: Computer) -> bool:
    """Nobody was faster: then its own cluster may have it again, and what is on it stays."""
    return Computer.objects.as_taken(computer).filter(is_leaving=True).exists()


@briefly
def _has_successor(computer: Computer) -> bool:
    """Whether another computer is the node of its rank by now, and has its home."""
    return Computer.objects.of(computer.tags).filter(rank=computer.rank, is_leaving=False).exists()


@briefly
def _release(computer: Computer) -> None:
    """Not where somebody else has done so: then it may be another cluster's already."""
    with transaction.atomic():
        if Computer.objects.as_taken(computer).filter(is_leaving=True).update(**Computer.FREE):
            Event.objects.create(computer=computer, words="Swept, and free again.", subject=computer.subject)
