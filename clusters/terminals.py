"""Terminals on nodes: what a page types goes to a shell on a node, and what that says comes back.

A `Shell` lives in the web process that opened it, in the background loop, so that a node that floods keeps no page
waiting. Its row says to everybody that it is open; the process says so again every LOOK. It ends with its process, its
shell, its node, and its person's right, session or patience.

Nobody can make it take memory: a node sends no more than TERMINAL_AHEAD that is not read (portal/ssh.py), no more than
AHEAD is read that the page has not shown, KEPT bytes stay for a page that comes back, and MOST_TYPED bytes wait for a
program that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_urlsafe
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import Http404
from django.utils.timezone import now

from accounts import audit
from accounts.access import Can, get_for
from accounts.models import User
from clusters.models import Cluster, Node, Terminal
from portal import ssh
from portal.database import for_sockets
from portal.errors import PortalError, Refused
from portal.prepared import prepared_keys
from portal.tasks import permission
from portal.tasks.live import ring

logger = logging.getLogger(__name__)

FRAME = 32 * 1024  # bytes in one message to a page, at most
AHEAD = 128 * 1024
KEPT = 512 * 1024
MOST_TYPED = 128 * 1024
RATE = 1024 * 1024  # bytes a second that are read of a flood
BURST = 256 * 1024  # that come at once after a quiet time
READING = 256  # what a read costs besides its bytes: many small ones are a flood too
LOOK = 3.0  # seconds between two looks whether it may go on
ALONE = 30.0  # seconds that it waits for a page that was cut off
BEAT = 10.0  # seconds after which a page is told that there is nothing new
LEASE = timedelta(seconds=15)  # how long a row stands for a terminal without being renewed

SIGNED_OUT = "You were signed out."
NOT_YOURS = "You may not open terminals here any more."
MADE_ROOM = "Its person opened another one, and nobody was at it."
LEFT_ALONE = f"Nobody came back to it within {ALONE:.0f} seconds."
TAKEN = "It went on in another tab."
LOST = "The process of the portal that had it has ended."


@dataclass(frozen=True)
class Who:
    """Who is at a page: the person, the session they are signed in by, and from where."""

    person: User
    session: str
    origin: audit.Origin


@dataclass(frozen=True)
class Opened:
    """What a shell needs to know of its row, its node and its cluster."""

    uuid: UUID
    cluster: UUID
    rank: int
    hostname: str
    host: ssh.Host
    command: ssh.Command


@dataclass(frozen=True)
class News:
    """What a page has not been told: output from where it was, how much of its typing was taken, words."""

    data: bytes
    typed: int
    notice: str
    over: str | None


class Shell:
    """A terminal. Every method is for the background loop."""

    def __init__(self, opened: Opened, who: Who) -> None:
        self.opened = opened
        self.who = who
        self.token = token_urlsafe(32)
        self.head = 0  # bytes that have come
        self.taken = 0  # up to where the page has shown them
        self.typed = 0  # bytes that the node has taken
        self.notice = f"Connecting to {opened.hostname}…"  # what is not as it should be, while it goes on
        self.over: str | None = None  # why it has ended
        self._kept = bytearray()  # the newest, up to `head`; nothing once it is forgotten
        self._forgotten = False
        self._moved = asyncio.Event()
        self._input: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0  # bytes in it
        self._page = 0  # the number of the page that has it
        # By the loop's clock, while no page has it: not yet, either.
        self.alone_since: float | None = asyncio.get_running_loop().time()
        self._size = opened.command.size
        self._stop = ""
        self._look_now = asyncio.Event()
        self.written_down = asyncio.Event()  # its end, or that this cannot be done
        self._terminal: ssh.Terminal | None = None

    # What a page does

    def attach(self, after: int | None) -> tuple[int, int, int]:
        """The number of the page, and from where and up to where it is given what was said before.

        `after` None, or longer ago than what is kept: from the first whole line that is.
        """
        self._page += 1
        self.alone_since = None
        first = self.head - len(self._kept)
        if after is None or not first <= after <= self.head:
            after = first
            if first:
                after += self._kept.find(b"\n") + 1
        self.taken = after
        self._ring()
        return self._page, after, self.head

    def leave(self, page: int) -> None:
        if page == self._page:
            self.alone_since = asyncio.get_running_loop().time()

    async def news(self, page: int, after: int, typed: int, notice: str | None) -> News:
        """Waits until there is something that the page has not been told, or for BEAT."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT):
                while True:
                    moved = self._moved
                    if page != self._page:
                        return News(b"", self.typed, self.notice, TAKEN)
                    data = self._between(after)
                    over = self.over if after + len(data) == self.head or self._forgotten else None
                    if data or over is not None or (typed, notice) != (self.typed, self.notice):
                        return News(data, self.typed, self.notice, over)
                    await moved.wait()
        return News(b"", self.typed, self.notice, None)

    def _between(self, after: int) -> bytes:
        first = self.head - len(self._kept)
        most = min(FRAME, AHEAD - (after - self.taken))
        return bytes(self._kept[after - first : after - first + most]) if most > 0 else b""

    def show(self, page: int, taken: int) -> None:
        """The page has shown everything up to there."""
        if page == self._page and self.taken < taken <= self.head:
            self.taken = taken
            self._ring()

    def type(self, page: int, data: bytes) -> bool:
        """False, and nothing is typed, when more would wait than a page sends that heeds what was taken."""
        if page != self._page or self.over is not None or not data:
            return True
        if self._waiting + len(data) > MOST_TYPED:
            return False
        self._waiting += len(data)
        self._input.put_nowait(data)
        return True

    def resize(self, page: int, columns: int, rows: int, *, redraw: bool = False) -> None:
        """With `redraw`, programs are told of it even when it is what it was: they draw the screen again."""
        if page != self._page:
            return
        self._size = columns, rows
        if self._terminal:
            if redraw:
                self._terminal.resize(columns, max(1, rows - 1))
            self._terminal.resize(columns, rows)

    def end(self, words: str) -> None:
        self._stop = self._stop or words
        self._look_now.set()

    # Its life

    async def live(self) -> None:
        """From the row to the end of everything; never raises."""
        words = "The portal could not go on with it."
        try:
            words = await _first_of(self._talk(), self._watch())
        except PortalError as error:
            words = error.message
        except Exception:
            logger.exception("terminal %s", self.opened.uuid)
        finally:
            self._terminal = None
            _shells[self.opened.uuid] = self
            self.over = words
            self._ring()
            await self._write_down(words)
        await asyncio.sleep(ALONE)  # a page that was cut off may still ask how it ended
        _shells.pop(self.opened.uuid, None)
        self._kept.clear()
        self._forgotten = True  # a page that has not shown everything by now is told the end without it
        self._ring()

    async def _talk(self) -> str:
        """Why it ends. Until the node has answered, which it may never do, there is nothing but `_watch`."""
        async with _connections().terminal(self.opened.host, self.opened.command) as terminal:
            if self._size and self._size != self.opened.command.size:
                terminal.resize(*self._size)
            self._terminal = terminal
            self.notice = ""
            self._ring()
            return await _first_of(self._pump(terminal), self._feed(terminal))

    async def _pump(self, terminal: ssh.Terminal) -> str:
        clock = asyncio.get_running_loop().time
        paid = 0.0  # until when what was read is paid for
        while block := await terminal.read(FRAME):
            self.head += len(block)
            self._kept += block
            del self._kept[: max(0, len(self._kept) - KEPT)]
            self._ring()
            paid = max(paid, clock()) + (len(block) + READING) / RATE
            await asyncio.sleep(max(0.0, paid - BURST / RATE - clock()))
            while self.head - self.taken >= AHEAD:
                await self._moved.wait()
        status = await terminal.status()
        if status is None:
            return await _why_gone(self.opened)
        return f"The shell ended with exit status {status}." if status else "The shell ended."

    async def _feed(self, terminal: ssh.Terminal) -> str:
        while True:
            data = await self._input.get()
            await terminal.write(data)
            self._waiting -= len(data)
            self.typed += len(data)
            self._ring()

    async def _watch(self) -> str:
        clock = asyncio.get_running_loop().time
        believed = clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._look_now.wait()
            if self._stop:
                return self._stop
            if self.alone_since is not None and clock() - self.alone_since > ALONE:
                return LEFT_ALONE
            try:
                words, notice = await _may_go_on(self.opened, self.who)
            except DatabaseError as error:
                logger.warning("terminal %s: %s", self.opened.uuid, error)
                if clock() - believed > LEASE.total_seconds():
                    return "The portal could not ask whether you may still be here."
                continue
            believed = clock()
            if words:
                return words
            if self._terminal and notice != self.notice:
                self.notice = notice
                self._ring()

    def _ring(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _write_down(self, words: str) -> None:
        try:
            await for_sockets(close)(self.opened.uuid, words, self.who.origin)
        except DatabaseError as error:  # `sweep` does it
            logger.warning("the end of terminal %s is not written down: %s", self.opened.uuid, error)
        finally:
            self.written_down.set()


async def _first_of(*work: Coroutine[Any, Any, str]) -> str:
    """What the one that ends first returns, or raises. The others are cancelled, and have ended too."""
    jobs = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        return next(job for job in jobs if job.done()).result()
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


# Of this process: those that are open, and for a while those that have ended.
_shells: OrderedDict[UUID, Shell] = OrderedDict()
_lives: set[asyncio.Task[None]] = set()
_kept: dict[asyncio.AbstractEventLoop, ssh.Connections] = {}


def _connections() -> ssh.Connections:
    loop = asyncio.get_running_loop()
    if loop not in _kept:
        _kept[loop] = ssh.Connections()
    return _kept[loop]


async def open_shell(cluster: UUID, rank: int, who: Who, size: tuple[int, int]) -> Shell:
    """A new one, on its way. Raises `Refused`, `PermissionDenied` and `Http404`."""
    await _make_room(who)
    shell = Shell(await for_sockets(open_terminal)(cluster, rank, who, size), who)
    _shells[shell.opened.uuid] = shell
    life = asyncio.create_task(shell.live())
    _lives.add(life)
    life.add_done_callback(_lives.discard)
    return shell


async def _make_room(who: Who) -> None:
    """End the one that was left alone the longest, if the person has as many as may be: its page was closed."""
    mine = [shell for shell in _shells.values() if shell.over is None and shell.who.person == who.person]
    alone = [shell for shell in mine if shell.alone_since is not None]
    if len(mine) >= settings.TERMINALS and alone:
        longest = min(alone, key=lambda shell: shell.alone_since or 0.0)
        longest.end(MADE_ROOM)
        await longest.written_down.wait()


def find_shell(uuid: UUID, token: str, cluster: UUID, rank: int, who: Who) -> Shell | None:
    """The one that this session of this person opened here, if this process has it."""
    shell = _shells.get(uuid)
    if shell is None or not token or token != shell.token:
        return None
    same = (shell.who.person.pk, shell.who.session, shell.opened.cluster, shell.opened.rank)
    return shell if same == (who.person.pk, who.session, cluster, rank) else None


def of_others(uuid: UUID, who: Who) -> bool:
    """Whether another process says that it has this terminal of this person."""
    return Terminal.objects.filter(uuid=uuid, person=who.person.pk, seen__gt=Now() - LEASE).exists()


# Rows


def why_not(cluster: Cluster, node: Node) -> str:
    """Why no terminal can be opened on a node, in a sentence."""
    if not settings.TERMINALS:
        return "Terminals are switched off in this portal."
    if not cluster.opens_terminals:
        return f"{cluster} is {cluster.badge.word}. Terminals can be opened while it is RUNNING."
    if node.state != Node.State.ANSWERS:
        return f"{node} does not answer." if node.state in Node.MUTE else f"{node} is {node.badge.word}."
    return ""


def open_terminal(cluster: UUID, rank: int, who: Who, size: tuple[int, int]) -> Opened:
    """The row of a new terminal, and how to reach its node. Raises `Refused`, `PermissionDenied` and `Http404`."""
    rows = Cluster.objects.select_related("workspace__organization", "workspace__cloud_config", "engine_version")
    found = get_for(rows, who.person, Can.RUN_JOBS, uuid=cluster)
    node = found.nodes.filter(rank=rank).first()
    if node is None:
        raise Http404
    node.cluster = found
    if why := why_not(found, node):
        raise Refused(why)
    with audit.done_from(who.origin.address, who.origin.how), audit.atomic():
        User.objects.select_for_update(of=("self",), no_key=True).get(pk=who.person.pk)  # two at once are counted
        live = Terminal.objects.filter(seen__gt=Now() - LEASE)
        if live.filter(person=who.person.pk).count() >= settings.TERMINALS:
            raise Refused(f"You have {settings.TERMINALS} terminals open.", advice="End one of them first.")
        if live.count() >= settings.ALL_TERMINALS:
            raise Refused(f"{settings.ALL_TERMINALS} terminals are open in this portal.", advice="Try again later.")
        if not Cluster.objects.opening_terminals().filter(pk=found.pk).update(last_active=Now()):
            found.refresh_from_db(fields=["status", "kept_until"])
            raise Refused(why_not(found, node))
        row = Terminal.objects.create(cluster=found, hostname=node.hostname, person=who.person)
        _record("opened", row, by=who.person)
        ring(*found.live_names())
    return Opened(row.uuid, found.uuid, rank, node.hostname, node.host, _command(found, size))


def _command(cluster: Cluster, size: tuple[int, int]) -> ssh.Command:
    """A person's shell, in which `python` and `mpiexec` are those of the engine version."""
    words = {**cluster.environment, "COLORTERM": "truecolor"}
    line = (
        f"export PATH={shlex.quote(cluster.engine_folder)}/bin:$PATH {shlex.join(f'{k}={v}' for k, v in words.items())}"
        "; shell=$(command -v bash) && export PS1='\\h:\\w\\$ ' || shell=/bin/sh; exec \"$shell\" -i"
    )
    return ssh.Command(line, env=(("LANG", "C.UTF-8"),), size=size)


async def _may_go_on(opened: Opened, who: Who) -> tuple[str, str]:
    """Why it may not, and what people should know while it may. Says that this process has it."""
    if await permission.refusal(who.session, ()) is not None:
        return SIGNED_OUT, ""
    return await _is_still_there(opened, who)


@for_sockets
def _is_still_there(opened: Opened, who: Who) -> tuple[str, str]:
    if not Cluster.objects.where(who.person, Can.RUN_JOBS).filter(uuid=opened.cluster).exists():
        return NOT_YOURS, ""
    state = Node.objects.filter(cluster__uuid=opened.cluster, rank=opened.rank).values_list("state", flat=True).first()
    if state is None or state == Node.State.GONE:
        return f"{opened.hostname} is gone.", ""
    if not Terminal.objects.filter(uuid=opened.uuid).update(seen=Now()):
        return LOST, ""
    return "", f"{opened.hostname} does not answer." if state in Node.MUTE else ""


@for_sockets
def _why_gone(opened: Opened) -> str:
    """In words, when the connection to the node has broken."""
    cluster = Cluster.objects.get(uuid=opened.cluster)
    if not cluster.opens_terminals:
        return f"{cluster} is {cluster.badge.word}."
    return f"The connection to {opened.hostname} broke: it was stopped, or cannot be reached."


def close(uuid: UUID, why: str, origin: audit.Origin) -> bool:
    """Take its row away and write down that it has ended, once. False when somebody did so before."""
    with audit.done_from(origin.address, origin.how), audit.atomic():
        row = Terminal.objects.select_related("person", "cluster__workspace__organization").filter(uuid=uuid).first()
        if row is None or not Terminal.objects.filter(pk=row.pk).delete()[0]:
            return False
        Cluster.objects.filter(pk=row.cluster_id, status=Cluster.Status.RUNNING).update(last_active=Now())
        _record("closed", row, by=row.person, opened=row.opened, closed=now(), why=why)
        ring(*row.cluster.live_names())
    return True


def sweep() -> int:
    """Close those that no process has any more; how many."""
    if not _open():
        return 0
    gone = Terminal.objects.filter(seen__lte=Now() - LEASE).values_list("uuid", flat=True)
    return sum(close(uuid, LOST, audit.Origin()) for uuid in list(gone))


@prepared_keys
def _open() -> QuerySet[Terminal]:
    return Terminal.objects.all()[:1]


def _record(verb: str, row: Terminal, *, by: User | None, **after: Any) -> None:
    workspace = row.cluster.workspace
    words = {"cluster": str(row.cluster), **after}
    audit.record(verb, row, organization=workspace.organization, workspace=workspace, by=by, after=words)
