"""Whose turn it is. Runs wait as rows; the one that has waited longest takes its cluster, and then gets its task.

Called when a run was asked for, when one lets go of its cluster, and by the watch process, which hears of everything
else that matters (a cluster is RUNNING, a node answers again) and looks every few seconds besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Value
from django.db.models.functions import Now
from django.utils.timezone import now

from clusters.models import Cluster, prefetch_lost_nodes
from jobs.causes import ANOTHER_CLUSTER, Cause, of_deletion
from jobs.models import Run
from portal.tasks import ledger, live

GONE = (Cluster.Status.FAILED, Cluster.Status.TERMINATING, Cluster.Status.TERMINATED)  # nothing will begin there

ASLEEP: dict[str, str] = {Cluster.Status.PAUSED: "resumes", Cluster.Status.STOPPED: "starts"}  # until somebody does


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
        waiting = Run.objects.waiting().filter(cluster=cluster_pk).exclude(pk__in=held)
        first = waiting.values_list("pk", "uuid").first()
        if first is None:
            return None
        pk, uuid = first
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
    died in between, is let go of.
    """
    for run in Run.objects.waiting().filter(cluster__status__in=GONE).select_related("cluster")[:500]:
        _give_up(run)
    on_it = Run.objects.filter(uuid=OuterRef("occupied_by"))  # a holder that is no run lets go by itself
    kept = Cluster.objects.filter(Exists(on_it), ~Exists(on_it.unfinished())).filter(
        ~Exists(on_it.filter(tasks__status__in=("new", "inprogress")))
    )
    for pk in kept.values_list("pk", flat=True):  # one by one: whoever holds a cluster waits for no other
        kept.filter(pk=pk).update(occupied_by=None)
    free = Cluster.objects.free().filter(Exists(Run.objects.waiting().filter(cluster=OuterRef("pk")).order_by()))
    return sum(dispatch(pk) is not None for pk in free.values_list("pk", flat=True))


@transaction.atomic
def _give_up(run: Run) -> None:
    """Its cluster was deleted, or has failed, while it waited. Not where it was repaired since we looked."""
    rows = Run.objects.waiting().select_for_update(of=("self",), no_key=True, skip_locked=True)
    if rows.filter(pk=run.pk, cluster__status__in=GONE).first() is None:
        return
    cluster = run.cluster
    has_failed = cluster.status == Cluster.Status.FAILED
    repair = "Repair the cluster or choose another one, and run the job again."
    cause = Cause(f"{cluster.name} is {cluster.badge.word}.", advice=repair if has_failed else ANOTHER_CLUSTER)
    if not has_failed:
        cause = of_deletion(cluster) or cause
    at = now()
    if run.move(Run.Status.FAILED, turn=at, ended=at, cause=cause.message, advice=cause.advice):
        run.output.end()
        live.ring(*run.live_names())


def reasons(runs: Collection[Run]) -> dict[int, str]:
    """Why each of those that wait does so, as half a sentence, by the run's number in the database.

    One query for all of them, and one for the nodes of clusters that are free, unless their `cluster` was fetched
    `with_lost_nodes`.
    """
    waiting = [run for run in runs if run.is_waiting]
    if not waiting:
        return {}
    clusters = {run.cluster_id: run.cluster for run in waiting}
    prefetch_lost_nodes(cluster for cluster in clusters.values() if cluster.is_free)
    on_them = Run.objects.filter(uuid__in=[cluster.occupied_by for cluster in clusters.values() if cluster.occupied_by])
    left_there = Run.objects.filter(cluster__in=clusters, may_be_left=True)
    queue = Run.objects.waiting().filter(cluster__in=clusters).order_by()
    before: Counter[int] = Counter()
    found = {}
    wanted = {run.pk for run in waiting}
    on: dict[UUID, str] = {}
    left: dict[int, str] = {}
    fields = ("pk", "cluster", "uuid", "job__name", "number")
    parts = [
        rows.annotate(part=Value(part)).values_list("part", *fields)
        for part, rows in (("on", on_them), ("left", left_there), ("waits", queue))
    ]
    waits = []
    for part, pk, cluster_pk, uuid, name, number in parts[0].union(*parts[1:], all=True):
        if part == "on":
            on[uuid] = f"{name}, run {number}"
        elif part == "left":
            left[cluster_pk] = f"{name}, run {number}"
        else:
            waits.append((pk, cluster_pk))
    for pk, cluster_pk in sorted(waits):
        if pk in wanted:
            found[pk] = _reason(clusters[cluster_pk], before[cluster_pk], on, left.get(cluster_pk))
        before[cluster_pk] += 1
    return found


def _reason(cluster: Cluster, before: int, on: dict[UUID, str], left: str | None) -> str:
    others = f", and {before} more wait before it" if before else ""
    if does := ASLEEP.get(cluster.status):
        return f"{cluster.name} is {cluster.badge.word}, and the run begins once somebody {does} it{others}"
    if cluster.status != Cluster.Status.RUNNING:
        return f"{cluster.name} is {cluster.badge.word}{others}"
    if cluster.occupied_by and (holder := on.get(cluster.occupied_by)):
        return f"{holder} is on {cluster.name}{others}"
    if lost := cluster.lost_nodes:
        names = ", ".join(node.hostname for node in lost)
        return f"{cluster.name} is DEGRADED, {names} cannot be reached; it begins when that is repaired"
    if left:
        return f"the portal looks whether something of {left} is left on {cluster.name}"
    return f"{before} wait before it on {cluster.name}" if before else f"{cluster.name} is about to take it"
