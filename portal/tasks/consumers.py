"""The socket of a page. It says "look again" for what the page watches, and hands out output by cursor.

The page sends {"watch": ["task.UUID", …]} and {"output": UUID, "after": N, "ended": bool, "kept": bool}: one ask, one
frame, so that a page that stalls costs one frame. Permission is asked again at every read, see `permission.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer

from portal.tasks import permission
from portal.tasks.hub import Reader, State
from portal.tasks.pace import Pace

logger = logging.getLogger(__name__)

TRY_AGAIN = 1011  # close code: our fault
BEAT = 10.0
MOST_WATCHED = 20


class LiveConsumer(AsyncWebsocketConsumer):
    def __init__(self) -> None:
        super().__init__()
        self.watched: set[str] = set()
        self.rung: set[str] = set()
        self.following: asyncio.Task[None] | None = None
        self.jobs: list[asyncio.Task[None]] = []
        self.checked = time.monotonic()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # not in `disconnect`, which is not called where a question fails, or the page goes while it is told
            for job in (*self.jobs, self.following):
                if job:
                    job.cancel()
            for name in self.watched:
                await self.channel_layer.group_discard(name, self.channel_name)

    async def connect(self) -> None:
        await self.accept()
        if not await self._ask([]):
            return
        self.bell = asyncio.Event()
        self.jobs = [asyncio.create_task(self._or_close(job)) for job in (self._tell, self._beat)]

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
                    self._answer(UUID(ask["output"]), max(0, int(ask["after"])), bool(ask["ended"]), bool(ask["kept"]))
                )
            else:
                raise KeyError("watch or output")
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
            await self.close(1003)

    async def _or_close(self, job: Callable[[], Awaitable[None]]) -> None:
        """A page whose news do not come any more must not be told that it is live: it connects again."""
        try:
            await job()
        except Exception:
            logger.exception("a live page could not be told what is new")
            await self.close(TRY_AGAIN)

    # What the page watches

    async def _watch(self, names: list[str]) -> None:
        for name in names:
            if name in self.watched:
                continue
            if not await self._ask([name]):
                return
            self.watched.add(name)
            await self.channel_layer.group_add(name, self.channel_name)
        await self.send(json.dumps({"watching": sorted(self.watched)}))

    async def rang(self, event: dict[str, Any]) -> None:
        self.rung.add(event["name"])
        self.bell.set()

    async def _tell(self) -> None:
        pace = Pace()
        while True:
            await self.bell.wait()
            await pace.turn()  # joins what is rung in a burst
            self.bell.clear()
            names, self.rung = self.rung, set()
            if await self._still_allowed():
                await self.send(json.dumps({"changed": sorted(names)}))

    async def _beat(self) -> None:
        """A page that hears nothing for two beats knows that it is deaf. A person who lost a right is sent away."""
        told = time.monotonic()
        while True:
            await asyncio.sleep(permission.RECHECK)
            if not await self._still_allowed():
                return
            if time.monotonic() - told >= BEAT - 0.1:
                told = time.monotonic()
                await self.send(json.dumps({"beat": int(time.time())}))

    async def _still_allowed(self) -> bool:
        """Ask again, if the last answer is too old to be believed; close when something is no longer allowed."""
        if time.monotonic() - self.checked < permission.RECHECK:
            return True
        self.checked = time.monotonic()
        return await self._ask(self.watched)

    async def _ask(self, names: Iterable[str]) -> bool:
        session = self.scope.get("session")
        code = await permission.refusal(session.session_key if session else None, list(names))
        if code is not None:
            await self.close(code)
        return code is None

    # Output

    async def _answer(self, uuid: UUID, after: int, ended: bool, kept: bool) -> None:
        try:
            await self._follow(uuid, after, ended, kept)
        except Exception:
            logger.exception("output %s could not be read for a live page", uuid)
            await self.close(TRY_AGAIN)

    async def _follow(self, uuid: UUID, after: int, ended: bool, kept: bool) -> None:
        name = f"output.{uuid}"
        if name not in self.watched:
            if not await self._ask([name]):
                return
            self.watched.add(name)
        reader = getattr(self, "reader", None)
        if reader is None or reader.uuid != uuid:
            self.reader = reader = Reader.of(uuid)
        await reader.start()
        await reader.beyond(State(after, ended, kept))
        if await self._still_allowed():
            await self.send(bytes_data=await reader.frame(after))
