"""What the kernel offers that Python does not: namespaces, mounts, capabilities, locks that can be asked about.

Everything raises `OSError` naming the call, so that a log says which step was refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_CAP_SYS_ADMIN = 21

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_RECURSIVE = 0x8000
_SYS_MOUNT_SETATTR = 442  # the same on every architecture
_SYS_KEYCTL = 250 if platform.machine() == "x86_64" else 219
_JOIN_SESSION_KEYRING = 1

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

_FLOCK = "hhqqi4x"  # struct flock with 64-bit offsets

_libc = ctypes.CDLL(None, use_errno=True)


def check(what: str, result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _bytes(value: str | Path | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def unshare(flags: int) -> None:
    check(f"unshare({flags:#x})", _libc.unshare(flags))


def set_hostname(name: str) -> None:
    check("sethostname", _libc.sethostname(name.encode(), len(name)))


def mount(
    source: str | Path | None, target: str | Path, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    result = _libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data))
    check(f"mount {kind or source or 'none'} on {target}", result)


def bind(source: str | Path, target: str | Path, *, recursive: bool = False) -> None:
    mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))


def restrict(target: str | Path, flags: int) -> None:
    """Add MS_RDONLY, MS_NOSUID, MS_NODEV or MS_NOEXEC to a mount and to all mounts under it."""
    attributes = struct.pack("4Q", flags, 0, 0, 0)  # these four have the same numbers for mount_setattr
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, -100, _bytes(target), _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))
    )
    if result == 0:
        return
    if ctypes.get_errno() != errno.ENOSYS:
        check(f"mount_setattr {target}", result)
    top = str(target)
    below = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in (p.replace("\\040", " ") for p in below):  # Linux before 5.12: one by one
        if point == top or point.startswith(top.rstrip("/") + "/"):
            # statvfs gives the flags in mount's own numbers; leaving a locked one out is refused
            kept = os.statvfs(point).f_flag & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | 0x400 | 0x800 | 0x200000)
            mount(None, point, None, MS_REMOUNT | MS_BIND | flags | kept)


def pivot_root(new_root: str | Path) -> None:
    """Make `new_root` the root of this mount namespace and let go of the old one."""
    os.chdir(new_root)
    check("pivot_root", _libc.pivot_root(b".", b"."))  # the old root now lies over the new one
    check("umount of the old root", _libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def enter_user_namespace() -> None:
    """A user namespace of our own in which we are the same user and group as before."""
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    map_ids("self", (user, user), (group, group))


def map_ids(pid: int | str, user: tuple[int, int], group: tuple[int, int]) -> None:
    """Give a user namespace its one user and group: the number inside, and the number outside."""
    if pid == "self":
        Path("/proc/self/setgroups").write_text("deny")
    Path(f"/proc/{pid}/uid_map").write_text(f"{user[0]} {user[1]} 1")
    Path(f"/proc/{pid}/gid_map").write_text(f"{group[0]} {group[1]} 1")


def join(namespace: int, kind: int) -> None:
    """Move into a namespace by a descriptor of it."""
    check(f"setns({kind:#x})", _libc.setns(namespace, kind))


def raise_loopback() -> None:
    """Switch on the loopback interface of our network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def may_administer() -> bool:
    """Whether namespaces and mounts are ours without a user namespace."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def drop_everything() -> None:
    """No capability in any set, none to be had by executing anything, and nobody else's keyring. For good."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL beyond the last one
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
    check("capset", _libc.capset(header, (ctypes.c_uint32 * 6)()))
    check("PR_SET_NO_NEW_PRIVS", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _libc.syscall(_SYS_KEYCTL, _JOIN_SESSION_KEYRING, None)  # ENOSYS in a kernel without keys


def die_with_parent(signal: int) -> None:
    """The kernel sends `signal` when the thread that forked us ends."""
    check("PR_SET_PDEATHSIG", _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def hide_process() -> None:
    """Nobody without privilege reads our environment, memory or descriptors. An exec ends it."""
    check("PR_SET_DUMPABLE", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def show_process() -> None:
    """The contrary of `hide_process`."""
    check("PR_SET_DUMPABLE", _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def adopt_orphans() -> None:
    """Orphans among our descendants become our children."""
    check("PR_SET_CHILD_SUBREAPER", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def name_process(name: str) -> None:
    with contextlib.suppress(OSError):
        check("PR_SET_NAME", _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0))


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file; it is let go when the last copy of the descriptor is closed, over forks too.

    An open-file-description lock, because `flock` cannot be asked about without taking it: a look would make
    a node that starts at that moment believe that it is one too many.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody has it
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of this file. Takes nothing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
        return kind != fcntl.F_UNLCK
    finally:
        os.close(descriptor)
