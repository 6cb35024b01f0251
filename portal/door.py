"""Who is let in at all: requests to the portal's own address, and live sockets that its own pages open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

FOR_PROBES = ("/healthz", "/readyz")  # asked by whatever address a load balancer knows
TOO_MANY_PAGES = 4429  # a socket is closed with it; live.js says it in words, and asks by plain HTTP

App = Callable[[Any, Any, Any], Awaitable[Any]]


def is_ours(host: str) -> bool:
    """Whether a Host header is that of PORTAL_URL, with its port. Another port is another program of the machine."""
    return host.lower() in settings.HOSTS


class HostMiddleware:
    """First of all: a Host header ends up in links, and Django's ALLOWED_HOSTS knows no ports."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            good = is_ours(request.get_host()) or request.path_info in FOR_PROBES
        except DisallowedHost:  # not even a host name
            good = False
        if good:
            return self.get_response(request)
        return HttpResponse(render_to_string("400.html", {"address": settings.PORTAL_URL}), status=400)


class SocketDoor:
    """Before anything is read of a socket: whether a page of ours opens it.

    A notebook on another port of this host has the person's cookies too, and could read along.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if is_ours(headers.get(b"host", "")) and headers.get(b"origin") in settings.ORIGINS:
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close"})  # the server makes a 403 of it


async def nothing_here(scope: Any, receive: Any, send: Any) -> None:
    """Of paths at which there is no socket."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body"})
    else:
        await send({"type": "websocket.close"})


class SocketLimit:
    """No more than LIVE_PAGES open sockets of one person in this process. Inside of what knows who that is."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.open: Counter[int] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        person = scope["user"].pk
        if person is not None and self.open[person] >= settings.LIVE_PAGES:
            await send({"type": "websocket.accept"})  # a browser tells a page nothing of a socket that was not
            await send({"type": "websocket.close", "code": TOO_MANY_PAGES, "reason": "too many open pages"})
            return
        self.open[person] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.open[person] -= 1
            if not self.open[person]:
                del self.open[person]
