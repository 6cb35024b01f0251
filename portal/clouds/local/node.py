"""Becoming a node: `python -m portal.clouds.local.node MARK`, with an order in JSON on stdin.

    the launcher      locks, binds the doors, answers on stdout, is gone
      a keeper a node holds the lock, writes the node's state, watches the disk, waits
        the way out   in a network of the computer's own; connects to elsewhere for the node
        PID 1         in namespaces and a view of its own; makes sessions
          the SSH server
          sessions, and in them what people run

Without namespaces PID 1 is a process like others and there is no way out: programs connect by themselves.
When one of keeper, way out, PID 1 and server ends, the others end, and with them all that people run on the node.
The launcher is a new program, not a fork of the worker: nothing of the worker's memory, environment or descriptors
gets in. It loads the SSH library once for all the nodes that it makes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import pwd
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from portal.clouds.local import identity, kernel, landlock, limits, processes, seccomp, shims, view, wayout
from portal.clouds.local.options import ISOLATED, LocalOptions
from portal.clouds.local.records import (
    LANDLOCK,
    NAMESPACES,
    PLAIN,
    ClusterFolder,
    ClusterRecord,
    NodeFolder,
    NodeState,
    process_now,
    write_atomically,
)
from portal.clouds.local.sessions import Maker, Manner, ending
from portal.clouds.local.sizes import MOST_NODES

_LOOK_EVERY = 0.5  # seconds between looks at the disk
_LOOK_CLOSELY = 0.05  # when the disk may be full before the next look: some write gigabytes a second
_FORBIDDEN_INSIDE = ("user", "net", "uts", "ipc", "cgroup", "time")  # kinds of namespaces; sessions need the others


@dataclass(frozen=True)
class Order:
    """What the launcher is to do."""

    folder: str  # of the cluster; of the cloud, when there are no ranks and only the rung is asked for
    ranks: list[int]
    scratch: str
    rung: str  # empty: the best
    user: int | None  # of the workspace, on this computer; None: the portal's own
    options: dict[str, Any]
    told: dict[str, str]  # how packages are found, as variables
    places: list[str]  # where packages lie on this computer
    upstream: dict[str, str]  # the proxies of this house, as variables

    def json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Answer:
    rung: str  # empty when there is none
    why: str = ""  # what the kernel refused, when the rung is not the best one
    taken: str = ""  # the address that somebody else listens on; then nothing was started
    gone: bool = False  # the cluster is being stopped or deleted; nothing was started

    def json(self) -> str:
        return json.dumps(asdict(self))


def main() -> None:
    order = Order(**json.load(sys.stdin))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o022)
    os.chdir("/")
    limits.take_all_files()
    answer = launch(order)
    sys.stdout.write(answer.json())
    sys.stdout.flush()
    os._exit(0)


def launch(order: Order) -> Answer:
    """Start the nodes of the order that nobody else is starting. All doors are bound before anything runs."""
    rung, why = _choose(order)
    if not rung or not order.ranks or (why and order.rung):
        return Answer(rung, why)
    cluster = ClusterFolder(Path(order.folder))
    locks = {rank: lock for rank in order.ranks if (lock := _lock(cluster.node(rank))) is not None}
    record = ClusterRecord.read(cluster.record)  # after the locks: who deletes marks the record, then looks for locks
    if record is None or record.deleting or record.stopped:
        return Answer(rung, why, gone=True)
    locks = {rank: lock for rank, lock in locks.items() if not cluster.node(rank).going.exists()}
    for rank in locks:
        cluster.node(rank).state_file.unlink(missing_ok=True)  # of an earlier life
    if rung == NAMESPACES:
        for folder in (cluster.shared, *(cluster.node(rank).home for rank in locks)):
            identity.hand_over(folder, order.user)
    isolated = rung == NAMESPACES and order.options["network"] == ISOLATED
    listeners: dict[int, list[socket.socket]] = {rank: [] for rank in locks}
    for rank in locks:
        listeners[rank].append(_door(cluster.node(rank)))
        if isolated:
            continue  # its address is in the cluster's own network, where nobody else is
        try:
            listeners[rank].append(_listen(record.address(rank), record.port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return Answer(rung, why, taken=f"{record.address(rank)}:{record.port}")
    if locks:
        _fork(lambda: _start(Plan(order, cluster, record, rung, isolated), locks, listeners))
    return Answer(rung, why)


def _choose(order: Order) -> tuple[str, str]:
    """The rung, and what the kernel refused of a better one."""
    if order.rung == PLAIN:
        return PLAIN, ""
    why = ""
    if order.rung != LANDLOCK:
        why = _refusal(order)
        if not why or order.rung == NAMESPACES:
            return NAMESPACES, why
    if identity.has_root():
        return "", f"{why or 'landlock'}; and without namespaces root would be root on the nodes"
    if not landlock.version():
        return "", f"{why}; Landlock: not in this kernel".removeprefix("; ")
    if not seccomp.is_known():
        return "", f"{why}; no system call filter for this kind of machine".removeprefix("; ")
    return LANDLOCK, why


def _fork(body: Callable[[], object], report: Callable[[str], object] | None = None) -> int:
    """Run `body` in a child, from which nothing returns. `report` gets what it fails with; without it, the log."""
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
        os._exit(0)
    except BaseException as exc:  # noqa: BLE001 (the child must end here and nowhere else)
        if report is None:
            traceback.print_exc()
        else:
            report(str(exc))
    finally:
        os._exit(1)


def _lock(node: NodeFolder) -> int | None:
    try:
        descriptor = os.open(node.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # deleted meanwhile
        return None
    deadline = time.monotonic() + 3
    while not kernel.try_lock(descriptor):
        state = node.state()
        if state is None or state.alive or time.monotonic() > deadline:  # somebody else is starting it, or it runs
            os.close(descriptor)
            return None
        time.sleep(0.02)  # its last processes are just being ended
    return descriptor


def _door(node: NodeFolder) -> socket.socket:
    """A socket in the node's folder, by which the portal comes in wherever the node's network is.

    And however many programs stand before the other one: to this one they have no way, or without namespaces no kind of
    socket that leads to it.
    """
    node.door.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(node.path, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{node.door.name}")  # a socket's own path has room for 107 bytes
        os.chmod(node.door, 0o600)
    finally:
        os.close(folder)
    listener.listen(128)
    return listener


def _listen(address: str, port: int) -> socket.socket:
    deadline = time.monotonic() + 1
    while True:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(128)
        except OSError as exc:
            listener.close()
            # the node that was here before may be dying still
            if exc.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return listener


@dataclass(frozen=True)
class Plan:
    """What all processes of a cluster's nodes know."""

    order: Order
    cluster: ClusterFolder
    record: ClusterRecord
    rung: str
    isolated: bool  # whether the cluster has a network of its own

    @property
    def options(self) -> LocalOptions:
        return LocalOptions.of(self.order.options)


def _start(plan: Plan, locks: dict[int, int], listeners: dict[int, list[socket.socket]]) -> None:
    """Out of the launcher's hands: fork the keepers and end."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # who called waits for the end of our stdout
    _log_to(plan.cluster.node(min(locks)))
    from portal.clouds.local import server  # noqa: F401 (once, before the forks: they share its memory)

    gc.collect()
    gc.freeze()
    # Held until the last keeper has written down where it is, so that the nodes of a cluster come into one network.
    joining = os.open(plan.cluster.path / "joining", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(joining, fcntl.LOCK_EX)
    network = _network(plan.cluster) if plan.isolated else []
    for rank, lock in locks.items():

        def keeper(rank: int = rank, lock: int = lock) -> None:
            for other, theirs in listeners.items():
                if other != rank:
                    for one in theirs:
                        one.detach()  # closed by number: it may get another meaning before it is collected
            ours = [listener.fileno() for listener in listeners[rank]]
            _close_all_but(0, 1, 2, lock, joining, *(namespace for namespace, _ in network), *ours)
            _Keeper(plan, rank, listeners[rank], network, joining, lock).keep()

        _fork(keeper)
    os._exit(0)


def _network(cluster: ClusterFolder) -> list[tuple[int, int]]:
    """The namespaces to join for the cluster's network, in order: descriptors, with their kinds."""
    for node in cluster.nodes():
        state = node.state()
        lives = node.taken and state is not None and state.rung == NAMESPACES and state.alive
        # one that was started when nodes were in the computer's own network is no company
        if lives and state is not None and _network_number(state.keeper.pid) != _network_number("self"):
            return _namespaces_of(state.keeper.pid)
    return _new_network()


def _network_number(pid: int | str) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def _new_network() -> list[tuple[int, int]]:
    """A network in which there is only loopback; without root in a user namespace in which it is ours."""
    ours, theirs = socket.socketpair()

    def make() -> None:
        ours.close()
        if not kernel.may_administer():
            kernel.enter_user_namespace()
        kernel.unshare(kernel.CLONE_NEWNET)
        kernel.raise_loopback()
        theirs.send(b"y")
        theirs.recv(1)  # until it has been taken hold of

    pid = _fork(make, lambda said: theirs.send(said.encode()))
    theirs.close()
    try:
        said = ours.recv(1000)
        if said != b"y":
            raise OSError(said.decode(errors="replace") or "no network could be made")
        return _namespaces_of(pid)
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _namespaces_of(pid: int) -> list[tuple[int, int]]:
    kinds = [] if kernel.may_administer() else [("user", kernel.CLONE_NEWUSER)]
    kinds.append(("net", kernel.CLONE_NEWNET))
    return [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind) for name, kind in kinds]


def _log_to(node: NodeFolder) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        if node.log.stat().st_size > 1 << 20:
            flags |= os.O_TRUNC
    log = os.open(node.log, flags, 0o600)
    os.dup2(log, 2)
    os.close(log)


def _close_all_but(*wanted: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in wanted:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


# -- the keeper


class _Keeper:
    """Looks after one node until it ends. The node cannot see or reach this process unless the rung is plain."""

    def __init__(
        self,
        plan: Plan,
        rank: int,
        listeners: list[socket.socket],
        network: list[tuple[int, int]],
        joining: int,
        lock: int,
    ) -> None:
        self.plan = plan
        self.rank = rank
        self.node = plan.cluster.node(rank)
        self.listeners = listeners
        self.network = network
        self.joining = joining
        self.lock = lock
        self.way_out: socket.socket | None = None  # ends when the way out ends
        self.refuses = ""
        self.looked = 0.0
        self.look_in = _LOOK_EVERY

    def keep(self) -> NoReturn:
        plan, record = self.plan, self.plan.record
        os.setsid()
        _log_to(self.node)
        kernel.name_process(record.hostname(self.rank))
        limits.offer_to_the_killer("self", 500)
        self.host_key = self.node.host_key.read_text()
        self._enter_network()
        awake, wake = os.pipe()
        for end in (awake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if plan.rung == NAMESPACES:
            kernel.unshare(kernel.CLONE_NEWPID)  # for our first child alone: with its end the namespace ends
        else:
            kernel.adopt_orphans()
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.to_server, from_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def node_itself() -> None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.ours.close()
            self.to_server.close()
            for descriptor in (self.joining, awake, wake):
                os.close(descriptor)
            if self.way_out is not None:
                self.way_out.close()
            # The kernel ends us with the keeper from here on; and if the keeper ended just before, we read nothing.
            kernel.die_with_parent(signal.SIGKILL)
            theirs.send(b"alive")
            if theirs.recv(8) == b"go":
                _Node(plan, self.rank, self.listeners, theirs, from_server, self.lock).be()

        self.first = _fork(node_itself)
        theirs.close()
        from_server.close()
        for listener in self.listeners:
            listener.close()
        self.ours.recv(8)
        name = limits.group_name(processes.mark_of(plan.cluster.path), self.rank)
        groups, text = limits.make_groups(name, record.memory, plan.options.processes, self.first)
        self.groups = groups
        _say(f"{record.hostname(self.rank)} starts ({plan.rung}) at {record.address(self.rank)}:{record.port}; {text}")
        self.state = NodeState(
            plan.rung, process_now(os.getpid()), process_now(self.first), False, tuple(map(str, groups))
        )
        self._write_state()
        os.close(self.joining)
        with contextlib.suppress(OSError):
            self.to_server.send(self.host_key.encode())
            self.ours.send(b"go")
        status = self._wait(awake)
        _say(f"{record.hostname(self.rank)} ended ({ending(status)})")
        if plan.rung != NAMESPACES:
            _end_family()
        for group in self.groups:
            limits.remove_group(group)
        os._exit(0)

    def _enter_network(self) -> None:
        if self.plan.rung != NAMESPACES:
            return
        if not self.plan.isolated:
            if not kernel.may_administer():
                kernel.enter_user_namespace()
            return
        rules = self._rules()
        user = identity.way_out() if identity.has_root() else None
        self.way_out, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def way_out() -> None:
            assert self.way_out is not None
            self.way_out.close()
            for listener in self.listeners:
                listener.close()
            for descriptor in (self.joining, self.lock, *(namespace for namespace, _ in self.network)):
                os.close(descriptor)
            _, (listening, *_), _, _ = socket.recv_fds(theirs, 1, 1)
            wayout.be(socket.socket(fileno=listening), theirs, rules, user)

        _fork(way_out)
        theirs.close()
        for namespace, kind in self.network:
            kernel.join(namespace, kind)
            os.close(namespace)
        record = self.plan.record
        address = record.address(self.rank)
        with _listen(address, wayout.PORT) as listener:
            socket.send_fds(self.way_out, [b"l"], [listener.fileno()])
        self.listeners.append(_listen(address, record.port))

    def _rules(self) -> wayout.Rules:
        options = self.plan.options
        return wayout.Rules(
            addresses=options.addresses,
            examples=options.portal,
            git_here=options.git_here,
            neighbours=options.neighbours,
            upstream=self.plan.order.upstream,
        )

    def _write_state(self) -> None:
        write_atomically(self.node.state_file, self.state.json())

    def _write_over_state(self) -> None:
        with contextlib.suppress(OSError), open(self.node.state_file, "r+b", buffering=0) as file:
            file.write(self.state.json().encode())
            file.truncate()

    def _wait(self, awake: int) -> int:
        """Do what is asked until the first process ends; how it did."""
        waiting: list[Any] = [awake, self.ours, self.to_server]
        if self.way_out is not None:
            waiting.append(self.way_out)
        while True:
            ready, _, _ = select.select(waiting, [], [], self.look_in)
            if awake in ready:
                os.read(awake, 4096)
            if (status := _reaped(self.first)) is not None:
                return status
            if self.ours in ready:
                self._map() if self.ours.recv(8) == b"map" else waiting.remove(self.ours)
            if self.to_server in ready:
                if self.to_server.recv(8) == b"r":
                    self.state = replace(self.state, ready=True)
                    self._write_state()
                else:
                    waiting.remove(self.to_server)
            if self.way_out in ready:
                _say("the way out ended")
                os.kill(self.first, signal.SIGKILL)
                waiting.remove(self.way_out)
            self._look_at_disk()

    def _map(self) -> None:
        """The first process may not say itself who it is outside."""
        user = self.plan.order.user
        assert user is not None
        kernel.map_ids(self.first, (identity.INSIDE, user), (identity.INSIDE, user))
        self.ours.send(b"done")

    def _look_at_disk(self) -> None:
        if time.monotonic() - self.looked < self.look_in:
            return
        self.looked = time.monotonic()
        options = self.plan.options
        disk = os.statvfs(self.node.path)
        free = disk.f_bavail * disk.f_frsize
        mark = min(options.free_mib << 20, disk.f_blocks * disk.f_frsize * options.free_percent // 100)
        self.look_in = _LOOK_EVERY if free > 8 * mark else _LOOK_CLOSELY
        text = f"{free >> 20} MiB of this computer's disk are free; no run starts below {2 * mark >> 20} MiB."
        if free >= 2 * mark:  # the other thing that runs out: 0 where the file system has no end of them
            free, mark = disk.f_favail, disk.f_files * options.free_percent // 100
            text = f"{free:,} more files fit on this computer's disk; no run starts below {2 * mark:,}."
        if free < mark:
            self._refuse(f"Runs were ended: {text}")  # before they are: whoever sees them gone asks why
            with contextlib.suppress(OSError):
                self.to_server.send(b"l")
            return
        if free < 2 * mark and self.refuses.startswith("Runs were ended"):
            return  # it still says why
        self._refuse(text if free < 2 * mark else "")

    def _refuse(self, why: str) -> None:
        if bool(why) != bool(self.refuses) or why.startswith("Runs") != self.refuses.startswith("Runs"):
            if why:
                with contextlib.suppress(OSError):  # the log is on the same disk
                    _say(why)
            self.refuses = why
            self.state = replace(self.state, refuses=why)
            try:
                self._write_state()
            except OSError:  # there is no room for a draft; what is there can be written over
                self._write_over_state()


def _reaped(first: int) -> int | None:
    """Reap all that has ended; how `first` did, if it has."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == first:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _end_family() -> None:
    from portal.clouds.local.sessions import end_descendants

    end_descendants()


# -- the node


class _Node:
    """The first process of a node, and how it comes to be that."""

    def __init__(
        self,
        plan: Plan,
        rank: int,
        listeners: list[socket.socket],
        keeper: socket.socket,
        server: socket.socket,
        lock: int,
    ) -> None:
        self.plan = plan
        self.rank = rank
        self.folder = plan.cluster.node(rank)
        self.listeners = listeners
        self.keeper = keeper
        self.server = server
        self.lock = lock

    def be(self) -> NoReturn:
        if self.plan.rung == NAMESPACES:
            become_first(self._view(), self.keeper, self.plan.order.user)
        else:
            kernel.adopt_orphans()
            kernel.hide_process()
        manner = self._manner()
        os.chdir(manner.home)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = _fork(lambda: self._serve(manner, ours, theirs))
        for one in (theirs, self.server, self.keeper, *self.listeners):
            one.close()
        Maker(manner, ours, pid, _say).run()

    def _serve(self, manner: Manner, ours: socket.socket, theirs: socket.socket) -> None:
        from portal.clouds.local import server

        ours.close()
        self.keeper.close()
        os.close(self.lock)
        host_key = self.server.recv(1 << 16).decode()
        if self.plan.rung != PLAIN:
            kernel.drop_everything()
            seccomp.confine()
        server.serve(self._service(manner), host_key, self.listeners, theirs, self.server)

    def _view(self) -> view.View:
        options, order = self.plan.options, self.plan.order
        return view.View(
            hostname=self.plan.record.hostname(self.rank),
            root=self.folder.root,
            home=self.folder.home,
            shared=self.plan.cluster.shared,
            programs=self.folder.bin,
            hosts=self.plan.cluster.hosts,
            shown=tuple(map(Path, (*order.places, *options.shown))),
            hidden=tuple(map(Path, options.hidden)),
            temporary=options.temporary_mib << 20 or self.plan.record.memory // 4,
        )

    def _manner(self) -> Manner:
        options, memory = self.plan.options, self.plan.record.memory
        if self.plan.rung == NAMESPACES:
            return Manner(True, str(view.HOME), options.processes, memory, _confine)
        home = str(self.folder.home)
        if self.plan.rung == PLAIN:
            return Manner(False, home, options.processes, memory, lambda: None)
        of_user = sum(1 for pid in processes.all_processes() if _is_ours(pid))
        writable = [self.folder.home, self.folder.tmp, self.plan.cluster.shared, *map(Path, _WRITABLE)]
        # Hydra gives every rank the PATH of node 0: with its programs out of reach, `hostname` would be the computer's.
        programs = (self.plan.cluster.node(rank).bin for rank in range(MOST_NODES))
        shown = (*shims.needed_places(), *programs, *map(Path, (*self.plan.order.places, *options.shown)))
        uv = shims.uv_program()
        client = shims.client_packages() if (self.folder.bin / shims.CLIENT).exists() else []
        readable = [*map(Path, _READABLE), *shown, *client, *([uv] if uv else [])]
        return Manner(False, home, of_user + options.processes, memory, lambda: _confine_files(readable, writable))

    def _service(self, manner: Manner) -> Any:
        from portal.clouds.local import server

        plan, record = self.plan, self.plan.record
        inside = plan.rung == NAMESPACES
        user = shims.USER if inside else account()
        return server.Service(
            user=user,
            hostname=record.hostname(self.rank),
            address=record.address(self.rank),
            home=manner.home,
            shell=shims.shell(),
            authorized_keys=record.authorized_keys,
            environment=shims.session_environment(
                user=user,
                home=Path(manner.home),
                tmp=view.TEMPORARY if inside else self.folder.tmp,
                programs=view.PROGRAMS if inside else self.folder.bin,
                hostname=record.hostname(self.rank),
                mark=processes.mark_of(plan.cluster.path),
                simulated=not inside,
                told=self._told(),
            ),
        )

    def _told(self) -> Mapping[str, str]:
        """How programs on this node reach packages and sources."""
        plan = self.plan
        if not plan.isolated:
            return {**plan.order.told, **plan.order.upstream}
        record = plan.record
        near = ["localhost"]
        for rank in range(MOST_NODES):  # also those that are not there: a program may live until they are
            near += [record.hostname(rank), record.address(rank)]
        if (
            not plan.options.git_here
            and "//127." not in plan.options.portal
            and "//localhost" not in plan.options.portal
        ):
            near += ["127.0.0.1", "127.0.0.0/8", "::1"]  # else git asks this computer's servers by these
        address = record.address(self.rank)
        return {**plan.order.told, **shims.proxy_environment(address, wayout.PORT, near)}


# What programs under Landlock may read, and what they may write to besides their own folders.
_READABLE = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/proc", "/sys"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
    *("/etc/services", "/etc/protocols", "/etc/mime.types", "/etc/ssl", "/etc/pki", "/etc/ca-certificates"),
    *("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf"),
    *("/etc/gai.conf", "/etc/terminfo", "/etc/fonts", "/run/systemd/resolve/stub-resolv.conf", "/run/resolvconf"),
    *("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)
_WRITABLE = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm")  # noqa: S108


def _confine() -> None:
    kernel.drop_everything()
    seccomp.confine()


def _confine_files(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    kernel.drop_everything()
    landlock.confine(readable, writable)
    seccomp.confine(unix=False)


def _is_ours(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:  # gone meanwhile
        return False


def account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an id without an account, as in some containers
        return "user"


def become_first(world: view.View, keeper: socket.socket, user: int | None) -> None:
    """Move this process, the first of its PID namespace, into the world of its node, and make it who it is there.

    `user` is who that is outside, and then the keeper says so to the kernel; None: who we are already.
    """
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC)
    kernel.set_hostname(world.hostname)
    outside = os.geteuid(), os.getegid()
    view.enter(world)
    # All mounts become locked: whoever is in here, whatever they can do in here, cannot undo them.
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    if user is None:
        kernel.map_ids("self", (identity.INSIDE, outside[0]), (identity.INSIDE, outside[1]))
    else:
        keeper.send(b"map")
        if keeper.recv(8) != b"done":
            raise OSError(errno.EPERM, "the node was given no user")
        os.setgroups([])
        os.setresgid(identity.INSIDE, identity.INSIDE, identity.INSIDE)
        os.setresuid(identity.INSIDE, identity.INSIDE, identity.INSIDE)
    kernel.die_with_parent(signal.SIGKILL)  # again: a change of identity has cleared it
    for kind in _FORBIDDEN_INSIDE:
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
    with contextlib.suppress(OSError):  # something of people's own may be there
        view.TEMPORARY.mkdir(mode=0o700)
    kernel.hide_process()


# -- the probe


def _refusal(order: Order) -> str:
    """What the kernel refuses of a node with namespaces, found by doing all of it in a child. Empty when nothing."""
    if not seccomp.is_known():
        return "there is no system call filter for this kind of machine"
    if identity.has_root() and not kernel.may_administer():
        return "root may not make namespaces here"
    folder = Path(tempfile.mkdtemp(prefix=".probe-", dir=order.scratch))
    reading, writing = os.pipe()
    try:
        pid = _fork(lambda: _try_all(folder, order), lambda said: os.write(writing, said.encode()))
        os.close(writing)
        said = b""
        while block := os.read(reading, 4096):
            said += block
        _, status = os.waitpid(pid, 0)
        return "" if status == 0 else said.decode(errors="replace") or f"the probe ended with {status}"
    finally:
        os.close(reading)
        shutil.rmtree(folder, ignore_errors=True)


def _try_all(folder: Path, order: Order) -> None:
    for name in ("root", "home", "shared", "bin"):
        (folder / name).mkdir()
    (folder / "hosts").touch()
    user = identity.numbers()[0] if identity.has_root() else None
    identity.hand_over(folder / "home", user)
    if order.options["network"] == ISOLATED:
        for namespace, kind in _new_network():
            kernel.join(namespace, kind)
    elif not kernel.may_administer():
        kernel.enter_user_namespace()
    kernel.unshare(kernel.CLONE_NEWPID)
    world = view.View(
        hostname="probe",
        root=folder / "root",
        home=folder / "home",
        shared=folder / "shared",
        programs=folder / "bin",
        hosts=folder / "hosts",
        shown=(),
        hidden=(folder,),
        temporary=1 << 20,
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def first() -> None:
        ours.close()
        become_first(world, theirs, user)
        _try_session()
        theirs.send(b"fine")

    pid = _fork(first, lambda said: theirs.send(said.encode()[:1000]))
    theirs.close()
    said = ours.recv(1000)
    if said == b"map" and user is not None:
        kernel.map_ids(pid, (identity.INSIDE, user), (identity.INSIDE, user))
        ours.send(b"done")
        said = ours.recv(1000)
    os.waitpid(pid, 0)
    if said != b"fine":
        raise OSError(said.decode(errors="replace") or "the first process ended")


def _try_session() -> None:
    manner = Manner(True, str(view.HOME), 64, 0, _confine)
    order = os.memfd_create("order")
    with open(order, "w", closefd=False) as file:
        json.dump({"argv": ["/bin/sh", "-c", ":"], "environment": {}, "sftp": False}, file)
    os.lseek(order, 0, os.SEEK_SET)
    reading, writing = os.pipe()
    errors, to_errors = os.pipe()
    with socket.socket() as unused:

        def say(text: str) -> None:
            os.write(to_errors, text.encode())

        maker = Maker(manner, unused, 0, say)
        leader = maker.make([order, writing, 0, 0, to_errors])
    for descriptor in (writing, to_errors):
        os.close(descriptor)
    os.waitpid(leader, 0)
    status = os.read(reading, 20)
    if status != b"0":
        raise OSError(os.read(errors, 1000).decode(errors="replace") or f"a session ended with {status!r}")


if __name__ == "__main__":
    main()
