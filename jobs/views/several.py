"""What is done with several runs of a list at once."""

from __future__ import annotations

from uuid import UUID, uuid4, uuid5

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from accounts.access import Can
from accounts.place import person
from jobs.actions import cancel_run, start_run
from jobs.models import Run
from jobs.views.jobs import key_of
from portal.errors import PortalError
from workspaces.place import workspace_for

MOST = 100  # runs that are chosen at once
VERBS = {"again": "Run again", "cancel": "Cancel"}


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def change_runs(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what happens to those that are chosen, and which are left out; POST does it."""
    workspace = workspace_for(request, uuid, Can.RUN_JOBS)
    sent = request.POST if request.method == "POST" else request.GET
    what = sent.get("what", "")
    if what not in VERBS:
        return redirect("runs", uuid=uuid)
    rows = Run.objects.filter(workspace=workspace, uuid__in=_uuids(sent.getlist("run"))).for_lists()
    runs, left_out = _sorted(what, list(rows.order_by("-pk")))
    if not runs:
        said = "; ".join(why for _, why in left_out) or "Choose runs by the boxes at the beginning of their rows first."
        messages.error(request, said)
        return redirect("runs", uuid=uuid)
    if request.method == "POST":
        done, key = 0, key_of(request) or uuid4()
        for run in runs:
            run.job.workspace = run.cluster.workspace = run.workspace = workspace
            try:
                if what == "cancel":
                    done += cancel_run(run, by=person(request))
                else:  # asked twice with one form, it begins once
                    start_run(run.job, by=person(request), uuid=uuid5(key, str(run.uuid)))
                    done += 1
            except PortalError as error:
                messages.error(request, f"{run}: {error.message} {error.advice}".strip())
        if done:
            words = "cancelled" if what == "cancel" else "begun"
            messages.success(request, f"{done} {'run was' if done == 1 else 'runs were'} {words}.")
        return redirect("runs", uuid=uuid)
    context = {
        "workspace": workspace,
        "what": what,
        "verb": VERBS[what],
        "runs": runs,
        "left_out": left_out,
    }
    return render(request, "jobs/change_runs.html", context | {"key": uuid4()})


def _uuids(words: list[str]) -> list[UUID]:
    """What is none is left out."""
    found = []
    for word in dict.fromkeys(words[:MOST]):
        try:
            found.append(UUID(word))
        except ValueError:
            continue
    return found


def _sorted(what: str, found: list[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Those with which it can be done, and the others with why not. A job is run again once."""
    runs, left_out, jobs = [], [], set()
    for run in found:
        why = ""
        if what == "cancel" and run.is_finished:
            why = f"{run} has ended"
        elif what == "cancel" and run.is_cancelling:
            why = f"{run} is being cancelled"
        elif what == "again" and run.job.deleted:
            why = f"the job of {run} was deleted"
        elif what == "again" and run.job_id in jobs:
            why = f"{run} is of a job that is run already"
        if why:
            left_out.append((run, why))
        else:
            jobs.add(run.job_id)
            runs.append(run)
    return runs, left_out
