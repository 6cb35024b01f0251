"""Git credentials of a workspace: added, their secrets replaced, deleted. Its settings list them."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.access import Can
from accounts.place import person
from portal.forms import refusals_in
from workspaces.credentialforms import GitCredentialForm, GitSecretForm
from workspaces.credentials import create_git_credential, delete_git_credential, replace_git_secret
from workspaces.models import GitCredential
from workspaces.place import row_for, workspace_for

MOST_NAMED = 50  # jobs, on the page before a deletion


def _list(workspace: UUID) -> str:
    return f"{reverse('workspace-settings', args=[workspace])}#git-credentials"


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_git_credential(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = workspace_for(request, uuid, Can.MANAGE_WORKSPACE)
    form = GitCredentialForm(request.POST or None, workspace=workspace)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            made = create_git_credential(
                workspace,
                name=data["name"],
                server=data["server"],
                username=data["username"],
                secret=data["secret"],
                by=person(request),
                uuid=data["key"],
            )
            messages.success(request, f"Jobs of {workspace} can sign in with {made} now.")
            return redirect(_list(uuid))
    return render(request, "workspaces/git_credential_new.html", {"workspace": workspace, "form": form})


def _credential_for(request: HttpRequest, uuid: UUID) -> GitCredential:
    return row_for(request, GitCredential, uuid, Can.MANAGE_WORKSPACE, "workspace__cloud_config")


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def replace_git_credential(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _credential_for(request, uuid)
    if found.deleted:
        return redirect(_list(found.workspace.uuid))
    form = GitSecretForm(request.POST or None, initial={"username": found.username})
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            replace_git_secret(found, **form.cleaned_data, by=person(request))
            messages.success(request, f"Runs sign in with the new secret of {found} from their next start on.")
            return redirect(_list(found.workspace.uuid))
    return render(request, "workspaces/git_credential_replace.html", {"credential": found, "form": form})


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_git_credential(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says which jobs use it; POST deletes it."""
    found = _credential_for(request, uuid)
    if not found.deleted and request.method == "POST":
        delete_git_credential(found, by=person(request))
        messages.success(request, f"{found} is deleted.")
    if found.deleted or request.method == "POST":
        return redirect(_list(found.workspace.uuid))
    jobs = found.jobs.live().order_by("name")
    context = {"credential": found, "jobs": jobs[:MOST_NAMED], "count": jobs.count()}
    return render(request, "workspaces/git_credential_delete.html", context)
