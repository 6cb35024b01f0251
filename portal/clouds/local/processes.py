"""The processes of this computer, and which of them belong to a cluster."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "COXSWAIN_NODE_OF"  # in the environment of every command that runs on a node
_EXITING = 0x4  # PF_EXITING of the kernel, which sets it before all else
LAUNCHER = "portal.clouds.local.node"  # in the command line of everything that makes a node


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    started: int  # in clock ticks since boot: a pid that was used again has another

    @property
    def alive(self) -> bool:
        now = look(self.pid)
        return now is not None and now.started == self.started

    def send(self, number: int) -> None:
        """Send a signal to this process and never to another one that got its pid."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError:  # Linux before 5.3
            if self.alive:
                _kill(self.pid, number)
            return
        try:
            if self.alive:
                signal.pidfd_send_signal(descriptor, number)
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            os.close(descriptor)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def look(pid: int) -> Process | None:
    """The process, or None when there is none or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # a name may contain blanks and brackets
    if fields[0] in b"ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[19]))


def goes_on(pid: int) -> bool:
    """Whether the process runs and has not begun to end: its descriptors are closed a moment before it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[0] not in b"ZX" and not int(fields[6]) & _EXITING


def all_processes() -> dict[int, Process]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return {process.pid: process for pid in pids if (process := look(pid))}


def descendants(pid: int) -> list[Process]:
    """All that descend from this process now."""
    everything = all_processes()
    family = {pid}
    while True:
        more = {p.pid for p in everything.values() if p.parent in family} - family
        if not more:
            return [everything[member] for member in family if member != pid and member in everything]
        family |= more


_PAGE = os.sysconf("SC_PAGE_SIZE")


def usage(pids: Iterable[int]) -> tuple[int, int]:
    """What these processes have used: hundredths of seconds of CPU, and bytes of memory that are theirs alone.

    The former with those of their children that have ended and were waited for.
    """
    ticks = pages = 0
    for pid in pids:
        times = _read(pid, "stat").rpartition(b")")[2].split()[11:15]
        memory = _read(pid, "statm").split()
        if len(times) == 4 and len(memory) > 2:  # else it has gone meanwhile
            ticks += sum(map(int, times))
            pages += int(memory[1]) - int(memory[2])
    return ticks, pages * _PAGE


def mark_of(folder: Path) -> str:
    """What marks the processes of the cluster in `folder`. Another copy of the portal has another folder."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]


@dataclass(frozen=True)
class ClusterProcesses:
    machinery: list[Process]  # what we started: launchers, keepers, first processes, servers
    commands: list[Process]  # what people started
    orphans: list[Process]  # commands that no node of the cluster looks after any more

    def __bool__(self) -> bool:
        return bool(self.machinery or self.commands)

    def __iter__(self) -> Iterator[Process]:
        return iter([*self.machinery, *self.commands])


def of_cluster(folder: Path, groups: Iterable[Path]) -> ClusterProcesses:
    """Everything alive that belongs to the cluster in `folder`, found by what it is, not by what we remember.

    `groups` are its memory groups: they still know a process that has cleared its environment and lost its parents.
    """
    mark = mark_of(folder)
    everything = all_processes()
    machinery = {pid for pid in everything if _is_machinery(pid, mark)}
    marked = {pid for pid in everything if pid not in machinery and _has_mark(pid, mark)}
    marked |= {pid for group in groups for pid in _members(group) if pid in everything}

    def cared_for(pid: int) -> bool:
        while pid in everything:
            pid = everything[pid].parent
            if pid in machinery:
                return True
        return False

    commands = {pid for pid in everything if pid not in machinery and (pid in marked or cared_for(pid))}
    return ClusterProcesses(
        [everything[pid] for pid in sorted(machinery)],
        [everything[pid] for pid in sorted(commands)],
        [everything[pid] for pid in sorted(commands) if not cared_for(pid)],
    )


def _is_machinery(pid: int, mark: str) -> bool:
    words = _read(pid, "cmdline").split(b"\0")
    return LAUNCHER.encode() in words and mark.encode() in words


def _has_mark(pid: int, mark: str) -> bool:
    return f"{MARK}={mark}".encode() in _read(pid, "environ").split(b"\0")


def _members(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:  # gone meanwhile
        return []


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # gone, or not ours
        return b""
