"""Whose a live page is. The pages that a session has open read it together, and only as often as is worth it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest

from portal.database import for_sockets

RELOAD = 0.5  # seconds a session is believed: what a page asks for as it opens reads it once

_read: dict[str, tuple[float, Any]] = {}  # session key → when it was read, and whose it is


class SocketPersonMiddleware:
    """Puts the person into the scope as `user`. Inside of Channels' `SessionMiddleware`."""

    def __init__(self, app: Callable[..., Awaitable[Any]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        _, person = await for_sockets(whose)(scope["session"].session_key)
        return await self.app({**scope, "user": person or AnonymousUser()}, receive, send)


def whose(session_key: str | None) -> tuple[float, Any]:
    """When the session was read, by `time.monotonic`, and its person: None where nobody may be here by it.

    A scope's own session was loaded once, and may have ended since.
    """
    if session_key is None:
        return time.monotonic(), None
    found = _read.get(session_key)
    if found is None or time.monotonic() - found[0] >= RELOAD:
        if len(_read) > 10_000:
            _read.clear()
        found = _read[session_key] = time.monotonic(), _now(session_key)
    return found


def _now(session_key: str) -> Any:
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(request)
    return user if user.is_authenticated and user.may_stay(request.session) else None
