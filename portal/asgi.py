"""HTTP, and the live pages' sockets."""

import os

from channels.auth import AuthMiddleware
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
http = get_asgi_application()

from portal.sessions import SocketKeyMiddleware  # noqa: E402  (needs the app registry)
from portal.tasks.consumers import LiveConsumer  # noqa: E402

live = URLRouter([path("live/", LiveConsumer.as_asgi())])  # type: ignore[list-item, arg-type]
application = ProtocolTypeRouter(
    {
        "http": http,
        # The exact origins: AllowedHostsOriginValidator ignores ports, so that a notebook on another port of this
        # host could open a socket as the person.
        "websocket": OriginValidator(
            CookieMiddleware(SocketKeyMiddleware(SessionMiddleware(AuthMiddleware(live)))),
            settings.ORIGINS,
        ),
    }
)
