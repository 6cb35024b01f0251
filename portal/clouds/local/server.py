"""The SSH server of a node, on asyncssh: commands, terminals, SFTP, and forwarding to the node itself.

It reads what strangers send and has no right but to ask the node's first process for sessions. What people run, SFTP
included, runs in those.

Of the client's environment these words are the portal's: COXSWAIN_RUN marks the sessions of a run. Sent by the portal
itself, COXSWAIN_SWEEP ends all other sessions of that run before the command starts, COXSWAIN_SWEEP_STAYING those that
last as long as their command, COXSWAIN_SWEEP_OTHERS those of whoever signed in with another key, which a run may have
called anything. The command finds their number in COXSWAIN_SWEPT. With COXSWAIN_DETACH the command finds COXSWAIN_STAY,
and answers by closing its two outputs: the client is told 0 and let go, and the session stays until the command ends.
With COXSWAIN_ASK_GUESTS the portal's own command finds in COXSWAIN_GUESTS how many sessions there are of whoever signed
in with another key, and that are of no run; and with COXSWAIN_COUNT in COXSWAIN_COUNTS what the node has used.

Programs on the nodes reach it too, and may ask as often as they like. So many of their connections and sessions are
there at once; what lies beyond is the portal's, which comes by the door or signs in with the first of the keys.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 (the same)
import contextlib
import encodings.idna  # noqa: F401 (asyncio looks it up when it first resolves a name, where it is not there any more)
import fcntl
import inspect
import logging
import os
import signal
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import asyncssh

from portal.clouds.local.sessions import Session, Sessions

Process = asyncssh.SSHServerProcess[bytes]

_BLOCK = 1 << 16
_ENDING = 0.2  # seconds that what has told its end has until it is gone, before it counts as left behind
_PATIENCE = 3.0  # for output that is still on its way after the command has ended
_FROM_CLIENT = ("LC_", "COXSWAIN_")
_KEY = "COXSWAIN_KEY"  # the number of the key that one signed in with
_GUESTS_HERE = "COXSWAIN_GUESTS"
_OURS = frozenset({"COXSWAIN_STAY", "COXSWAIN_SWEPT", "COXSWAIN_COUNTS", _GUESTS_HERE, _KEY})
_PORTAL = "0"  # that of the portal's
_STRANGERS = 256  # connections that have not signed in
_GUESTS = 128  # sessions of those who signed in with another key than the portal's
LOW = b"l"  # from the keeper: the disk is nearly full


@dataclass(frozen=True)
class Service:
    user: str
    hostname: str
    address: str
    home: str
    shell: str
    authorized_keys: tuple[str, ...]
    environment: Mapping[str, str]


def serve(
    service: Service,
    host_key: str,
    listeners: Sequence[socket.socket],
    control: socket.socket,
    keeper: socket.socket,
) -> None:
    """Serve until the node's first process is gone. Says `r` to the keeper as soon as people can sign in."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncssh.set_log_level(logging.WARNING)
    asyncio.run(_serve(service, host_key, listeners, control, keeper))


async def _serve(
    service: Service,
    host_key: str,
    listeners: Sequence[socket.socket],
    control: socket.socket,
    keeper: socket.socket,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    lines = (f'environment="{_KEY}={number}" {key.strip()}\n' for number, key in enumerate(service.authorized_keys))
    keys = asyncssh.import_authorized_keys("".join(lines))
    sessions = Sessions(control)
    crowd = _Crowd()

    async def session(process: Process) -> None:
        await _Client(service, sessions, process).run()

    def told() -> None:
        if keeper.recv(1) == LOW:
            ending.add(task := loop.create_task(sessions.end(lambda one: bool(one.run) or one.stays)))
            task.add_done_callback(ending.discard)
        else:
            loop.remove_reader(keeper)

    ending: set[asyncio.Task[int]] = set()
    loop.add_reader(keeper, told)
    for listener in listeners:
        listener.setblocking(False)
        await asyncssh.listen(
            sock=listener,
            server_factory=lambda: _Door(service, keys, session, crowd),
            server_host_keys=[asyncssh.import_private_key(host_key)],
            encoding=None,
            line_editor=False,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            agent_forwarding=False,
            x11_forwarding=False,
            compression_algs=None,
            login_timeout=30,
            keepalive_interval=15,
            keepalive_count_max=4,
        )
    keeper.send(b"r")
    await stop.wait()


class _Crowd:
    """Who is here that may be a program of people's."""

    def __init__(self) -> None:
        self._strangers: dict[asyncssh.SSHServerConnection, None] = {}  # the oldest first
        self.guests = 0

    def came(self, connection: asyncssh.SSHServerConnection) -> None:
        """Where there are too many, the oldest has to go: who means to sign in does so at once."""
        self._strangers[connection] = None
        if len(self._strangers) > _STRANGERS:
            oldest = next(iter(self._strangers))
            self.is_known_or_gone(oldest)
            oldest.abort()

    def is_known_or_gone(self, connection: asyncssh.SSHServerConnection) -> None:
        self._strangers.pop(connection, None)


def _key_of(connection: asyncssh.SSHServerConnection) -> str:
    """The number of the key that its client signed in with: not what it was sent."""
    environment = connection.get_key_option("environment")
    assert isinstance(environment, dict)
    return str(environment[_KEY])


def _acknowledge_at_once(connection: asyncssh.SSHServerConnection) -> None:
    """OpenSSH's client sends little and holds back what follows until that is acknowledged (Nagle's algorithm), for
    which Linux takes 40 ms where nothing is to be answered: once or twice while it signs in."""
    received, way = connection.data_received, connection.get_extra_info("socket")

    def data_received(data: bytes, datatype: int | None = None) -> None:
        received(data, datatype)
        with contextlib.suppress(OSError):  # closed by what it has received
            way.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # for this once

    connection.data_received = data_received  # type: ignore[method-assign]


class _Door(asyncssh.SSHServer):
    """Who gets in, and where they may connect to from here."""

    def __init__(
        self,
        service: Service,
        keys: asyncssh.SSHAuthorizedKeys,
        session: Callable[[Process], Awaitable[None]],
        crowd: _Crowd,
    ) -> None:
        self._service = service
        self._keys = keys
        self._session = session
        self._crowd = crowd
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        if isinstance(conn.get_extra_info("peername"), tuple):  # not by the door, where only the portal is
            self._crowd.came(conn)
            _acknowledge_at_once(conn)

    def auth_completed(self) -> None:
        if self._connection is not None:
            self._crowd.is_known_or_gone(self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._crowd.is_known_or_gone(self._connection)

    def begin_auth(self, username: str) -> bool:
        if self._connection is not None and username == self._service.user:
            self._connection.set_authorized_keys(self._keys)
        return True

    def _is_portal(self) -> bool:
        return self._connection is not None and _key_of(self._connection) == _PORTAL

    def session_requested(self) -> _Process | bool:
        if self._is_portal():
            return _Process(self._session)
        if self._crowd.guests >= _GUESTS:
            return False
        return _Process(self._session, self._crowd)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        if not self._is_portal():
            return False  # it is on a node already
        own = {"localhost", "127.0.0.1", "::1", self._service.address, self._service.hostname}
        return dest_host in own


class _Process(asyncssh.SSHServerProcess[bytes]):
    """As asyncssh's, but SFTP is a session like any other: asyncssh would serve it here, with this process's rights.

    One of `crowd` counts as a guest from its being asked for until nothing of it is left.
    """

    def __init__(self, session: Callable[[Process], Awaitable[None]], crowd: _Crowd | None = None) -> None:
        super().__init__(self._serve, None, 3, False)
        self._session = session
        self._crowd = crowd
        self._begun = False
        if crowd is not None:
            crowd.guests += 1

    async def _serve(self, process: Process) -> None:
        self._begun = True
        try:
            await self._session(process)
        finally:
            self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._begun:
            self._leave()

    def _leave(self) -> None:
        if self._crowd is not None:
            self._crowd.guests -= 1
            self._crowd = None

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        channel, connection = self._chan, self._conn
        assert connection is not None
        stdin: asyncssh.SSHReader[bytes] = asyncssh.SSHReader(self, channel)
        stdout: asyncssh.SSHWriter[bytes] = asyncssh.SSHWriter(self, channel)
        stderr: asyncssh.SSHWriter[bytes] = asyncssh.SSHWriter(self, channel, asyncssh.EXTENDED_DATA_STDERR)
        started = self._start_process(stdin, stdout, stderr)
        assert inspect.iscoroutine(started)
        connection.create_task(started, stdin.logger)


class _Client:
    """One command or shell from its start to the last byte of its output."""

    def __init__(self, service: Service, sessions: Sessions, process: Process) -> None:
        self._service = service
        self._sessions = sessions
        self._process = process
        self._moved = 0  # bytes read from the command
        self._stays = process.env.get("COXSWAIN_DETACH") == "1"
        connection = process.channel.get_connection()
        assert isinstance(connection, asyncssh.SSHServerConnection)
        self._key = _key_of(connection)

    async def run(self) -> None:
        process = self._process
        swept = await self._sweep()
        counted = process.env.get("COXSWAIN_COUNT") == "1" and self._key == _PORTAL
        try:
            counts = await self._sessions.counts() if counted else ""
            session, stdin, outputs = self._start(swept, counts)
        except OSError as exc:
            self._could_not(exc)
            return
        feeder = asyncio.ensure_future(self._feed(session, stdin))
        pumps = [asyncio.ensure_future(self._pump(source, writer)) for source, writer in outputs]
        left = asyncio.ensure_future(process.channel.wait_closed())
        answered = asyncio.gather(*pumps) if self._stays else asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([session.ended, left, answered], return_when=asyncio.FIRST_COMPLETED)
            if answered.done() and not left.done() and await session.goes_on():
                session.stays = True
                with contextlib.suppress(OSError, asyncssh.Error):
                    process.exit(0)  # the session stays, and nobody's leaving ends it
            elif session.ended.done():
                await self._rest(pumps, left)
                self._tell(session)
            else:
                await self._end(session)
        finally:
            tasks = (feeder, left, answered, *pumps)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self) -> int | None:
        """End what the portal wants ended before; their number, or None when it has asked for nothing."""
        if self._key != _PORTAL:
            return None
        run, staying, others = (
            self._process.env.get(f"COXSWAIN_SWEEP{end}", "") for end in ("", "_STAYING", "_OTHERS")
        )
        if not run and not staying and not others:
            return None
        return await self._sessions.end(
            lambda session: bool(
                (run and session.run == run) or (staying and session.stays) or (others and session.key != self._key)
            ),
            patience=_ENDING,
        )

    def _could_not(self, exc: OSError) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            self._process.stderr.write(f"This node could not start the command: {exc}\n".encode())
            self._process.exit(126)

    def _tell(self, session: Session) -> None:
        if (error := session.ended.exception()) is not None:
            self._could_not(OSError(str(error)))
            return
        status = session.ended.result()
        with contextlib.suppress(OSError, asyncssh.Error):
            if status < 0:
                self._process.exit_with_signal(_signal_name(-status))
            else:
                self._process.exit(status)

    def _environment(self, swept: int | None, counts: str) -> dict[str, str]:
        process, service = self._process, self._service
        sent = {
            name: value
            for name, value in process.env.items()
            if (name == "LANG" or name.startswith(_FROM_CLIENT)) and name not in _OURS
        }
        environment = sent | dict(service.environment)
        if "LANG" in sent:
            environment["LANG"] = sent["LANG"]
        if swept is not None:
            environment["COXSWAIN_SWEPT"] = str(swept)
        if counts:
            environment["COXSWAIN_COUNTS"] = counts
        if self._stays:
            environment["COXSWAIN_STAY"] = "1"
        if self._key == _PORTAL and "COXSWAIN_ASK_GUESTS" in sent:
            environment[_GUESTS_HERE] = str(self._sessions.count(lambda one: one.key != _PORTAL and not one.run))
        if process.term_type is not None:
            environment["TERM"] = process.term_type or "dumb"
        return environment

    def _start(
        self, swept: int | None, counts: str
    ) -> tuple[Session, int, list[tuple[int, asyncssh.SSHWriter[bytes]]]]:
        """The session, the descriptor of its input, and those of its outputs with where they go."""
        process, service = self._process, self._service
        environment = self._environment(swept, counts)
        # No profile is read: what it prints or does would be in every command's way. bash takes a session for one of
        # rshd and reads .bashrc when stdin is a socket, so stdin is a pipe.
        if process.command is not None:
            arguments = [service.shell, "-c", process.command]
        elif service.shell.endswith("bash"):
            arguments = [service.shell, "--noprofile", "--norc"]
        else:
            arguments = [service.shell]
        if process.term_type is not None:
            return self._start_on_terminal(arguments, environment)
        mine, theirs = [], []
        try:
            for number in range(3):
                pair = os.pipe()
                mine.append(pair[0] if number else pair[1])
                theirs.append(pair[1] if number else pair[0])
            session = self._sessions.start(
                arguments, environment, theirs, key=self._key, files=process.subsystem == "sftp"
            )
        except OSError:
            for descriptor in mine:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        for descriptor in mine:
            os.set_blocking(descriptor, False)
        return session, mine[0], [(mine[1], process.stdout), (mine[2], process.stderr)]

    def _start_on_terminal(
        self, arguments: list[str], environment: dict[str, str]
    ) -> tuple[Session, int, list[tuple[int, asyncssh.SSHWriter[bytes]]]]:
        master, slave = os.openpty()
        try:
            columns, rows, width, height = self._process.term_size
            _set_size(master, rows, columns, width, height)
            session = self._sessions.start(arguments, environment, [slave], key=self._key)
        except OSError:
            os.close(master)
            raise
        finally:
            os.close(slave)
        writing = os.dup(master)
        os.set_blocking(master, False)  # of the shared open file: for both
        return session, writing, [(master, self._process.stdout)]

    async def _pump(self, source: int, writer: asyncssh.SSHWriter[bytes]) -> None:
        """Move everything to the client, to the end of file. Owns `source`.

        Not asyncssh's redirect() and exit(): they lost the tail of 6 in 40 short outputs.
        """
        listening = True
        try:
            while block := await _read(source):
                self._moved += len(block)
                if listening:
                    try:
                        writer.write(block)
                        await writer.drain()  # a slow client slows the command down; nothing piles up here
                    except (OSError, asyncssh.Error):
                        listening = False  # gone: go on taking, so that a command which cleans up is not stuck
                await asyncio.sleep(0)  # other sessions want their turn when this one never has to wait
        finally:
            os.close(source)

    async def _feed(self, session: Session, sink: int) -> None:
        """Move the client's input to the command, and act on its signals and window changes. Owns `sink`."""
        process = self._process
        try:
            while True:
                try:
                    block = await process.stdin.read(_BLOCK)
                except asyncssh.TerminalSizeChanged as exc:
                    with contextlib.suppress(OSError):
                        _set_size(sink, exc.height, exc.width, exc.pixwidth, exc.pixheight)
                    continue
                except asyncssh.SignalReceived as exc:
                    number = getattr(signal, f"SIG{exc.signal}", None)
                    if number is not None:
                        session.signal(number)
                    continue
                except asyncssh.BreakReceived:
                    session.signal(signal.SIGINT)
                    continue
                except (OSError, asyncssh.Error):
                    return
                if not block:
                    return
                try:
                    await _write(sink, block)
                except OSError:  # the command no longer reads
                    if process.term_type is None:
                        return
        finally:
            os.close(sink)

    async def _rest(self, pumps: Sequence[asyncio.Future[None]], left: asyncio.Future[None]) -> None:
        """Wait for the end of the output after the command ended, but not for ever for what a child holds open."""
        while waiting := {pump for pump in pumps if not pump.done()}:
            before = self._moved
            await asyncio.wait({*waiting, left}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            quiet = self._moved == before and not any(pump.done() for pump in waiting)
            if left.done() or (quiet and not self._client_is_slow()):
                return

    def _client_is_slow(self) -> bool:
        return bool(self._process.channel.get_write_buffer_size())

    async def _end(self, session: Session) -> None:
        """The client is gone: end the session, and with KILL all that it ever started.

        TERM comes first: Hydra's proxy dies of HUP and leaves its ranks spinning, of TERM it ends them.
        """
        for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGHUP, 1.0)):
            session.signal(number)
            await asyncio.wait([session.ended], timeout=patience)
            if session.ended.done():
                return
        session.signal(signal.SIGKILL)
        await asyncio.wait([session.ended])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:  # a real-time signal
        return str(number)


def _set_size(descriptor: int, rows: int, columns: int, width: int, height: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, width, height))


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        loop.remove_reader(descriptor)


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        loop.remove_writer(descriptor)


async def _read(descriptor: int) -> bytes:
    """Some bytes, or none at the end of file."""
    while True:
        try:
            return os.read(descriptor, _BLOCK)
        except BlockingIOError:
            await _readable(descriptor)
        except OSError:  # EIO: the last process has let go of the terminal
            return b""


async def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            await _writable(descriptor)
