"""The page of a schedule, its form with the times that come, and the excluded days of a workspace."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.timezone import now
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, may
from accounts.place import person
from jobs import calendar
from jobs.cron import Cron, Moment, NotCron
from jobs.forms import CalendarForm, ScheduleForm
from jobs.models import Calendar, Job, Schedule
from jobs.schedules import (
    change_calendar,
    change_schedule,
    create_schedule,
    delete_schedule,
    run_now,
    switch_schedule,
)
from jobs.views.jobs import key_of
from jobs.views.lists import PAGE
from portal.cursors import behind, cursor_of, page_of
from portal.errors import PortalError
from portal.forms import is_overtaken, refusals_in, version_of
from workspaces.models import Workspace
from workspaces.place import row_for, workspace_for

SHOWN = 10  # times that come
EXAMPLES = (
    ("0 9 * * 1-5", "each weekday at 09:00"),
    ("0 6 * * *", "each day at 06:00"),
    ("0 * * * *", "each hour"),
    ("*/15 * * * *", "each quarter of an hour"),
    ("0 7 * * 1", "each Monday at 07:00"),
    ("30 6 1 * *", "each first of a month at 06:30"),
)


def _schedule_for(request: HttpRequest, uuid: UUID, can: Can) -> Schedule:
    found = row_for(request, Schedule, uuid, can, "workspace__cloud_config", "job__cluster", "owner")
    found.job.workspace = found.workspace
    return found


def _days(workspace: Workspace) -> calendar.Days:
    found = Calendar.objects.filter(workspace=workspace).values_list("days", flat=True).first()
    return found or []


def _times(clock: Cron, days: calendar.Days) -> list[Moment]:
    """The next ones; of those on an excluded day, that they are."""
    found = []
    for moment in clock.upcoming(now(), SHOWN):
        why = calendar.why_excluded(moment.at.date(), days)
        found.append(Moment(moment.at, f"Nothing runs then: {why}. {moment.note}".strip()) if why else moment)
    return found


def _preview(asked: Any, workspace: Workspace) -> dict[str, Any]:
    """What the times would be, of what is typed so far."""
    if not asked.get("cron"):
        return {}
    try:
        clock = Cron.read(asked["cron"], asked.get("zone", ""))
        days = calendar.read(asked.get("excluded", ""))
    except (NotCron, calendar.NoDays) as error:
        return {"trouble": str(error)}
    if asked.get("heeds_calendar"):
        days = days + _days(workspace)
    return {"words": clock.words, "times": _times(clock, days)}


def _form_page(request: HttpRequest, job: Job, of: Schedule | None) -> HttpResponse:
    asked = request.POST if request.method == "POST" else request.GET
    here = reverse("edit-schedule", args=[of.uuid]) if of else reverse("new-schedule", args=[job.uuid])
    if request.headers.get("HX-Target") == "times":
        return render(request, "jobs/schedule_form.html#times", {**_preview(asked, job.workspace), "form_page": here})
    looks = request.POST.get("look") == "times"
    form = ScheduleForm(request.POST if request.method == "POST" else None, reader=request.user, of=of)
    version = of.version if of else ""
    told = bool(of and not looks and is_overtaken(form, version))
    if request.method == "POST" and not looks and not told and form.is_valid():
        with refusals_in(form):
            if of:
                change_schedule(of, form.clock, by=person(request), **form.rules)
                messages.success(request, "The schedule is changed, from its next time on.")
                return redirect("schedule", uuid=of.uuid)
            key = form.cleaned_data["key"]
            made = create_schedule(job, form.clock, by=person(request), uuid=key, **form.rules)
            messages.success(request, f"{job} runs {made.clock.words} from now on.")
            return redirect("schedule", uuid=made.uuid)
    if looks:  # nothing is wrong with what is not done yet
        shown = request.POST.dict() | {"heeds_calendar": "heeds_calendar" in request.POST}
        form = ScheduleForm(initial=shown, reader=request.user, of=of)
    typed: Any = asked if request.method == "POST" else {}
    if of and request.method != "POST":
        typed = {"cron": of.cron, "zone": of.zone, "heeds_calendar": of.heeds_calendar}
        typed["excluded"] = calendar.written(of.excluded)
    context = {
        "job": job,
        "schedule": of,
        "version": (looks and request.POST.get("version")) or version,
        "form": form,
        "examples": EXAMPLES,
        "form_page": here,
        **_preview(typed, job.workspace),
    }
    return render(request, "jobs/schedule_form.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_schedule(request: HttpRequest, uuid: UUID) -> HttpResponse:
    job = row_for(request, Job, uuid, Can.RUN_JOBS, "workspace__cloud_config", "cluster")
    if job.deleted:
        return redirect("job", uuid=uuid)
    return _form_page(request, job, None)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def edit_schedule(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _schedule_for(request, uuid, Can.RUN_JOBS)
    return redirect("schedule", uuid=uuid) if found.deleted else _form_page(request, found.job, found)


@require_safe
@login_required
def schedule(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _schedule_for(request, uuid, Can.VIEW)
    rows = behind(found.firings.all(), cursor_of(request.GET), "-pk", among=found.firings.all())
    page = page_of(rows.select_related("run__job")[: PAGE + 1], PAGE, request.GET)
    days = found.excluded + (_days(found.workspace) if found.heeds_calendar else [])
    context = {
        "schedule": found,
        "job": found.job,
        "times": _times(found.clock, days) if found.next_at else [],
        "firings": page.rows,
        **page.context,
        "excluded": calendar.written(found.excluded).splitlines(),
        "may_change": found.deleted is None and may(request, Can.RUN_JOBS),
        "key": uuid4(),
    }
    part = "jobs/schedule.html#live" if request.headers.get("HX-Target") == "schedule-live" else ""
    return render(request, part or "jobs/schedule.html", context)


def _there(request: HttpRequest, found: Schedule, error: PortalError | None = None) -> HttpResponse:
    if error:
        messages.error(request, error.message)
    return redirect("schedule", uuid=found.uuid)


@require_POST
@login_required
def turn_schedule(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """On with the field `on`, off without."""
    found = _schedule_for(request, uuid, Can.RUN_JOBS)
    on = "on" in request.POST
    try:
        switch_schedule(found, on=on, by=person(request))
    except PortalError as error:
        return _there(request, found, error)
    messages.success(request, "It is active." if on else "It is deactivated: none of its times brings a run.")
    return _there(request, found)


@require_POST
@login_required
def run_schedule(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _schedule_for(request, uuid, Can.RUN_JOBS)
    try:
        return redirect("run", uuid=run_now(found, by=person(request), uuid=key_of(request)).uuid)
    except PortalError as error:
        return _there(request, found, error)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_schedule(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what goes and what stays; POST does it."""
    found = _schedule_for(request, uuid, Can.RUN_JOBS)
    if found.deleted:
        return redirect("schedule", uuid=uuid)
    if request.method == "POST":
        delete_schedule(found, by=person(request))
        messages.success(request, "The schedule is deleted. Its history is kept.")
        return redirect("job", uuid=found.job.uuid)
    return render(request, "jobs/schedule_delete.html", {"schedule": found, "job": found.job})


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def excluded_days(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Of a workspace. Who may look sees them; who may run jobs changes them."""
    workspace = workspace_for(request, uuid, Can.RUN_JOBS if request.method == "POST" else Can.VIEW)
    days = _days(workspace)
    form = CalendarForm(request.POST or None, initial={"days": days})
    version = version_of(days)
    if request.method == "POST" and not is_overtaken(form, version) and form.is_valid():
        change_calendar(workspace, form.cleaned_data["days"], by=person(request))
        messages.success(request, "The excluded days are changed.")
        return redirect("excluded-days", uuid=uuid)
    context = {"workspace": workspace, "form": form, "version": version, "may_change": may(request, Can.RUN_JOBS)}
    return render(request, "jobs/excluded_days.html", context)
