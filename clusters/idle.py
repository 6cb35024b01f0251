"""Whether anybody uses a cluster, and what its timers do when nobody does.

`Cluster.last_active` is when somebody last did something with it, by the database's clock: what happens once (a run or
a terminal ends, a person changes something) writes it down in its own transaction, and `look` does so again and again
for what goes on. A timer acts once people have been warned and as much time as that warning has said has passed, also
where no watch process was there meanwhile; and only where in the transaction that does it nothing uses the cluster.
What a timer began, or the end of a run, and what then failed is told to the same people, once.

A cluster that belongs to a run has no timers: it is ended with that.

What uses a cluster is said in `ClusterQuerySet.in_use`. What nobody has asked for, such as a repair, is no activity, so
that the auto shutdown of a cluster goes on while it is PAUSED.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from smtplib import SMTPDataError, SMTPException, SMTPRecipientsRefused
from typing import Any

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now
from django.template.loader import render_to_string
from django.utils.timezone import localtime, now, override

from accounts.access import Can, WorkspaceRole
from accounts.models import User
from clusters.actions import delete_cluster, pause_cluster, some_failed
from clusters.durations import Timer, in_words
from clusters.life import PAUSE
from clusters.models import SOON, Cluster, Node, Terminal
from clusters.plans import DELETE
from clusters.samples import Sample
from portal import mail
from portal.errors import PortalError
from portal.failpoints import failpoint
from portal.prepared import prepared_keys
from portal.tasks import live
from portal.tasks.models import Task, TaskStatus

logger = logging.getLogger(__name__)

OFTEN = timedelta(seconds=20)  # how exact `last_active` is while something goes on
BY_ITSELF = (PAUSE.kind, DELETE.kind)  # kinds of tasks that timers and the ends of runs begin, asked by nobody
NAMED = 3  # runs that a page names


def look() -> list[EmailMessage]:
    """Do what is due on all clusters. Returns the mails that are to be sent.

    What goes wrong with one of them is logged, and keeps nobody from the others.
    """
    return (_look_at_timers() if _timed() else []) + (_look_at_failures() if some_failed() else [])


@prepared_keys
def _timed() -> QuerySet[Cluster]:
    return Cluster.objects.filter(status__in=Cluster.TIMED)[:1]


def _look_at_timers() -> list[EmailMessage]:
    _note_use()
    fields = ("status", "auto_pause", "auto_shutdown", "last_active", "warned")
    timed = Cluster.objects.shared().filter(status__in=Cluster.TIMED).exclude(auto_pause=0, auto_shutdown=0)
    rows: Any = timed.only(*fields).annotate(at=Now())
    due = [row.pk for row in rows if (timer := row.next_timer(pauses=True)) and row.at >= timer.is_due_at]
    mails: list[EmailMessage] = []
    full: Any = Cluster.objects.filter(pk__in=due).annotate(at=Now())
    for cluster in full.select_related("workspace__organization", "workspace__cloud_config"):
        with _alone(cluster):
            timer = cluster.timer
            if timer is None or cluster.at < timer.is_due_at:
                continue
            if timer.warned:
                _act(cluster, timer)
            elif warned := _warn(cluster, timer):
                mails += _mails(cluster, warned)
    return mails


def _look_at_failures() -> list[EmailMessage]:
    mails: list[EmailMessage] = []
    for cluster in _with_failures():
        with _alone(cluster):
            mails += _tell(cluster)
    return mails


@contextmanager
def _alone(cluster: Cluster) -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("the timers of cluster %s cannot be looked after", cluster.uuid)


def _note_use() -> None:
    """One by one: whoever holds a cluster's row waits for no other."""
    stale = Cluster.objects.filter(status__in=Cluster.TIMED, last_active__lt=Now() - OFTEN).in_use()
    for cluster in stale.select_related("workspace__organization"):
        with _alone(cluster):
            cluster.note_activity()
            if cluster.warning:
                live.ring(*cluster.live_names())


def _warn(cluster: Cluster, timer: Timer) -> Timer | None:
    """None where somebody else did so, or does something with it."""
    as_seen = Cluster.objects.filter(pk=cluster.pk, status=cluster.status, last_active__lte=timer.since)
    unused = as_seen.exclude(pk__in=Cluster.objects.filter(pk=cluster.pk).in_use(timer.verb).values("pk"))
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


def _with_failures() -> list[Cluster]:
    """Those that the portal has begun to pause or delete by itself, which failed, and of which nobody has been told.

    The end of one that belonged to a run is tried again and again, and is told of once.
    """
    kind = ContentType.objects.get_for_model(Cluster)
    last = Task.objects.filter(subject_type=kind, subject_id=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    failed = Task.objects.filter(kind__in=BY_ITSELF, asked_by=None, status=TaskStatus.FAILED)
    rows = Cluster.objects.filter(status=Cluster.Status.FAILED).annotate(last=Subquery(last))
    untold = rows.filter(last__in=failed.values("pk")).filter(
        Q(told_of=None) | Q(dedicated=False) & ~Q(told_of=F("last"))
    )
    return list(untold.select_related("workspace__organization", "workspace__cloud_config", "created_by"))


def _tell(cluster: Cluster) -> list[EmailMessage]:
    """Where several do so at once, one does."""
    task = cluster.last_task
    if task and (task.kind not in BY_ITSELF or task.asked_by_id is not None or task.status != TaskStatus.FAILED):
        return []  # somebody has begun to mend it since we looked
    untold = Cluster.objects.filter(Q(told_of=None) | Q(told_of__lt=task.pk), pk=cluster.pk) if task else None
    if not task or not untold or not untold.update(told_of=task.pk):
        return []
    logger.warning("cluster %s: %s failed: %s", cluster.uuid, task.title, task.cause)
    return _to_responsible(cluster, "clusters/mail/failed.txt", lambda: (f"Failed: {task.title}", {"task": task}))


def _mails(cluster: Cluster, timer: Timer) -> list[EmailMessage]:
    def words() -> tuple[str, dict[str, Any]]:
        at, since = localtime(timer.acts_at), localtime(timer.since)
        about = {"timer": timer, "since": f"{since:%-d %B, %H:%M %Z}", "at": f"{at:%-d %B, %H:%M %Z}"}
        return f"{cluster} {timer.does} at {at:%H:%M %Z}", about

    return _to_responsible(cluster, "clusters/mail/idle.txt", words)


def _to_responsible(
    cluster: Cluster, template: str, words: Callable[[], tuple[str, dict[str, Any]]]
) -> list[EmailMessage]:
    """To who made it and who may change it. `words`, asked for each in their own time zone: the subject, and more."""
    mails = []
    for person in _responsible(cluster) if mail.goes_out() else ():
        with override(person.zone):
            subject, about = words()
        about |= {
            "cluster": cluster,
            "link": f"{settings.PORTAL_URL}{cluster.get_absolute_url()}",
            "portal_name": settings.PORTAL_NAME,
        }
        subject = f"{settings.ACCOUNT_EMAIL_SUBJECT_PREFIX}{subject}"
        mails.append(EmailMessage(subject, render_to_string(template, about), None, [person.email]))
    return mails


def _responsible(cluster: Cluster) -> list[User]:
    members = cluster.workspace.members.select_related("user")
    people = [member.user for member in members.filter(role=WorkspaceRole.ADMIN).order_by("pk")]
    maker = cluster.created_by
    if maker and maker not in people and Cluster.objects.where(maker, Can.VIEW).filter(pk=cluster.pk).exists():
        people.append(maker)
    return [person for person in people if person.may_enter and person.notify_idleness]


def send(mails: Sequence[EmailMessage]) -> list[EmailMessage]:
    """Never raises: what they say is on the cluster's page as well. Returns those that may be sent later."""
    left = list(mails)
    try:
        with get_connection() as connection:
            while left:
                _send(connection, left[0])
                left.pop(0)
    except (SMTPException, OSError) as error:
        logger.warning("%s mails of timers could not be sent now: %s", len(left), error)
        left = left[1:] + left[:1]  # next time, it is the others' turn first
    return left


def _send(connection: BaseEmailBackend, message: EmailMessage) -> None:
    """An address that the server refuses, or that cannot be written, keeps no mail from others."""
    try:
        connection.send_messages([message])
    except (SMTPRecipientsRefused, SMTPDataError, ValueError) as error:
        logger.warning("a mail of a timer could not be sent: %s", error)


@dataclass(frozen=True)
class Clock:
    """What a cluster's page says of its timers."""

    pause: str  # after how long, in words
    shutdown: str
    uses: list[str]  # why they do not go on, in sentences without their end
    timer: Timer | None
    since: datetime
    changed: Task | None  # what people asked for last
    paused: Task | None  # what the portal has begun by itself, and because of which it is PAUSED
    failed: Task | None  # … or FAILED
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
    runs: Sequence[Any],
) -> Clock:
    """`tasks`: its last ones, the newest first. `runs`: those that are on it, then the first of those that wait."""
    timer = cluster.timer
    if timer is None or timer.verb != "delete":  # which those whose time is far away have nothing against
        runs = [run for run in runs if run.due is None or run.due <= now() + SOON]
    uses = [f"{run} {'waits for it' if run.is_waiting else 'is on it'}" for run in runs[:NAMED]]
    if len(runs) > NAMED:
        uses.append("More runs wait for it")
    uses += [f"{terminal.person or 'Somebody'} has a terminal on {terminal}" for terminal in terminals]
    uses += [f"{task.title} is going on" for task in tasks[:1] if not task.is_finished]
    last = tasks[0] if tasks else None
    is_auto = last and last.kind in BY_ITSELF and last.asked_by_id is None
    told = [node for node in nodes if node.guests is not None and node.state == Node.State.ANSWERS]
    guests = [f"{node.guests} on {node}" for node in told if node.guests]
    if guests and settings.SSH_IS_ACTIVITY:
        uses.append(f"Sessions by ssh: {', '.join(guests)}")
    return Clock(
        in_words(cluster.auto_pause),
        in_words(cluster.auto_shutdown),
        uses,
        timer,
        cluster.last_active,
        next((task for task in tasks if task.asked_by_id), None),
        last if is_auto and cluster.status == Cluster.Status.PAUSED else None,
        last if is_auto and cluster.status == Cluster.Status.FAILED else None,
        guests,
        bool(told),
        settings.SSH_IS_ACTIVITY,
        load,
    )
