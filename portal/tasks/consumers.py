"""The socket of a page. It says "look again" for what the page watches, and hands out output by cursor.

The page sends {"watch": ["task.UUID", …]} and {"output": UUID, "after": N, "ended": bool, "kept": bool}: one ask, one
frame, so that a page that stalls costs one frame. Permission is asked again at every read, at the latest after RECHECK.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from typing import Any
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest

from portal.database import for_sockets
from portal.tasks import registry
from portal.tasks.hub import Reader, State
from portal.tasks.models import Output
from portal.tasks.pace import Pace
from portal.tasks.subjects import seen_output

logger = logging.getLogger(__name__)

SIGNED_OUT, GONE, TRY_AGAIN = 4401, 4404, 1011  # close codes: sign in again; nothing here for you; our fault
RECHECK = 3.0  # seconds a permission is believed
RELOAD = 0.5  # seconds a session is believed: what a page asks for as it opens reads it once
BEAT = 10.0
MOST_WATCHED = 20


class LiveConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.watched: set[str] = set()
        self.rung: set[str] = set()
        self.following: asyncio.Task[None] | None = None
        self.jobs: list[asyncio.Task[None]] = []
        self.checked = time.monotonic()
        self.person: Any = None
        self.person_at = 0.0  # when the session was read
        await self.accept()
        if not await self._ask([]):
            return
        self.bell = asyncio.Event()
        self.jobs = [asyncio.create_task(self._or_close(job)) for job in (self._tell, self._beat)]

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
            await asyncio.sleep(RECHECK)
            if not await self._still_allowed():
                return
            if time.monotonic() - told >= BEAT - 0.1:
                told = time.monotonic()
                await self.send(json.dumps({"beat": int(time.time())}))

    async def _still_allowed(self) -> bool:
        """Ask again, if the last answer is too old to be believed; close when something is no longer allowed."""
        if time.monotonic() - self.checked < RECHECK:
            return True
        self.checked = time.monotonic()
        return await self._ask(self.watched)

    async def _ask(self, names: Iterable[str]) -> bool:
        code = await self.refusal(list(names))
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
        if reader is None or reader.output.uuid != uuid:
            output = await self._output(uuid)
            if output is None:
                await self.close(GONE)
                return
            self.reader = reader = Reader.of(output)
        await reader.start()
        await reader.beyond(State(after, ended, kept))
        if await self._still_allowed():
            await self.send(bytes_data=await reader.frame(after))

    @for_sockets
    def _output(self, uuid: UUID) -> Output | None:
        return Output.objects.filter(uuid=uuid).first()

    # Permission

    async def refusal(self, names: list[str]) -> int | None:
        """The close code, if the session is over or the person may not see one of these."""
        if self._knows_person() and all(_is_believed(self.person, name) for name in names):
            return None
        return await self._refusal(names)

    def _knows_person(self) -> bool:
        return self.person is not None and time.monotonic() - self.person_at < RELOAD

    @for_sockets
    def _refusal(self, names: list[str]) -> int | None:
        if not self._knows_person():
            self.person_at, self.person = person_of(self.scope.get("session"))
        if self.person is None:
            return SIGNED_OUT
        return None if all(_may_see(self.person, name) for name in names) else GONE


_people: dict[Any, tuple[float, Any]] = {}  # session key → when it was read, and whose it is


def person_of(session: Any) -> tuple[float, Any]:
    """When the session was read, and whose it is, if it goes on. The sockets of one session read it once for all."""
    if session is None:
        return time.monotonic(), None
    key = session.session_key
    found = _people.get(key)
    if found is None or time.monotonic() - found[0] >= RELOAD:
        if len(_people) > 10_000:
            _people.clear()
        found = _people[key] = time.monotonic(), _whose(key)
    return found


def _whose(session_key: Any) -> Any:
    """The person, if the session goes on. A scope's own session was loaded once, and may have ended since."""
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(request)
    return user if user.is_authenticated and user.may_stay(request.session) else None


# (person, name) → when it was last seen to be allowed. Shared by the sockets of a process: a person's many pages, and
# the many rings of one page, ask the database once.
_believed: dict[tuple[int, str], float] = {}


def _is_believed(user: Any, name: str) -> bool:
    return time.monotonic() - _believed.get((user.pk, name), -RECHECK) < RECHECK


def _may_see(user: Any, name: str) -> bool:
    if _is_believed(user, name):
        return True
    now = time.monotonic()
    if not _sees(user, name):
        _believed.pop((user.pk, name), None)
        return False
    if len(_believed) > 10_000:
        _believed.clear()
    _believed[user.pk, name] = now
    return True


def _sees(user: Any, name: str) -> bool:
    kind, _, text = name.partition(".")
    try:
        uuid = UUID(text)
    except ValueError:
        return False
    if kind == "output":
        return seen_output(user, uuid) is not None
    if kind not in registry.live:
        return False
    return registry.live[kind].objects.seen_by(user, uuid) is not None
