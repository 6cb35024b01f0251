"""Landlock: what a process and its descendants may open, where the kernel grants no namespaces.

It asks for no privilege. It does not hide what exists (names can be seen, and sockets in the filesystem be connected
to), and there is one network for all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from portal.clouds.local.kernel import check

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls; the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _DEVICE_CONTROL = 1 << 14, 1 << 15
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many kinds of access are known to an early version; later ones 16
_ALL = 16
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_CONTROL
_READS = _EXECUTE | _READ_FILE | _READ_FOLDER
_SCOPES = 0b11  # abstract sockets, and signals, of processes that are not confined as we are

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """0 when this kernel has none."""
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def confine(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Leave this process, for good, with these places. Needs `no_new_privs`."""
    known = version()
    if not known:
        raise OSError(errno.EOPNOTSUPP, "Landlock: not in this kernel")
    every = (1 << _RIGHTS.get(known, _ALL)) - 1
    attributes = struct.pack("QQQ", every, 0, _SCOPES if known >= 6 else 0)
    attributes = attributes[: 8 if known < 4 else 16 if known < 6 else 24]
    ruleset = _libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    check("landlock_create_ruleset", ruleset)
    try:
        for rights, paths in ((_READS, readable), (every, writable)):
            for path in paths:
                _allow(ruleset, rights & every, path)
        check("landlock_restrict_self", _libc.syscall(_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, rights: int, path: Path) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this computer
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, place)
        check(f"landlock {path}", _libc.syscall(_ADD, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(place)
