"""Around every request: from where it comes, and whether its person may still be here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import ip_address

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts import audit, place


def address_of(request: HttpRequest) -> str | None:
    """The client's address. Only as many X-Forwarded-For entries are believed as there are trusted proxies."""
    forwarded: list[str] = [
        part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if part.strip()
    ]
    if settings.TRUSTED_PROXIES and len(forwarded) >= settings.TRUSTED_PROXIES:
        with contextlib.suppress(ValueError):  # not written by our proxy
            return str(ip_address(forwarded[-settings.TRUSTED_PROXIES]))
    address: str = request.META.get("REMOTE_ADDR", "")
    return address or None


class PersonMiddleware:
    """A locked account is signed out at its next request, and told why. What is done is audited with its origin."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.user.is_authenticated and request.user.is_locked:
            person = request.user
            logout(request)
            return locked_page(request, person)
        with audit.done_from(address_of(request)):
            return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return place.answer(request, exception)


def locked_page(request: HttpRequest, person: object) -> HttpResponse:
    return render(request, "account/locked.html", {"person": person, "days": settings.LOCK_AFTER_DAYS}, status=403)
