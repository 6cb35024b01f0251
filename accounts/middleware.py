"""Around every request: from where it comes, and whether its person may still be here."""

from __future__ import annotations

import time
from collections.abc import Callable

from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import logout
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.timezone import now, override

from accounts import audit, place
from accounts.audit import address_of
from accounts.models import is_over
from accounts.passwords import busy
from accounts.signin import how_of
from accounts.single_sign_on import provider_failed

GOING_TO = "going_to"  # of the session: the page that waits until there is a second factor


class SignInRateMiddleware:
    """How often one address may try to sign in, counted before a session is read or a password hashed.

    By minutes of the clock: one question to the cache, so that thousands of tries cost little.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST" and request.path_info == reverse("account_login"):
            key = f"sign-in:{address_of(request)}:{int(time.time() // 60)}"
            cache.add(key, 0, 120)
            if cache.incr(key) > settings.SIGN_INS_A_MINUTE:
                return HttpResponse(render_to_string("429.html"), status=429, headers={"Retry-After": "60"})
        return self.get_response(request)


class PersonMiddleware:
    """Whose session is over or whose account is locked is signed out at the next request; the latter are told why.

    Whoever still owes an organization a second factor gets no further than setting one up. The pages of the others
    have the person's time zone, and what they do is audited with its origin.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        person = request.user
        if not person.is_authenticated:
            return self._answer(request)
        if person.is_locked:
            logout(request)
            return locked_page(request, person)
        if is_over(request.session):
            logout(request)
            return self._answer(request)
        _renew(request)
        # The account pages stay open: a second factor is set up there, and one signs out.
        if not request.path.startswith(("/accounts/", settings.STATIC_URL)):
            if person.owes_second_factor:
                if request.method == "GET":
                    request.session[GOING_TO] = request.get_full_path()
                return redirect("mfa_index")
            if GOING_TO in request.session:
                del request.session[GOING_TO]
        with override(person.zone):
            return self._answer(request)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        with audit.done_from(address_of(request), how_of(request)):
            return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return place.answer(request, exception) or busy(exception) or provider_failed(request, exception)


def _renew(request: HttpRequest) -> None:
    """A session ends some time after its last request: that is its age in the store, renewed now and then."""
    session, at = request.session, int(now().timestamp())
    if at - session.get("seen", 0) > settings.SESSION_COOKIE_AGE / 20:
        session["began"], session["seen"] = session.get("began", at), at
        UserSession.objects.create_from_request(request)


def locked_page(request: HttpRequest, person: object) -> HttpResponse:
    return render(request, "account/locked.html", {"person": person, "days": settings.LOCK_AFTER_DAYS}, status=403)
