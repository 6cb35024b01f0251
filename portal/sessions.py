"""Sessions by cookies that only browsers have: the database keeps a hash, so that whoever reads it is not signed in."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.cache import patch_vary_headers
from django.utils.timezone import now

from portal.prepared import prepared


class SessionKey(str):
    """What is kept of a cookie, and with it the cookie, where that is known: Django and allauth pass keys around."""

    __slots__ = ("cookie",)
    cookie: str

    @classmethod
    def of(cls, cookie: str) -> SessionKey:
        key = cls(sha256(cookie.encode()).hexdigest()[:40])  # as much as the column holds
        key.cookie = cookie
        return key


class SessionStore(DatabaseStore):
    """Django's, in the database. SESSION_ENGINE looks for this name."""

    def _get_session_from_db(self) -> Any:
        found = _sessions(self.session_key, now()) if self.session_key else []
        if not found:
            self._session_key = None
        return found[0] if found else None

    def _get_new_session_key(self) -> SessionKey:
        return SessionKey.of(secrets.token_urlsafe(32))

    async def _aget_new_session_key(self) -> SessionKey:
        return self._get_new_session_key()


@prepared
def _sessions(key: str, at: datetime) -> QuerySet[Any]:
    """The one that goes on."""
    return SessionStore.get_model_class().objects.filter(session_key=key, expire_date__gt=at)


class SessionCookieMiddleware:
    """Around Django's `SessionMiddleware`, which takes the cookie for the key, and the key for the cookie."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        _with_key(request.COOKIES)
        response = self.get_response(request)
        morsel = response.cookies.get(settings.SESSION_COOKIE_NAME)
        if morsel is not None and morsel.value:  # it has none when the cookie is taken away
            cookie = request.session.session_key.cookie  # type: ignore[union-attr]
            morsel.set(morsel.key, cookie, cookie)
        return response


class FormTokenMiddleware(CsrfViewMiddleware):
    """Django's, which keeps the secret of forms in the session; of who has not signed in, in a cookie of its own.

    So that a look at the sign-in page writes no session. Signing in makes a new secret.
    """

    def _get_secret(self, request: HttpRequest) -> str | None:
        secret: str | None
        if SESSION_KEY in request.session:
            secret = super()._get_secret(request)  # type: ignore[misc]
        else:
            secret = request.COOKIES.get(settings.CSRF_COOKIE_NAME)
            if secret is not None and not re.fullmatch(r"[A-Za-z0-9]{32}", secret):
                secret = None
        return secret

    def _set_csrf_cookie(self, request: HttpRequest, response: HttpResponse) -> None:
        if SESSION_KEY in request.session:
            super()._set_csrf_cookie(request, response)  # type: ignore[misc]
            return
        response.set_cookie(
            settings.CSRF_COOKIE_NAME,
            request.META["CSRF_COOKIE"],
            max_age=settings.CSRF_COOKIE_AGE,
            secure=settings.CSRF_COOKIE_SECURE,
            httponly=settings.CSRF_COOKIE_HTTPONLY,
            samesite=settings.CSRF_COOKIE_SAMESITE,
        )
        patch_vary_headers(response, ("Cookie",))


class SocketKeyMiddleware:
    """The same for sockets, inside of Channels' `CookieMiddleware`. They set no cookies."""

    def __init__(self, app: Callable[..., Awaitable[Any]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        return await self.app({**scope, "cookies": _with_key(dict(scope["cookies"]))}, receive, send)


def _with_key(cookies: dict[str, str]) -> dict[str, str]:
    if cookie := cookies.get(settings.SESSION_COOKIE_NAME):
        cookies[settings.SESSION_COOKIE_NAME] = SessionKey.of(cookie)
    return cookies
