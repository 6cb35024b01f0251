from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts.access import Can, may
from clusters import actions, charts, idle, life, samples
from clusters.actions import OWN_REPAIRS, own_repairs
from clusters.charts import NodeRow
from clusters.forms.lists import ClusterFilterForm, GoneFilterForm
from clusters.models import Cluster, ClusterQuerySet, Node
from clusters.waysin import ways_in
from portal.cursors import Page, behind, cursor_of, page_of
from portal.prepared import prepared
from portal.tasks.causes import explain_task
from portal.tasks.history import Progress, progress
from portal.tasks.models import Task
from workspaces.models import Workspace
from workspaces.place import row_for, workspace_for

PAGE = 25
MOST_RUNS = 10  # of a cluster, on its page
MOST_OPEN = 5  # clusters of a list whose details are shown at once


@require_safe
@login_required
def clusters(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Those that are there, or those that are gone; what is found, in which order and what is dropped down of it is in
    the address.
    """
    workspace = workspace_for(request, uuid, Can.VIEW)
    tab = request.GET.get("tab", "")
    gone = tab == "gone"
    form = GoneFilterForm(request.GET) if gone else ClusterFilterForm(request.GET)
    page: Page[Cluster] = Page([])
    if form.is_valid():
        found = _found(
            workspace.pk, form.asked, cursor_of(request.GET), form=type(form), order=form.order, most=PAGE + 1
        )
        page = page_of(found, PAGE, request.GET)
    rows = _rows(request, workspace, page.rows)
    context = {
        "workspace": workspace,
        "rows": rows,
        "going_on": any(row.progress and row.task and not row.task.is_finished for row in rows),
        "may_choose": not gone and may(request, Can.MANAGE_CLUSTERS),
        **page.context,
        "form": form,
        "gone": gone,
        "tab": tab if tab in ("gone", "jobs") else "",
        "filtered": any(request.GET.get(name) for name in ("q", "status", "engine")),
        "had_some": not page.rows and workspace.clusters.exists(),
    }
    part = "clusters/clusters.html#list" if request.headers.get("HX-Target") == "cluster-list" else ""
    return render(request, part or "clusters/clusters.html", context)


@prepared
def _found(
    workspace: int,
    asked: dict[str, Any],
    cursor: UUID | None,
    *,
    form: type[GoneFilterForm],
    order: str,
    most: int,
) -> ClusterQuerySet:
    among = form.placed(Cluster.objects.filter(workspace=workspace), order)
    rows = behind(form.narrow(among, asked), cursor, *form.ORDERS[order], among=among)
    return rows.for_lists().with_lost_nodes()[:most]


@dataclass(frozen=True)
class Owner:
    """The run that a cluster is dedicated to."""

    job: str
    number: int
    uuid: UUID

    @classmethod
    def of(cls, clusters: Collection[Cluster]) -> dict[int, Self]:
        """By the cluster's primary key."""
        dedicated = [cluster.pk for cluster in clusters if cluster.dedicated]
        if not dedicated:
            return {}
        fields = ("pk", "runs__job__name", "runs__number", "runs__uuid")
        rows = Cluster.objects.filter(pk__in=dedicated, runs__isnull=False).values_list(*fields)
        return {pk: cls(*words) for pk, *words in rows}

    def __str__(self) -> str:
        return f"{self.job}, run {self.number}"


@dataclass(frozen=True)
class Row:
    """Of a list of clusters: the last task of each, and what is dropped down of it, if it is open.

    `toggle` is the query of the same list with this one opened, or closed again.
    """

    cluster: Cluster
    task: Task | None
    toggle: str
    progress: Progress | None = None
    nodes: tuple[Node, ...] = ()
    owner: Owner | None = None

    @property
    def tasks(self) -> list[Task]:
        """For the table of tasks."""
        return [self.task] if self.task else []


def _rows(request: HttpRequest, workspace: Workspace, found: list[Cluster]) -> list[Row]:
    view = request.GET.copy()
    asked = dict.fromkeys(view.pop("open", []))
    tasks = Cluster.objects.last_tasks(found)
    open_ = [row for row in found if str(row.uuid) in asked and row.pk in tasks][-MOST_OPEN:]
    whole = Task.objects.select_related("asked_by", "output").filter(pk__in=[tasks[row.pk].pk for row in open_])
    tasks |= {task.subject_id: task for task in whole} if open_ else {}
    nodes = Node.objects.filter(cluster__in=open_).defer("host_private", "host_public") if open_ else ()
    owners = Owner.of(found)
    possible: dict[tuple[object, ...], frozenset[str]] = {}  # which is the same for most of them
    start = f"{view.urlencode()}&" if view else ""
    rows = []
    for row in found:
        row.workspace = workspace
        alike = row.status, row.occupied_by is None, row.spot, row.dedicated
        if alike not in possible:
            possible[alike] = frozenset(life.possible(row))
        row.possible = possible[alike]
        others = "&".join(f"open={one.uuid}" for one in open_ if one is not row)
        if row not in open_:
            toggle = f"{start}{others}{'&' if others else ''}open={row.uuid}"
            rows.append(Row(row, tasks.get(row.pk), toggle, owner=owners.get(row.pk)))
            continue
        theirs = tuple(node for node in nodes if node.cluster_id == row.pk)
        toggle, mine = f"{start}{others}".rstrip("&"), owners.get(row.pk)
        rows.append(Row(row, tasks[row.pk], toggle, progress(tasks[row.pk]), theirs, mine))
    return rows


def cluster_for(request: HttpRequest, uuid: UUID, can: Can) -> Cluster:
    return row_for(request, Cluster, uuid, can, "workspace__cloud_config", "engine_version", "created_by")


@dataclass(frozen=True)
class Period:
    """Of the charts on a cluster's page. It is in the address, as `last`."""

    words: str
    seconds: float
    other: str
    other_words: str


PERIODS = {
    "": Period("10 minutes", 600, "hour", "last hour"),
    "hour": Period("hour", 3600, "", "last 10 minutes"),
}


def _with_charts(nodes: list[Node], known: Mapping[int, list[samples.Sample]], period: Period) -> list[NodeRow]:
    at = time.time()
    return [
        charts.row(node, known.get(node.pk, ()), now=at, seconds=period.seconds, period=f"the last {period.words}")
        for node in nodes
    ]


@require_safe
@login_required
def cluster(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """All that is known of it. Its nodes with their charts are fetched more often than the rest, and alone."""
    found = cluster_for(request, uuid, Can.VIEW)
    nodes = list(found.nodes.all())
    for node in nodes:
        node.cluster = found
    period = PERIODS.get(request.GET.get("last", ""), PERIODS[""])
    running = found.status == Cluster.Status.RUNNING
    known = samples.of([node.pk for node in nodes], period.seconds) if running else {}
    rows = _with_charts(nodes, known, period)
    has_network = any(row.network for row in rows)
    context = {"cluster": found, "period": period, "nodes": rows, "has_network": has_network}
    if request.headers.get("HX-Target") == "cluster-nodes":
        return render(request, "clusters/cluster.html#nodes", context)
    found.possible = life.possible(found)
    announced = [node for node in nodes if running and node.notice]
    terminals = list(found.terminals.select_related("person").order_by("pk"))
    tasks = list(found.tasks.select_related("asked_by", "output").order_by("-pk")[:10])
    runs = found.runs.around(found, MOST_RUNS)
    # What is on it comes before what waits.
    unfinished = sorted((run for run in runs if not run.is_finished), key=lambda run: (run.status, run.pk))
    lacks_something = found.is_degraded or found.status == Cluster.Status.FAILED
    failed = tasks[0] if tasks and found.status == Cluster.Status.FAILED else None
    why, may_change = explain_task(failed) if failed else None, may(request, Can.MANAGE_CLUSTERS)
    context |= {
        "why": why,
        "announced": announced,
        "lost": [node for node in nodes if node.state in Node.LOST],
        "ways_out": found.ways_out(why) if why and may_change else [],
        "owner": Owner.of([found]).get(found.pk),
        "ways": ways_in(found, nodes),
        "terminals": terminals,
        "idle": idle.clock(found, nodes, terminals, tasks, idle.load(known), unfinished),
        "gave_up": found.auto_repair and lacks_something and len(own_repairs(found)) >= OWN_REPAIRS,
        "most_repairs": OWN_REPAIRS,
        "tasks": tasks,
        "runs": runs[:MOST_RUNS],
        "may_change": may_change,
        "on_it": actions.who_is_on(found, runs),
    }
    part = "clusters/cluster.html#live" if request.headers.get("HX-Target") == "cluster-live" else ""
    return render(request, part or "clusters/cluster.html", context)
