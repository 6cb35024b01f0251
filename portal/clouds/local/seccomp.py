"""The system calls that programs on a node may not make: a filter of the kernel, for good and for all descendants.

Refused is what changes the world of a node (mounts, namespaces, keys) and what no program of people needs but where
the kernel's holes are found. Debuggers and MPI's copying between processes stay possible within a session.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from portal.clouds.local.kernel import check

# name: number on x86_64, number on aarch64; None where there is no such call
_REFUSED: dict[str, tuple[int, int | None]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
}
# column of the table, the kernel's number of the architecture, and the calls whose arguments are looked at
_MACHINES = {
    "x86_64": (0, 0xC000_003E, {"clone": 56, "ioctl": 16, "socket": 41}),
    "aarch64": (1, 0xC000_00B7, {"clone": 220, "ioctl": 29, "socket": 198}),
}
_CLONE3 = 435
_X32 = 0x4000_0000  # calls of x86_64's other table begin here
_NEW_NAMESPACES = 0x7E02_0000  # all of clone's CLONE_NEW* flags
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_UNIX, _FAMILIES = 1, (2, 10)  # INET, INET6
_NETLINK, _ROUTE = 16, 0  # what getifaddrs asks

# cBPF instructions, and what a filter answers
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where these lie in struct seccomp_data

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_Instruction = tuple[int, int, int, int]


def is_known() -> bool:
    """Whether there is a filter for this kind of machine."""
    return platform.machine() in _MACHINES


def confine(*, unix: bool = True) -> None:
    """Put the filter on this process and all that it starts. Needs `no_new_privs`.

    Without `unix` it makes no unix sockets but pairs. That is for programs that see this computer's files: Landlock
    asks nobody who connects to a socket by its path, the portal's own queue among them.
    """
    if not is_known():
        raise OSError(errno.ENOSYS, f"there is no system call filter for {platform.machine()}")
    instructions = _filter(*_MACHINES[platform.machine()], (_UNIX, *_FAMILIES) if unix else _FAMILIES)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    check("seccomp", libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0))


def _filter(
    column: int, architecture: int, looked_at: dict[str, int], allowed_families: tuple[int, ...]
) -> list[_Instruction]:
    refused = (_ANSWER, 0, 0, _FAIL | errno.EPERM)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_ANSWER, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _X32),
        (_ANSWER, 0, 0, _FAIL | errno.ENOSYS),
        (_IF_EQUAL, 0, 1, _CLONE3),  # its flags cannot be looked at; told that there is none, libc takes clone
        (_ANSWER, 0, 0, _FAIL | errno.ENOSYS),
    ]
    for numbers in _REFUSED.values():
        if (number := numbers[column]) is not None:
            code += [(_IF_EQUAL, 0, 1, number), refused]
    code += _unless(looked_at["clone"], [(_LOAD, 0, 0, _argument(0)), (_IF_ANY_BIT, 0, 1, _NEW_NAMESPACES), refused])
    control = [(_LOAD, 0, 0, _argument(1)), (_IF_EQUAL, 1, 0, _TIOCSTI), (_IF_EQUAL, 0, 1, _TIOCLINUX), refused]
    code += _unless(looked_at["ioctl"], control)
    allowed = (_ANSWER, 0, 0, _ALLOW)
    families: list[_Instruction] = [(_LOAD, 0, 0, _argument(0))]
    for family in allowed_families:
        families += [(_IF_EQUAL, 0, 1, family), allowed]
    families += [(_IF_EQUAL, 0, 3, _NETLINK), (_LOAD, 0, 0, _argument(2)), (_IF_EQUAL, 0, 1, _ROUTE), allowed]
    code += _unless(looked_at["socket"], [*families, (_ANSWER, 0, 0, _FAIL | errno.EAFNOSUPPORT)])
    return [*code, allowed]


def _unless(number: int, body: list[_Instruction]) -> list[_Instruction]:
    """`body` for this call alone; afterwards the number of the call is looked at again."""
    body = [*body, (_LOAD, 0, 0, _NUMBER)]
    return [(_IF_EQUAL, 0, len(body), number), *body]


def _argument(index: int) -> int:
    return _ARGUMENTS + 8 * index  # its lower half: both machines are little-endian
