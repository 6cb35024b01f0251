"""Templates of a workspace, the form of one, and a job of it."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from accounts.access import Can, may
from accounts.place import person
from jobs import parameters
from jobs.actions import create_job
from jobs.models import Job, Template
from jobs.parameters import Parameter
from jobs.plans import RUN
from jobs.templateforms import FromTemplateForm, TemplateForm, parameters_form
from jobs.templates import change_template, create_template, delete_template
from jobs.views.jobs import looked, own_cluster, part_of, wanted_of
from jobs.views.lists import PAGE
from portal.cursors import behind, cursor_of, page_of
from portal.forms import is_overtaken, refusals_in
from workspaces.models import Workspace
from workspaces.place import row_for, workspace_for


def _template_for(request: HttpRequest, uuid: UUID, can: Can) -> Template:
    return row_for(request, Template, uuid, can, "workspace__cloud_config", "cluster", "created_by")


@require_safe
@login_required
def templates(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = workspace_for(request, uuid, Can.VIEW)
    every = Template.objects.live().filter(workspace=workspace)
    rows = behind(every, cursor_of(request.GET), "-pk", among=every)
    page = page_of(rows.annotate(made=Count("jobs"))[: PAGE + 1], PAGE, request.GET)
    part = "#list" if request.headers.get("HX-Target") == "template-list" else ""
    context = {"workspace": workspace, "templates": page.rows, **page.context}
    return render(request, f"jobs/templates.html{part}", context)


def _form_page(request: HttpRequest, workspace: Workspace, of: Template | None, job: Job | None) -> HttpResponse:
    sent = request.POST if request.method == "POST" else None
    look = "typed" if sent and sent.get("look") else ""
    version = of.whole_version if of else ""
    form = TemplateForm(sent, workspace=workspace, template=of, of=job, look=look)
    rows = parameters_form(sent, of)
    told = bool(of and not look and is_overtaken(form, version))
    if sent and not look and not told and form.is_valid() and rows.is_valid():
        program = form.program_values
        wrong = parameters.check(rows.parameters, program)
        form.add_wrong(wrong)
        for row in rows.forms:
            if row.parameter and row.parameter.name in wrong:
                row.add_error("name", wrong[row.parameter.name])
        if not wrong:
            said = {name: form.cleaned_data[name] for name in ("name", "description")}
            with refusals_in(form):
                if of:
                    if change_template(of, **said, parameters=rows.parameters, program=program, by=person(request)):
                        messages.success(request, f"{said['name']} is changed, for jobs made of it from now on.")
                    return redirect("template", uuid=of.uuid)
                made = create_template(
                    workspace,
                    **said,
                    parameters=rows.parameters,
                    program=program,
                    cluster=job.cluster if job else None,
                    by=person(request),
                    uuid=form.cleaned_data["key"],
                )
                return redirect("template", uuid=made.uuid)
    for number, row in enumerate(rows.forms if sent and not look else (), 1):  # said above the form, too
        for why in (one for errors in row.errors.values() for one in errors):
            form.add_error(None, f"Parameter {number}: {why}")
    if sent and look:  # one more row, and nothing is wrong with what is not done yet
        typed = sent.copy()
        typed["p-TOTAL_FORMS"] = str(min(rows.total_form_count() + 1, parameters.MOST))
        rows = parameters_form(typed, of)
    came_from = of or job
    back = came_from.get_absolute_url() if came_from else reverse("templates", args=[workspace.uuid])
    context = {"workspace": workspace, "template": of, "job": job, "form": form, "rows": rows, "back": back}
    context["version"] = (sent and look and sent.get("version")) or version
    return render(request, "jobs/template_form.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_template(request: HttpRequest, uuid: UUID) -> HttpResponse:
    return _form_page(request, workspace_for(request, uuid, Can.RUN_JOBS), None, None)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def template_of_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """A template that begins as what the job is."""
    job = row_for(request, Job, uuid, Can.RUN_JOBS, "workspace__cloud_config", "cluster")
    return _form_page(request, job.workspace, None, job)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def edit_template(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _template_for(request, uuid, Can.RUN_JOBS)
    return redirect("template", uuid=uuid) if found.deleted else _form_page(request, found.workspace, found, None)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def template(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What it is; and, for whoever may run jobs, the form of a job of it."""
    found = _template_for(request, uuid, Can.RUN_JOBS if request.method == "POST" else Can.VIEW)
    workspace, form = found.workspace, None
    context = {
        "workspace": workspace,
        "template": found,
        "parameters": [Parameter.read(kept) for kept in found.parameters],
        "made": found.jobs.live().order_by("-pk")[:5],
        "plan": RUN,
    }
    if not found.deleted and may(request, Can.RUN_JOBS):
        look = looked(request)
        asked = request.POST if request.method == "POST" else request.GET
        form = FromTemplateForm(
            asked if look or request.method == "POST" else None,
            workspace=workspace,
            template=found,
            initial={"name": _next_name(found)},
            may_build=may(request, Can.MANAGE_CLUSTERS),
            look=look,
        )
        if request.method == "POST" and not look and form.is_valid():
            data = form.cleaned_data
            with refusals_in(form):
                _, run = create_job(
                    workspace,
                    name=data["name"],
                    git_url=found.program["git_url"],
                    **wanted_of(form, request),
                    due=data["due"],
                    tags=data["tags"],
                    secrets=form.secret_values,
                    by=person(request),
                    credential=form.credential,
                    template=found,
                    template_values=form.shown_values,
                    uuid=data["key"],
                )
                return redirect("run", uuid=run.uuid)
        context |= {"form": form, **own_cluster(request, form, reverse("template", args=[uuid]))}
    return render(request, part_of(request, "jobs/template.html"), context)


def _next_name(template: Template) -> str:
    """One that no job of it has yet, as far as its own numbers go."""
    return f"{template.name[:70]} {template.jobs.count() + 1}"


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_template(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what stays; POST does it."""
    found = _template_for(request, uuid, Can.RUN_JOBS)
    if found.deleted:
        return redirect("template", uuid=uuid)
    if request.method == "POST":
        delete_template(found, by=person(request))
        messages.success(request, f"The template {found} is deleted.")
        return redirect("templates", uuid=found.workspace.uuid)
    return render(request, "jobs/template_delete.html", {"template": found, "made": found.jobs.live().count()})
