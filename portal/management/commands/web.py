from __future__ import annotations

import socket
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management import BaseCommand, CommandParser

from portal.asgi import application
from portal.database import keep_connection
from portal.loaded import give_way_often, keep_what_is_loaded, load_pages


class Command(BaseCommand):
    help = "Serve pages and live sockets."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--socket", type=int, help="an inherited socket that listens already")

    def handle(self, *args: Any, **options: Any) -> None:
        keep_connection()
        load_pages()
        keep_what_is_loaded()
        give_way_often()
        config = uvicorn.Config(
            application,
            host=options["host"],
            port=options["port"],
            ws="websockets-sansio",
            # Frames are shared by all viewers of an output; deflating each for itself would cost more than it saves.
            ws_per_message_deflate=False,
            ws_max_size=64 * 1024,
            proxy_headers=bool(settings.TRUSTED_PROXIES),
            forwarded_allow_ips="*" if settings.TRUSTED_PROXIES else None,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=3,
        )
        # Not uvicorn's own `fd`: it takes every such socket for a unix one, and then uvloop cuts answers short.
        inherited = options["socket"]
        uvicorn.Server(config).run([socket.socket(fileno=inherited)] if inherited is not None else None)
