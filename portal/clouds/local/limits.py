"""Memory limits by cgroup, where this computer lets us. Where it does not, nodes share what there is."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_PREFIX = "coxswain"


def group_name(mark: str, rank: int) -> str:
    return f"{_PREFIX}-{mark[:16]}-{rank}"


def _bases() -> list[tuple[int, Path]]:
    """Folders in which a group might be made: our own, and its parent. With the version of cgroup."""
    bases: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                tops = [(2, Path("/sys/fs/cgroup")), (2, Path("/sys/fs/cgroup/unified"))]
            elif "memory" in controllers.split(","):
                tops = [(1, Path("/sys/fs/cgroup/memory"))]
            else:
                continue
            for version, top in tops:
                own = top / path.lstrip("/")
                if not own.is_dir():
                    own = top  # in a container whose cgroup path is that of the host
                bases.append((version, own))
                if own != top:
                    bases.append((version, own.parent))
    return bases


def make_group(name: str, memory: int, pid: int) -> tuple[Path | None, str]:
    """Put `pid` in a group of its own with at most `memory` bytes. Returns the group and what to log."""
    problem = "no memory controller"
    for version, base in _bases():
        group = base / name
        limit = group / ("memory.max" if version == 2 else "memory.limit_in_bytes")
        try:
            if version == 2 and "memory" not in (base / "cgroup.subtree_control").read_text().split():
                problem = f"{base} gives its groups no memory controller"
                continue
            group.mkdir(exist_ok=True)
            limit.write_text(str(memory))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as exc:
            problem = str(exc)
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        # Without it a hog goes to swap instead of being ended; the kernel may have no swap accounting.
        with contextlib.suppress(OSError):
            swap, value = ("memory.swap.max", 0) if version == 2 else ("memory.memsw.limit_in_bytes", memory)
            (group / swap).write_text(str(value))
        return group, f"at most {memory / 2**30:.1f} GiB of memory ({group})"
    return None, f"no memory limit: {problem}"


def groups_of(mark: str) -> list[Path]:
    """The groups of a cluster that exist."""
    found = {group for _, base in _bases() for group in base.glob(f"{group_name(mark, 0)[:-1]}*")}
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
