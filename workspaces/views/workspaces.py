"""Workspaces: which there are, how each is, and what is done to it as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Exists, OuterRef, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from accounts.access import Can, get_for, may
from accounts.forms import ConfirmDeleteForm
from accounts.models import Organization
from accounts.place import enter_organization, person
from portal import clouds
from portal.cursors import Page, behind, cursor_of, page_of
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.tasks.causes import explain_task
from portal.tasks.ledger import why_not_again
from portal.tasks.models import Step, StepStatus, Task, TaskStatus
from portal.tasks.plans import Plan
from workspaces import choiceforms, plans
from workspaces.actions import (
    alive_in,
    create_workspace,
    delete_workspace,
    forget_workspace,
    rename,
    update_workspace,
)
from workspaces.forms import RenameForm, WorkspaceFilterForm, WorkspaceForm
from workspaces.models import Workspace
from workspaces.place import workspace_for

PAGE = 25
MOST_CONFIGS = 100  # that the list can be narrowed to


@require_safe
@login_required
def workspaces(request: HttpRequest) -> HttpResponse:
    """Those that are there; what is found by name, uuid, status and cloud configuration is in the address."""
    organization = enter_organization(request)
    seen = Workspace.objects.where(request.user, Can.SEE_WORKSPACE).filter(organization=organization)
    configs = seen.values_list("cloud_config__uuid", "cloud_config__name").order_by("cloud_config__name").distinct()
    form = WorkspaceFilterForm(request.GET, configs=list(configs[:MOST_CONFIGS]))
    page: Page[Workspace] = Page([])
    if form.is_valid():
        inside = Workspace.objects.where(request.user, Can.VIEW).filter(pk=OuterRef("pk"))
        rows = behind(form.narrow(seen), cursor_of(request.GET), *form.order, among=seen)
        rows = rows.select_related("cloud_config", "created_by").annotate(inside=Exists(inside))
        page = page_of(rows[: PAGE + 1], PAGE, request.GET)
        _say_what_goes_on(page.rows)
    context = {
        "organization": organization,
        "workspaces": page.rows,
        **page.context,
        "form": form,
        "filtered": any(request.GET.get(name) for name in ("q", "status", "cloud")),
    }
    part = "workspaces/workspaces.html#list" if request.headers.get("HX-Target") == "workspace-list" else ""
    return render(request, part or "workspaces/workspaces.html", context)


def _say_what_goes_on(rows: Sequence[Workspace]) -> None:
    """Below the names of those that are not READY: the step that goes on, or why it failed. Two queries for all."""
    settled = (Workspace.Status.READY, Workspace.Status.TERMINATED)
    of = {row.pk: row for row in rows if row.status not in settled}
    tasks = Task.objects.of(Workspace, Workspace.objects.filter(pk__in=of)).order_by("pk") if of else ()
    last = {task.subject_id: task for task in tasks}
    running = Step.objects.filter(task__in=last.values(), status=StepStatus.RUNNING) if last else ()
    steps = {step.task_id: step for step in running}
    for pk, task in last.items():
        step = steps.get(task.pk)
        of[pk].says = task.cause or (step.title if step and not task.is_finished else "")


@login_required
def new_workspace(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    if not organization.cloud_configs.live().exists():
        messages.info(request, "A workspace needs a cloud configuration. Make one first.")
        return redirect("new-cloud-config")
    asked = request.POST if request.method == "POST" else request.GET
    makes = request.method == "POST" and "look" not in asked
    typed = {name: asked[name] for name in asked if name != "look"} | (
        {"cloud_config": asked["cloud"]} if "cloud" in asked else {}
    )
    form = WorkspaceForm(asked if makes else None, organization=organization, initial={} if makes else typed)
    if makes and not form.was_seen:
        form = WorkspaceForm(organization=organization, initial=typed)
        messages.info(request, f"{form.config} asks for more. Look through it, then create the workspace.")
    elif makes and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            workspace = create_workspace(
                organization,
                name=data["name"],
                cloud_config=data["cloud_config"],
                region=data["region"],
                by=person(request),
                uuid=data["key"],
                choices=data.get("choices", {}),
                extra_tags=data.get("extra_tags", {}),
            )
            task = workspace.last_task
            return redirect("task", uuid=task.uuid) if task else redirect("workspaces")
    can = frozenset[clouds.Can]().union(*(config.can for config in form.configs))
    part = "#choices" if request.headers.get("HX-Target") == "workspace-choices" else ""
    context = {"form": form, "plan": plans.CREATE.on(can), "several": len({one.kind for one in form.configs}) > 1}
    return render(request, f"workspaces/workspace_new.html{part}", context)


@require_safe
@login_required
def workspace(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The door: to its dashboard once it is READY, to the task that makes it until then, to its own page otherwise."""
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    if found.status == Workspace.Status.READY and Workspace.objects.where(request.user, Can.VIEW).filter(pk=found.pk):
        return redirect("workspace-dashboard", uuid=uuid)
    task = found.last_task
    if found.status not in (Workspace.Status.READY, Workspace.Status.FAILED) and task:
        return redirect("task", uuid=task.uuid)
    return redirect("workspace-settings", uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def workspace_settings(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What it is, how it is and what was done to it; admins, its own and the organization's, can change its name."""
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE, "created_by")
    allowed = may(request, Can.MANAGE_WORKSPACE) or may(request, Can.MANAGE_ORGANIZATION)
    if request.method == "POST" and not allowed:
        raise PermissionDenied
    form = RenameForm(request.POST or None, row=found, others=found.organization.workspaces.live())
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            rename(found, form.cleaned_data["name"], by=person(request))
            messages.success(request, f"It is called {found} now.")
            return redirect("workspace-settings", uuid=uuid)
    tasks = list(found.tasks.select_related("asked_by", "output").order_by("-pk")[:10])
    last = tasks[0] if tasks else None
    failed = last if last and last.status == TaskStatus.FAILED else None
    why, manages = explain_task(failed) if failed else None, may(request, Can.MANAGE_ORGANIZATION)
    credentials = found.git_credentials.live().annotate(users=Count("jobs", Q(jobs__deleted=None))).order_by("name")
    context = {
        "workspace": found,
        "credentials": credentials if may(request, Can.VIEW) else None,
        "tasks": tasks,
        "last": last,
        "failed": failed,
        "why": why,
        "ways_out": found.ways_out(why) if why and manages else [],
        "again": failed if failed and manages and not why_not_again(failed) else None,
        "form": form,
        "choices": choiceforms.in_words(found),
    }
    part = {"workspace-head": "#head", "workspace-tasks": "#tasks"}.get(request.headers.get("HX-Target", ""), "")
    return render(request, f"workspaces/workspace_settings.html{part}", context)


def _workspace_of_mine(request: HttpRequest, uuid: UUID) -> Workspace:
    """The workspace of the address, for whoever administers its organization."""
    found = workspace_for(request, uuid, Can.SEE_WORKSPACE)
    get_for(Organization.objects.all(), request.user, Can.MANAGE_ORGANIZATION, pk=found.organization_id)
    return found


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def update_infrastructure(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what will happen; POST asks for it."""
    found = _workspace_of_mine(request, uuid)
    if request.method == "POST":
        try:
            return redirect("task", uuid=update_workspace(found, by=person(request)).uuid)
        except PortalError as error:
            messages.error(request, f"{error.message} {error.advice}".strip())
            return redirect("workspace-settings", uuid=uuid)
    context = {"workspace": found, "plan": plans.UPDATE.on(found.can)}
    return render(request, "workspaces/workspace_update.html", context)


def _asking_for_the_name(act: Callable[..., Task], plan: Plan) -> Callable[..., HttpResponse]:
    """A view whose GET says what will be lost, and whose POST with the workspace's name does it."""

    @require_http_methods(["GET", "HEAD", "POST"])
    @login_required
    def view(request: HttpRequest, uuid: UUID) -> HttpResponse:
        found = _workspace_of_mine(request, uuid)
        form = ConfirmDeleteForm(request.POST or None, expected=found.name)
        if request.method == "POST" and form.is_valid():
            with refusals_in(form):
                return redirect("task", uuid=act(found, by=person(request)).uuid)
        context = {
            "form": form,
            "workspace": found,
            "alive": alive_in(found),
            "plan": plan.on(found.can),
            "verb": plan.title.split()[0],
            "is_forgotten": plan is plans.FORGET,
        }
        return render(request, "workspaces/workspace_delete.html", context)

    return view


remove_workspace = _asking_for_the_name(delete_workspace, plans.DELETE)
forget = _asking_for_the_name(forget_workspace, plans.FORGET)
