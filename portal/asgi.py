"""HTTP, and the live pages' sockets."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.urls import path, re_path

from portal.handler import PageHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
http = PageHandler()

from portal.door import SocketDoor, SocketLimit, nothing_here  # noqa: E402  (these need the app registry)
from portal.sessions import SocketKeyMiddleware  # noqa: E402
from portal.tasks import registry  # noqa: E402
from portal.tasks.consumers import LiveConsumer  # noqa: E402
from portal.tasks.permission import SocketPersonMiddleware  # noqa: E402

sockets = URLRouter(
    [
        *(path(route, SocketLimit(app)) for route, app in registry.sockets.items()),  # type: ignore[arg-type, list-item]
        path("live/", SocketLimit(LiveConsumer.as_asgi())),  # type: ignore[list-item, arg-type]
        re_path("", nothing_here),  # type: ignore[list-item, arg-type]
    ]
)
application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": SocketDoor(
            CookieMiddleware(SocketKeyMiddleware(SessionMiddleware(SocketPersonMiddleware(sockets))))
        ),
    }
)
