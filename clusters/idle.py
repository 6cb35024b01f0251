"""Whether anybody uses a cluster, and what its timers do when nobody does.

`Cluster.last_active` is when somebody last did something with it, by the database's clock: what happens once (a run or
a terminal ends, a person changes something) writes it down in its own transaction, and `look` does so again and again
for what goes on. A timer acts once people have been warned and as much time as that warning has said has passed, also
where no watch process was there meanwhile; and only where in the transaction that does it nothing uses the cluster.

What uses a cluster is said in `ClusterQuerySet.in_use`. What nobody has asked for, such as a repair, is no activity, so
that the auto shutdown of a cluster goes on while it is PAUSED.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from smtplib import SMTPException
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db.models import F, Q
from django.db.models.functions import Now
from django.template.loader import render_to_string
from django.utils.timezone import localtime, override

from accounts.access import Can, WorkspaceRole
from accounts.models import User
from clusters.actions import delete_cluster, pause_cluster
from clusters.durations import Timer, in_words
from clusters.life import PAUSE
from clusters.models import Cluster, Node, Terminal
from clusters.samples import Sample
from portal import mail
from portal.errors import PortalError
from portal.failpoints import failpoint
from portal.tasks import live
from portal.tasks.models import Task

logger = logging.getLogger(__name__)

OFTEN = timedelta(seconds=20)  # how exact `last_active` is while something goes on
NAMED = 3  # runs that a page names


def look() -> list[EmailMessage]:
    """Do what is due on all clusters. Returns the mails that are to be sent."""
    _note_use()
    fields = ("status", "auto_pause", "auto_shutdown", "last_active", "warned")
    timed = Cluster.objects.filter(status__in=Cluster.TIMED).exclude(auto_pause=0, auto_shutdown=0)
    rows: Any = timed.only(*fields).annotate(at=Now())
    due = [row.pk for row in rows if (timer := row.next_timer(pauses=True)) and row.at >= timer.is_due_at]
    mails: list[EmailMessage] = []
    full: Any = Cluster.objects.filter(pk__in=due).annotate(at=Now())
    for cluster in full.select_related("workspace__organization", "workspace__cloud_config"):
        timer = cluster.timer
        if timer is None or cluster.at < timer.is_due_at:
            continue
        if timer.warned:
            _act(cluster, timer)
        elif warned := _warn(cluster, timer):
            mails += _mails(cluster, warned)
    return mails


def _note_use() -> None:
    """One by one: whoever holds a cluster's row waits for no other."""
    stale = Cluster.objects.filter(status__in=Cluster.TIMED, last_active__lt=Now() - OFTEN).in_use()
    for cluster in stale.select_related("workspace__organization"):
        cluster.note_activity()
        if cluster.warning:
            live.ring(*cluster.live_names())


def _warn(cluster: Cluster, timer: Timer) -> Timer | None:
    """None where somebody else did so, or does something with it."""
    as_seen = Cluster.objects.filter(pk=cluster.pk, status=cluster.status, last_active__lte=timer.since)
    unused = as_seen.exclude(pk__in=Cluster.objects.filter(pk=cluster.pk).in_use().values("pk"))
    if not unused.filter(Q(warned=None) | Q(warned__lte=F("last_active"))).update(warned=Now()):
        return None
    cluster.refresh_from_db(fields=["warned"])
    live.ring(*cluster.live_names())
    logger.info("cluster %s: %s at %s", cluster.uuid, timer.does, timer.acts_at)
    return cluster.warning


def _act(cluster: Cluster, timer: Timer) -> None:
    failpoint("clusters.idle.decided")
    try:
        task = (pause_cluster if timer.verb == "pause" else delete_cluster)(cluster, by=None, timer=timer)
    except PortalError as error:
        logger.info("cluster %s: no %s now: %s", cluster.uuid, timer.why, error)
    else:
        logger.info("cluster %s: %s, task %s", cluster.uuid, timer.why, task.uuid)
    failpoint("clusters.idle.acted")


def _mails(cluster: Cluster, timer: Timer) -> Iterator[EmailMessage]:
    """To who made it and who may change it, each in their own time zone."""
    if not mail.goes_out():
        return
    for person in _responsible(cluster):
        with override(person.zone):
            at = localtime(timer.acts_at)
            words = {
                "cluster": cluster,
                "timer": timer,
                "since": f"{localtime(timer.since):%-d %B, %H:%M %Z}",
                "at": f"{at:%-d %B, %H:%M %Z}",
                "link": f"{settings.PORTAL_URL}{cluster.get_absolute_url()}",
                "portal_name": settings.PORTAL_NAME,
            }
        subject = f"{settings.ACCOUNT_EMAIL_SUBJECT_PREFIX}{cluster} {timer.does} at {at:%H:%M %Z}"
        yield EmailMessage(subject, render_to_string("clusters/mail/idle.txt", words), None, [person.email])


def _responsible(cluster: Cluster) -> list[User]:
    members = cluster.workspace.members.select_related("user")
    people = [member.user for member in members.filter(role=WorkspaceRole.ADMIN).order_by("pk")]
    maker = cluster.created_by
    if maker and maker not in people and Cluster.objects.where(maker, Can.VIEW).filter(pk=cluster.pk).exists():
        people.append(maker)
    return [person for person in people if person.may_enter and person.notify_idleness]


def send(mails: Sequence[EmailMessage]) -> None:
    """Never raises: the warning is on the cluster's page as well."""
    try:
        with get_connection() as connection:
            for message in mails:
                _send(connection, message)
    except (SMTPException, OSError) as error:
        logger.warning("%s warnings of timers could not be mailed: %s", len(mails), error)


def _send(connection: BaseEmailBackend, message: EmailMessage) -> None:
    """An address that the server refuses, or that cannot be written, keeps no warning from others."""
    try:
        connection.send_messages([message])
    except (SMTPException, OSError, ValueError) as error:
        logger.warning("a warning of a timer could not be mailed: %s", error)


@dataclass(frozen=True)
class Clock:
    """What a cluster's page says of its timers."""

    pause: str  # after how long, in words
    shutdown: str
    uses: list[str]  # why they do not go on, in sentences without their end
    timer: Timer | None
    since: datetime
    changed: Task | None  # what people asked for last
    paused: Task | None  # the auto pause because of which it is PAUSED
    guests: list[str]  # sessions by ssh, by node
    tells_guests: bool  # whether the nodes say so
    ssh_counts: bool
    load: float | None  # of all cores; evidence alone

    @property
    def is_warned(self) -> bool:
        return not self.uses and self.timer is not None and self.timer.warned is not None


def load(known: Mapping[int, Sequence[Sample]]) -> float | None:
    """How busy nodes were on average, as a part of all their cores."""
    parts = [sample.cpu for samples in known.values() for sample in samples]
    return sum(parts) / len(parts) if parts else None


def clock(
    cluster: Cluster,
    nodes: Sequence[Node],
    terminals: Sequence[Terminal],
    tasks: Sequence[Task],
    load: float | None,
) -> Clock:
    """`tasks`: the last ones of it, the newest first."""
    runs = list(cluster.runs.unfinished().select_related("job").order_by("pk")[: NAMED + 1])
    uses = [f"{run} {'waits for it' if run.is_waiting else 'is on it'}" for run in runs[:NAMED]]
    if len(runs) > NAMED:
        uses.append("More runs wait for it")
    uses += [f"{terminal.person or 'Somebody'} has a terminal on {terminal}" for terminal in terminals]
    uses += [f"{task.title} is going on" for task in tasks[:1] if not task.is_finished]
    last = tasks[0] if tasks else None
    is_auto = last and last.kind == PAUSE.kind and last.asked_by_id is None
    told = [node for node in nodes if node.guests is not None and node.state == Node.State.ANSWERS]
    guests = [f"{node.guests} on {node}" for node in told if node.guests]
    if guests and settings.SSH_IS_ACTIVITY:
        uses.append(f"Sessions by ssh: {', '.join(guests)}")
    return Clock(
        in_words(cluster.auto_pause),
        in_words(cluster.auto_shutdown),
        uses,
        cluster.timer,
        cluster.last_active,
        next((task for task in tasks if task.asked_by_id), None),
        last if is_auto and cluster.status == Cluster.Status.PAUSED else None,
        guests,
        bool(told),
        settings.SSH_IS_ACTIVITY,
        load,
    )
