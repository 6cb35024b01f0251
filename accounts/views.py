from __future__ import annotations

from django.contrib.auth import login
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.actions import create_first_administrator
from accounts.forms import FirstAdministratorForm
from accounts.models import SetupLink


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
            user = create_first_administrator(
                email=data["email"], name=data["name"], password=data["password"], organization=data["organization"]
            )
        login(request, user, backend="allauth.account.auth_backends.AuthenticationBackend")
        return redirect("dashboard")
    return render(request, "account/first.html", {"form": form})
