"""Commands on nodes. Everything of ours that goes over SSH goes through here, over connections that are kept.

Host keys are made by us before a node first boots, so even the first connection is pinned; a changed key is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncssh

from portal import background
from portal.clouds.errors import Passing, PortalError, Refused

Broken = asyncssh.Error  # what reading from a stream raises when the connection breaks
Reader: TypeAlias = "asyncssh.SSHReader[bytes]"

CONNECT_SECONDS = 10
IDLE_SECONDS = 300  # how long a connection nobody uses is kept
AHEAD_AFTER = 0.2  # seconds; what is started for the next call must not slow down this one
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


@dataclass(frozen=True)
class Command:
    """What is executed on a node, and what it reads before anything else."""

    line: str
    first: bytes = field(default=b"", repr=False)
    env: tuple[tuple[str, str], ...] = ()


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


def new_key(comment: str) -> tuple[str, str]:
    """A new Ed25519 key pair: private and public, in OpenSSH's formats."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return key.export_private_key().decode(), key.export_public_key().decode().strip()


class Connections:
    """Kept connections of one event loop, one a host."""

    def __init__(self) -> None:
        self._open: dict[Host, asyncio.Task[asyncssh.SSHClientConnection]] = {}
        self._used: dict[Host, float] = {}
        self._ahead: dict[tuple[Host, Command], asyncio.Task[asyncssh.SSHClientProcess[bytes]]] = {}

    async def connection(self, host: Host) -> asyncssh.SSHClientConnection:
        loop = asyncio.get_running_loop()
        for other, used in list(self._used.items()):
            if loop.time() - used > IDLE_SECONDS and other != host:
                self.drop(other)
        self._used[host] = loop.time()
        opening = self._open.get(host)
        if opening is None or (opening.done() and (opening.exception() or opening.result().is_closed())):
            opening = self._open[host] = asyncio.create_task(self._connect(host))
        return await asyncio.shield(opening)

    @staticmethod
    async def _connect(host: Host) -> asyncssh.SSHClientConnection:
        try:
            where: dict[str, Any] = {"host": host.address, "port": host.port}
            if host.door:
                where = {"sock": through(host.door)}
            return await asyncssh.connect(
                **where,
                username=host.user,
                client_keys=[asyncssh.import_private_key(host.key)],
                known_hosts=([asyncssh.import_public_key(host.host_key)], [], []),
                config=None,  # nothing of the machine's own ssh_config
                agent_path=None,
                connect_timeout=CONNECT_SECONDS,
                keepalive_interval=5,
                keepalive_count_max=3,
                compression_algs=None,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise Refused(
                f"{host.name} shows another host key than the one it was given. Not connecting.",
                evidence=f"{host.address} port {host.port}",
                advice="If you did not rebuild this node yourself, treat it as taken over, and delete the cluster.",
            ) from error
        except asyncssh.PermissionDenied as error:
            raise Refused(f"{host.name} does not accept the portal's key.", evidence=str(error)) from error
        except (OSError, asyncssh.Error) as error:
            raise Passing(f"{host.name} does not answer.", evidence=str(error) or type(error).__name__) from error

    def drop(self, host: Host) -> None:
        self._used.pop(host, None)
        for key in [key for key in self._ahead if key[0] == host]:
            self._ahead.pop(key).cancel()
        opening = self._open.pop(host, None)
        if opening is None:
            return
        if not opening.done():
            opening.cancel()
        elif not opening.cancelled() and not opening.exception():
            opening.result().abort()

    async def _open_process(self, host: Host, command: Command) -> asyncssh.SSHClientProcess[bytes]:
        for last in (False, True):
            connection = await self.connection(host)
            try:
                process = await connection.create_process(command.line, env=dict(command.env), encoding=None)
                process.stdin.write(command.first)
            except (OSError, asyncssh.Error) as error:
                # A kept connection may have died unnoticed. Nothing was started on it, so once more is safe.
                self.drop(host)
                if last:
                    raise Passing(f"{host.name} does not answer.", evidence=str(error)) from error
            else:
                return process
        raise AssertionError("not reached")

    async def _process(self, host: Host, command: Command, *, ahead: bool) -> asyncssh.SSHClientProcess[bytes]:
        if not ahead:
            return await self._open_process(host, command)
        waiting = self._ahead.pop((host, command), None)
        asyncio.get_running_loop().call_later(AHEAD_AFTER, self._start_ahead, host, command)
        if waiting:
            await asyncio.wait([waiting])  # not awaited itself: its being dropped must not look like our own end
            if not waiting.cancelled() and not waiting.exception():
                process = waiting.result()
                if process.exit_status is None and not process.is_closing():
                    return process
        return await self._open_process(host, command)

    def _start_ahead(self, host: Host, command: Command) -> None:
        if host not in self._open or (host, command) in self._ahead:
            return  # dropped meanwhile; or two calls at once had one each
        starting = asyncio.create_task(self._open_process(host, command))
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
    ) -> Answer:
        """Run a command to its end. Raises `Passing` when the node does not answer, `Refused` for a wrong key.

        With `ahead`, it is started once more when this call is over, for the next one like it; so it must do nothing
        before it has read its input, and end without any. An answer of more than 4 MiB is `Refused`.
        """
        command = Command(command) if isinstance(command, str) else command
        process = await self._process(host, command, ahead=ahead)
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(input)
                process.stdin.write_eof()
                out, err = await asyncio.gather(_whole(process.stdout), _whole(process.stderr))
                await process.wait_closed()
        except TimeoutError as error:
            process.terminate()
            process.close()
            raise Passing(
                f"{host.name} did not finish within {seconds:.0f} seconds.", evidence=command.line[:200]
            ) from error
        except _TooMuch:
            process.close()
            raise Refused(
                f"{host.name} answers with more than {MOST_ANSWER >> 20} MiB.", evidence=command.line[:200]
            ) from None
        except (OSError, asyncssh.Error) as error:
            self.drop(host)
            raise Passing(f"The connection to {host.name} broke.", evidence=str(error)) from error
        if process.exit_status is None or process.exit_status < 0:
            # asyncssh says None, and raises nothing, when the node dies under the command; -1 for a signal.
            if process.exit_signal:
                return Answer(128, out, err)
            self.drop(host)
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
    ) -> AsyncIterator[Reader]:
        """The standard output of a command as it comes. Leaving the block ends the command. `ahead`: see `run`."""
        command = Command(command) if isinstance(command, str) else command
        process: Any = await self._process(host, command, ahead=ahead)
        try:
            process.stdin.write(input)
            process.stdin.write_eof()
            yield process.stdout
        except (OSError, asyncssh.Error) as error:
            self.drop(host)
            raise Passing(f"The connection to {host.name} broke.", evidence=str(error)) from error
        finally:
            process.close()

    def close(self) -> None:
        for host in list(self._open):
            self.drop(host)


class _TooMuch(Exception):
    pass


async def _whole(reader: Reader) -> bytes:
    data = bytearray()
    while block := await reader.read(65536):
        data += block
        if len(data) > MOST_ANSWER:
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
    waiting = [background.submit(_run_kept(host, command, input, seconds)) for host in hosts]
    answers: list[Answer | PortalError] = []
    for future in waiting:
        try:
            answers.append(future.result())
        except PortalError as error:
            answers.append(error)
    return answers


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
    to, draft = shlex.quote(path), shlex.quote(f"{path}.new")
    check(
        host,
        # mv would move it into a folder
        f"umask 077 && rm -rf {draft} && cat > {draft} && chmod {mode} {draft} && "
        f"{{ test ! -d {to} || rm -rf {to}; }} && mv -f {draft} {to}",
        input=data,
        what=f"Writing {path}",
    )
