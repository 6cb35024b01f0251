"""Who asks for what programs read too: somebody in a browser, or a program with an API token."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from portal.tasks import registry


def for_programs(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """A view that is given who asks, as access asks for a person: `view(request, person, ...)`.

    That is `request.user`, unless an API token is said. Whoever is nobody is led to where people sign in, or is told
    that this was no token.
    """

    @wraps(view)
    def asked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        person = registry.caller(request) or request.user
        if person.is_authenticated:
            return view(request, person, *args, **kwargs)
        if "Authorization" not in request.headers:
            return redirect_to_login(request.get_full_path())
        return HttpResponse("This is no API token.\n", status=401, headers={"WWW-Authenticate": 'Basic realm="portal"'})

    return asked
