"""Lists of jobs and of runs. Filters and pages are in the address; a page costs the same however long the list is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth.decorators import login_required
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery, Value
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts.access import Can, gives, may
from accounts.models import Organization
from accounts.place import enter_organization, person
from clusters.models import Cluster
from jobs.durations import Chart, charts
from jobs.forms import JobFilterForm, RunFilterForm, RunsFilterForm
from jobs.models import Job, Run, RunQuerySet, explained, newest_of_each
from portal.cursors import Page, behind, cursor_of, page_of
from portal.prepared import prepared
from workspaces.models import Workspace, WorkspaceMember
from workspaces.place import workspace_for

PAGE = 25
MOST_WORKSPACES = 100  # of which a dashboard, or a list over all of them, is made: the newest
MOST_BUSY = 50  # jobs that run or wait and are first in a list
MOST_JOBS = 30  # whose runs are looked through for a word in their names


@require_safe
@login_required
def runs(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """All runs of a workspace."""
    workspace = workspace_for(request, uuid, Can.VIEW)
    clusters = _clusters(workspace, request.GET.get("cluster"))
    may_run = may(request, Can.RUN_JOBS)
    form = RunFilterForm(request.GET, clusters=clusters, reader=request.user, may_run=may_run)
    jobs: list[Job] | None = None
    page: Page[Run] = Page([])
    if form.is_valid():
        said = form.cleaned_data
        if said["job"] or said["q"]:
            named = Q(uuid=said["job"]) if said["job"] else Q(name__icontains=said["q"])
            jobs = list(Job.objects.filter(named, workspace=workspace).order_by("-ran")[: MOST_JOBS + 1])
        of = None if jobs is None else tuple(job.pk for job in jobs[:MOST_JOBS])
        order = "pk" if said["sort"] == "old" else "-pk"
        found = _runs(workspace.pk, of, form.asked, cursor_of(request.GET), order=order, most=PAGE + 1)
        page = page_of(explained(found), PAGE, request.GET)
    context = {
        "workspace": workspace,
        "form": form,
        "runs": page.rows,
        **page.context,
        "job": jobs[0] if jobs and form.cleaned_data["job"] else None,
        "too_many": jobs is not None and len(jobs) > MOST_JOBS,
        "filtered": any(request.GET.get(name) for name in ("q", "job", "status", "cluster", "who", "days")),
        "order": _order(request),
        "key": uuid4(),
    }
    part = "jobs/runs.html#list" if request.headers.get("HX-Target") == "run-list" else ""
    return render(request, part or "jobs/runs.html", context)


@prepared
def _runs(
    workspace: int,
    jobs: tuple[int, ...] | None,
    asked: dict[str, Any],
    cursor: UUID | None,
    *,
    order: str,
    most: int,
) -> RunQuerySet:
    among = Run.objects.filter(workspace=workspace)
    rows = behind(RunFilterForm.narrow(among, asked), cursor, order, among=among)
    if jobs is not None:
        rows = newest_of_each("job", jobs, most, rows).order_by(order)
    return rows.for_lists()[:most]


@require_safe
@login_required
def all_runs(request: HttpRequest) -> HttpResponse:
    """Those of all workspaces of the organization in which the person is, as far as a dashboard is made of them.

    What needs somebody is listed where the person may do something about it.
    """
    organization = enter_organization(request)
    inside = {workspace.pk: workspace for workspace in workspaces_of(request, organization) if workspace.inside}
    may_change = {pk for pk, workspace in inside.items() if workspace.may_run}
    form = RunsFilterForm(request.GET, reader=request.user, may_run=bool(may_change))
    page: Page[Run] = Page([])
    if form.is_valid():
        order = "pk" if form.cleaned_data["sort"] == "old" else "-pk"
        asked = form.asked
        of = may_change if "needs" in asked and may_change else inside
        found = _runs_of_all(tuple(of), list(inside), asked, cursor_of(request.GET), order=order, most=PAGE + 1)
        page = page_of(explained(found), PAGE, request.GET)
    for run in page.rows:
        run.workspace = inside[run.workspace_id]
    context = {
        "organization": organization,
        "form": form,
        "runs": page.rows,
        **page.context,
        "may_change": may_change,
        "most": MOST_WORKSPACES if len(inside) == MOST_WORKSPACES else 0,
        "filtered": any(request.GET.get(name) for name in ("status", "who", "days")),
        "order": _order(request),
    }
    part = "jobs/all_runs.html#list" if request.headers.get("HX-Target") == "run-list" else ""
    return render(request, part or "jobs/all_runs.html", context)


@prepared
def _runs_of_all(
    workspaces: tuple[int, ...],
    inside: list[int],
    asked: dict[str, Any],
    cursor: UUID | None,
    *,
    order: str,
    most: int,
) -> RunQuerySet:
    among = Run.objects.filter(workspace__in=inside)
    rows = behind(RunsFilterForm.narrow(Run.objects.all(), asked), cursor, order, among=among)
    return newest_of_each("workspace", workspaces, most, rows).order_by(order).for_lists()[:most]


Columns = Callable[[int], dict[str, Any]]


def workspaces_of(request: HttpRequest, organization: Organization, columns: Columns | None = None) -> list[Any]:
    """The newest that the person may see, the newest first; with what they may do: `inside`, `may_run`, `may_build`.

    `columns`: what each of them is to have besides, by the primary key of the organization.
    """
    user = person(request)
    found: list[Any] = _workspaces(user.pk, organization.pk, columns=columns) if user.may_enter else []
    for workspace in found:
        workspace.organization = organization
        workspace.inside = gives(workspace.role, Can.VIEW)
        workspace.may_run = gives(workspace.role, Can.RUN_JOBS)
        workspace.may_build = gives(workspace.role, Can.MANAGE_CLUSTERS)
    return found


@prepared
def _workspaces(user: int, organization: int, *, columns: Columns | None) -> QuerySet[Workspace]:
    role = WorkspaceMember.objects.filter(workspace=OuterRef("pk"), user=user).values("role")
    seen = Workspace.objects.held_by(user, Can.SEE_WORKSPACE).filter(organization=organization).live()
    more = columns(organization) if columns else {}
    return seen.annotate(role=Subquery(role), **more).order_by("-pk")[:MOST_WORKSPACES]


def _order(request: HttpRequest) -> dict[str, str]:
    """For the heading of the times: the order that they are in, and the address of the same list in the other one."""
    query = request.GET.copy()
    query.pop("after", None)
    is_old = query.pop("sort", [""])[-1] == "old"
    if not is_old:
        query["sort"] = "old"
    return {"is": "ascending" if is_old else "descending", "other": query.urlencode()}


def _clusters(workspace: Workspace, chosen: str | None) -> list[Cluster]:
    """What a list can be narrowed to: those that are there, and the one that was asked for, which may be gone."""
    try:
        asked = UUID(chosen or "")
    except ValueError:
        asked = None
    return _choices(workspace.pk, asked)


@prepared
def _choices(workspace: int, asked: UUID | None) -> QuerySet[Cluster]:
    there = ~Q(status=Cluster.Status.TERMINATED)
    rows = Cluster.objects.filter(there | Q(uuid=asked) if asked else there, workspace=workspace)
    return rows.only("uuid", "name", "status", "workspace").order_by("name", "-pk")[:200]


@require_safe
@login_required
def jobs(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What can be run, with the last run of each: first, unless they are asked for by name, those that do or wait."""
    workspace = workspace_for(request, uuid, Can.VIEW)
    clusters = _clusters(workspace, request.GET.get("cluster"))
    form = JobFilterForm(request.GET, clusters=clusters)
    page: Page[Job] = Page([])
    lasts: dict[int, Run] = {}
    first: list[Job] = []
    bars: dict[int, Chart] = {}
    if form.is_valid():
        by_name = form.cleaned_data["sort"] == "name"
        rows = (_by_name if by_name else _busy_first)(workspace.pk, form.asked, cursor_of(request.GET), most=PAGE + 1)
        first = [job for job in rows if job.is_busy]
        page = page_of([job for job in rows if not job.is_busy], PAGE, request.GET)
        shown = {job.pk: job for job in (*first, *page.rows)}
        lasts = {run.job_id: run for run in explained(_lasts(tuple(shown)))}
        for run in lasts.values():
            run.job = shown[run.job_id]
        bars = charts(shown)
    context: dict[str, Any] = {
        "workspace": workspace,
        "form": form,
        "rows": [(job, lasts.get(job.pk), bars.get(job.pk)) for job in (*first, *page.rows)],
        **page.context,
        "clusters": any(cluster.status != Cluster.Status.TERMINATED for cluster in clusters),
        "filtered": any(request.GET.get(name) for name in ("q", "cluster", "tag")),
        "key": uuid4(),
    }
    part = "jobs/jobs.html#list" if request.headers.get("HX-Target") == "job-list" else ""
    return render(request, part or "jobs/jobs.html", context)


@prepared
def _by_name(workspace: int, asked: dict[str, Any], cursor: UUID | None, *, most: int) -> QuerySet[Any]:
    among = Job.objects.filter(workspace=workspace)
    rows = JobFilterForm.narrow(among.live(), workspace, asked).annotate(is_busy=Value(False))
    return behind(rows, cursor, "name", "pk", among=among).for_lists()[:most]


@prepared
def _busy_first(workspace: int, asked: dict[str, Any], cursor: UUID | None, *, most: int) -> QuerySet[Any]:
    """A page of those of which nothing runs or waits; and, where it is the first page, before it the others."""
    among, order = Job.objects.filter(workspace=workspace), ("-ran", "-pk")
    rows = JobFilterForm.narrow(among.live(), workspace, asked)
    unfinished = Run.objects.unfinished().filter(job=OuterRef("pk"))
    calm = behind(rows.filter(~Exists(unfinished)), cursor, *order, among=among).values("pk")[:most]
    wanted = Q(pk__in=calm)
    if cursor is None:
        of = Run.objects.unfinished().filter(workspace=workspace).values("job")
        wanted |= Q(pk__in=rows.filter(pk__in=of).order_by("-ran").values("pk")[:MOST_BUSY])
    running = Run.objects.filter(job=OuterRef("pk"), status=Run.Status.INPROGRESS)
    marked = Job.objects.filter(wanted).annotate(is_busy=Exists(unfinished), is_running=Exists(running))
    return marked.for_lists().order_by(F("is_running").desc(), *order)


@prepared
def _lasts(jobs: tuple[int, ...]) -> RunQuerySet:
    """The last run of each. The jobs are known already, and who asked for a run is in no row."""
    return newest_of_each("job", jobs, 1, Run.objects.all()).for_lists().select_related(None).select_related("cluster")
