"""Commands on nodes. Everything of ours that goes over SSH goes through here, over connections that are kept.

Host keys are known before the first connection, because we made them or somebody confirmed them; a changed key is
refused. Where the SSH server is somebody else's, we sign in with certificates: what they force is executed in the place
of a command, which its login shell, whatever that is, never sees (ssh-keygen(1), CERTIFICATES).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import resource
import shlex
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncssh

from portal import background, reach
from portal.errors import Passing, PortalError, Refused

Broken = asyncssh.Error  # what reading from a stream raises when the connection breaks
Reader: TypeAlias = "asyncssh.SSHReader[bytes]"

CONNECT_SECONDS = 10
BEGIN_SECONDS = 30.0  # in which a node that is connected to is to begin a command
KNOCK_SECONDS = 2
CLOCKS_DIFFER = (
    300  # seconds that a computer's clock may be behind ours before it takes a new certificate for a later one
)
IDLE_SECONDS = 300.0  # how long a connection nobody uses is kept
TERMINAL_AHEAD = 64 * 1024  # bytes that a node may send of a terminal before anybody has read them
AHEAD_AFTER = 0.3  # seconds; what is started for the next call must not slow down what this one began
MOST_ANSWER = 4 * 1024 * 1024  # bytes that a command may print; a node is not ours to trust


@dataclass(frozen=True)
class Host:
    name: str  # for messages
    address: str
    port: int
    user: str
    key: str = field(repr=False)  # our private key, OpenSSH format
    host_key: str = ""  # the node's public key
    door: str = ""  # path of a unix socket that leads to the node's SSH server; then the address is for messages
    via: Host | None = None  # through which it is reached, where the portal has no way to it; its key is pinned too
    # Of our key, where the account trusts an authority and not the key itself; then the server is not ours, and takes
    # no variables: they go with the command.
    certificate: str = ""


_BEGINS = b"@coxswain:"  # comes before what a command says, and after what files of the account's shell do


@dataclass(frozen=True)
class Command:
    """What is executed on a node, and what it reads before anything else."""

    line: str
    first: bytes = field(default=b"", repr=False)
    env: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] | None = None  # columns and rows: it runs on a terminal

    def on(self, host: Host) -> tuple[str, dict[str, str]]:
        """What is asked of the host: a line of shell, and variables of the session."""
        if not host.certificate:
            return self.line, dict(self.env)
        exports = "".join(f"export {shlex.quote(f'{name}={value}')}; " for name, value in self.env)
        return f"printf {_BEGINS.decode()}; {exports}{self.line}", {}


@dataclass(frozen=True)
class Answer:
    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace").strip()

    @property
    def said(self) -> str:
        """The end of what the command said, for evidence."""
        return (self.err or self.out).decode(errors="replace").strip()[-1500:]


def through(door: str) -> socket.socket:
    """A connection to a unix socket. By its folder, because a socket's own path has room for 107 bytes."""
    way = socket.socket(socket.AF_UNIX)
    folder = -1
    try:
        folder = os.open(os.path.dirname(door), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        way.setblocking(False)  # at once, or not: a server with no room for another answers EAGAIN
        way.connect(f"/proc/self/fd/{folder}/{os.path.basename(door)}")
    except OSError:
        way.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    return way


async def knock(host: Host) -> bool | None:
    """Whether anything takes a connection at a node's door. Nothing is said there, so that what hangs counts too.

    None where nobody can tell: no answer at all, a queue of connections that is full, a node behind another one.
    """
    if host.via is not None:
        return None
    try:
        if host.door:
            through(host.door).close()
        elif host.certificate:
            async with asyncio.timeout(KNOCK_SECONDS):
                (await reach.connect(host.address, host.port)).close()
        else:
            async with asyncio.timeout(KNOCK_SECONDS):
                _, writer = await asyncio.open_connection(host.address, host.port)
            writer.close()
    except (TimeoutError, BlockingIOError, Refused):
        return None
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _given_over(way: socket.socket | None) -> Iterator[None]:
    """asyncssh closes a socket once it has it, and prepares for a while before: who is ended then leaves it to us."""
    try:
        yield
    except BaseException:
        if way is not None:
            way.close()
        raise


async def host_key_of(address: str, port: int) -> str:
    """The public key that an SSH server shows, in OpenSSH's format. Nobody signs in. Raises `Passing`, and `Refused`
    for an address to which the portal does not connect.

    It is Ed25519's where the server has one.
    """
    for algorithms in (["ssh-ed25519"], ()):
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                way = await reach.connect(address, port)
                with _given_over(way):
                    key = await asyncssh.get_server_host_key(sock=way, server_host_key_algs=algorithms, config=None)
        except asyncssh.KeyExchangeFailed:
            continue
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise Passing(f"No SSH server answers at {address}, port {port}.", evidence=_reason(error)) from error
        if key is not None:
            return key.export_public_key().decode().strip()
    raise Passing(f"The SSH server at {address}, port {port}, shows no host key that the portal knows.")


def new_key(comment: str, kind: str = "ssh-ed25519") -> tuple[str, str]:
    """A new key pair: private and public, in OpenSSH's formats."""
    key = asyncssh.generate_private_key(kind, comment=comment)
    return key.export_private_key().decode(), key.export_public_key().decode().strip()


_LINE = re.compile(
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]{1,4000}={0,2}(?: [ -~]{0,200})?"
)


def public_key(said: str) -> str:
    """What a computer says is its public key, in OpenSSH's format, without its comment. Raises `Refused`."""
    try:
        if not _LINE.fullmatch(said):  # other formats have parsers that raise what they like
            raise ValueError(said[:200])
        return " ".join(asyncssh.import_public_key(said).export_public_key().decode().split()[:2])
    except (ValueError, ArithmeticError, asyncssh.Error) as error:
        raise Refused(
            "A node says of something that it is its host key, and it is none.", evidence=said[:200]
        ) from error


def sign(
    authority: str,
    public: str,
    *,
    name: str,
    principals: Sequence[str],
    seconds: float | None = None,
    command: str = "",
    forwards: bool = False,
) -> str:
    """A certificate of a public key by the private key of an authority, in OpenSSH's format.

    `name` is what a server writes down of whoever signs in by it, `principals` what it may let in by it. From a few
    minutes ago, because clocks differ, for so many seconds; without, for ever. A `command` is executed whatever they
    ask for, and finds that in SSH_ORIGINAL_COMMAND. Whoever `forwards` reaches what the server reaches, and for that no
    command is executed.
    """
    lasts: dict[str, Any] = {}
    if seconds is not None:
        lasts = {"valid_after": int(time.time()) - CLOCKS_DIFFER, "valid_before": int(time.time() + seconds)}
    certificate = asyncssh.import_private_key(authority).generate_user_certificate(
        asyncssh.import_public_key(public),
        name,
        principals=list(principals),
        force_command=command or None,
        permit_x11_forwarding=False,
        permit_agent_forwarding=False,
        permit_port_forwarding=forwards,
        permit_user_rc=False,
        **lasts,
    )
    return certificate.export_certificate().decode().strip()


def _reason(error: Exception) -> str:
    """In the system's own words, where it has any."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _identity(host: Host) -> Any:
    key = asyncssh.import_private_key(host.key)
    return (key, asyncssh.import_certificate(host.certificate)) if host.certificate else key


def fingerprint(public: str) -> str:
    """Of a public key in OpenSSH's format, as `ssh` and `ssh-keygen -l` show it; empty where there is no key."""
    if not public:
        return ""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


Process: TypeAlias = "asyncssh.SSHClientProcess[bytes]"


class Stream:
    """The standard output of a command as it comes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.is_over = False  # set by who reads: all is said, and the command waits for the words of another call

    async def read(self, most: int = -1) -> bytes:
        """What has come, at most so many bytes; nothing at the end. Without `most`, all there will be."""
        return await self._reader.read(most)

    async def readline(self) -> bytes:
        return await self._reader.readline()


@dataclass(eq=False)
class _Kept:
    """A connection, and how many commands of ours go on over it. It is closed when there were none for a while."""

    opening: asyncio.Task[asyncssh.SSHClientConnection]
    users: int = 0
    idle: asyncio.TimerHandle | None = None

    @property
    def is_dead(self) -> bool:
        opening = self.opening
        if not opening.done():
            return False
        return opening.cancelled() or bool(opening.exception()) or opening.result().is_closed()

    def abort(self) -> None:
        if self.idle:
            self.idle.cancel()
        if not self.opening.done():
            self.opening.cancel()
        elif not self.opening.cancelled() and not self.opening.exception():
            self.opening.result().abort()


class Connections:
    """Kept connections of one event loop, one a host; another one where the host's server allows no more sessions.

    A connection is in use while a command goes on over it, however long and whether anything is said or not; what was
    started ahead does not count. Those that nobody uses are closed after IDLE_SECONDS, and earlier, the longest unused
    first, where there are more than a third of the descriptors that this process may have.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most or max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)
        self._kept: dict[Host, _Kept] = {}  # the longest unused first
        self._left: set[_Kept] = set()  # full ones, each until its last command has ended
        self._leading: set[asyncio.Task[None]] = set()  # each waits for the end of a connection through another host
        self._ahead: dict[tuple[Host, Command], asyncio.Future[tuple[_Kept, Process]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def has(self, host: Host) -> bool:
        """Whether there is an open connection to it, as far as is known."""
        kept = self._kept.get(host)
        return kept is not None and kept.opening.done() and not kept.is_dead

    def _use(self, host: Host) -> _Kept:
        """To be given back by `_give_back`."""
        kept = self._kept.get(host)
        if kept is None or kept.is_dead:
            if kept:
                self._drop(host, kept)
            self._make_room()
            kept = self._kept[host] = _Kept(asyncio.create_task(self._connect(host)))
        return self._use_again(kept)

    @staticmethod
    def _use_again(kept: _Kept) -> _Kept:
        kept.users += 1
        if kept.idle:
            kept.idle.cancel()
            kept.idle = None
        return kept

    def _give_back(self, host: Host, kept: _Kept) -> None:
        kept.users -= 1
        if kept.users:
            return
        if self._kept.get(host) is kept:
            self._kept[host] = self._kept.pop(host)  # to the end
            kept.idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop, host, kept)
        elif kept in self._left:
            self._left.discard(kept)
            kept.abort()

    def _leave(self, host: Host, kept: _Kept) -> None:
        """To those who use it: the next command has another one."""
        if self._kept.get(host) is kept:
            del self._kept[host]
            self._left.add(kept)

    def _make_room(self) -> None:
        if len(self._kept) >= self._most:
            unused = next((host for host, kept in self._kept.items() if not kept.users), None)
            if unused:
                self.drop(unused)

    async def _connect(self, host: Host) -> asyncssh.SSHClientConnection:
        if host.via is None:
            return await self._open(host)
        way = self._use(host.via)
        try:
            await asyncio.wait([way.opening])  # not awaited itself: its being dropped is not our own end
            if way.opening.cancelled():
                raise Passing(f"The connection to {host.via.name} was cut.")
            connection = await self._open(host, way.opening.result())
        except BaseException:
            self._give_back(host.via, way)
            raise
        leading = asyncio.create_task(self._lead(host.via, way, connection))
        self._leading.add(leading)
        leading.add_done_callback(self._leading.discard)
        return connection

    async def _lead(self, via: Host, way: _Kept, connection: asyncssh.SSHClientConnection) -> None:
        try:
            await connection.wait_closed()
        finally:
            self._give_back(via, way)

    @staticmethod
    async def _open(host: Host, tunnel: asyncssh.SSHClientConnection | None = None) -> asyncssh.SSHClientConnection:
        try:
            way: socket.socket | None = None
            if host.door:
                way = through(host.door)
            elif host.certificate and tunnel is None:
                async with asyncio.timeout(CONNECT_SECONDS):
                    way = await reach.connect(host.address, host.port)
            where: dict[str, Any] = {"host": host.address, "port": host.port, "tunnel": tunnel or ()}
            with _given_over(way):
                return await asyncssh.connect(
                    **({"sock": way} if way else where),
                    username=host.user,
                    client_keys=[_identity(host)],
                    known_hosts=([asyncssh.import_public_key(host.host_key)], [], []),
                    config=None,  # nothing of the machine's own ssh_config
                    agent_path=None,
                    connect_timeout=CONNECT_SECONDS,
                    keepalive_interval=5,
                    keepalive_count_max=3,
                    compression_algs=None,
                    encryption_algs="^aes*-gcm@openssh.com",  # a fifth of what ChaCha20 costs in Python, at both ends
                )
        except asyncssh.HostKeyNotVerifiable as error:
            raise Refused(
                f"{host.name} shows another host key than the one it was given. Not connecting.",
                evidence=f"{host.address} port {host.port}",
                advice="If you did not rebuild this node yourself, treat it as taken over, and delete the cluster.",
                code="host_key",
            ) from error
        except asyncssh.PermissionDenied as error:
            raise Refused(
                f"{host.name} does not accept the portal's key.", evidence=str(error), code="not_let_in"
            ) from error
        except (OSError, asyncssh.Error) as error:  # a time that is over is an OSError
            through_it = f" through {host.via.name}" if host.via else ""
            raise Passing(f"{host.name} does not answer{through_it}.", evidence=_reason(error)) from error

    def drop(self, host: Host) -> None:
        """Cut the connection, whoever uses it; the next command opens another one."""
        if host in self._kept:
            self._drop(host, self._kept[host])

    def hang_up(self, host: Host) -> None:
        """Close the connection, unless somebody uses it."""
        kept = self._kept.get(host)
        if kept and not kept.users:
            self._drop(host, kept)

    def _drop(self, host: Host, kept: _Kept) -> None:
        kept.abort()
        if self._kept.get(host) is kept:
            del self._kept[host]
            for key in [key for key in self._ahead if key[0] == host]:
                self._ahead.pop(key).cancel()

    async def _open_process(self, host: Host, command: Command) -> tuple[_Kept, Process]:
        """The command, begun, and the connection that it uses, which is to be given back."""
        for last in (False, True):
            kept = self._use(host)
            try:
                await asyncio.wait([kept.opening])  # not awaited itself: its being dropped is not our own end
                if kept.opening.cancelled():
                    raise Passing(f"The connection to {host.name} was cut.")
                line, env = command.on(host)
                async with asyncio.timeout(BEGIN_SECONDS):
                    process = await kept.opening.result().create_process(
                        line, env=env, encoding=None, **_terminal(command)
                    )
                    _write(process, command.first)
                    if host.certificate:
                        with contextlib.suppress(asyncio.IncompleteReadError):  # it has ended before it began
                            await process.stdout.readuntil(_BEGINS)
            except TimeoutError as error:  # not once more: who knows what it has begun
                self._give_back(host, kept)
                self._drop(host, kept)
                raise Passing(f"{host.name} has begun nothing within {BEGIN_SECONDS:.0f} seconds.") from error
            except (OSError, asyncssh.Error) as error:
                # A kept connection may have died unnoticed. Nothing was started on it, so once more is safe.
                is_full = isinstance(error, asyncssh.ChannelOpenError) and kept.users > 1 and not kept.is_dead
                if is_full:  # it has as many sessions as the server allows
                    self._leave(host, kept)
                self._give_back(host, kept)
                if not is_full:
                    self._drop(host, kept)
                if last:
                    raise Passing(f"{host.name} does not answer.", evidence=str(error)) from error
            except BaseException:
                self._give_back(host, kept)
                raise
            else:
                return kept, process
        raise AssertionError("not reached")

    @contextlib.asynccontextmanager
    async def _process(
        self, host: Host, command: Command, *, ahead: bool
    ) -> AsyncIterator[tuple[_Kept, Process, Stream]]:
        kept, process = (await self._take_ahead(host, command) if ahead else None) or await self._open_process(
            host, command
        )
        stream = Stream(process.stdout)
        try:
            yield kept, process, stream
        except BaseException:
            stream.is_over = False  # who reads may have found that what was said makes no sense
            raise
        finally:
            if not (stream.is_over and self._have_wait(host, command, kept, process)):
                process.close()
                if ahead:
                    asyncio.get_running_loop().call_later(AHEAD_AFTER, self._start_ahead, host, command)
            self._give_back(host, kept)

    async def _take_ahead(self, host: Host, command: Command) -> tuple[_Kept, Process] | None:
        """What was started for this call, or has waited since an earlier one, if it still does."""
        waiting = self._ahead.pop((host, command), None)
        if waiting:
            await asyncio.wait([waiting])  # not awaited itself: its being dropped must not look like our own end
            if not waiting.cancelled() and not waiting.exception():
                kept, process = waiting.result()
                if process.exit_status is None and not process.is_closing():
                    return self._use_again(kept), process
        return None

    def _have_wait(self, host: Host, command: Command, kept: _Kept, process: Process) -> bool:
        """For the next call like it. False where that is not needed, or not to be had."""
        if self._kept.get(host) is not kept or kept.is_dead or (host, command) in self._ahead:
            return False
        self._ahead[host, command] = asyncio.get_running_loop().create_future()
        self._ahead[host, command].set_result((kept, process))
        return True

    def _start_ahead(self, host: Host, command: Command) -> None:
        if host not in self._kept or (host, command) in self._ahead:
            return  # dropped meanwhile; or two calls at once had one each

        async def start() -> tuple[_Kept, Process]:
            kept, process = await self._open_process(host, command)
            self._give_back(host, kept)
            return kept, process

        starting = asyncio.create_task(start())
        starting.add_done_callback(lambda task: task.cancelled() or task.exception())  # the next call opens its own
        self._ahead[host, command] = starting

    async def run(
        self,
        host: Host,
        command: str | Command,
        *,
        input: bytes = b"",  # noqa: A002
        seconds: float = 45,
        ahead: bool = False,
        most: int = MOST_ANSWER,
    ) -> Answer:
        """Run a command to its end. Raises `Passing` when the node does not answer, `Refused` for a wrong key.

        With `ahead`, it is started once more when this call is over, for the next one like it; so it must do nothing
        before it has read its input, and end without any. An answer of more than `most` bytes is `Refused`.
        """
        command = Command(command) if isinstance(command, str) else command
        async with self._process(host, command, ahead=ahead) as (kept, process, _):
            try:
                async with asyncio.timeout(seconds):
                    _write(process, input, end=True)
                    out, err = await asyncio.gather(_whole(process.stdout, most), _whole(process.stderr, most))
                    await process.wait_closed()
            except TimeoutError as error:
                process.terminate()
                raise Passing(
                    f"{host.name} did not finish within {seconds:.0f} seconds.", evidence=command.line[:200]
                ) from error
            except _TooMuch:
                raise Refused(
                    f"{host.name} answers with more than {most:,} bytes.", evidence=command.line[:200]
                ) from None
            except (OSError, asyncssh.Error) as error:
                self._drop(host, kept)
                raise Passing(f"The connection to {host.name} broke.", evidence=str(error)) from error
            if process.exit_status is None or process.exit_status < 0:
                # asyncssh says None, and raises nothing, when the node dies under the command; -1 for a signal.
                if process.exit_signal:
                    return Answer(128, out, err)
                self._drop(host, kept)
                raise Passing(f"{host.name} went away in the middle of a command.", evidence=command.line[:200])
            return Answer(process.exit_status, out, err)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        host: Host,
        command: str | Command,
        *,
        input: bytes = b"",  # noqa: A002
        ahead: bool = False,
    ) -> AsyncIterator[Stream]:
        """The standard output of a command as it comes. Leaving the block ends the command.

        With `ahead`, one is started for the next call, as `run` does it, unless the stream `is_over`: then it is this
        one that is told the words of that call. So there is no end of its input while it is used.
        """
        command = Command(command) if isinstance(command, str) else command
        async with self._process(host, command, ahead=ahead) as (kept, process, stream):
            try:
                _write(process, input, end=not ahead)
                yield stream
            except (OSError, asyncssh.Error) as error:
                self._drop(host, kept)
                raise Passing(f"The connection to {host.name} broke.", evidence=str(error)) from error

    @contextlib.asynccontextmanager
    async def terminal(self, host: Host, command: Command) -> AsyncIterator[Terminal]:
        """A command on a terminal of `command.size`. Leaving the block ends it. Raises `Passing` and `Refused`."""
        async with self._process(host, command, ahead=False) as (_, process, _):
            yield Terminal(process)

    def close(self) -> None:
        for host in list(self._kept):
            self.drop(host)
        for kept in self._left:
            kept.abort()


class Terminal:
    """A command on a terminal. What is not read stays on the node, which has to wait."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def read(self, most: int) -> bytes:
        """What has come, at most so many bytes; nothing at the end, however it came."""
        try:
            return await self._process.stdout.read(most)
        except (OSError, asyncssh.Error):
            return b""

    async def write(self, data: bytes) -> None:
        """Returns when the node has taken it. Raises `Passing` when it will not."""
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except (OSError, asyncssh.Error) as error:
            raise Passing("The terminal takes nothing more.", evidence=str(error)) from error

    def resize(self, columns: int, rows: int) -> None:
        """Of no effect once the command has ended."""
        with contextlib.suppress(OSError):
            self._process.change_terminal_size(columns, rows)

    async def status(self) -> int | None:
        """How the command ended, once it has; 128 for a signal. None when the node went away under it."""
        await self._process.wait_closed()
        return 128 if self._process.exit_signal else self._process.exit_status


def _terminal(command: Command) -> dict[str, Any]:
    """What asyncssh must know of a command that runs on a terminal."""
    if command.size is None:
        return {}
    return {
        "request_pty": "force",
        "term_type": "xterm-256color",
        "term_size": command.size,
        "stderr": asyncssh.STDOUT,
        "window": TERMINAL_AHEAD,
    }


class _TooMuch(Exception):
    pass


def _write(process: Process, data: bytes, *, end: bool = False) -> None:
    """Nothing is wrong where the command has ended already: a quick one does, before it has read anything."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(data)
        if end:
            process.stdin.write_eof()


async def _whole(reader: Reader, most: int) -> bytes:
    data = bytearray()
    while block := await reader.read(65536):
        data += block
        if len(data) > most:
            raise _TooMuch
    return bytes(data)


_kept: Connections | None = None


async def _run_kept(
    host: Host,
    command: str | Command,
    input: bytes,  # noqa: A002
    seconds: float,
    ahead: bool = False,
) -> Answer:
    global _kept
    if _kept is None:
        _kept = Connections()
    return await _kept.run(host, command, input=input, seconds=seconds, ahead=ahead)


def run(
    host: Host,
    command: str | Command,
    *,
    input: bytes = b"",  # noqa: A002
    seconds: float = 45,
    ahead: bool = False,
) -> Answer:
    """`Connections.run` for synchronous code."""
    return background.wait_for(_run_kept(host, command, input, seconds, ahead))


def run_on_all(
    hosts: Sequence[Host],
    command: str | Command,
    *,
    input: bytes = b"",  # noqa: A002
    seconds: float = 45,
) -> list[Answer | PortalError]:
    """Run it everywhere at once; one answer or error a host, in their order."""
    return run_each([(host, command, input) for host in hosts], seconds=seconds)


def run_each(calls: Sequence[tuple[Host, str | Command, bytes]], *, seconds: float = 45) -> list[Answer | PortalError]:
    """Run a command of its own, with its own input, on each host, all at once; one answer or error a call, in order."""
    waiting = [background.submit(_run_kept(*call, seconds)) for call in calls]
    answers: list[Answer | PortalError] = []
    for future in waiting:
        try:
            answers.append(future.result())
        except PortalError as error:
            answers.append(error)
    return answers


def hang_up(hosts: Iterable[Host]) -> None:
    """Close what connections this process keeps to them for the next command, and nobody uses now."""

    async def go() -> None:
        for host in hosts:
            if _kept is not None:
                _kept.hang_up(host)

    background.wait_for(go())


def check(host: Host, command: str, *, input: bytes = b"", seconds: float = 45, what: str = "") -> Answer:  # noqa: A002
    """`run`, and `Refused` with the end of its output as evidence when the command fails."""
    answer = run(host, command, input=input, seconds=seconds)
    if answer.status:
        raise Refused(
            f"{what or 'A command'} failed on {host.name}, exit status {answer.status}.", evidence=answer.said
        )
    return answer


def put(host: Host, path: str, data: bytes, *, mode: str = "600") -> None:
    """Write a file, all of it or nothing."""
    check(host, writing(path, mode), input=data, what=f"Writing {path}")


def writing(path: str, mode: str = "600", *, size: int | None = None) -> str:
    """The command that writes what comes in, or the first `size` bytes of it, into a file: all of it or nothing.

    A folder or a link in its place goes away; its draft has a name that nobody else writes to.
    """
    to, draft = shlex.quote(path), f"{shlex.quote(path)}.new.$$"
    take = "cat" if size is None else f"head -c {size}"
    return (
        f"umask 077 && rm -rf {draft} && {take} > {draft} && chmod {mode} {draft} && "
        f"{{ test ! -d {to} || rm -rf {to}; }} && mv -f {draft} {to}"  # mv would move it into a folder
    )
