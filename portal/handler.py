"""How pages are answered: each request by one thread, which then waits for the next one.

Django's own handler goes back to the event loop before each view, which might be asynchronous, and has a new thread,
and so a new connection to the database, for each request: a third of what a small page costs. No view of ours is
asynchronous; answers that are sent piece by piece may be.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase

MOST_IDLE = 8  # threads, with a connection each


class PageHandler(ASGIHandler):
    def __init__(self) -> None:
        django.setup(set_prefix=False)
        self.load_middleware()
        self.idle: list[ThreadPoolExecutor] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        thread = self.idle.pop() if self.idle else ThreadPoolExecutor(1, thread_name_prefix="page")
        is_free = False
        try:
            async with ThreadSensitiveContext(executor=thread):
                await self.handle(scope, receive, send)
            is_free = len(self.idle) < MOST_IDLE
        finally:
            if is_free:
                self.idle.append(thread)
            else:  # at once, or when it has done what nobody waits for any more
                thread.submit(connections.close_all)
                thread.shutdown(wait=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response)(request)
