"""Becoming a node: `python -m portal.clouds.local.node MARK ORDER`, where ORDER is JSON.

    the launcher      locks, binds the addresses, answers on stdout, is gone
      a keeper a node holds the lock, writes the node's state, waits
        uts:   PID 1  in namespaces and a root of its own; reaps
                 the SSH server, and what people run
        plain: the SSH server, and what people run; the keeper reaps and ends what is left

When one of keeper, PID 1 and server ends, the others end, and with them all that people run on the node.
The launcher is a new program, not a fork of the worker: nothing of the worker's memory, environment or descriptors
gets in. It loads the SSH library once for all the nodes that it makes.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import glob
import json
import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from portal.clouds.local import kernel, limits, processes, shims
from portal.clouds.local.records import (
    ClusterFolder,
    ClusterRecord,
    NodeFolder,
    NodeState,
    process_now,
    write_atomically,
)

UTS = "uts"
PLAIN = "plain"

HOME = Path("/node")
SHARED = Path("/shared")
_OURS = Path("/.node")
_TMP = Path("/tmp")  # noqa: S108 (every node has its own)
_OWN_ENTRIES = frozenset({"dev", "proc", "tmp", HOME.name, SHARED.name, _OURS.name})

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ACCELERATORS = ("nvidia*", "dri", "kfd", "infiniband", "knem", "xpmem")
_GOODBYE = 2.0  # seconds that programs have between TERM and KILL when a node is switched off

_UTS_FLAGS = kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC


@dataclass(frozen=True)
class Order:
    """What the launcher is to do. Nothing of it is secret: it can be read in the list of processes."""

    folder: str  # of the cluster; of the cloud, when there are no ranks and only the rung is asked for
    ranks: list[int]
    scratch: str
    hidden: list[str]
    rung: str | None

    def json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Answer:
    rung: str
    why: str = ""  # what the kernel refused, when the rung is not the best one
    taken: str = ""  # the address that somebody else listens on; then nothing was started
    gone: bool = False  # the cluster is being deleted; nothing was started

    def json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class World:
    """What a node sees: this computer, with these differences."""

    hostname: str
    root: Path  # an empty folder to put the new root together in
    home: Path
    tmp: Path
    shared: Path
    programs: Path
    hosts: Path
    passwd: Path
    hidden: tuple[Path, ...]
    memory: int


def main() -> None:
    order = Order(**json.loads(sys.argv[2]))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o022)
    os.chdir("/")
    answer = launch(order)
    sys.stdout.write(answer.json())
    sys.stdout.flush()
    os._exit(0)


def launch(order: Order) -> Answer:
    """Start the nodes of the order that nobody else is starting. All addresses are bound before anything runs."""
    rung, why = order.rung, ""
    if rung != PLAIN:
        why = _refusal(Path(order.scratch))
        rung = UTS if rung == UTS or not why else PLAIN
        if rung == UTS and why:
            return Answer(rung, why)
    if not order.ranks:
        return Answer(rung, why)
    cluster = ClusterFolder(Path(order.folder))
    locks = {rank: lock for rank in order.ranks if (lock := _lock(cluster.node(rank))) is not None}
    record = ClusterRecord.read(cluster.record)  # after the locks: who deletes marks the record, then looks for locks
    if record is None or record.deleting:
        return Answer(rung, why, gone=True)
    for rank in locks:
        cluster.node(rank).state_file.unlink(missing_ok=True)  # of an earlier life
    listeners: dict[int, socket.socket] = {}
    for rank in locks:
        try:
            listeners[rank] = _listen(record.address(rank), record.port)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return Answer(rung, why, taken=f"{record.address(rank)}:{record.port}")
    if locks:
        _fork(lambda: _start(order, cluster, record, rung, locks, listeners))
    return Answer(rung, why)


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
            listener.setblocking(False)
            return listener


def _start(
    order: Order,
    cluster: ClusterFolder,
    record: ClusterRecord,
    rung: str,
    locks: dict[int, int],
    listeners: dict[int, socket.socket],
) -> None:
    """Out of the launcher's hands: fork the keepers and end."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # who called waits for the end of our stdout
    _log_to(cluster.node(min(locks)))
    from portal.clouds.local import server  # noqa: F401 (once, before the forks: they share its memory)

    gc.collect()
    gc.freeze()
    for rank, lock in locks.items():
        listener = listeners[rank]

        def keeper(rank: int = rank, lock: int = lock, listener: socket.socket = listener) -> None:
            for other in listeners.values():
                if other is not listener:
                    other.detach()  # closed by number: its descriptor may get another meaning before it is collected
            _close_all_but(0, 1, 2, lock, listener.fileno())
            _keep(order, cluster, record, rank, rung, listener)

        _fork(keeper)
    os._exit(0)


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


def _keep(
    order: Order, cluster: ClusterFolder, record: ClusterRecord, rank: int, rung: str, listener: socket.socket
) -> NoReturn:
    """Look after one node until it ends. The node cannot see or reach this process unless the rung is plain."""
    node = cluster.node(rank)
    os.setsid()
    _log_to(node)
    kernel.name_process(record.hostname(rank))
    limits.offer_to_the_killer("self", 500)
    mark = processes.mark_of(cluster.path)
    privileged = kernel.may_administer()
    ours, theirs = socket.socketpair()
    if rung == PLAIN:
        kernel.adopt_orphans()
    else:
        if not privileged:
            kernel.enter_user_namespace()
        kernel.unshare(kernel.CLONE_NEWPID)  # for our first child alone: with its end the namespace ends

    def node_itself() -> None:
        ours.close()
        # The kernel ends us with the keeper from here on; and if the keeper ended just before, we read nothing.
        kernel.die_with_parent(signal.SIGKILL)
        theirs.send(b"a")
        if theirs.recv(1) == b"g":
            _be(order, cluster, record, node, rung, privileged, mark, listener, theirs)

    first = _fork(node_itself)
    theirs.close()
    listener.close()
    ours.recv(1)
    group, text = limits.make_group(limits.group_name(mark, rank), record.memory, first)
    _say(f"{record.hostname(rank)} starts ({rung}) at {record.address(rank)}:{record.port}, {text}")
    state = NodeState(rung, process_now(os.getpid()), process_now(first), False, None if group is None else str(group))
    write_atomically(node.state_file, state.json())
    with contextlib.suppress(OSError):
        ours.send(b"g")
    if ours.recv(1) == b"r":
        state = NodeState(state.rung, state.keeper, state.first, True, state.cgroup)
        write_atomically(node.state_file, state.json())
    ours.close()
    status = _wait_for(first)
    _say(f"{record.hostname(rank)} ended ({_ending(status)})")
    if rung == PLAIN:
        _end_descendants(gently=status != -signal.SIGKILL)
    if group is not None:
        limits.remove_group(group)
    os._exit(0)


def _ending(status: int) -> str:
    return f"exit {status}" if status >= 0 else f"signal {-status}"


def _wait_for(child: int) -> int:
    """Reap everything until `child` ends; return how."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _end_descendants(*, gently: bool) -> None:
    """End everything that descends from this process. As it adopts orphans, nobody slips away by forking."""
    deadline = time.monotonic() + (_GOODBYE if gently else 0)
    told: set[int] = set()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        descendants = _descendants(os.getpid())
        if not descendants:
            return
        late = time.monotonic() >= deadline
        for process in descendants:
            if late or process.pid not in told:
                process.send(signal.SIGKILL if late else signal.SIGTERM)
                told.add(process.pid)
        time.sleep(0.02)


def _descendants(pid: int) -> list[processes.Process]:
    everything = processes.all_processes()
    family = {pid}
    while True:
        more = {p.pid for p in everything.values() if p.parent in family} - family
        if not more:
            return [everything[member] for member in family if member != pid and member in everything]
        family |= more


# -- the node


def _be(
    order: Order,
    cluster: ClusterFolder,
    record: ClusterRecord,
    node: NodeFolder,
    rung: str,
    privileged: bool,
    mark: str,
    listener: socket.socket,
    keeper: socket.socket,
) -> NoReturn:
    from portal.clouds.local import server

    rank = node.rank
    simulated = rung == PLAIN
    user = account()
    home, tmp, programs = (node.home, node.tmp, node.bin) if simulated else (HOME, _TMP, _OURS / "bin")
    service = server.Service(
        user=user,
        hostname=record.hostname(rank),
        address=record.address(rank),
        home=str(home),
        shell=shims.shell(),
        host_key=node.host_key.read_text(),
        authorized_keys=record.authorized_keys,
        environment=shims.session_environment(
            user=user,
            home=home,
            tmp=tmp,
            programs=programs,
            hostname=record.hostname(rank),
            mark=mark,
            simulated=simulated,
        ),
    )

    def ready() -> None:
        with contextlib.suppress(OSError):
            keeper.send(b"r")
        keeper.close()

    if simulated:
        os.chdir(home)
        kernel.hide_process()
        server.serve(service, listener, ready)
        os._exit(0)
    passwd = node.path / "passwd"
    passwd.write_text(shims.passwd_file(user, HOME))
    world = World(
        hostname=record.hostname(rank),
        root=node.root,
        home=node.home,
        tmp=node.tmp,
        shared=cluster.shared,
        programs=node.bin,
        hosts=cluster.hosts,
        passwd=passwd,
        hidden=tuple(Path(path) for path in order.hidden),
        memory=record.memory,
    )
    enter(world, privileged=privileged)
    os.chdir(HOME)
    kernel.hide_process()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        server.serve(service, listener, ready)
        os._exit(0)
    listener.close()
    keeper.close()
    _be_first(child)


def _be_first(server: int) -> NoReturn:
    """The life of PID 1: reap, and go when the server goes or TERM comes. The kernel ends what is left."""
    deadline = None
    while True:
        if deadline is None:
            signalled: int | None = signal.sigwaitinfo({signal.SIGCHLD, signal.SIGTERM}).si_signo
        else:
            info = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, max(0, deadline - time.monotonic()))
            signalled = None if info is None else info.si_signo
        if signalled is None:
            os._exit(0)
        if signalled == signal.SIGTERM and deadline is None:
            deadline = time.monotonic() + _GOODBYE
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGTERM)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == server and deadline is None:
                    _say(f"the SSH server ended ({_ending(os.waitstatus_to_exitcode(ended[1]))})")
                    os._exit(1)
        except ChildProcessError:
            os._exit(0)


def account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an id without an account, as in some containers
        return "user"


def enter(world: World, *, privileged: bool) -> None:
    """Move this process, the first of its PID namespace, into the world of its node."""
    kernel.unshare(_UTS_FLAGS)
    kernel.set_hostname(world.hostname)
    _put_together(world, privileged=privileged)
    kernel.pivot_root(world.root)
    kernel.mount(None, "/", None, kernel.MS_PRIVATE)
    # Before anything of the node runs: with SYS_ADMIN a node's root would unmount what hides the portal's folder.
    kernel.drop_capabilities()


def _put_together(world: World, *, privileged: bool) -> None:
    """The node's root: every entry of ours, with what differs laid over it. Changes no folder of the host."""
    new = world.root
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", new, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4m,mode=755")
    kernel.mount(None, new, None, kernel.MS_UNBINDABLE)  # else binding the folder it lies in would bind it into itself
    for entry in sorted(os.listdir("/")):
        if entry not in _OWN_ENTRIES:
            _copy_entry(Path("/", entry), new / entry)
    _make_devices(new / "dev", world.memory, privileged=privileged)
    for source, name in (
        (world.tmp, "tmp"),
        (world.home, HOME.name),
        (world.shared, SHARED.name),
        (world.programs, f"{_OURS.name}/bin"),
    ):
        (new / name).mkdir(parents=True)
        kernel.bind(source, new / name, recursive=True)
    kernel.make_read_only(new / _OURS.name / "bin")
    for source, path in ((world.hosts, "/etc/hosts"), (world.passwd, "/etc/passwd")):
        target = _inside(new, Path(path).resolve())
        if target.is_file():
            kernel.bind(source, target)
    _bring_back(new, [_TMP, _TMP.resolve()], shims.needed_folders())
    _hide(new, world.hidden)
    (new / "proc").mkdir()
    # While the old /proc can still be seen: without it the kernel refuses a new one in a user namespace.
    kernel.mount("proc", new / "proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    if privileged:
        _protect_kernel(new)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount(None, new, None, flags)


def _inside(new: Path, path: Path) -> Path:
    return new / path.relative_to("/")


def _copy_entry(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    directory = source.is_dir()
    if directory:
        target.mkdir()
    else:
        target.touch()
    try:
        kernel.bind(source, target, recursive=True)
    except OSError as exc:  # one odd mount shall not cost the node
        _say(f"not in this node: {source} ({exc})")
        if directory:
            target.rmdir()
        else:
            target.unlink()


def _make_devices(dev: Path, memory: int, *, privileged: bool) -> None:
    """A /dev without disks and without other people's terminals."""
    dev.mkdir()
    wanted = [Path("/dev", name) for name in _DEVICES]
    wanted += [Path(path) for pattern in _ACCELERATORS for path in glob.glob(f"/dev/{pattern}")]
    for source in wanted:
        if source.exists():
            _copy_entry(source, dev / source.name)
    for name, text in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        (dev / name).symlink_to(f"/proc/self/fd{text}")
    (dev / "pts").mkdir()
    (dev / "shm").mkdir()
    group = ",gid=5" if privileged else ""  # tty; in a user namespace that group does not exist
    options = f"newinstance,ptmxmode=0666,mode=0620{group}"
    kernel.mount("devpts", dev / "pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)
    (dev / "ptmx").symlink_to("pts/ptmx")
    options = f"size={memory // 2},mode=1777"
    kernel.mount("tmpfs", dev / "shm", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def _bring_back(new: Path, covered: list[Path], folders: list[Path]) -> None:
    """Show again those of `folders` that lie in what was covered."""
    done: list[Path] = []
    for folder in sorted(set(folders)):
        if any(_is_in(folder, top) for top in covered) and not any(_is_in(folder, top) for top in done):
            target = _inside(new, folder)
            target.mkdir(parents=True, exist_ok=True)
            kernel.bind(folder, target, recursive=True)
            kernel.make_read_only(target)
            done.append(folder)


def _is_in(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _hide(new: Path, hidden: tuple[Path, ...]) -> None:
    """Lay an empty read-only folder over each path, but show in it the programs that nodes need."""
    done: list[Path] = []
    for path in sorted({path.resolve() for path in hidden}, key=lambda p: len(p.parts)):
        target = _inside(new, path)
        if any(_is_in(path, top) for top in done) or target == new or not target.exists():
            continue
        if target.is_dir():
            kernel.mount("tmpfs", target, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
            _bring_back(new, [path], shims.needed_folders())
            kernel.make_read_only(target)
        else:  # a socket or a file
            kernel.bind(new / "dev" / "null", target)
        done.append(path)


def _protect_kernel(new: Path) -> None:
    """Root in a node shall not change the kernel of the computer, e.g. what it runs when a program crashes."""
    with contextlib.suppress(FileNotFoundError):
        kernel.make_read_only(new / "sys")
    for name in ("sys", "irq", "bus", "fs"):
        path = new / "proc" / name
        if path.is_dir():
            kernel.bind(path, path)
            kernel.make_read_only(path)
    for name in ("sysrq-trigger", "kcore", "kmsg", "keys", "timer_list", "sched_debug"):
        path = new / "proc" / name
        if path.exists():
            kernel.bind(new / "dev" / "null", path)


# -- the probe


def _refusal(scratch: Path) -> str:
    """What the kernel refuses of a node's namespaces, found by doing all of it in a child. Empty when nothing."""
    folder = Path(tempfile.mkdtemp(prefix=".probe-", dir=scratch))
    reading, writing = os.pipe()
    try:
        pid = _fork(lambda: _try_all(folder), lambda said: os.write(writing, said.encode()))
        os.close(writing)
        said = b""
        while block := os.read(reading, 4096):
            said += block
        _, status = os.waitpid(pid, 0)
        return "" if status == 0 else said.decode(errors="replace") or f"the probe ended with {status}"
    finally:
        os.close(reading)
        shutil.rmtree(folder, ignore_errors=True)


def _try_all(folder: Path) -> None:
    for name in ("root", "home", "tmp", "shared", "bin"):
        (folder / name).mkdir()
    (folder / "hosts").write_text(shims.hosts_file({}))
    (folder / "passwd").write_text(shims.passwd_file(account(), HOME))
    privileged = kernel.may_administer()
    if not privileged:
        kernel.enter_user_namespace()
    kernel.unshare(kernel.CLONE_NEWPID)
    world = World(
        hostname="probe",
        root=folder / "root",
        home=folder / "home",
        tmp=folder / "tmp",
        shared=folder / "shared",
        programs=folder / "bin",
        hosts=folder / "hosts",
        passwd=folder / "passwd",
        hidden=(folder,),
        memory=1 << 20,
    )
    reading, writing = os.pipe()
    pid = _fork(lambda: enter(world, privileged=privileged), lambda said: os.write(writing, said.encode()))
    os.close(writing)
    said = os.read(reading, 4096)
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(said.decode(errors="replace") or f"the first process ended with {status}")


if __name__ == "__main__":
    main()
