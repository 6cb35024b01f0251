"""The page of a run, and what people do there."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, get_for, may
from accounts.place import person
from jobs import causes, notebooks, record
from jobs.actions import cancel_run, dismiss_run, repeat_run
from jobs.models import Run, reasons
from jobs.plans import RUN
from jobs.views.jobs import clusters_for, key_of, one_run
from portal.errors import Passing, PortalError
from portal.tasks import permission
from portal.tasks.callers import for_programs
from portal.tasks.models import Step, StepStatus, Task
from portal.tasks.views import viewer
from workspaces.place import row_for


def _run_for(request: HttpRequest, uuid: UUID, can: Can, *more: str, framed: bool = True) -> Run:
    """With its job and cluster, and with what else is named. `framed`: see `row_for`."""
    run = row_for(request, Run, uuid, can, "job", "cluster", "started_by", *more, framed=framed)
    run.job.workspace = run.cluster.workspace = run.workspace
    if run.job.cluster_id == run.cluster_id:
        run.job.cluster = run.cluster
    return run


def _steps(run: Run, task: Task | None) -> list[tuple[Step, None]]:
    """As the page shows them. The task of a run that failed has done all its steps; for the person, this one failed."""
    if task is None:  # it waits for its turn, or has never had one
        return [(Step(title=step.title, name=step.name), None) for step in RUN.steps]
    steps = list(task.steps.all())
    for step in steps:
        if step.status == StepStatus.UNDONE:  # nothing brings back what a run has done: it was ended
            step.status = StepStatus.DONE
        if step.name == "run" and step.status == StepStatus.DONE and run.status == Run.Status.FAILED:
            step.status, step.detail = StepStatus.FAILED, run.cause
        elif step.name == "run" and step.status == StepStatus.RUNNING:
            step.detail = run.doing
    return [(step, None) for step in steps]


# What mends what, by the code of a cause; and where that is changed: the field of a form of the job.
_MENDS = {
    "address": ("git_url",),
    "bodo_ranks": ("ranks",),
    "bucket": ("cluster", "git_url"),
    "cluster_failed": ("repair", "cluster"),
    "cluster_gone": ("cluster",),
    "dedicated_failed": ("cluster",),
    "credential": ("credential",),
    "head_lost": ("repair",),
    "no_command": ("command",),
    "no_engine": ("cluster",),
    "no_program": ("command", "reference"),
    "no_program_module": ("command",),
    "node_lost": ("repair",),
    "ranks": ("ranks", "cluster"),
    "secrets": ("secrets",),
    "reference": ("reference",),
    "source": ("git_url", "credential"),
    "time_limit": ("time_limit",),
}
_FIELDS = {
    "cluster": ("edit-job", "id_cluster", "Choose another cluster"),
    "command": ("edit-job", "id_command", "Change the command"),
    "credential": ("job-credential", "id_git_password", "Change how it signs in"),
    "git_url": ("edit-job", "id_git_url", "Change the path"),
    "ranks": ("edit-job", "id_ranks", "Change the number of ranks"),
    "reference": ("edit-job", "id_reference", "Change the reference"),
    "secrets": ("edit-job", "id_secrets", "Give the secret variables anew"),
    "time_limit": ("edit-job", "id_time_limit", "Change the time limit"),
}


def _mends(run: Run) -> list[tuple[str, str]]:
    """Words and addresses of what mends the cause of a run that failed: none for one of before causes had codes."""
    found = []
    for mend in _MENDS.get(run.code, ()):
        if run.is_copied and mend in ("credential", "reference"):
            continue  # it has neither
        if mend == "repair":
            found.append((f"Open {run.cluster}", run.cluster.get_absolute_url()))
        else:
            name, field, words = _FIELDS[mend]
            found.append((words, f"{reverse(name, args=[run.job.uuid])}#{field}"))
    return found


def _is_mended(run: Run) -> bool:
    """Nothing is left to do: its job is deleted, or runs on another cluster now where that was the advice."""
    return bool(run.job.deleted) or (run.cluster_id != run.job.cluster_id and "cluster" in _MENDS.get(run.code, ()))


@require_safe
@login_required
def run(request: HttpRequest, uuid: UUID) -> HttpResponse:
    is_news = request.headers.get("HX-Target") == "run-head"
    more = () if is_news else ("output",)
    found = _run_for(request, uuid, Can.VIEW, "cluster__engine_version", *more, framed=not is_news)
    task = found.last_task
    found.know_task(task)
    may_change = may(request, Can.RUN_JOBS)
    may_run = may_change and found.job.deleted is None
    is_mended = _is_mended(found)
    context: dict[str, Any] = {
        "run": found,
        "task": task,
        "steps": _steps(found, task),
        "waits_for": reasons([found]).get(found.pk, ""),
        "failures": causes.sentences(found.failures),
        "first_failed": found.first_failed_rank,
        "time_limit": causes.span(found.time_limit) if found.time_limit else "",
        "quiet_since": found.quiet_since,
        "last_ended": found.last_ended_rank,
        "retried_as": Run.objects.filter(retry_of=found).first() if found.retries else None,
        "may_change": may_change,
        "may_run": may_run,
        "advice": "" if is_mended else found.advice,
        "mends": _mends(found) if may_run and not is_mended and found.status == Run.Status.FAILED else [],
        "clusters": clusters_for(found.job) if may_run and found.is_finished else None,
        "used": found.cluster.used if found.cluster.dedicated else None,
        "key": uuid4(),
        "is_news": is_news,
    }
    if is_news:  # two parts of the page, with one answer
        return render(request, "jobs/_run_news.html", context)
    permission.learn(request, *found.live_names()[:2], found.output.live_name)
    return render(request, "jobs/run.html", {**context, "viewer": viewer(found.output)})


@require_safe
@for_programs
def state(request: HttpRequest, person: Any, uuid: UUID) -> HttpResponse:
    """How it goes or has ended, in JSON; also for whoever calls with an API token.

    `status` is the word of its page. Times are of ISO 8601, or null. Where it failed: `cause` and `advice` in words,
    `code` of the cause (`jobs/causes.py`), `retry_at` where it is tried again, and `retried_as` the UUID of that run.
    """
    found = get_for(Run.objects.select_related("job", "output", "retried_as"), person, Can.VIEW, uuid=uuid)
    retried = getattr(found, "retried_as", None)
    return JsonResponse(
        {
            "uuid": found.uuid,
            "job": found.job.name,
            "number": found.number,
            "page": request.build_absolute_uri(found.get_absolute_url()),
            "output": request.build_absolute_uri(reverse("output-download", args=[found.output.uuid])),
            "commit": found.commit,
            "status": found.badge.word,
            "has_ended": found.is_finished,
            "created": found.created,
            "started": found.started,
            "ended": found.ended,
            "exit_status": found.exit_status,
            "exit_signal": found.exit_signal,
            "code": found.code,
            "cause": found.cause,
            "advice": found.advice,
            "retry_at": found.retry_at,
            "retried_as": retried and retried.uuid,
        }
    )


@require_safe
@login_required
def notebook(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """As it was executed."""
    found = _run_for(request, uuid, Can.VIEW, "notebook")
    if found.notebook is None:
        raise Http404
    context: dict[str, Any] = {"run": found, "size": found.notebook.head}
    try:
        context["cells"] = notebooks.read(notebooks.content(found))
    except PortalError as error:
        context["trouble"] = error
    return render(request, "jobs/notebook.html", context)


@require_safe
@login_required
def notebook_file(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """To be opened elsewhere: whatever a program has put there, so never as a page of the portal's own."""
    found = _run_for(request, uuid, Can.VIEW, "notebook")
    if found.notebook is None:
        raise Http404
    try:
        content = notebooks.content(found)
    except Passing as error:
        return HttpResponse(f"{error.message}\n", status=503, content_type="text/plain; charset=utf-8")
    name = f"run-{str(found.uuid)[:8]}.ipynb"
    return HttpResponse(
        content,
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"},
    )


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


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def run_with_changes(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _run_for(request, uuid, Can.RUN_JOBS, "workspace__cloud_config")
    return one_run(request, found.job, found)


@require_POST
@login_required
def repeat(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Exactly this again: see `repeat_run`."""
    found = _run_for(request, uuid, Can.RUN_JOBS, "workspace__cloud_config", "cluster__engine_version")
    try:
        return redirect("run", uuid=repeat_run(found, by=person(request), uuid=key_of(request)).uuid)
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("run", uuid=uuid)


@require_safe
@login_required
def compare(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Beside another run of its job, `with` its number; else beside the one before, or the one after the first."""
    found = _run_for(request, uuid, Can.VIEW, "cluster__engine_version")
    others = found.job.runs.exclude(pk=found.pk)
    asked = request.GET.get("with", "")
    if asked.isascii() and asked.isdecimal():
        others = others.filter(number=min(int(asked), 2**31 - 1))
    before = others.filter(number__lt=found.number).order_by("-number")
    nearest = before.first() or others.order_by("number").first()
    other = nearest and _run_for(request, nearest.uuid, Can.VIEW, "cluster__engine_version")
    rows = record.compared(found, other) if other else []
    context = {"run": found, "other": other, "rows": rows, "asked": asked, "differ": [row for row in rows if row[2]]}
    return render(request, "jobs/compare.html", context)


@require_POST
@login_required
def dismiss(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Back to the page from which it was asked for."""
    found = _run_for(request, uuid, Can.RUN_JOBS)
    if dismiss_run(found, by=person(request)):
        messages.success(request, f"Done with {found}.")
    back = request.POST.get("next", "")
    is_ours = back.startswith("/") and url_has_allowed_host_and_scheme(back, allowed_hosts=None)
    return redirect(back if is_ours else found.get_absolute_url())
