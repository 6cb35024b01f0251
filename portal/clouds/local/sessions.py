"""Sessions: each command that somebody runs on a node, apart from all others, and ended as a whole.

The node's first process makes them; the SSH server, which has no rights of its own, asks for them over a socket and
hands over the ends of the command's pipes.

    first process ─ the leader of a session ─ the command, and what it starts

In a node with namespaces the leader is the first process of a PID namespace: with it the kernel ends the session.
Elsewhere it adopts what the command leaves behind, and ends that when the command has ended. Neither asks programs
who they are: they may fork, rename themselves and empty their environment as they like.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import socket
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from portal.clouds.local import kernel, limits, processes, sftp

GOODBYE = 2.0  # seconds that programs have between TERM and KILL when a node is switched off
_END = signal.SIGRTMIN + 3  # tells a leader without a namespace to end all of its session
_LOOK = signal.SIGRTMIN + 4  # asks a leader whether the command goes on
_GOES_ON = b"+"
_FORWARDED = ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "TSTP", "WINCH")


@dataclass(frozen=True)
class Manner:
    """How sessions are kept apart on this node."""

    namespaces: bool
    home: str
    processes: int  # most of them at once, of all sessions of the node
    memory: int  # bytes that the node may use
    confine: Callable[[], None]  # what a program loses before it begins


# -- the first process


class Maker:
    """The life of a node's first process: makes sessions, reaps, and goes when the server goes or TERM comes."""

    def __init__(self, manner: Manner, control: socket.socket, server: int, say: Callable[[str], None]) -> None:
        self.manner = manner
        self.control = control
        self.server = server
        self.say = say
        self.leaders: dict[int, int] = {}  # number of the session by pid
        self.deadline: float | None = None  # once we are to go

    def run(self) -> NoReturn:
        awake, wake = os.pipe()
        os.set_blocking(awake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._go)
        waiting: list[Any] = [self.control, awake]
        while True:
            patience = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            ready, _, _ = select.select(waiting, [], [], patience)
            if awake in ready:
                os.read(awake, 4096)
            self._reap()
            if self.control in ready and not self._serve():
                waiting.remove(self.control)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self._leave(0)

    def _go(self, *_: object) -> None:
        self.deadline = time.monotonic() + GOODBYE
        if self.manner.namespaces:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGTERM)  # everybody here, in all sessions
        else:
            for process in processes.descendants(os.getpid()):
                process.send(signal.SIGTERM)

    def _leave(self, status: int) -> NoReturn:
        if not self.manner.namespaces:
            end_descendants()
        os._exit(status)  # with namespaces the kernel ends the rest

    def _reap(self) -> None:
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid == self.server:
                    if self.deadline is None:
                        self.say(f"the SSH server ended ({ending(os.waitstatus_to_exitcode(status))})")
                    self._leave(1 if self.deadline is None else 0)
                if (number := self.leaders.pop(pid, None)) is not None:
                    self._end_strays()
                    self._tell({"ended": number})
        except ChildProcessError:
            self._leave(0)

    def _end_strays(self) -> None:
        """Without namespaces, what a leader that was killed has left to us."""
        if not self.manner.namespaces:
            known = {self.server, *self.leaders}
            for process in processes.all_processes().values():
                if process.parent == os.getpid() and process.pid not in known:
                    process.send(signal.SIGKILL)

    def _tell(self, words: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):  # the server is gone; so are we in a moment
            self.control.send(json.dumps(words).encode())

    def _serve(self) -> bool:
        """Do what the server asks for. False when it is gone."""
        data, descriptors, _, _ = socket.recv_fds(self.control, 4096, 8)
        if not data:
            return False
        asked = json.loads(data)
        if "count" in asked:
            self._tell({"counts": self._counts()})
            return True
        if "signal" in asked:
            for pid, number in self.leaders.items():
                if number == asked["session"]:
                    self._signal(pid, asked["signal"])
            return True
        try:
            self.leaders[self.make(descriptors)] = asked["session"]
        except OSError as error:
            self._tell({"ended": asked["session"], "error": str(error)})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _counts(self) -> str:
        """What the node has used, as `clusters.samples` reads it. Its network is not its own, and not counted."""
        if self.manner.namespaces:
            pids = list(processes.all_processes())  # all that are to be seen here are the node's
        else:
            pids = [os.getpid(), *(process.pid for process in processes.descendants(os.getpid()))]
        ticks, memory = processes.usage(pids)
        return f"{ticks} - {memory >> 10} {self.manner.memory >> 10} - -"

    def _signal(self, leader: int, number: int) -> None:
        if number == signal.SIGKILL and not self.manner.namespaces:
            number = _END
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, number)

    def make(self, descriptors: Sequence[int]) -> int:
        """Start a session; its leader's pid."""
        if not self.manner.namespaces:
            pid = os.fork()
            if not pid:
                self._be_leader(descriptors)
            return pid
        reading, writing = os.pipe()
        try:
            middle = os.fork()
            if not middle:
                self._between(descriptors, writing)
            os.close(writing)
            writing = -1
            said = os.read(reading, 1000).decode()
            os.waitpid(middle, 0)
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        if not said.isdecimal():
            raise OSError(said or "the process between ended early")
        return int(said)

    def _between(self, descriptors: Sequence[int], writing: int) -> NoReturn:
        # A PID namespace is for the children of who makes it, and we may not come back from one: so somebody between,
        # whose child is ours when he has ended.
        try:
            kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
            pid = os.fork()
            if pid:
                os.write(writing, str(pid).encode())
                os._exit(0)
        except OSError as error:
            os.write(writing, str(error).encode())
            os._exit(1)
        self._be_leader(descriptors)

    def _be_leader(self, descriptors: Sequence[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            order, status, *ends = descriptors
            if self.manner.namespaces:
                flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
                kernel.mount("proc", "/proc", "proc", flags)
            _lead(self.manner, order, ends, status)
        except BaseException as error:  # noqa: BLE001 (nothing may return into the first process's life)
            self.say(f"a session could not be made: {error}")
        finally:
            os._exit(1)


def _lead(manner: Manner, order: int, ends: Sequence[int], status: int) -> NoReturn:
    """The life of a leader: start the command, pass signals on, reap, and tell how the command ended."""
    command = 0

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            if command:
                os.killpg(command, number)

    def end(*_: object) -> None:
        end_descendants()
        os._exit(0)

    def look(*_: object) -> None:
        if command and processes.goes_on(command):
            os.write(status, _GOES_ON)

    signal.signal(_LOOK, look)
    for name in _FORWARDED:
        signal.signal(signal.Signals[f"SIG{name}"], forward)
    signal.signal(_END, end)
    if not manner.namespaces:
        kernel.adopt_orphans()
        kernel.die_with_parent(_END)
    command = os.fork()
    if not command:
        _become(manner, order, ends)
    for descriptor in range(_highest_descriptor() + 1):
        if descriptor != status:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    kernel.name_process("session")
    while True:
        pid, how = os.wait()
        if pid == command:
            break
    os.write(status, str(os.waitstatus_to_exitcode(how)).encode())
    if not manner.namespaces:
        end_descendants()
    os._exit(0)


def _become(manner: Manner, order: int, ends: Sequence[int]) -> NoReturn:
    """The command itself."""
    try:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        with open(order, closefd=False) as file:
            wanted = json.load(file)
        for place in range(3):
            os.dup2(ends[min(place, len(ends) - 1)], place)
        os.closerange(3, _highest_descriptor() + 1)
        if len(ends) == 1:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        limits.bound_session(manner.processes)
        manner.confine()
        kernel.show_process()  # else its entry in /proc is not ours to write to; nothing secret is in this memory
        limits.offer_to_the_killer("self", 800)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        _enter(manner.home)
        if wanted["sftp"]:
            sftp.serve()
            os._exit(0)
        os.execve(wanted["argv"][0], wanted["argv"], wanted["environment"])  # noqa: S606 (that is what we are for)
    except BaseException as error:  # noqa: BLE001 (nothing may return into the leader's life)
        with contextlib.suppress(OSError):
            os.write(2, f"This node could not start the command: {error}\n".encode())
    finally:
        os._exit(126)


def _enter(home: str) -> None:
    try:
        os.chdir(home)
    except PermissionError:  # an earlier program has closed it; it is still its owner's, and that is who we are
        os.chmod(home, 0o700)
        os.chdir(home)


def _highest_descriptor() -> int:
    return max(map(int, os.listdir("/proc/self/fd")))


def ending(status: int) -> str:
    return f"exit {status}" if status >= 0 else f"signal {-status}"


def end_descendants() -> None:
    """End everything that descends from this process. As it adopts orphans, nobody slips away by forking."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = processes.descendants(os.getpid())
        if not found:
            return
        for process in found:
            process.send(signal.SIGKILL)
        time.sleep(0.005)


# -- the server's side


class Session:
    """A session as the server knows it."""

    def __init__(self, owner: Sessions, number: int, environment: Mapping[str, str], key: str) -> None:
        self._owner = owner
        self.key = key  # that its client signed in with
        self.number = number
        self.environment = environment
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()  # status; negative for a signal
        self.said = b""  # by its leader
        self.stays = False  # its client was answered and is gone, and it goes on
        self.seen: asyncio.Future[None] = loop.create_future()  # that it goes on, after the question

    @property
    def run(self) -> str:
        return self.environment.get("COXSWAIN_RUN", "")

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group; KILL to everything of the session."""
        if not self.ended.done():
            self._owner.ask({"session": self.number, "signal": number})

    async def goes_on(self) -> bool:
        """Whether the command runs, and has not just begun to end. When it has, `ended` is known."""
        self.signal(_LOOK)
        waiting: list[asyncio.Future[Any]] = [self.ended, self.seen]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return not self.ended.done()


class Sessions:
    """The sessions of this node. Ask for new ones here."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._control.setblocking(False)
        self._numbers = itertools.count(1)
        self._counting: list[asyncio.Future[str]] = []
        self._running: dict[int, tuple[Session, int]] = {}  # with the end of the pipe that tells the status
        asyncio.get_running_loop().add_reader(control, self._told)

    def ask(self, words: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
        socket.send_fds(self._control, [json.dumps(words).encode()], descriptors)

    async def counts(self) -> str:
        """What the node has used since it began: see `Maker`."""
        counted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ask({"count": True})
        self._counting.append(counted)
        return await counted

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        ends: Sequence[int],
        *,
        key: str,
        files: bool = False,
    ) -> Session:
        """Start a command on these descriptors: three, or a terminal. With `files` it is the SFTP server instead.

        They are still the caller's. Raises `OSError` when the node's first process does not take it.
        """
        session = Session(self, next(self._numbers), environment, key)
        order = os.memfd_create("order")
        reading, writing = os.pipe()
        try:
            with open(order, "w", closefd=False) as file:
                json.dump({"argv": list(argv), "environment": dict(environment), "sftp": files}, file)
            os.lseek(order, 0, os.SEEK_SET)
            self.ask({"session": session.number}, [order, writing, *ends])
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(order)
            os.close(writing)
        self._running[session.number] = session, reading
        loop = asyncio.get_running_loop()

        def spoke() -> None:
            block = os.read(reading, 20)
            session.said += block
            if _GOES_ON in block and not session.seen.done():
                session.seen.set_result(None)
            if not block:
                loop.remove_reader(reading)

        os.set_blocking(reading, False)
        if "COXSWAIN_STAY" in environment:
            loop.add_reader(reading, spoke)
        return session

    def _told(self) -> None:
        said_by_first = self._control.recv(1 << 16)
        if not said_by_first:  # it is gone, and so is the node
            os._exit(1)
        words = json.loads(said_by_first)
        if "counts" in words:
            counted = self._counting.pop(0)
            if not counted.done():  # else nobody waits for it any more
                counted.set_result(words["counts"])
            return
        session, reading = self._running.pop(words["ended"])
        asyncio.get_running_loop().remove_reader(reading)
        try:
            said = (session.said + os.read(reading, 20)).strip(_GOES_ON)
        finally:
            os.close(reading)
        if session.ended.done():
            return
        if "error" in words:
            session.ended.set_exception(OSError(words["error"]))
        else:
            session.ended.set_result(int(said) if said else -signal.SIGKILL)

    def count(self, which: Callable[[Session], bool]) -> int:
        return sum(which(session) for session, _ in self._running.values())

    async def end(self, which: Callable[[Session], bool], *, patience: float = 0.0) -> int:
        """End these sessions, wait until nothing of them is left, and say how many they were.

        `patience`: seconds in which those that are about to end do so by themselves, and are not counted.
        """

        def there() -> list[Session]:
            return [one for one, _ in self._running.values() if which(one) and not one.ended.done()]

        found = there()
        if found and patience:
            await asyncio.wait([session.ended for session in found], timeout=patience)
            found = there()  # and what they have begun meanwhile
        for session in found:
            session.signal(signal.SIGKILL)
        if found:
            await asyncio.wait([session.ended for session in found])
        return len(found)
