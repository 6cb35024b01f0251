"""The socket of a page. It says "look again" for what the page watches, and hands out output by cursor.

The page sends {"watch": ["task.UUID", …]} and {"output": UUID, "after": N, "ended": bool, "kept": bool}: one ask, one
frame, so that a page that stalls costs one frame. Permission is asked again at every read, at the latest after RECHECK.
"""

from __future__ import annotations

import asyncio
import json
import time
from importlib import import_module
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest
from django.utils.module_loading import import_string

from portal.tasks.hub import Reader
from portal.tasks.models import Output

SIGNED_OUT, GONE = 4401, 4404  # close codes: sign in again; nothing here for you
RECHECK = 2.0  # seconds a permission is believed
PACE = 0.1  # seconds between frames to a page that is up to date
BEAT = 10.0
MOST_WATCHED = 20


class LiveConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.watched: dict[str, float] = {}  # name → when permission was last seen
        self.rung: set[str] = set()
        self.following: asyncio.Task[None] | None = None
        self.jobs: list[asyncio.Task[None]] = []
        self.checked = time.monotonic()
        if not await self.person():
            await self.accept()
            await self.close(SIGNED_OUT)
            return
        await self.accept()
        self.bell = asyncio.Event()
        self.jobs = [asyncio.create_task(self._tell()), asyncio.create_task(self._beat())]

    async def disconnect(self, code: int) -> None:
        for job in (*self.jobs, self.following):
            if job:
                job.cancel()
        for name in self.watched:
            await self.channel_layer.group_discard(name, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            ask = json.loads(text_data or "")
            if not isinstance(ask, dict):
                raise TypeError(ask)
            if "watch" in ask:
                await self._watch([str(name) for name in ask["watch"]][:MOST_WATCHED])
            elif "output" in ask:
                if self.following:
                    self.following.cancel()
                self.following = asyncio.create_task(
                    self._follow(UUID(ask["output"]), max(0, int(ask["after"])), bool(ask["ended"]), bool(ask["kept"]))
                )
            else:
                raise KeyError("watch or output")
        except (ValueError, KeyError, TypeError):
            await self.close(1003)

    # What the page watches

    async def _watch(self, names: list[str]) -> None:
        for name in names:
            if name in self.watched:
                continue
            if not await self.allowed(name):
                await self.close(GONE)
                return
            self.watched[name] = time.monotonic()
            await self.channel_layer.group_add(name, self.channel_name)
        await self.send(json.dumps({"watching": sorted(self.watched)}))

    async def rang(self, event: dict[str, Any]) -> None:
        self.rung.add(event["name"])
        self.bell.set()

    async def _tell(self) -> None:
        while True:
            await self.bell.wait()
            self.bell.clear()
            names, self.rung = self.rung, set()
            if await self._still_allowed(names):
                await self.send(json.dumps({"changed": sorted(names)}))
            await asyncio.sleep(PACE)  # coalesces bursts

    async def _beat(self) -> None:
        """A page that hears nothing for two beats knows that it is deaf. A person who lost a right is sent away."""
        told = time.monotonic()
        while True:
            await asyncio.sleep(RECHECK)
            if not await self._still_allowed(set(self.watched)):
                return
            if time.monotonic() - told >= BEAT - 0.1:
                told = time.monotonic()
                await self.send(json.dumps({"beat": int(time.time())}))

    async def _still_allowed(self, names: set[str]) -> bool:
        if time.monotonic() - self.checked >= RECHECK:
            self.checked = time.monotonic()
            if not await self.person():
                await self.close(SIGNED_OUT)
                return False
        for name in names & set(self.watched):
            if time.monotonic() - self.watched[name] >= RECHECK:
                if not await self.allowed(name):
                    await self.close(GONE)
                    return False
                self.watched[name] = time.monotonic()
        return True

    # Output

    async def _follow(self, uuid: UUID, after: int, ended: bool, kept: bool) -> None:
        name = f"output.{uuid}"
        if name not in self.watched:
            if not await self.allowed(name):
                await self.close(GONE)
                return
            self.watched[name] = time.monotonic()
        reader = getattr(self, "reader", None)
        if reader is None or reader.output.uuid != uuid:
            output = await self._output(uuid)
            if output is None:
                await self.close(GONE)
                return
            self.reader = reader = Reader.of(output)
        await reader.start()
        waited = time.monotonic()
        await reader.beyond(after, ended=ended, kept=kept)
        behind = reader.output.head - after
        pause = getattr(self, "sent", 0.0) + PACE - time.monotonic()
        if pause > 0 and behind < 256 * 1024:
            await asyncio.sleep(pause)
        if await self._still_allowed({name}):
            self.sent = max(waited, time.monotonic())
            await self.send(bytes_data=await reader.frame(after))

    @database_sync_to_async
    def _output(self, uuid: UUID) -> Output | None:
        return Output.objects.filter(uuid=uuid).first()

    # Permission

    @database_sync_to_async
    def person(self) -> bool:
        """Whether the session still belongs to somebody who may sign in. Reads it anew each time."""
        session = self.scope.get("session")
        if session is None:
            return False
        request = HttpRequest()
        # Not the scope's own, which was loaded once: a session that has ended since must not go on here.
        request.session = import_module(settings.SESSION_ENGINE).SessionStore(session.session_key)
        self.user = get_user(request)
        return bool(self.user.is_authenticated and self.user.is_active)

    @database_sync_to_async
    def allowed(self, name: str) -> bool:
        kind, _, text = name.partition(".")
        try:
            uuid = UUID(text)
        except ValueError:
            return False
        if kind == "output":
            task_model = import_string(settings.LIVE_SUBJECTS["task"])
            task = task_model.objects.filter(output__uuid=uuid).order_by("-pk").first()
            return task is not None and task_model.objects.seen_by(self.user, task.uuid) is not None
        if kind not in settings.LIVE_SUBJECTS:
            return False
        return import_string(settings.LIVE_SUBJECTS[kind]).objects.seen_by(self.user, uuid) is not None
