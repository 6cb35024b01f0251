"""What runs, what failed and what waits. It is in this app because it shows everything, and this app may name all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth.decorators import login_required
from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet, Value, prefetch_related_objects
from django.db.models.expressions import RawSQL
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.timezone import now
from django.views.decorators.http import require_safe

from accounts.access import Can, OrganizationRole, may
from accounts.place import enter_organization
from clusters.models import Cluster
from jobs.models import Run, Schedule, explained, newest_of_each
from jobs.views.lists import MOST_WORKSPACES, workspaces_of
from portal.prepared import prepared
from workspaces.models import Stray, Workspace
from workspaces.place import workspace_for

SHOWN = 8  # rows of each panel
COMING = 5  # schedules whose time comes next
WINDOW = 7  # days
FIGURES = ("going", "waiting", "failed", "finished", "needing")
MOST_COUNTED = 1000  # of a figure; more is "1,000+"


@require_safe
@login_required
def dashboard(request: HttpRequest) -> HttpResponse:
    """Of all workspaces in which the person is; or, until there is a run, the steps to the first one."""
    organization = enter_organization(request)
    is_admin = getattr(request, "roles", (None, None))[0] == OrganizationRole.ADMIN
    workspaces = workspaces_of(request, organization, _strays if is_admin else None)
    inside = [workspace for workspace in reversed(workspaces) if workspace.inside]
    may_change = {workspace.pk for workspace in inside if workspace.may_run}
    ready = next((workspace for workspace in inside if workspace.status == Workspace.Status.READY), None)
    context = {
        "organization": organization,
        "is_admin": is_admin,
        "workspaces": workspaces,
        "most": len(workspaces) == MOST_WORKSPACES,
        "ready": ready,
        "may_run": ready is not None and ready.may_run,
        "may_build": ready is not None and ready.may_build,
        "may_change": may_change,
        **_state(inside, may_change),
    }
    if is_admin:
        there = Stray.objects.there().filter(cloud_config__organization=organization)
        context["strays"] = workspaces[0].strays if workspaces else there.count()
    if not context["runs"]:
        context["has_config"] = organization.cloud_configs.live().exists()
    part = "dashboard.html#live" if request.headers.get("HX-Target") == "dashboard-live" else ""
    return render(request, part or "dashboard.html", context)


def _strays(organization: int) -> dict[str, Any]:
    return {"strays": _count(Stray.objects.there().filter(cloud_config__organization=organization))}


@require_safe
@login_required
def workspace_dashboard(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = workspace_for(request, uuid, Can.VIEW)
    mine = {workspace.pk} if may(request, Can.RUN_JOBS) else set()
    context = {"workspace": workspace, **_state([workspace], mine)}
    part = "jobs/workspace_dashboard.html#live" if request.headers.get("HX-Target") == "dashboard-live" else ""
    return render(request, part or "jobs/workspace_dashboard.html", context)


def _state(workspaces: Sequence[Workspace], mine: Collection[int]) -> dict[str, Any]:
    """What goes on in these workspaces, in four queries: runs with their figures, clusters, reasons, what comes next.

    In those that are `mine` the person may run jobs: only there does a run that failed need them.
    Each row has the figures as columns: where there is no row, they are nothing.
    """
    by_pk = {workspace.pk: workspace for workspace in workspaces}
    runs = _runs(tuple(by_pk), list(by_pk), list(mine) or None, now() - timedelta(days=WINDOW))
    some = _clusters(list(by_pk))
    known = {cluster.pk: cluster for cluster in some}
    for run in runs:
        run.workspace = by_pk[run.workspace_id]
        run.cluster = known.get(run.cluster_id, run.cluster)
    for cluster in some:
        cluster.workspace = by_pk[cluster.workspace_id]
    prefetch_related_objects([cluster.workspace for cluster in some if cluster.warned], "cloud_config")
    coming = _coming(list(by_pk))
    for schedule in coming:
        schedule.workspace = schedule.job.workspace = by_pk[schedule.workspace_id]
    status = Run.Status
    waits = [run for run in reversed(explained(runs)) if run.status == status.NEW]
    return {
        "runs": runs,
        "needs": [run for run in runs if run.needs_you and run.workspace_id in mine][:SHOWN],
        "idle": [cluster for cluster in some if cluster.warning and cluster.workspace_id in mine],
        "going": [run for run in runs if run.status == status.INPROGRESS][:SHOWN],
        "waits": waits[:SHOWN],
        "recent": [run for run in runs if run.is_finished][:SHOWN],
        "clusters": some,
        "coming": coming,
        "figures": {name: _figure(runs, f"count_{name}") for name in FIGURES}
        | {"clusters": _figure(some, "count_running")},
        "window": WINDOW,
        "key": uuid4(),
    }


@prepared
def _runs(workspaces: tuple[int, ...], these: list[int], mine: list[int] | None, since: datetime) -> QuerySet[Any]:
    """`these` are the workspaces."""
    status = Run.Status
    of_these = Run.objects.filter(workspace__in=these)
    lately = of_these.since(since)
    needing = Run.objects.filter(workspace__in=mine or [], needs_you=True)
    shown = newest_of_each(
        "workspace",
        workspaces,
        SHOWN,
        *([needing] if mine else []),
        Run.objects.filter(status=status.INPROGRESS),
        Run.objects.filter(status=status.NEW).order_by("pk"),  # the one that waits longest first
        Run.objects.exclude(status__in=(status.NEW, status.INPROGRESS)),
        of_all=True,
    )
    figures = {
        "going": of_these.filter(status=status.INPROGRESS),
        "waiting": of_these.filter(status=status.NEW),
        "failed": lately.filter(status=status.FAILED),
        "finished": lately.filter(status=status.FINISHED),
        "needing": needing,
    }
    counted = {f"count_{name}": _count(rows) for name, rows in figures.items()}
    return shown.annotate(**counted).for_lists().order_by("-pk")


@prepared
def _clusters(workspaces: list[int]) -> QuerySet[Any]:
    there = Cluster.objects.filter(workspace__in=workspaces).live()
    running = _count(there.ready())
    rows = there.annotate(count_running=running).with_lost_nodes()
    return rows.order_by(Cluster.objects.warned_first(), "-pk")[:SHOWN]


@prepared
def _coming(workspaces: list[int]) -> QuerySet[Schedule]:
    """The schedules there whose time comes next."""
    fields = ("uuid", "workspace", "cron", "zone", "next_at", "trouble", "job__name")
    coming = Schedule.objects.coming().filter(workspace__in=workspaces).select_related("job")
    return coming.only(*fields)[:COMING]


def _count(rows: QuerySet[Any]) -> RawSQL | Value:
    """How many there are, but no further than `MOST_COUNTED` and one more, as a column of another query."""
    try:
        sql, params = rows.order_by().values("pk")[: MOST_COUNTED + 1].query.sql_with_params()
    except EmptyResultSet:  # of no workspace
        return Value(0)
    return RawSQL(f"SELECT count(*) FROM ({sql}) AS counted", params)  # noqa: S608, S611 (Django's own SQL)


@dataclass(frozen=True)
class Figure:
    number: int

    def __str__(self) -> str:
        return f"{min(self.number, MOST_COUNTED):,}{'+' if self.number > MOST_COUNTED else ''}"

    def __bool__(self) -> bool:
        return self.number > 0


def _figure(rows: Sequence[Any], name: str) -> Figure:
    return Figure(getattr(rows[0], name) if rows else 0)
