"""What a node may use: memory and processes by cgroup where this computer lets us, and by the kernel's own limits."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path

_PREFIX = "coxswain"
_FILES = (8192, 65536)  # open at once: what a program starts with, and what it may ask for
_LOCKED = 64 << 20  # bytes of memory that may not be swapped out
_QUEUES = 1 << 20  # bytes of POSIX message queues
_NICE = 5  # of what people run: the workers, which start the nodes and have as much themselves, come first
_OURS = 512  # processes of a node that people's programs cannot have: leaders of sessions, and what the portal asks for


def group_name(mark: str, rank: int) -> str:
    return f"{_PREFIX}-{mark[:16]}-{rank}"


def _bases(controller: str) -> list[tuple[int, Path]]:
    """Folders in which a group might be made: our own, and its parent. With the version of cgroup."""
    bases: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                tops = [(2, Path("/sys/fs/cgroup")), (2, Path("/sys/fs/cgroup/unified"))]
            elif controller in controllers.split(","):
                tops = [(1, Path("/sys/fs/cgroup") / controllers), (1, Path("/sys/fs/cgroup") / controller)]
            else:
                continue
            for version, top in tops:
                if not top.is_dir():
                    continue
                own = top / path.lstrip("/")
                if not own.is_dir():
                    own = top  # in a container whose cgroup path is that of the host
                bases.append((version, own))
                if own != top:
                    bases.append((version, own.parent))
    return bases


def make_groups(name: str, memory: int, processes: int, pid: int) -> tuple[list[Path], str]:
    """Put `pid` in groups of its own: so many bytes, and so many processes beside ours. The groups, and what to log."""
    memory_group, said = _make_group("memory", name, memory, pid)
    process_group, also = _make_group("pids", name, processes + _OURS, pid)
    return list(dict.fromkeys(group for group in (memory_group, process_group) if group)), f"{said}; {also}"


_FILE = {
    ("memory", 1): "memory.limit_in_bytes",
    ("memory", 2): "memory.max",
    ("pids", 1): "pids.max",
    ("pids", 2): "pids.max",
}
# Without it a hog goes to swap instead of being ended; the kernel may have no swap accounting.
_SWAP = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}


def _make_group(controller: str, name: str, most: int, pid: int) -> tuple[Path | None, str]:
    problem = "no such controller"
    for version, base in _bases(controller):
        group = base / name
        try:
            if version == 2 and controller not in (base / "cgroup.subtree_control").read_text().split():
                problem = f"{base} does not hand it on"
                continue
            group.mkdir(exist_ok=True)
            (group / _FILE[controller, version]).write_text(str(most))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as exc:
            problem = str(exc)
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        if controller == "memory":
            with contextlib.suppress(OSError):
                (group / _SWAP[version]).write_text(str(0 if version == 2 else most))
        return group, f"{controller} at most {most} ({group})"
    return None, f"no limit of {controller}: {problem}"


def take_all_files() -> None:
    """Let this process, and what it starts, open as many files as it may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def bound_session(processes: int) -> None:
    """The limits of a session's programs, and their niceness.

    That of processes counts all of the same user in the node's namespace. Of files they have half of ours at most: the
    kernel counts descriptors that are on their way over unix sockets for a user, whatever namespace he is in, and
    refuses a process beyond its own limit, so that programs reach theirs before ours.
    """
    for what, (soft, hard) in (
        (resource.RLIMIT_NPROC, (processes, processes)),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, (0, 0)),
        (resource.RLIMIT_MEMLOCK, (_LOCKED, _LOCKED)),
        (resource.RLIMIT_MSGQUEUE, (_QUEUES, _QUEUES)),
    ):
        most = resource.getrlimit(what)[1]
        if most != resource.RLIM_INFINITY:
            if what == resource.RLIMIT_NOFILE:
                most = max(most // 2, min(most, 1024))
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(what, (soft, hard))
    os.nice(_NICE)


def groups_of(mark: str) -> list[Path]:
    """The groups of a cluster that exist."""
    found = {
        group
        for controller in ("memory", "pids")
        for _, base in _bases(controller)
        for group in base.glob(f"{group_name(mark, 0)[:-1]}*")
    }
    return sorted(found)


def remove_group(group: Path, *, patience: float = 1.0) -> None:
    """Remove an empty group. Dead processes leave it a moment after they can no longer be seen."""
    deadline = time.monotonic() + patience
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        else:
            return


def offer_to_the_killer(pid: int | str, score: int) -> None:
    """When memory runs out the kernel shall end this process before the portal."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write(str(score))


def machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
