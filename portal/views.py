"""Pages that belong to no app: health, errors, and what every page's frame needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.timezone import now

from portal import mail
from portal.tasks.leases import WatchProcess


class NoStoreMiddleware:
    """What a person may see is kept in no cache."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if "Cache-Control" not in response and not request.path.startswith(settings.STATIC_URL):
            response["Cache-Control"] = "no-store"
        return response


def frame(request: HttpRequest) -> dict[str, Any]:
    theme = request.COOKIES.get("theme") or getattr(getattr(request, "user", None), "theme", "auto")
    return {
        "portal_name": settings.PORTAL_NAME,
        "support_address": settings.SUPPORT_ADDRESS,
        "mail_goes_out": mail.goes_out(),
        "now_ms": int(now().timestamp() * 1000),
        "theme": theme if theme in {"auto", "light", "dark"} else "auto",
    }


def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """Whether work can be done: 200, or 503 naming what is missing."""
    found = {}
    try:
        connection.ensure_connection()
        found["watch"] = "ok" if WatchProcess.is_seen() else "has not been heard of"
        found["database"] = "ok"
    except DatabaseError as error:
        found["database"] = type(error).__name__
    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2).ping()
        found["redis"] = "ok"
    except redis.exceptions.RedisError as error:
        found["redis"] = type(error).__name__
    good = all(state == "ok" for state in found.values())
    return JsonResponse(found, status=200 if good else 503)


def server_error(request: HttpRequest) -> HttpResponse:
    """What is seen of an exception that nobody has caught. Its cause is in the log alone, with the request's id."""
    away = isinstance(sys.exc_info()[1], (OperationalError, InterfaceError, redis.exceptions.ConnectionError))
    page = render_to_string("503.html" if away else "500.html")  # without the request: that needs what is away
    return HttpResponse(page, status=503 if away else 500, headers={"Retry-After": "5"} if away else {})


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Without the request, as above: that it cannot be read may be what is bad about it."""
    return HttpResponse(render_to_string("400.html"), status=400)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form that came from no page of this session. From whoever was signed out meanwhile: on to the sign-in page.

    Which then leads back to the page that the form was on; `portal/portal.js` gives its words back there.
    """
    page = urlsplit(request.headers.get("Referer", ""))
    ours = url_has_allowed_host_and_scheme(page.geturl(), {request.get_host()}, require_https=request.is_secure())
    public = page.path.startswith(("/accounts/", "/first/", "/invitations/"))
    if request.user.is_authenticated or public or not (page.netloc and ours):
        return render(request, "403_csrf.html", {"page": page.path if ours and page.netloc else ""}, status=403)
    messages.info(request, "You were signed out before you sent the form, so nothing was changed. Sign in to go on.")
    return redirect_to_login(urlunsplit(("", "", page.path, page.query, "")))
