"""API tokens of an organization, and what the pages of a workspace's tokens share with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from accounts.access import Can, OrganizationRole, WorkspaceRole, at_most
from accounts.actions import (
    create_token,
)
from accounts.forms import (
    TokenForm,
)
from accounts.models import (
    ApiToken,
    Organization,
)
from accounts.place import enter_organization, person
from accounts.signin import confirm
from portal.paging import Page

PAGE = 20  # tokens on one page


@require_safe
@login_required
def tokens(request: HttpRequest) -> HttpResponse:
    return token_list(request, enter_organization(request, Can.MANAGE_TOKENS))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_token(request: HttpRequest) -> HttpResponse:
    return token_form(request, enter_organization(request, Can.MANAGE_TOKENS), at_most(OrganizationRole.ADMIN))


def token_list(request: HttpRequest, organization: Organization, workspace: Any = None) -> HttpResponse:
    """The page of the tokens of a workspace or, without one, of the organization itself. The caller has entered it."""
    rows = ApiToken.objects.where(request.user, Can.MANAGE_TOKENS).with_owners()
    rows = rows.filter(organization=organization, workspace=workspace).order_by("-pk")
    may_make = workspace is None or workspace.members.filter(user=request.user).exists()
    page = Page(rows, request.GET.get("page"), PAGE)
    context = {"page": page, "workspace": workspace, "may_make": may_make}
    return render(request, "accounts/tokens.html", context)


def token_form(
    request: HttpRequest,
    organization: Organization,
    roles: Sequence[OrganizationRole | WorkspaceRole],
    workspace: Any = None,
) -> HttpResponse:
    """GET and POST of the form of a new token. The secret is in the answer to the POST, and nowhere else."""
    form = TokenForm(request.POST or None, roles=roles)
    if request.method == "POST" and form.is_valid():
        confirm(request)
        data = form.cleaned_data
        token, secret = create_token(
            organization,
            name=data["name"],
            role=data["role"],
            days=data["days"],
            workspace=workspace,
            by=person(request),
            uuid=data["key"],
        )
        if secret:
            context = {"token": token, "secret": secret, "workspace": workspace}
            return render(request, "accounts/token_made.html", context)
        messages.info(request, f"{token} was made already. Its secret was shown then, and is not kept.")
        return redirect("workspace-tokens", uuid=workspace.uuid) if workspace else redirect("tokens")
    return render(request, "accounts/token_new.html", {"form": form, "workspace": workspace})
