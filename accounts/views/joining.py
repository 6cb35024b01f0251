"""How somebody comes in: the first administrator by the first start's link, others by invitation."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth import logout
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from accounts.actions import (
    INVITED_BY,
    accept_invitation,
    addresses_of,
    create_first_administrator,
    has_account,
    join,
    open_invitation,
)
from accounts.forms import (
    FirstAdministratorForm,
    JoinForm,
)
from accounts.models import (
    Invitation,
    SetupLink,
    User,
    digest,
)
from accounts.place import choose
from accounts.signin import sign_in_new
from portal.errors import PortalError


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def first_administrator(request: HttpRequest, token: str) -> HttpResponse:
    """The one-time link that the first start prints."""
    if not SetupLink.is_valid(token):
        raise Http404
    form = FirstAdministratorForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with transaction.atomic():
            if not SetupLink.use_up(token):
                raise Http404
            names = ("email", "name", "password", "organization", "time_zone")
            user = create_first_administrator(**{name: data[name] for name in names})
        sign_in_new(request, user)
        return redirect("dashboard")
    return render(request, "account/first.html", {"form": form})


@require_safe
def invitation_link(request: HttpRequest, token: str) -> HttpResponse:
    """The mailed address. The token leaves the address bar here, so that no log and no later page has it."""
    if open_invitation(digest(token)) is None:
        return _gone(request)
    request.session[INVITED_BY] = digest(token)
    return redirect("invitation")


def _gone(request: HttpRequest) -> HttpResponse:
    """One page for what is used, withdrawn, expired and never was."""
    return render(request, "accounts/invitation_gone.html", status=410)


@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest) -> HttpResponse:
    """What one is invited to, and what is needed to accept: a sign-in, another sign-in, an account, or one button."""
    token_hash = request.session.get(INVITED_BY, "")
    found = open_invitation(token_hash)
    if found is None:
        return _gone(request)
    context: dict[str, Any] = {"invitation": found, "has_account": has_account(found.email)}
    if isinstance(request.user, User):
        context["other"] = found.email not in addresses_of(request.user)
        context["form"] = form = forms.Form(request.POST or None)
        if request.method == "POST" and context["other"] and "sign-out" in request.POST:
            logout(request)
            request.session[INVITED_BY] = token_hash
            return redirect("invitation")
        if request.method == "POST" and not context["other"]:
            try:
                return _welcome(request, accept_invitation(token_hash, by=request.user))
            except PortalError:
                return _gone(request)
    elif not context["has_account"]:
        context["form"] = form = JoinForm(request.POST or None, email=found.email)
        if request.method == "POST" and form.is_valid():
            data = form.cleaned_data
            try:
                user, found = join(token_hash, **data)
            except (PortalError, IntegrityError):  # somebody else was quicker with this link
                return redirect("invitation")
            sign_in_new(request, user)
            return _welcome(request, found)
    return render(request, "accounts/invitation.html", context)


def _welcome(request: HttpRequest, accepted: Invitation) -> HttpResponse:
    request.session.pop(INVITED_BY, None)
    choose(request, accepted.organization)
    messages.success(request, f"Welcome to {accepted.workspace or accepted.organization}.")
    if accepted.workspace:
        return redirect("workspace", uuid=accepted.workspace.uuid)
    return redirect("dashboard")
