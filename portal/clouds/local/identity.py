"""Who programs on a node are outside of it, and files of theirs that the portal touches.

With root every workspace has a user of this computer to itself, by number: a file that leaks is still somebody else's.
Without root there is only the portal's own, and the namespaces keep it off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

from portal.clouds.local.records import read_json, write_atomically

INSIDE = 1000  # user and group on every node

_MOST = 1 << 16
_NOBODY = 65534  # whom file systems and other programs have plans for
_EVERYTHING = 1 << 31


def has_root() -> bool:
    return os.geteuid() == 0


def numbers() -> range:
    """The users that are kept for nodes: high up, where nobody has an account. Empty where none can be had."""
    low, size = 0, 0
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        start, _, count = map(int, line.split())
        if count > size:
            low, size = start, count
    end = min(low + size, _EVERYTHING - _MOST)
    count = min(_MOST, size // 4)
    kept = range(end - count, end)
    return kept if _NOBODY not in kept else range(_NOBODY + 1, end)


def way_out() -> int:
    """The user of the process that connects to elsewhere for the nodes."""
    return numbers()[-1]


def of_workspace(folder: Path) -> int | None:
    """The number of the workspace that lies in this folder, chosen once. None without root."""
    if not has_root():
        return None
    record = folder / "identity.json"
    with _alone(folder.parent):
        value = read_json(record)
        if value is None:
            choice = numbers()[:-1]
            taken = {
                (read_json(other) or {}).get("user")
                for other in folder.parent.parent.glob("*/*/identity.json")  # of all cloud configurations
            }
            first = zlib.crc32(os.fsencode(folder))
            user = next(
                number for step in range(len(choice)) if (number := choice[(first + step) % len(choice)]) not in taken
            )
            write_atomically(record, json.dumps({"user": user}))
            return user
    user = value["user"]
    assert isinstance(user, int)
    return user


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".identities.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def hand_over(folder: Path, user: int | None) -> None:
    """Make everything in the folder the workspace's. Follows no link, and ends with the folder itself."""
    if user is None or os.lstat(folder).st_uid == user:
        return
    for _, names, files, descriptor in os.fwalk(folder, topdown=False, follow_symlinks=False):
        for name in (*names, *files):
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, user, user, dir_fd=descriptor, follow_symlinks=False)
    os.chown(folder, user, user, follow_symlinks=False)


def open_up(folder: Path) -> None:
    """Give ourselves back the right to look into and to empty all folders, and move what lies deep up to the top.

    Follows no link, whoever swaps what.
    """
    top = os.open(folder, _AS_IT_IS)
    try:
        deep = _open_up(top, top, 0)
        while deep:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone, or something else by now
                moved = os.open(deep.pop(), _AS_IT_IS, dir_fd=top)
                try:
                    deep += _open_up(moved, top, 1)
                finally:
                    os.close(moved)
    finally:
        os.close(top)


_AS_IT_IS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEP = 100  # levels; each takes descriptors and a call


def _open_up(folder: int, top: int, depth: int) -> list[str]:
    """The names in `top` of what was moved there."""
    # A folder that may not be read can be held by O_PATH alone, which fchmod refuses; this name of it is exact.
    os.chmod(f"/proc/self/fd/{folder}", stat.S_IRWXU)
    moved: list[str] = []
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        with os.scandir(opened) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            try:
                inner = os.open(name, _AS_IT_IS, dir_fd=opened)
            except (FileNotFoundError, NotADirectoryError):  # gone, or something else by now
                continue
            try:
                if depth < _DEEP:
                    moved += _open_up(inner, top, depth + 1)
                    continue
                os.chmod(f"/proc/self/fd/{inner}", stat.S_IRWXU)  # else it may not be moved
                moved.append(uuid.uuid4().hex)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(name, moved[-1], src_dir_fd=opened, dst_dir_fd=top)
            finally:
                os.close(inner)
    finally:
        os.close(opened)
    return moved
