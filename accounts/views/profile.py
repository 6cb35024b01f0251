"""A person's own profile, data and deletion."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from accounts.actions import (
    StillNeeded,
    change_profile,
    delete_account,
    needs_somebody_else,
    started_by,
)
from accounts.forms import (
    DeleteAccountForm,
    ProfileForm,
)
from accounts.personal import everything_about
from accounts.theme import remember_theme


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert user.is_authenticated
    saved = {name: getattr(user, name) for name in ProfileForm.base_fields}
    form = ProfileForm(request.POST or None, initial=saved)
    if request.method == "POST" and form.is_valid():
        change_profile(user, **form.cleaned_data)
        messages.success(request, "Your profile is saved.")
        return remember_theme(redirect("profile"), user)
    return render(request, "profile/profile.html", {"form": form})


@login_required
@require_safe
def profile_data(request: HttpRequest) -> HttpResponse:
    """All that is kept about the person, as a file."""
    assert request.user.is_authenticated
    response = JsonResponse(everything_about(request.user), json_dumps_params={"indent": 2})
    response["Content-Disposition"] = 'attachment; filename="my-data.json"'
    return response


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete_profile(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert user.is_authenticated
    form = DeleteAccountForm(user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            delete_account(user)
        except StillNeeded as needed:
            form.add_error(None, f"Somebody else must be made an admin first: {needed}.")
        else:
            logout(request)
            messages.success(request, "Your account is deleted.")
            return redirect("account_login")
    context = {
        "form": form,
        "needed": needs_somebody_else(user),
        "tokens": user.api_tokens.filter(revoked=None).order_by("name"),
        "running": started_by(user),
    }
    return render(request, "profile/delete.html", context)
