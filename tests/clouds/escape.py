"""Runs on a node, as a run would, and tries to get out by every way that is known here.

`python3 escape.py` with {"host_port": …, "paths": […], "fill": …} in COXSWAIN_HINTS. Prints one JSON object: what was
tried, and what came of it: "open", or why not. It needs nothing but Python.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import platform
import socket
import stat
import struct
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
OWN = ("/node", "/shared", "/tmp", "/dev/shm", "/proc", "/dev/pts")
HINTS = json.loads(os.environ.get("COXSWAIN_HINTS", "{}"))
X86 = platform.machine() == "x86_64"


def read(path):
    return pathlib.Path(path).read_text()


def opens(path, flags=os.O_RDONLY):
    os.close(os.open(path, flags | os.O_NONBLOCK))
    return "open"


def call(*arguments):
    result = LIBC.syscall(*arguments)
    return "open" if result >= 0 else os.strerror(ctypes.get_errno())


def apart(function, *arguments):
    """In a process of its own, because it may change us."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        try:
            said = str(function(*arguments))
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the answer)
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 4000).decode()
    os.waitpid(pid, 0)
    os.close(reading)
    return said or "died"


def mounts():
    lines = [line.split() for line in read("/proc/self/mountinfo").splitlines()]
    return [words[4] for words in lines if "rw" in words[5].split(",") and words[4] not in OWN]


def walk():
    """Folders that can be written to, sockets, and setuid programs that would count, outside of the node's own."""
    writable, sockets, setuid = [], [], []
    until = time.monotonic() + 6
    for top, folders, files in os.walk("/"):
        if time.monotonic() > until:
            break
        folders[:] = [
            name
            for name in folders
            if os.path.join(top, name) not in (*OWN, "/sys/devices") and not os.path.islink(os.path.join(top, name))
        ]
        flags = os.statvfs(top).f_flag
        if flags & os.ST_RDONLY and flags & os.ST_NOSUID and top.count("/") > 3:
            folders[:] = []
        if os.access(top, os.W_OK) and not flags & os.ST_RDONLY:
            writable.append(top)
        for name in files:
            path = os.path.join(top, name)
            with contextlib.suppress(OSError):
                mode = os.lstat(path).st_mode
                if stat.S_ISSOCK(mode):
                    sockets.append(path)
                if mode & stat.S_ISUID and not flags & os.ST_NOSUID:
                    setuid.append(path)
    return {"writable": writable, "sockets": sockets, "setuid": setuid}


def connect(family, address):
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
        return "open"


def make_socket(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()
    return "open"


def ask_way_out(request):
    address = os.environ["http_proxy"].removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((address[0], int(address[1])), 3) as one:
        one.settimeout(10)
        one.sendall(request.encode())
        answer = b""
        while block := one.recv(4096):
            answer += block
            if request.startswith("CONNECT") and b"\r\n\r\n" in answer:
                break
    return answer.split(b"\r\n")[0].decode()


def forks(most):
    pids = []
    with contextlib.suppress(OSError):
        for _ in range(most):
            if not (pid := os.fork()):
                time.sleep(60)
                os._exit(0)
            pids.append(pid)
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return len(pids)


def fill(folder, most):
    done = 0
    path = f"{folder}/fill"
    try:
        with open(path, "wb") as file:
            while done < most:
                done += file.write(bytes(1 << 20))
    except OSError:
        pass
    with contextlib.suppress(OSError):
        os.unlink(path)
    return done


def descriptors():
    listed = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:
                listed[name] = os.readlink(f"/proc/self/fd/{name}")
    return [target for target in listed.values() if "/proc/" not in target]


def foreign_processes():
    """Those of others whose memory or environment can be looked at."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) not in (os.getpid(), os.getppid()):
            for what, flags in (("environ", os.O_RDONLY), ("mem", os.O_RDWR)):
                with contextlib.suppress(OSError):
                    opens(f"/proc/{name}/{what}", flags)
                    command = read(f"/proc/{name}/cmdline").replace("\0", " ")[:80]
                    found.append(f"{name} {what} {command}")
    return found


NAMESPACE = 0x1000_0000
CALLS = {
    "unshare user": (272 if X86 else 97, NAMESPACE),
    "unshare mounts": (272 if X86 else 97, 0x20000),
    "clone3 user": (435, ctypes.create_string_buffer(struct.pack("8Q", NAMESPACE, 0, 0, 0, 17, 0, 0, 0)), 64),
    "mount": (165 if X86 else 40, b"tmpfs", b"/tmp", b"tmpfs", 0, b""),
    "umount": (166 if X86 else 39, b"/usr", 2),
    "chroot": (161 if X86 else 51, b"/tmp"),
    "keyctl": (250 if X86 else 219, 0, -3, 0),
    "add_key": (248 if X86 else 217, b"user", b"x", b"y", 1, -4),
    "bpf": (321 if X86 else 280, 0, 0, 0),
    "perf": (298 if X86 else 241, ctypes.create_string_buffer(struct.pack("II", 1, 128) + bytes(120)), 0, -1, -1, 0),
    "userfaultfd": (323 if X86 else 282, 1),
    "io_uring": (425, 4, ctypes.create_string_buffer(120)),
    "open by handle": (304 if X86 else 265, -100, ctypes.create_string_buffer(struct.pack("II8s", 8, 1, b"\2")), 0),
    "syslog": (103 if X86 else 116, 10, 0, 0),
    "a disk": (133, b"/tmp/disk", 0o60600, 254 << 8) if X86 else (33, -100, b"/tmp/disk", 0o60600, 254 << 8),
}
SOCKETS = {
    "packets": (17, 3),
    "raw": (2, 3, 1),
    "vsock": (40, 1),
    "alg": (38, 5),
    "audit": (16, 3, 9),
    "xdp": (44, 3),
}
FILES = {
    "core_pattern": ("/proc/sys/kernel/core_pattern", os.O_WRONLY),
    "sysrq": ("/proc/sysrq-trigger", os.O_WRONLY),
    "forwarding": ("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY),
    "kcore": ("/proc/kcore", os.O_RDONLY),
    "kmsg": ("/dev/kmsg", os.O_WRONLY),
    "cgroups": ("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY),
}


def main():
    status = dict(line.rstrip("\n").split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
    found = {
        "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no new privileges": status["NoNewPrivs"],
        "filter": status["Seccomp"],
        "user outside": read("/proc/self/uid_map").split(),
        "mounts": mounts(),
        **walk(),
        "descriptors": descriptors(),
        "foreign": foreign_processes(),
        "calls": {name: apart(call, *arguments) for name, arguments in CALLS.items()},
        "terminal": apart(lambda: fcntl.ioctl(os.openpty()[1], 0x5412, b"x") and "open"),
        "socket kinds": {name: apart(make_socket, *arguments) for name, arguments in SOCKETS.items()},
        "kernel files": {name: apart(opens, *arguments) for name, arguments in FILES.items()},
        "paths": {
            path: apart(lambda p=path: f"open {os.listdir(p) if os.path.isdir(p) else read(p)[:9]}")
            for path in HINTS.get("paths", ())
        },
        "ptrace": apart(call, 101 if X86 else 117, 16, HINTS.get("pid", 1), 0, 0),
        "signals": apart(lambda: os.kill(HINTS["pid"], 0) or "open") if "pid" in HINTS else "",
        "host": apart(connect, socket.AF_INET, ("127.0.0.1", HINTS.get("port", 9))),
        "unix": {path: apart(connect, socket.AF_UNIX, path) for path in HINTS.get("sockets", ())},
        "internet": apart(connect, socket.AF_INET, ("1.1.1.1", 443)),
        "abstract": [line.split()[-1] for line in read("/proc/net/unix").splitlines() if " @" in line],
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "way out": {one: apart(ask_way_out, one) for one in HINTS.get("ask", ())},
        "oom": apart(lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-500") and "open"),
    }
    if "forks" in HINTS:
        found["forks"] = forks(HINTS["forks"])
    found["filled"] = {folder: fill(folder, HINTS["fill"]) for folder in ("/tmp", "/dev/shm") if "fill" in HINTS}
    json.dump(found, sys.stdout)


main()
