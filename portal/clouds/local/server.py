"""The SSH server of a node, on asyncssh: commands, terminals, SFTP, and forwarding to the node itself."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import asyncssh

from portal.clouds.local.limits import offer_to_the_killer

Process = asyncssh.SSHServerProcess[bytes]

_BLOCK = 1 << 16
_PATIENCE = 3.0  # for output that a background child may still hold open after the command has ended
_FROM_CLIENT = ("LC_", "COXSWAIN_")


@dataclass(frozen=True)
class Service:
    user: str
    hostname: str
    address: str
    home: str
    shell: str
    host_key: str
    authorized_keys: tuple[str, ...]
    environment: Mapping[str, str]


def serve(service: Service, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM. Calls `ready` as soon as people can sign in."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncssh.set_log_level(logging.WARNING)
    asyncio.run(_serve(service, listener, ready))


async def _serve(service: Service, listener: socket.socket, ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    keys = asyncssh.import_authorized_keys("".join(f"{key.strip()}\n" for key in service.authorized_keys))

    async def session(process: Process) -> None:
        await _Session(service, process).run()

    await asyncssh.listen(
        sock=listener,
        server_factory=lambda: _Door(service, keys),
        server_host_keys=[asyncssh.import_private_key(service.host_key)],
        process_factory=session,
        encoding=None,
        sftp_factory=True,
        allow_scp=False,  # it would take every command that begins with "scp " for itself
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
    ready()
    await stop.wait()


class _Door(asyncssh.SSHServer):
    """Who gets in, and where they may connect to from here."""

    def __init__(self, service: Service, keys: asyncssh.SSHAuthorizedKeys) -> None:
        self._service = service
        self._keys = keys
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if self._connection is not None and username == self._service.user:
            self._connection.set_authorized_keys(self._keys)
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        own = {"localhost", "127.0.0.1", "::1", self._service.address, self._service.hostname}
        return dest_host in own


class _Session:
    """One command or shell from its start to the last byte of its output."""

    def __init__(self, service: Service, process: Process) -> None:
        self._service = service
        self._process = process
        self._moved = 0  # bytes read from the command

    async def run(self) -> None:
        process = self._process
        try:
            child, stdin, outputs = self._start()
        except OSError as exc:
            with contextlib.suppress(OSError, asyncssh.Error):
                process.stderr.write(f"This node could not start the command: {exc}\n".encode())
                process.exit(126)
            return
        offer_to_the_killer(child.pid, 800)
        feeder = asyncio.ensure_future(self._feed(child, stdin))
        pumps = [asyncio.ensure_future(self._pump(source, writer)) for source, writer in outputs]
        ended = asyncio.ensure_future(_ended(child))
        left = asyncio.ensure_future(process.channel.wait_closed())
        try:
            await asyncio.wait([ended, left], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(child, ended)
                return
            await self._rest(pumps, left)
            with contextlib.suppress(OSError, asyncssh.Error):
                status = ended.result()
                if status < 0:
                    process.exit_with_signal(_signal_name(-status))
                else:
                    process.exit(status)
        finally:
            for task in (feeder, left, ended, *pumps):
                task.cancel()
            await asyncio.gather(feeder, left, ended, *pumps, return_exceptions=True)

    def _start(self) -> tuple[subprocess.Popen[bytes], int, list[tuple[int, asyncssh.SSHWriter[bytes]]]]:
        """The child, the descriptor of its input, and those of its outputs with where they go."""
        process, service = self._process, self._service
        environment = {
            name: value for name, value in process.env.items() if name == "LANG" or name.startswith(_FROM_CLIENT)
        } | dict(service.environment)
        if "LANG" in process.env:
            environment["LANG"] = process.env["LANG"]
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
            child = subprocess.Popen(
                arguments,
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                cwd=service.home,
                env=environment,
                start_new_session=True,
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
        return child, mine[0], [(mine[1], process.stdout), (mine[2], process.stderr)]

    def _start_on_terminal(
        self, arguments: list[str], environment: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], int, list[tuple[int, asyncssh.SSHWriter[bytes]]]]:
        master, slave = os.openpty()
        try:
            columns, rows, width, height = self._process.term_size
            _set_size(master, rows, columns, width, height)
            child = subprocess.Popen(
                arguments,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=self._service.home,
                env=environment | {"TERM": self._process.term_type or "dumb"},
                start_new_session=True,
                preexec_fn=_take_terminal,
            )
        except OSError:
            os.close(master)
            raise
        finally:
            os.close(slave)
        writing = os.dup(master)
        os.set_blocking(master, False)  # of the shared open file: for both
        return child, writing, [(master, self._process.stdout)]

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

    async def _feed(self, child: subprocess.Popen[bytes], sink: int) -> None:
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
                        _signal_group(child, number)
                    continue
                except asyncssh.BreakReceived:
                    _signal_group(child, signal.SIGINT)
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

    async def _end(self, child: subprocess.Popen[bytes], ended: asyncio.Future[int]) -> None:
        """The client is gone: end the session's processes. Those that made a session of their own stay.

        TERM comes first: Hydra's proxy dies of HUP and leaves its ranks spinning, of TERM it ends them.
        """
        for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGHUP, 1.0), (signal.SIGKILL, 1.0)):
            _signal_group(child, number)
            await asyncio.wait([ended], timeout=patience)
            if ended.done():
                # the leader is gone, others of its group may be deaf to TERM
                await asyncio.sleep(0.2)
                _kill_group(child.pid)
                return


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    if child.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, number)


def _kill_group(group: int) -> None:
    # The leader has been reaped, but its number is not given again as long as the group has members.
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:  # a real-time signal
        return str(number)


def _set_size(descriptor: int, rows: int, columns: int, width: int, height: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, width, height))


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def _ended(child: subprocess.Popen[bytes]) -> int:
    """The exit status, negative for a signal. Without a thread or a SIGCHLD handler where the kernel allows."""
    try:
        descriptor = os.pidfd_open(child.pid)
    except OSError:  # Linux before 5.3
        return await asyncio.get_running_loop().run_in_executor(None, child.wait)
    try:
        await _readable(descriptor)
        return child.wait()
    finally:
        os.close(descriptor)


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
