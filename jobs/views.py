"""The dashboard, jobs and runs. The dashboard is here because it shows everything, and this app may name all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import SuspiciousFileOperation
from django.db.models import OuterRef, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils._os import safe_join
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, OrganizationRole, get_for
from accounts.place import enter_organization, person
from clusters.models import Cluster
from jobs import causes, repositories
from jobs.actions import cancel_run, change_credential, create_job, start_run
from jobs.dispatch import reasons
from jobs.forms import CredentialForm, JobForm
from jobs.models import Job, Run
from jobs.plans import RUN
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.tasks.models import Step, StepStatus, Task
from portal.tasks.views import viewer
from workspaces.models import Workspace
from workspaces.place import enter, workspace_for


def _has(request: HttpRequest, workspace: Workspace, can: Can) -> bool:
    return Workspace.objects.where(request.user, can).filter(pk=workspace.pk).exists()


@require_safe
@login_required
def dashboard(request: HttpRequest) -> HttpResponse:
    """What runs, what failed, what waits; or, until there is a run, the steps to the first one."""
    organization = enter_organization(request)
    workspaces = Workspace.objects.where(request.user, Can.SEE_WORKSPACE).filter(organization=organization).live()
    inside = Workspace.objects.where(request.user, Can.VIEW).filter(organization=organization)
    clusters = Cluster.objects.filter(workspace__in=inside).live()
    runs = Run.objects.filter(job__workspace__in=inside).select_related("job__workspace__organization", "cluster")
    ready = inside.filter(status=Workspace.Status.READY).order_by("pk").first()
    is_admin = getattr(request, "roles", (None, None))[0] == OrganizationRole.ADMIN
    context = {
        "organization": organization,
        "is_admin": is_admin,
        "has_config": organization.cloud_configs.exists(),
        "workspaces": workspaces.select_related("cloud_config").order_by("name"),
        "ready": ready,
        "may_run": ready is not None and _has(request, ready, Can.RUN_JOBS),
        "may_build": ready is not None and _has(request, ready, Can.MANAGE_CLUSTERS),
        "clusters": clusters.select_related("workspace__organization", "engine_version")
        .with_lost_nodes()
        .order_by("-pk")[:8],
        "cluster_count": clusters.filter(status=Cluster.Status.RUNNING).count(),
        "running": runs.unfinished().order_by("-pk")[:8],
        "recent": runs.exclude(status__in=(Run.Status.NEW, Run.Status.INPROGRESS)).order_by("-pk")[:8],
        "failed": runs.filter(status=Run.Status.FAILED).order_by("-pk")[:3],
    }
    part = "dashboard.html#live" if request.headers.get("HX-Target") == "dashboard-live" else ""
    return render(request, part or "dashboard.html", context)


@require_safe
@login_required
def jobs(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = workspace_for(request, uuid, Can.VIEW)
    shown = list(Job.objects.filter(workspace=workspace).select_related("cluster").order_by("-pk")[:200])
    last = Run.objects.filter(job=OuterRef("job")).order_by("-number").values("pk")[:1]
    lasts = Run.objects.filter(job__in=shown, pk=Subquery(last)).select_related("job", "cluster")
    runs = {run.job_id: run for run in lasts}
    context = {
        "workspace": workspace,
        "rows": [(job, runs.get(job.pk)) for job in shown],
        "clusters": workspace.clusters.live().exists(),
    }
    part = "jobs/jobs.html#list" if request.headers.get("HX-Target") == "job-list" else ""
    return render(request, part or "jobs/jobs.html", context)


def _example(name: str) -> dict[str, str]:
    """What to fill in to run it."""
    return {
        "name": name,
        "command": f"{name.replace('-', '_')}.py",
        "git_url": f"{settings.PORTAL_URL}/examples/{name}",
    }


@login_required
def new_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = workspace_for(request, uuid, Can.VIEW)
    workspace_for(request, uuid, Can.RUN_JOBS)
    examples = {name: _example(name) for name in repositories.names()}
    initial = {"cluster": request.GET.get("cluster"), **examples.get(request.GET.get("example", ""), {})}
    form = JobForm(request.POST or None, workspace=workspace, initial=initial)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            _, run = create_job(
                workspace,
                name=data["name"],
                cluster=data["cluster"],
                git_url=data["git_url"],
                reference=data["reference"],
                command=data["command"],
                time_limit=data["time_limit"] * 60 if data["time_limit"] else None,
                by=person(request),
                credential=form.credential,
                uuid=data["key"],
            )
            return redirect("run", uuid=run.uuid)
    return render(request, "jobs/job_new.html", {"workspace": workspace, "form": form, "examples": examples})


def _job_for(request: HttpRequest, uuid: UUID, can: Can) -> Job:
    queryset = Job.objects.select_related("workspace__organization", "workspace__cloud_config", "cluster", "created_by")
    job = get_for(queryset, request.user, can, uuid=uuid)
    enter(request, job.workspace)
    return job


@require_safe
@login_required
def job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _job_for(request, uuid, Can.VIEW)
    context = {
        "job": found,
        "runs": found.runs.select_related("job", "cluster", "started_by", "output").order_by("-number")[:50],
        "time_limit": causes.span(found.time_limit or settings.RUN_SECONDS),
        "may_change": Job.objects.all().may_change(request.user, found),
        "key": uuid4(),
    }
    part = "jobs/job.html#runs" if request.headers.get("HX-Target") == "run-list" else ""
    return render(request, part or "jobs/job.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def job_credential(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What the job signs in to its repository with: to be replaced or taken away, and never shown."""
    found = _job_for(request, uuid, Can.RUN_JOBS)
    if "take_away" in request.POST:
        change_credential(found, None, by=person(request))
        messages.success(request, f"{found} has no password any more.")
        return redirect("job", uuid=uuid)
    form = CredentialForm(request.POST or None, initial={"git_username": found.git_username}, git_url=found.git_url)
    if request.method == "POST" and form.is_valid():
        if form.credential:
            change_credential(found, form.credential, by=person(request))
            messages.success(request, f"{found} signs in with what you have given, from its next run on.")
            return redirect("job", uuid=uuid)
        form.add_error("git_password", "Give the password or access token.")
    return render(request, "jobs/job_credential.html", {"job": found, "form": form})


@login_required
@require_POST
def run_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _job_for(request, uuid, Can.RUN_JOBS)
    try:
        key = UUID(request.POST.get("key", "")) if request.POST.get("key") else None
        return redirect("run", uuid=start_run(found, by=person(request), uuid=key).uuid)
    except ValueError as error:
        raise Http404 from error
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("job", uuid=uuid)


def _run_for(request: HttpRequest, uuid: UUID, can: Can) -> Run:
    queryset = Run.objects.select_related(
        *("job__workspace__organization", "job__workspace__cloud_config", "cluster__engine_version"),
        *("output", "started_by"),
    )
    run = get_for(queryset, request.user, can, uuid=uuid)
    enter(request, run.job.workspace)
    return run


def _steps(run: Run, task: Task | None) -> list[tuple[Step, None]]:
    """As the page shows them. The task of a run that failed has done all its steps; for the person, this one failed."""
    if task is None:  # it waits for its turn, or has never had one
        return [(Step(title=step.title, name=step.name), None) for step in RUN.steps]
    steps = list(task.steps.select_related("task"))
    for step in steps:
        if step.name == "run" and step.status == StepStatus.DONE and run.status == Run.Status.FAILED:
            step.status, step.detail = StepStatus.FAILED, run.cause
        elif step.name == "run" and step.status == StepStatus.RUNNING:
            step.detail = run.doing
    return [(step, None) for step in steps]


@require_safe
@login_required
def run(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _run_for(request, uuid, Can.VIEW)
    task = found.last_task
    context: dict[str, Any] = {
        "run": found,
        "task": task,
        "steps": _steps(found, task),
        "waits_for": reasons([found]).get(found.pk, ""),
        "failures": causes.sentences(found.failures),
        "time_limit": causes.span(found.time_limit) if found.time_limit else "",
        "quiet_since": found.quiet_since,
        "last_ended": found.last_ended_rank,
        "may_change": Run.objects.all().may_change(request.user, found),
        "key": uuid4(),
    }
    target = request.headers.get("HX-Target", "")
    part = {"run-head": "jobs/run.html#head", "run-facts": "jobs/run.html#facts"}.get(target)
    if part is None:
        context["viewer"] = viewer(found.output)
    return render(request, part or "jobs/run.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def cancel(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what will be ended; POST asks for it."""
    found = _run_for(request, uuid, Can.RUN_JOBS)
    if request.method == "POST":
        if not cancel_run(found, by=person(request)):
            messages.info(request, "It had ended already.")
        return redirect("run", uuid=uuid)
    return render(request, "jobs/run_cancel.html", {"run": found})


@require_safe
def example_file(request: HttpRequest, name: str, file: str) -> HttpResponse:
    """Git's plain HTTP protocol over files: the examples are public, and nodes clone them from here."""
    if name not in repositories.names():
        raise Http404
    try:
        path = Path(safe_join(repositories.publish(name), file))
        return HttpResponse(path.read_bytes(), content_type="application/octet-stream")
    except (SuspiciousFileOperation, OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Http404 from error
