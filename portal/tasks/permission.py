"""Whether live pages may still be told what they watch: asked again and again, for all pages of a process together.

Whatever is asked while an answer is being fetched is answered with the next fetch. So a few pages ask at once, and
hundreds of them, of as many people, cost a handful of queries a round.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from django.conf import settings
from django.contrib.auth import get_user, load_backend
from django.contrib.auth.middleware import get_user as get_user_of
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.timezone import now

from portal.database import for_sockets
from portal.tasks import registry
from portal.tasks.models import Task

SIGNED_OUT, GONE = 4401, 4404  # close codes: sign in again; nothing here for you
RECHECK = 3.0  # seconds a permission is believed
RELOAD = 0.5  # seconds a session is believed: what a page asks for as it opens reads it once
MOST_KNOWN = 10_000  # of each, until all of it is forgotten

_whose: dict[str, tuple[float, Any]] = {}  # session key → when it was read, and whose it is
# (person, name) → when that was last seen to be allowed. A person's many pages, and the many rings of one page, ask
# once.
_believed: dict[tuple[int, str], float] = {}

Ask = tuple[str, tuple[str, ...]]
Answer = tuple[int | None, Any]  # the close code; the session's person


class SocketPersonMiddleware:
    """Puts the person into the scope as `user`. Inside of Channels' `SessionMiddleware`."""

    def __init__(self, app: Callable[..., Awaitable[Any]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        person = await person_of(scope["session"].session_key)
        return await self.app({**scope, "user": person or AnonymousUser()}, receive, send)


async def refusal(session_key: str | None, names: Collection[str]) -> int | None:
    """The close code, if the session is over or its person may not see one of these."""
    if session_key is None:
        return SIGNED_OUT
    person = _known(session_key)
    if person is not None and all(_is_believed(person.pk, name) for name in names):
        return None
    return (await _together().ask((session_key, tuple(names))))[0]


async def person_of(session_key: str | None) -> Any:
    """None for whom the session is over."""
    if session_key is None:
        return None
    return _known(session_key) or (await _together().ask((session_key, ())))[1]


def learn(request: HttpRequest, *names: str) -> None:
    """What the person of a page may see, who was shown it just now: its socket asks for the same a moment later."""
    person: Any = get_user_of(request)
    if person.is_authenticated and person.may_stay(request.session):
        _forget_many()
        at = time.monotonic()
        _whose[str(request.session.session_key)] = (at, person)
        _believed.update({(person.pk, name): at for name in names})


def _forget_many() -> None:
    for known in (_whose, _believed):
        if len(known) > MOST_KNOWN:
            known.clear()


def _known(session_key: str) -> Any:
    """Whose it is, if that was somebody's, and was read a moment ago. Other threads forget and learn meanwhile."""
    at, person = _whose.get(session_key, (0.0, None))
    return person if person is not None and time.monotonic() - at < RELOAD else None


def _is_believed(person: int, name: str) -> bool:
    return time.monotonic() - _believed.get((person, name), -RECHECK) < RECHECK


class _Together:
    """The pages of one event loop."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self.fetching: asyncio.Task[None] | None = None

    async def ask(self, one: Ask) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting.append((one, answer))
        if self.fetching is None:
            self.fetching = asyncio.create_task(self._fetch())
        return await answer

    async def _fetch(self) -> None:
        """Until nobody waits. An error is that of all who have asked together."""
        try:
            while self.waiting:
                asked, self.waiting = self.waiting, []
                found: list[Any]
                try:
                    found = list(await _refusals([one for one, _ in asked]))
                except Exception as error:  # noqa: BLE001 (raised where it was asked)
                    found = [error] * len(asked)
                for (_, answer), what in zip(asked, found, strict=True):
                    if answer.done():
                        continue  # the page has gone
                    if isinstance(what, Exception):
                        answer.set_exception(what)
                    else:
                        answer.set_result(what)
        finally:
            self.fetching = None


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Together] = WeakKeyDictionary()


def _together() -> _Together:
    loop = asyncio.get_running_loop()
    return _loops.setdefault(loop, _Together())


@for_sockets
def _refusals(asks: list[Ask]) -> list[Answer]:
    _forget_many()
    at = time.monotonic()
    people = {key: _known(key) for key, _ in asks}
    if unknown := {key for key, person in people.items() if person is None}:
        people |= _people(unknown)
        _whose.update({key: (at, people[key]) for key in unknown if people[key] is not None})
    pairs = {(people[key].pk, name) for key, names in asks if people[key] is not None for name in names}
    believed = {pair for pair in pairs if _is_believed(*pair)}
    wanted = pairs - believed
    seen = _seen({person.pk: person for person in people.values() if person is not None}, wanted)
    for pair in wanted - seen:
        _believed.pop(pair, None)
    _believed.update(dict.fromkeys(seen, at))
    allowed = believed | seen

    def answer(key: str, names: Iterable[str]) -> int | None:
        if people[key] is None:
            return SIGNED_OUT
        return None if all((people[key].pk, name) in allowed for name in names) else GONE

    return [(answer(*one), people[one[0]]) for one in asks]


def _people(session_keys: Collection[str]) -> dict[str, Any]:
    """Whose each session is; None where nobody may be here by it. Two queries, however many there are."""
    stores: Any = import_module(settings.SESSION_ENGINE).SessionStore
    rows = stores.get_model_class().objects.filter(session_key__in=session_keys, expire_date__gt=now())
    sessions = {}
    for row in rows:
        sessions[row.session_key] = session = stores(row.session_key)
        session._session_cache = session.decode(row.session_data)  # as its own `load` would
    (path,) = settings.AUTHENTICATION_BACKENDS
    backend: Any = load_backend(path)
    with backend.reading_together(sessions.values()):
        return {key: _person_of(sessions.get(key)) for key in session_keys}


def _person_of(session: Any) -> Any:
    if session is None:
        return None
    request = HttpRequest()
    request.session = session
    user: Any = get_user(request)
    return user if user.is_authenticated and user.may_stay(session) else None


def _seen(people: Mapping[int, Any], pairs: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those of these pairs of a person and a name that are allowed."""
    wanted: defaultdict[str, set[UUID]] = defaultdict(set)
    for _, name in pairs:
        kind, _, text = name.partition(".")
        if kind == "output" or kind in registry.live:
            try:
                wanted[kind].add(UUID(text))
            except ValueError:
                continue
    found: set[tuple[int, str]] = set()
    for kind, uuids in wanted.items():
        for rows, uuid in _rows(kind, uuids):
            names = {pk: f"{kind}.{of}" for pk, of in rows.values_list("pk", uuid)}
            found |= {(person, names[pk]) for pk, person in rows.seers(people.values()) if pk in names}
    return found & set(pairs)


def _rows(kind: str, uuids: set[UUID]) -> list[tuple[Any, str]]:
    """Rows whose seers may see these, and where the uuid is in them."""
    if kind != "output":
        return [(registry.live[kind].objects.filter(uuid__in=uuids), "uuid")]
    owners: list[Any] = [model for model in registry.subjects.values() if model.runs_programs]
    return [(model.objects.filter(output__uuid__in=uuids), "output__uuid") for model in (*owners, Task)]
