"""Whose turn it is. Runs wait as rows; the one that has waited longest takes its cluster, and then gets its task.

A cluster that is dedicated to a run is a row from the moment at which the run is one. It is made when the run's time
has come, and ended when the run is over, in whatever way: both are looked for again and again, so that nobody who dies
in between leaves one behind.

Called when a run was asked for, when one lets go of its cluster, and by the watch process, which hears of everything
else that matters (a cluster is RUNNING, a node answers again) and looks every few seconds besides.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import Exists, F, Min, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils.timezone import now

from accounts import audit
from clusters import ceiling
from clusters.actions import begin_dedicated, end_dedicated, pause_cluster, resume_cluster
from clusters.models import Cluster
from jobs.causes import ANOTHER_CLUSTER, Cause, of_deletion, span
from jobs.models import Run, RunQuerySet
from portal.errors import PortalError
from portal.failpoints import failpoint
from portal.prepared import prepared, prepared_keys
from portal.tasks import ledger, live, registry
from portal.tasks.models import Task, TaskStatus
from workspaces.models import Workspace

logger = logging.getLogger(__name__)

MOST_UNUSED = timedelta(minutes=15)  # that a cluster of a run's own is there, and cannot take it
MOST_COLLECTING = timedelta(minutes=10)  # that it stays for the end of the run's output, once the run has ended
_WITH_CLUSTER = ("job", "cluster__workspace__organization", "cluster__workspace__cloud_config", "started_by")
GONE = (Cluster.Status.FAILED, Cluster.Status.TERMINATING, Cluster.Status.TERMINATED)  # nothing will begin there


def _of_cluster(pk: int) -> QuerySet[Run, tuple[int, UUID]]:
    """Those that wait for it, and might begin, in their turn."""
    return Run.objects.waiting().due().filter(cluster=pk).values_list("pk", "uuid")


@prepared
def _next(cluster: int) -> QuerySet[Run, tuple[int, UUID]]:
    return _of_cluster(cluster)[:1]


def dispatch(cluster_pk: int, fresh: Run | None = None) -> Run | None:
    """Let the next run begin, if there is one and the cluster is free for it. Returns it.

    `fresh` is one that was made in this very transaction, and so is nobody else's: if it is the next, it need not be
    read.

    Where several do this at once:

    1. Each reads which run has waited longest.
    2. One of them takes the cluster for it, by one UPDATE of a cluster that nobody has; to the others it is not free.
    3. That one writes down that it is the run's turn, by one UPDATE of a run that waits. If somebody has cancelled it
       meanwhile, or is about to, the cluster is let go of, and the next one is looked for.
    4. Both, and the run's task, are committed together. Whoever dies before has done nothing.

    Whoever has the cluster waits for no run: somebody who cancels several may hold one and want the next.
    """
    held: list[int] = []
    while True:
        found = _of_cluster(cluster_pk).exclude(pk__in=held)[:1] if held else _next(cluster_pk)
        if not found:
            return None
        ((pk, uuid),) = found
        with transaction.atomic():
            # What may be left of another run would be in its way; and whoever looks for that ends all that it finds.
            left = Run.objects.filter(cluster=OuterRef("pk"), may_be_left=True)
            free = Cluster.objects.free().filter(~Exists(left), pk=cluster_pk)
            if not free.update(occupied_by=uuid):
                return None
            if run := fresh if fresh and fresh.pk == pk else _still_waiting(pk):
                Run.objects.filter(pk=pk).update(turn=Now())
                run.turn = now()
                ledger.start_task(
                    run,
                    "jobs.run",
                    title=f"Run {run.number} of {run.job.name}",
                    by=run.started_by,
                    cloud=run.cluster.workspace.cloud_config.kind,
                    output=run.output,
                )
                return run
            Cluster.objects.filter(pk=cluster_pk, occupied_by=uuid).update(occupied_by=None)
            held.append(pk)


def _still_waiting(pk: int) -> Run | None:
    """Locks it then. None also where somebody else holds it."""
    rows = Run.objects.waiting().select_for_update(of=("self",), no_key=True, skip_locked=True)
    of = ("job__workspace__organization", "cluster__workspace__cloud_config", "output", "started_by")
    return rows.select_related(*of).filter(pk=pk).first()


def dispatch_all() -> int:
    """On every cluster that something waits for; for the watch process. Returns how many runs have begun.

    Runs whose cluster will never be free end here, in words. A cluster that an ended run has kept, because something
    died in between, is let go of. One that is PAUSED is resumed for a run that wants that.
    """
    begun = 0
    waits = bool(_waiting())
    if waits:
        begin_clusters()
        resume_clusters()
    if _occupied():
        release_clusters()
    if waits:
        due = Run.objects.waiting().due().filter(cluster=OuterRef("pk"))
        free = Cluster.objects.free().filter(Exists(due.order_by()))
        begun = sum(dispatch(pk) is not None for pk in free.values_list("pk", flat=True))
        # After the portal was away, a cluster may be free that has waited for its run for long: so only now.
        for run in _hopeless().select_related("cluster__workspace")[:500]:
            _give_up(run)
    if _pausing():
        pause_clusters()
    if _dedicated():
        end_clusters()
    return begun


# Whether there is anything at all to look at: for the greatest part of the time, nothing waits, or has to be ended.
@prepared_keys
def _waiting() -> QuerySet[Run]:
    return Run.objects.waiting().order_by()[:1]


@prepared_keys
def _occupied() -> QuerySet[Cluster]:
    return Cluster.objects.live().filter(occupied_by__isnull=False)[:1]


@prepared_keys
def _pausing() -> QuerySet[Run]:
    return Run.objects.filter(pauses=True, paused="")[:1]


@prepared_keys
def _dedicated() -> QuerySet[Cluster]:
    return Cluster.objects.live().filter(dedicated=True)[:1]


def resume_clusters() -> None:
    """Those that are PAUSED, for a run that wants that."""
    wakes = Q(resumes=True) | Q(due__isnull=False)
    asleep = Run.objects.waiting().due().filter(wakes, cluster__status=Cluster.Status.PAUSED)
    for run in asleep.select_related(*_WITH_CLUSTER)[:500]:
        resume_for(run)


def release_clusters() -> None:
    """Those that an ended run has kept."""
    on_it = Run.objects.filter(uuid=OuterRef("occupied_by"))  # a holder that is no run lets go by itself
    kept = Cluster.objects.filter(Exists(on_it), ~Exists(on_it.unfinished())).filter(
        ~Exists(on_it.filter(tasks__status__in=("new", "inprogress")))
    )
    for pk in kept.values_list("pk", flat=True):  # one by one: whoever holds a cluster waits for no other
        kept.filter(pk=pk).update(occupied_by=None, last_active=Now())


def begin_clusters() -> None:
    """Have those made that are dedicated to a run, for the runs that have waited longest, as far as there is room.

    A workspace that has none, or is not READY, is in nobody's way.
    """
    waiting = Run.objects.without_cluster().filter(workspace__status=Workspace.Status.READY)
    for pk, _ in waiting.order_by().values_list("workspace").annotate(first=Min("pk")).order_by("first"):
        workspace = Workspace.objects.select_related("organization").get(pk=pk)
        places = ceiling.left([workspace])[pk].places
        for run in waiting.filter(workspace=pk).select_related(*_WITH_CLUSTER)[:places]:
            failpoint("jobs.dispatch.begin.before")
            _begin_cluster(run)
            failpoint("jobs.dispatch.begin.after")


@audit.atomic()
def _begin_cluster(run: Run) -> bool:
    """Once, and not where somebody has cancelled the run."""
    rows = Run.objects.waiting().due().select_for_update(of=("self",), no_key=True, skip_locked=True)
    if rows.filter(pk=run.pk).first() is None or run.cluster.last_task is not None:
        return False
    try:
        begin_dedicated(run.cluster, by=run.started_by, why=f"for {run}")
    except PortalError as error:
        logger.info("cluster %s is not made for run %s now: %s", run.cluster.uuid, run.uuid, error)
        return False
    return True


def end_clusters() -> None:
    """Those that are dedicated to a run which is over, cleaned up, and seen to its end."""
    runs = Run.objects.filter(cluster=OuterRef("pk")).order_by()
    tasks = Task.objects.unfinished().filter(subject_type=ContentType.objects.get_for_model(Run))
    is_on_it = Q(status__in=(Run.Status.NEW, Run.Status.INPROGRESS)) | Q(pk__in=tasks.values("subject_id"))
    is_on_it |= Q(is_on_node=True, observed=False, ended__gt=Now() - MOST_COLLECTING)  # its output comes from there
    on_it = runs.filter(is_on_it)
    over = Cluster.objects.live().filter(~Exists(on_it), dedicated=True)
    for cluster in over.select_related("workspace__organization", "workspace__cloud_config"):
        failpoint("jobs.dispatch.end.before")
        try:
            if end_dedicated(cluster):
                logger.info("cluster %s is ended: its run is over", cluster.uuid)
                failpoint("jobs.dispatch.end.after")
        except PortalError as error:
            logger.info("cluster %s is not ended now: %s", cluster.uuid, error)
        except Exception:  # whatever is wrong with one, the others are ended: they cost money
            logger.exception("cluster %s is not ended", cluster.uuid)


def pause_clusters() -> None:
    """Those whose run has ended and wants that, once for each run, where nothing else uses them then.

    Not before its task is over, nor while it is to be tried again: the last attempt decides. That it is decided is
    written down with the pause, so that whoever dies in between has done nothing. A run that was called off before its
    time had no cluster.
    """
    kind = ContentType.objects.get_for_model(Run)
    tasks = Task.objects.unfinished().filter(subject_type=kind, subject_id=OuterRef("pk"))
    ended = Run.objects.filter(pauses=True, paused="", retry_at=None).exclude(status__in=("new", "inprogress"))
    over = ended.filter(~Exists(tasks)).exclude(cluster__occupied_by=F("uuid"))
    for run in over.select_related(*_WITH_CLUSTER)[:500]:
        failpoint("jobs.dispatch.pause.before")
        try:
            _pause_after(run)
        except Exception:  # whatever is wrong with one, the others are paused: they cost money
            logger.exception("cluster %s is not paused after run %s", run.cluster.uuid, run.uuid)
        failpoint("jobs.dispatch.pause.after")


@audit.atomic()
def _pause_after(run: Run) -> None:
    """A run that is asked for at the same moment wins: `clusters.actions.pause_cluster` says how."""
    rows = Run.objects.select_for_update(of=("self",), no_key=True, skip_locked=True)
    if not rows.filter(pk=run.pk, pauses=True, paused="", retry_at=None).exists():
        return
    cluster = run.cluster
    if run.due and run.ended and run.due > run.ended:
        said = f"{cluster} was not paused: the run was called off before its time."
    elif cluster.status != Cluster.Status.RUNNING:
        said = f"{cluster} was not paused: it was {cluster.badge.word}."
    else:
        try:
            pause_cluster(cluster, by=None, unused=f"after {run}, as its job has it")
        except PortalError as error:
            said = f"{cluster} was not paused. {error}"
        else:
            said = f"{cluster} was paused: nothing else used it when the run had ended."
    logger.info("run %s: %s", run.uuid, said)
    Run.objects.filter(pk=run.pk).update(paused=said[:400])
    live.ring(*run.live_names())


def resume_for(run: Run) -> bool:
    """Have its cluster resumed, where that is PAUSED and whoever asked for the run wants it. False: nothing was begun.

    Once, by the rule of the ledger: a subject has one unfinished task. And not against a person who has said otherwise
    since the run was asked for.
    """
    cluster = run.cluster
    if cluster.status != Cluster.Status.PAUSED or not run.wakes(cluster.last_task):
        return False
    try:
        resume_cluster(cluster, by=run.started_by, why=f"for {run}")
    except PortalError as error:
        logger.info("cluster %s is not resumed for run %s now: %s", cluster.uuid, run.uuid, error)
        return False
    return True


def _hopeless() -> RunQuerySet:
    """Those that wait for a cluster which is gone; or for their own, which is there and could not take them for long.

    A cluster of its own costs money while nobody looks at it, as that of others does not.
    """
    tasks = Task.objects.filter(subject_type=ContentType.objects.get_for_model(Cluster), subject_id=OuterRef("cluster"))
    goes_on = tasks.filter(Q(finished=None) | Q(finished__gt=Now() - MOST_UNUSED))
    unused = Q(Exists(tasks), ~Exists(goes_on), cluster__dedicated=True)
    return Run.objects.waiting().filter(Q(cluster__status__in=GONE) | unused)


@transaction.atomic
def _give_up(run: Run) -> None:
    """Its cluster was deleted, has failed, or is of no use to it. Not where it was repaired since we looked."""
    rows = _hopeless().select_for_update(of=("self",), no_key=True, skip_locked=True)
    if rows.filter(pk=run.pk).first() is None:
        return
    cluster = run.cluster
    cause = _of_failure(cluster) if cluster.status == Cluster.Status.FAILED else of_deletion(cluster)
    if cluster.status not in GONE:
        cause = _of_stuck(cluster)
    if cluster.dedicated and cause and cause.code == "cluster_gone":
        cause = replace(cause, advice="Run it again: then a cluster is made anew.")
    elif cause is None and cluster.dedicated:
        cause = Cause(_how_it_went(cluster), advice="Run it again: then a cluster is made anew.", code="cluster_gone")
    elif cause is None:
        cause = Cause(f"{cluster.name} is {cluster.badge.word}.", advice=ANOTHER_CLUSTER, code="cluster_gone")
    at = now()
    if run.move(Run.Status.FAILED, turn=at, ended=at, **cause.fields):
        run.output.end()
        live.ring(live.WATCH_WAITING, *run.live_names())


def _of_stuck(cluster: Cluster) -> Cause:
    lost = ", ".join(cluster.lost_nodes)
    why = f"{lost} cannot be reached" if lost else f"it is {cluster.badge.word}"
    return Cause(
        f"{cluster.name}, which was made for this run, could not take it for {span(MOST_UNUSED.seconds)}: {why}.",
        advice="The cluster is taken away. Run it again: then a cluster is made anew.",
        code="dedicated_failed",
    )


def _how_it_went(cluster: Cluster) -> str:
    task = cluster.last_task
    if task and task.status == TaskStatus.CANCELLED:
        return f"{task.title} was cancelled."
    return f"Its cluster {cluster.name} is {cluster.badge.word}."


def _of_failure(cluster: Cluster) -> Cause:
    """In the words of the task that failed, if there is one."""
    advice = "Repair the cluster or choose another one, and run the job again."
    if cluster.dedicated:
        advice = "What there was of it is taken away."
    task = cluster.last_task
    plan = registry.plans.get(task.kind) if task and task.status == TaskStatus.FAILED else None
    code = "dedicated_failed" if cluster.dedicated else "cluster_failed"
    if not task or not plan:
        return Cause(f"{cluster.name} is {cluster.badge.word}.", advice=advice, code=code)
    message = f"{cluster.name} could not be {plan.participle}: {task.cause}"
    return Cause(message, task.evidence, f"{task.advice} {advice}".strip(), code)
