"""The socket of a terminal's page.

The page opens a terminal, {"open": [COLUMNS, ROWS]}, or comes back to one that it had, {"resume": TOKEN, "terminal":
UUID, "after": N or null, "size": [COLUMNS, ROWS]}. What it types comes as bytes, what the terminal says goes as bytes.
It says up to which byte it has shown that, {"shown": N}, and is told how much of its typing was taken, {"typed": N}:
neither side has to keep more than the other has room for. {"size": …} and {"end": true} are the rest.

The last that a page hears is {"over": SENTENCE} with a close code, after which it asks for no more; or TRY_AGAIN.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest

from accounts import audit
from accounts.signin import how_of
from clusters import terminals
from clusters.terminals import Shell, Who
from portal import background
from portal.database import for_sockets
from portal.errors import PortalError
from portal.tasks.consumers import TRY_AGAIN
from portal.tasks.permission import GONE, SIGNED_OUT, refusal

logger = logging.getLogger(__name__)

FORBIDDEN, OVER, MISREAD = 4403, 4410, 1003
ELSEWHERE = 4409  # another web process has it: the page tries again, and may come there
OPEN_WITHIN = 10.0  # seconds; a socket that asks for nothing is closed
GAP = 0.008  # seconds between two messages of output; what comes meanwhile is joined
WIDEST, HIGHEST = 500, 300  # columns and rows

T = TypeVar("T")


async def _there(work: Coroutine[Any, Any, T]) -> T:
    """Have it done in the background loop, where terminals live."""
    return await asyncio.wrap_future(background.submit(work))


async def _do(act: Any, *args: Any, **named: Any) -> Any:
    return act(*args, **named)


class TerminalConsumer(AsyncWebsocketConsumer):
    shell: Shell | None = None
    page = 0
    telling: asyncio.Task[None] | None = None
    hurrying: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # not in `disconnect`, which is not called where the page goes while it is told something
            for job in (self.telling, self.hurrying):
                if job:
                    job.cancel()
            if self.shell:
                await _there(_do(self.shell.leave, self.page))

    async def connect(self) -> None:
        await self.accept()
        person: Any = self.scope["user"]
        if not person.is_authenticated:
            await self._over(terminals.SIGNED_OUT, SIGNED_OUT)
            return
        self.hurrying = asyncio.create_task(self._hurry())

    async def _hurry(self) -> None:
        await asyncio.sleep(OPEN_WITHIN)
        if self.shell is None:
            await self.close(MISREAD)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            if bytes_data is not None:
                await self._type(bytes_data)
            else:
                await self._heed(json.loads(text_data or ""))
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError):
            await self._over("The page said something that the portal does not understand.", MISREAD)

    async def _type(self, data: bytes) -> None:
        if self.shell is None:
            raise ValueError("typed before there was a terminal")
        if not await _there(_do(self.shell.type, self.page, data)):
            words = "More was typed than its program reads."
            await _there(_do(self.shell.end, words))
            await self._over(words, OVER)

    async def _heed(self, asked: dict[str, Any]) -> None:
        if not isinstance(asked, dict):
            raise TypeError(asked)
        if self.shell is None:
            await self._begin(asked)
        elif "shown" in asked:
            await _there(_do(self.shell.show, self.page, int(asked["shown"])))
        elif "size" in asked:
            await _there(_do(self.shell.resize, self.page, *_size(asked["size"])))
        elif asked.get("end"):
            await _there(_do(self.shell.end, "You ended it."))
        else:
            raise KeyError("shown, size or end")

    # Opening, and coming back

    async def _begin(self, asked: dict[str, Any]) -> None:
        route = self.scope["url_route"]["kwargs"]
        who = await self._who()
        if who is None:
            await self._over(terminals.SIGNED_OUT, SIGNED_OUT)
            return
        if "resume" in asked:
            await self._come_back(asked, route, who)
            return
        try:
            shell = await _there(terminals.open_shell(route["uuid"], route["rank"], who, _size(asked["open"])))
        except Http404:
            await self._over("There is nothing here for you.", GONE)
        except PermissionDenied:
            await self._over("Whoever may run jobs here may open terminals. You may look.", FORBIDDEN)
        except PortalError as error:
            await self._over(" ".join(filter(None, (error.message, error.advice))), OVER)
        else:
            await self._have(shell, None)

    async def _come_back(self, asked: dict[str, Any], route: dict[str, Any], who: Who) -> None:
        uuid, after, size = UUID(asked["terminal"]), asked["after"], _size(asked["size"])
        shell = await _there(_do(terminals.find_shell, uuid, str(asked["resume"]), route["uuid"], route["rank"], who))
        if shell is not None:
            await self._have(shell, None if after is None else int(after))
            await _there(_do(shell.resize, self.page, *size, redraw=after is None))
        elif await for_sockets(terminals.of_others)(uuid, who):
            await self.close(ELSEWHERE)
        else:
            await self._over("It has ended.", OVER)

    async def _who(self) -> Who | None:
        """None for whom the session is over."""
        session: Any = self.scope["session"]
        user: Any = self.scope["user"]
        if session.session_key is None or await refusal(session.session_key, ()) is not None:
            return None
        request = HttpRequest()
        request.session = session
        headers = {name: value.decode("latin-1") for name, value in self.scope["headers"]}
        request.META = {
            "REMOTE_ADDR": (self.scope.get("client") or ("",))[0],
            "HTTP_X_FORWARDED_FOR": headers.get(b"x-forwarded-for", ""),
        }
        how = await for_sockets(how_of)(request)  # which reads the session
        return Who(user, session.session_key, audit.Origin(audit.address_of(request), how))

    async def _have(self, shell: Shell, after: int | None) -> None:
        self.shell = shell
        self.page, begin, head = await _there(_do(shell.attach, after))
        said = {
            "terminal": str(shell.opened.uuid),
            "resume": shell.token,
            "from": begin,
            "head": head,  # up to there it was said before
            "typed": shell.typed,
            "fresh": begin != after,
        }
        await self.send(json.dumps(said))
        self.telling = asyncio.create_task(self._tell(shell, begin))

    # What it says

    async def _tell(self, shell: Shell, at: int) -> None:
        typed: int = shell.typed
        notice: str | None = None  # the page has been told nothing yet
        try:
            while True:
                news = await _there(shell.news(self.page, at, typed, notice))
                if news.data:
                    at += len(news.data)
                    await self.send(bytes_data=news.data)
                if (news.typed, news.notice) != (typed, notice) or not news.data:
                    typed, notice = news.typed, news.notice
                    await self.send(json.dumps({"typed": typed, "notice": notice}))
                if news.over is not None:
                    await self._over(news.over, OVER)
                    return
                await asyncio.sleep(GAP)
        except Exception:
            logger.exception("a terminal's page could not be told what is new")
            await self.close(TRY_AGAIN)

    async def _over(self, words: str, code: int) -> None:
        await self.send(json.dumps({"over": words}))
        await self.close(code)


def _size(said: Any) -> tuple[int, int]:
    columns, rows = said
    return min(max(int(columns), 2), WIDEST), min(max(int(rows), 1), HIGHEST)
