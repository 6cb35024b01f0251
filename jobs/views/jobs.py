"""The page of a job, and what people do there."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can, may
from accounts.place import person
from clusters.forms.create import TypesForm
from jobs import causes, repositories, rules
from jobs.actions import (
    CLUSTER_GONE,
    Credential,
    change_credential,
    change_job,
    change_mail,
    change_secrets,
    create_job,
    delete_job,
    start_run,
)
from jobs.dispatch import GONE
from jobs.fields import OWN, ClusterField
from jobs.forms import CredentialForm, EditJobForm, JobForm, MailForm, OwnClusterForm, ProgramForm
from jobs.looking import Found
from jobs.looking import look as look_for
from jobs.models import Firing, Job, Kind, Run, RunQuerySet, explained
from jobs.plans import RUN
from jobs.views.lists import PAGE
from portal import clouds, mail
from portal.cursors import behind, cursor_of, page_of
from portal.errors import PortalError
from portal.forms import is_overtaken, refusals_in
from portal.prepared import prepared
from portal.secrets import CannotDecrypt, unseal
from portal.text import uuid_in
from workspaces.models import Workspace
from workspaces.place import row_for, workspace_for

SHOWN = 5  # times of a job's schedules, and what became of them


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The field `use` fills in an example; `look` shows the page again, and makes nothing. What was typed stays."""
    workspace = workspace_for(request, uuid, Can.RUN_JOBS)
    examples = repositories.offered()
    asked: QueryDict = request.POST if request.method == "POST" else request.GET
    look = looked(request)
    example = next((example for example in examples if example.name == asked.get("use")), None)
    if example:
        asked = filled = asked.copy()
        for name, text in (example.fields | {"name": asked.get("name") or example.name}).items():
            filled[name] = text
        look = "typed"
    initial = {"cluster": request.GET.get("cluster")}
    form = JobForm(
        asked if look or request.method == "POST" else None,
        workspace=workspace,
        initial=initial,
        may_build=may(request, Can.MANAGE_CLUSTERS),
        look=look,
    )
    checked = _check(request, workspace, None) if look == "check" else None
    if not look and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            _, run = create_job(
                workspace,
                name=data["name"],
                git_url=data["git_url"],
                **wanted_of(form, request),
                tags=data["tags"],
                due=data["due"],
                secrets=data["secrets"],
                by=person(request),
                credential=form.credential,
                uuid=data["key"],
            )
            return redirect("run", uuid=run.uuid)
    context = {
        "workspace": workspace,
        "form": form,
        "checked": checked,
        **own_cluster(request, form, reverse("new-job", args=[workspace.uuid])),
        "examples": examples,
        "out_of_reach": repositories.out_of_reach(workspace.cloud_config),
        "plan": RUN,
    }
    return render(request, part_of(request, "jobs/job_new.html"), context)


# Parts of the pages with the form of a job, by the id of what they replace.
_PARTS = {
    "types": "jobs/_types.html",
    "cluster-choice": "jobs/_cluster_choice.html",
    "checked": "jobs/_checked.html",
}


def part_of(request: HttpRequest, page: str) -> str:
    return _PARTS.get(request.headers.get("HX-Target", ""), page)


def looked(request: HttpRequest) -> str:
    """Why the page is only shown again, and nothing made: most because of the cluster that each run is to have."""
    asked = request.POST if request.method == "POST" else request.GET
    if request.headers.get("HX-Target") == "types" or asked.get("look") == "types":
        return "own"
    return asked["look"] if asked.get("look") in ("own", "use", "drop", "typed", "check") else ""


def _check(request: HttpRequest, workspace: Workspace, job: Job | None) -> Found | None:
    """Whether the source that was typed can be reached: with the password that was typed, or the job has."""
    if request.method != "POST":
        return None
    typed = request.POST
    try:
        page = rules.address(typed.get("git_url", ""))
        reference = rules.reference(typed.get("reference", "")) or page.reference
        kind = typed.get("kind", "")
        command = rules.command_of(kind, typed.get("command", ""))
        command = "" if kind == Kind.SHELL else rules.in_folder(command, page.path)
    except ValidationError as error:
        return Found(False, error.messages[0])
    if rules.is_shared(page.git_url):
        return Found(False, f"Whether {page.git_url} is there is seen when the job runs: nodes alone have /shared.")
    if rules.is_bucket(page.git_url):
        return _check_bucket(page.git_url, workspace, typed)
    if repositories.is_example(page.git_url) and (why := repositories.out_of_reach(workspace.cloud_config)):
        return Found(False, why)
    try:
        credential = _signing_in(typed, page.git_url, workspace, job)
    except PortalError as error:
        return Found(False, error.message)
    return look_for(workspace.cloud_config, page.git_url, reference, command, credential, by=person(request))


def _check_bucket(url: str, workspace: Workspace, typed: QueryDict) -> Found:
    """The portal may not read it: nodes do, and what they may is known when they have tried."""
    if clouds.Can.BUCKET not in workspace.can:
        return Found(False, f"Nodes of {workspace.cloud_config} have no role by which they could read a bucket of S3.")
    role = typed.get(f"{OwnClusterForm.PREFIX}-role", "")
    if uuid := uuid_in(typed.get("cluster", "")):
        role = workspace.clusters.filter(uuid=uuid).values_list("role", flat=True).first() or ""
    if not role:
        return Found(
            False,
            f"{url} would be read by a node with the cluster's own role, which may do nothing.",
            advice="Choose a cluster that has an instance role of the workspace, unless the bucket itself lets it in.",
        )
    return Found(
        False,
        f"{url} is read by a node of the cluster, with the role {role}, when the job runs.",
        advice="Whether it is there, and whether the role may read it, is seen then: the portal has no key to it.",
    )


def _signing_in(typed: QueryDict, git_url: str, workspace: Workspace, job: Job | None) -> Credential | None:
    """With what was typed or chosen, or the job has. Raises `PortalError`."""
    if password := typed.get("git_password", ""):
        return Credential(typed.get("git_username") or "git", password)
    saved = None
    if uuid := uuid_in(typed.get("git_credential", "")):
        saved = workspace.git_credentials.live().filter(uuid=uuid).first()
        if saved is None:
            raise PortalError("The saved Git credential was deleted meanwhile.")
        if why := rules.why_not_with(saved.server, git_url, str(saved)):
            raise PortalError(why)
    elif job and job.signs_in_at and rules.same_server(git_url, job.signs_in_at):
        saved = job.git_credential
        if saved and saved.deleted:
            raise PortalError(f"The Git credential {saved}, which the job signs in with, was deleted.")
    else:
        return None
    try:
        if saved:
            return Credential(saved.username, unseal(saved, "secret"))
        assert job is not None
        return Credential(job.git_username, unseal(job, "git_password"))
    except CannotDecrypt as error:
        whose = str(saved) if saved else "the job"
        raise PortalError(f"The password of {whose} cannot be decrypted with this portal's keys.") from error


def own_cluster(request: HttpRequest, form: EditJobForm, page: str) -> dict[str, Any]:
    """What the pages say of a cluster that each run has for itself."""
    asked = request.POST if request.method == "POST" else request.GET
    types = TypesForm(asked, of=form.own) if form.own and form.is_open else None
    known = form.chosen_specification(person(request)) if form.own and not form.is_open else None
    return {"own": form.own, "form_page": page, "types": types, "specification": known}


def wanted_of(form: EditJobForm, request: HttpRequest) -> dict[str, Any]:
    """As `ProgramForm.wanted`, with the cluster that was filled in."""
    wanted = form.wanted
    if form.cleaned_data["cluster"] == OWN:
        known = form.chosen_specification(person(request))
        wanted["dedicated"] = known.kept if known else None
    return wanted


def _job_for(request: HttpRequest, uuid: UUID, can: Can) -> Job:
    of = ("workspace__cloud_config", "cluster", "created_by", "deleted_by", "git_credential", "template")
    return row_for(request, Job, uuid, can, *of)


@prepared
def _runs(job: int, cursor: UUID | None) -> RunQuerySet:
    rows = Run.objects.filter(job=job)
    return behind(rows, cursor, "-pk", among=rows).for_lists()[: PAGE + 1]


def _back(request: HttpRequest, job: Job, error: PortalError) -> HttpResponse:
    """To the job's page, which says what is wrong; to its clusters, where another one mends it."""
    messages.error(request, error.message)
    there = reverse("job", args=[job.uuid])
    return redirect(f"{there}#clusters" if error.code == CLUSTER_GONE else there)


def key_of(request: HttpRequest) -> UUID | None:
    """That of the form, which makes one thing however often it is sent. Raises Http404 for what is none."""
    try:
        return UUID(request.POST["key"]) if request.POST.get("key") else None
    except ValueError as error:
        raise Http404 from error


@require_safe
@login_required
def job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _job_for(request, uuid, Can.VIEW)
    may_change = found.deleted is None and may(request, Can.RUN_JOBS)
    page = page_of(explained(_runs(found.pk, cursor_of(request.GET))), PAGE, request.GET)
    schedules = {schedule.pk: schedule for schedule in found.schedules.live().select_related("owner").order_by("pk")}
    firings = list(Firing.objects.filter(schedule__in=schedules).select_related("run").order_by("-pk")[:SHOWN])
    for firing in firings:
        firing.schedule = schedules[firing.schedule_id]
    context = {
        "job": found,
        "schedules": schedules.values(),
        "firings": firings,
        "mail": MailForm(initial={name: getattr(found, f"mail_{name}") for name in MailForm.base_fields}),
        "mail_goes_out": mail.goes_out(),
        "specification": found.specification,
        "runs": page.rows,
        **page.context,
        "time_limit": causes.span(found.time_limit or settings.RUN_SECONDS),
        "may_change": may_change,
        "clusters": clusters_for(found) if may_change else None,
        "key": uuid4(),
    }
    part = {"run-list": "#runs", "schedule-list": "#schedules"}.get(request.headers.get("HX-Target", ""), "")
    return render(request, f"jobs/job.html{part}", context)


@require_POST
@login_required
def job_mail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _job_for(request, uuid, Can.RUN_JOBS)
    form = MailForm(request.POST)
    if form.is_valid():
        change_mail(found, by=person(request), **form.cleaned_data)
        messages.success(request, f"Mail about {found} is as you have chosen.")
    return redirect(f"{reverse('job', args=[uuid])}#mail")


def clusters_for(job: Job) -> ClusterField | None:
    """The field with the clusters that it could run on, if its own is gone."""
    if job.cluster is None or job.cluster.status not in GONE:
        return None
    field = ClusterField()
    field.offer(job.workspace, job.cluster)
    return field


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def edit_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _job_for(request, uuid, Can.RUN_JOBS)
    if found.deleted:
        return redirect("job", uuid=uuid)
    look = looked(request)
    asked = request.POST if request.method == "POST" else request.GET
    form = EditJobForm(
        asked if look or request.method == "POST" else None,
        workspace=found.workspace,
        of=found,
        may_build=may(request, Can.MANAGE_CLUSTERS),
        look=look,
    )
    checked = _check(request, found.workspace, found) if look == "check" else None
    if not look and not is_overtaken(form, found.version) and form.is_valid():
        had_password = bool(found.signs_in_at)
        with refusals_in(form):
            wanted = wanted_of(form, request) | {name: form.cleaned_data[name] for name in ("name", "git_url")}
            if "tags" in request.POST:  # what is not asked stays
                wanted["tags"] = form.cleaned_data["tags"]
            changed = change_job(found, by=person(request), **wanted)
            if "secrets_name" in request.POST:  # what is not asked stays
                changed = change_secrets(found, form.cleaned_data["secrets"], by=person(request)) or changed
            if had_password and not found.signs_in_at:
                messages.warning(
                    request, "Its password is for another server, and is not used. Give the job one of this server."
                )
            elif changed:
                messages.success(request, f"{found} is changed, from its next run on.")
            if "run" in request.POST:
                return _run(request, found, form.cleaned_data["key"])
            return redirect("job", uuid=uuid)
    here = reverse("edit-job", args=[uuid])
    context = {
        "job": found,
        "version": (look and asked.get("version")) or found.version,
        "workspace": found.workspace,
        "form": form,
        "checked": checked,
        **own_cluster(request, form, here),
        "waiting": found.runs.waiting().count(),
    }
    return render(request, part_of(request, "jobs/job_edit.html"), context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what goes and what stays; POST does it."""
    found = _job_for(request, uuid, Can.RUN_JOBS)
    if found.deleted:
        return redirect("job", uuid=uuid)
    if request.method == "POST":
        cancelled = delete_job(found, by=person(request))
        words = f" Cancelled with it: {cancelled} run{'' if cancelled == 1 else 's'}." if cancelled else ""
        messages.success(request, f"{found} is deleted.{words}")
        return redirect("jobs", uuid=found.workspace.uuid)
    context = {
        "job": found,
        "unfinished": found.runs.unfinished().for_lists()[:100],
        "last": found.last_run,
        "schedules": found.schedules.live().count(),
    }
    return render(request, "jobs/job_delete.html", context)


@require_POST
@login_required
def move_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """To the cluster of the field; with the field `run`, it runs there at once."""
    found = _job_for(request, uuid, Can.RUN_JOBS)
    field = ClusterField()
    field.offer(found.workspace, found.cluster)
    try:
        cluster = field.clean(request.POST.get("cluster"))
    except ValidationError:
        return _back(request, found, PortalError("Choose one of the clusters.", code=CLUSTER_GONE))
    try:
        change_job(found, by=person(request), cluster=cluster)
    except PortalError as error:
        return _back(request, found, error)
    if "run" in request.POST:
        return _run(request, found, key_of(request))
    messages.success(request, f"{found} runs on {cluster} from now on.")
    return redirect("job", uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def job_credential(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What the job signs in to its repository with: to be replaced or taken away, and never shown."""
    found = _job_for(request, uuid, Can.RUN_JOBS)
    if found.deleted:
        return redirect("job", uuid=uuid)
    if "take_away" in request.POST:
        change_credential(found, None, by=person(request))
        messages.success(request, f"{found} has no password any more.")
        return redirect("job", uuid=uuid)
    saved = found.git_credential
    initial = {"git_username": found.git_username, "git_credential": str(saved.uuid) if saved else ""}
    form = CredentialForm(request.POST or None, initial=initial, git_url=found.git_url, offered=found.workspace)
    if request.method == "POST" and request.POST.get("source", found.git_url) != found.git_url:
        form.add_error(None, "The job has another source since you opened this: look at where it signs in to now.")
    if request.method == "POST" and form.is_valid():
        if form.credential:
            with refusals_in(form):
                change_credential(found, form.credential, by=person(request))
                messages.success(request, f"{found} signs in with what you have given, from its next run on.")
                return redirect("job", uuid=uuid)
        else:
            form.add_error("git_password", "Give the password or access token.")
    return render(request, "jobs/job_credential.html", {"job": found, "form": form})


@require_POST
@login_required
def run_job(request: HttpRequest, uuid: UUID) -> HttpResponse:
    # Without what pages show of it: somebody waits for the first line of the run.
    job = row_for(request, Job, uuid, Can.RUN_JOBS, "workspace__cloud_config", framed=False)
    return _run(request, job, key_of(request))


def _run(request: HttpRequest, job: Job, key: UUID | None) -> HttpResponse:
    try:
        return redirect("run", uuid=start_run(job, by=person(request), uuid=key).uuid)
    except PortalError as error:
        return _back(request, job, error)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def run_job_with_changes(request: HttpRequest, uuid: UUID) -> HttpResponse:
    return one_run(request, found := _job_for(request, uuid, Can.RUN_JOBS), found)


def one_run(request: HttpRequest, job: Job, like: Job | Run) -> HttpResponse:
    """The form of one run that is not as its job is: filled in like the job, or like an earlier run of it."""
    if job.deleted:
        return redirect("job", uuid=job.uuid)
    form = ProgramForm(request.POST or None, workspace=job.workspace, of=like)
    if form.is_valid():
        program = form.program(like.git_url)
        with refusals_in(form):
            run = start_run(job, by=person(request), uuid=form.cleaned_data["key"], program=program)
            return redirect("run", uuid=run.uuid)
    context = {"job": job, "like": like, "form": form, "plan": RUN}
    return render(request, "jobs/run_with_changes.html", context)
