"""What the kernel offers that Python does not: namespaces, mounts, capabilities, locks that can be asked about.

Everything raises `OSError` naming the call, so that a log says which step was refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000

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

# A process of root in a node may do these and nothing else: what containers usually grant, without making devices.
# Not SYS_ADMIN (it would unmount what hides the portal's folder), not DAC_READ_SEARCH (it opens files by handle).
_KEPT_CAPABILITIES = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        13,  # NET_RAW
        18,  # SYS_CHROOT
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)
_CAP_SYS_ADMIN = 21

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_RECURSIVE = 0x8000
_SYS_MOUNT_SETATTR = 442  # the same on every architecture
_ATTR_RDONLY = 1

_FLOCK = "hhqqi4x"  # struct flock with 64-bit offsets

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _bytes(value: str | Path | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def unshare(flags: int) -> None:
    _call(f"unshare({flags:#x})", _libc.unshare(flags))


def set_hostname(name: str) -> None:
    _call("sethostname", _libc.sethostname(name.encode(), len(name)))


def mount(
    source: str | Path | None, target: str | Path, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    result = _libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data))
    _call(f"mount {kind or source or 'none'} on {target}", result)


def bind(source: str | Path, target: str | Path, *, recursive: bool = False) -> None:
    mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))


def make_read_only(target: str | Path) -> None:
    """Make a mount and all mounts under it read-only, keeping their other flags."""
    attributes = struct.pack("4Q", _ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, -100, _bytes(target), _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))
    )
    if result == 0:
        return
    if ctypes.get_errno() != errno.ENOSYS:
        _call(f"mount_setattr {target}", result)
    top = str(target)
    below = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in (p.replace("\\040", " ") for p in below):  # Linux before 5.12: one by one
        if point == top or point.startswith(top.rstrip("/") + "/"):
            # statvfs gives the flags in mount's own numbers; leaving a locked one out is refused
            flags = os.statvfs(point).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC | 0x400 | 0x800 | 0x200000)
            mount(None, point, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def pivot_root(new_root: str | Path) -> None:
    """Make `new_root` the root of this mount namespace and let go of the old one."""
    os.chdir(new_root)
    _call("pivot_root", _libc.pivot_root(b".", b"."))  # the old root now lies over the new one
    _call("umount of the old root", _libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def enter_user_namespace() -> None:
    """A user namespace of our own in which we are the same user and group as before."""
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def may_administer() -> bool:
    """Whether namespaces and mounts are ours without a user namespace."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def drop_capabilities() -> None:
    """Keep only what a node's programs may have, here and in everything that is executed later."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        if capability not in _KEPT_CAPABILITIES:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL beyond the last one
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
    data = (ctypes.c_uint32 * 6)()
    _call("capget", _libc.capget(header, data))
    mask = sum(1 << capability for capability in _KEPT_CAPABILITIES)
    for index in range(6):
        data[index] &= mask if index < 3 else 0
    data[2] = data[5] = 0
    _call("capset", _libc.capset(header, data))


def die_with_parent(signal: int) -> None:
    """The kernel sends `signal` when the thread that forked us ends."""
    _call("PR_SET_PDEATHSIG", _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def hide_process() -> None:
    """Nobody without privilege reads our environment, memory or descriptors. An exec ends it."""
    _call("PR_SET_DUMPABLE", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def adopt_orphans() -> None:
    """Orphans among our descendants become our children."""
    _call("PR_SET_CHILD_SUBREAPER", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def name_process(name: str) -> None:
    with contextlib.suppress(OSError):
        _call("PR_SET_NAME", _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0))


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
