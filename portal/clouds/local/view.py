"""What a node sees: an empty root in which a list of places of this computer is shown, read-only.

A place that nobody thought of is not there; `verify` looks again, at what the kernel says is mounted, and a node in
which anything else can be written to does not start.
"""

from __future__ import annotations

import contextlib
import glob
import os
from dataclasses import dataclass
from pathlib import Path

from portal.clouds.local import kernel, shims
from portal.clouds.promises import SSH_CONFIG

HOME = Path("/node")
SHARED = Path("/shared")
PROGRAMS = Path("/.node/bin")
TEMPORARY = HOME / ".tmp"  # on disk: /tmp is memory

_WRITABLE = frozenset({"/node", "/shared", "/tmp", "/dev/shm", "/dev/pts", "/proc"})  # noqa: S108 (the node's own)

_PLACES = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store", "gnu/store")
_ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "services", "protocols", "mime.types"),
    *("ssl/certs", "ssl/openssl.cnf", "ssl/cert.pem", "pki/tls", "pki/ca-trust", "ca-certificates", "crypto-policies"),
    *("terminfo", "fonts", "magic", "libibverbs.d", "OpenCL", "python3"),
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ACCELERATORS = ("nvidia*", "dri", "kfd", "infiniband", "knem", "xpmem")
_KERNELS_OWN = ("fs", "firmware", "kernel", "module", "hypervisor")  # of /sys: nothing that programs need
_INODES = 200_000  # files in /tmp, and in /dev/shm

_READ_ONLY = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
_EMPTY = "size=4k,mode=755"


@dataclass(frozen=True)
class View:
    hostname: str
    root: Path  # an empty folder to put the new root together in
    home: Path
    shared: Path
    programs: Path
    hosts: Path  # the addresses of the cluster's nodes; what is added to it is seen
    shown: tuple[Path, ...]  # further files and folders of this computer, to be read
    hidden: tuple[Path, ...]  # what must not be seen even if it lies in a place that is shown
    temporary: int  # bytes of /tmp, and of /dev/shm


def enter(view: View) -> None:
    """Make the view the root of this process's mount namespace, which must be its own."""
    _Assembly(view).put_together()
    kernel.pivot_root(view.root)
    verify()


def verify() -> None:
    """Raise `OSError` if anything can be written to but the known places."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, options = line.split()[4:6]
        if "rw" in options.split(",") and point not in _WRITABLE:
            raise OSError(f"{point} could be written to in the node")


class _Assembly:
    def __init__(self, view: View) -> None:
        self.view = view
        self.new = view.root

    def put_together(self) -> None:
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", self.new, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=8m,mode=755")
        self.make_memory("tmp")  # first: what is shown may lie in the computer's
        for place in (*_PLACES, *(f"etc/{name}" for name in _ETC)):
            self.show(Path("/", place))
        self.cover()
        for path in (*shims.needed_places(), *self.view.shown):
            self.show(path)
        self.cover()
        if (uv := shims.uv_program()) is not None:
            self.show(uv, Path(shims.UV))
        if (self.view.programs / shims.CLIENT).exists():
            for package in shims.client_packages():
                self.show(package, Path(shims.PACKAGES, package.name))
        self.write_files()
        self.make_devices()
        self.show(self.view.home, HOME, kernel.MS_NOSUID | kernel.MS_NODEV)
        self.show(self.view.shared, SHARED, kernel.MS_NOSUID | kernel.MS_NODEV)
        self.show(self.view.programs, PROGRAMS)
        self.make_sys()
        # While the old /proc can still be seen: without it the kernel refuses a new one in a user namespace.
        (self.new / "proc").mkdir()
        kernel.mount("proc", self.new / "proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        kernel.mount(None, self.new, None, kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY)

    def inside(self, path: Path) -> Path:
        return self.new / path.relative_to("/")

    def show(self, source: Path, at: Path | None = None, flags: int = _READ_ONLY) -> None:
        """Bind a file or folder at its own path, or `at` another; a link that is not there yet stays a link."""
        target = self.inside(at or source)
        if at is None and (target.is_symlink() or target.exists()):
            return  # it lies in what is shown already
        if source.is_symlink() and at is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.readlink())
            return
        if not source.exists():
            return
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        kernel.bind(source, target, recursive=True)
        kernel.restrict(target, flags)

    def cover(self) -> None:
        """Lay an empty folder over what is hidden and can be seen."""
        for path in self.view.hidden:
            target = self.inside(path.resolve())
            if target.is_dir() and os.path.ismount(self.mount_of(target)):
                kernel.mount("tmpfs", target, "tmpfs", _READ_ONLY, _EMPTY)

    def mount_of(self, path: Path) -> Path:
        """The mount that a path lies in; the new root itself for a folder that only leads to what is shown."""
        while path != self.new and not os.path.ismount(path):
            path = path.parent
        return path if path != self.new else self.new / "nothing"

    def write_files(self) -> None:
        etc = self.new / "etc"
        etc.mkdir(exist_ok=True)
        for name, text in shims.account_files(self.view.hostname, HOME).items():
            (etc / name).write_text(text)
        self.show(self.view.hosts, Path("/etc/hosts"))
        (etc / "ssh").mkdir(exist_ok=True)
        # For what does not ask the PATH for ssh, such as scp.
        (etc / "ssh" / "ssh_config").write_text(f"Include {HOME / SSH_CONFIG}\n")
        for name in ("run", "var", "root"):
            (self.new / name).mkdir(exist_ok=True)
        (self.new / "var" / "tmp").symlink_to("/tmp")  # noqa: S108 (the node's own)

    def make_devices(self) -> None:
        """A /dev without disks and without other people's terminals."""
        dev = self.new / "dev"
        dev.mkdir()
        flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NOEXEC
        for name in _DEVICES:
            self.show(Path("/dev", name), flags=flags)
        for pattern in _ACCELERATORS:
            for path in glob.glob(f"/dev/{pattern}"):
                self.show(Path(path), flags=flags)
        for name, text in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            (dev / name).symlink_to(f"/proc/self/fd{text}")
        (dev / "ptmx").symlink_to("pts/ptmx")
        (dev / "pts").mkdir()
        options = "newinstance,ptmxmode=0666,mode=0620,max=256"
        kernel.mount("devpts", dev / "pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)
        self.make_memory("dev/shm")

    def make_memory(self, name: str) -> None:
        (self.new / name).mkdir()
        options = f"size={self.view.temporary},nr_inodes={_INODES},mode=1777"
        kernel.mount("tmpfs", self.new / name, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)

    def make_sys(self) -> None:
        """A new one, which lists the interfaces of the cluster's network: MPI looks for them there."""
        sys = self.new / "sys"
        sys.mkdir()
        try:
            kernel.mount("sysfs", sys, "sysfs", _READ_ONLY | kernel.MS_NOEXEC)
        except PermissionError:  # the network is not ours, or this computer's /sys is partly hidden itself
            kernel.bind("/sys", sys, recursive=True)
            kernel.restrict(sys, _READ_ONLY | kernel.MS_NOEXEC)
        for name in _KERNELS_OWN:
            with contextlib.suppress(FileNotFoundError):
                kernel.mount("tmpfs", sys / name, "tmpfs", _READ_ONLY, _EMPTY)
