"""Real computers for tests, on this one: each has its own address, name, processes and disk, and the real SSH server.

They have a network that this computer is on too, and one folder, `/srv/team`, that all of them share. Needs root. All
of it lies in namespaces below one process, which ends when this one does, however it ends: nothing of it is left, no
file and no network card.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.machines.proxy import Proxy
from tests.running import ROOT, until

HERE = Path(__file__).parent
INSIDE = "/mnt"  # where their disks are, in the namespaces of their network
USER, UID = "team", 6001
HOME = f"/home/{USER}"
SHARED = "/srv/team"
PATH = "/usr/local/bin:/usr/bin:/bin"
SSHD = "/usr/sbin/sshd"
PLAIN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
CLOCK = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t which, struct timespec *at) {
    int status = syscall(SYS_clock_gettime, which, at);
    if (!status && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) at->tv_sec += SECONDS;
    return status;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return to ? (*to = now.tv_sec) : now.tv_sec;
}
"""


def why_not() -> str:
    """Why there can be none here; nothing where there can."""
    if os.geteuid():
        return "only root can make computers"
    if not Path(SSHD).exists():
        return "there is no SSH server (openssh-server)"
    if missing := [name for name in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(name)]:
        return f"there is no {missing[0]}"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"], check=False)
    return "this computer gives no namespaces" if tried.returncode else ""


def _end_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _program(*words: str, text: str = "") -> None:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"


def _only_child(pid: int) -> int:
    """Of a process that has one, or will have one in a moment."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(until(children.read_text, what="a child").split()[0])


@dataclass(frozen=True)
class Process:
    pid: int  # as the computer counts
    uid: int
    words: str  # its command line

    def __str__(self) -> str:
        return f"{self.pid} {self.words}"


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


class Computer:
    """One of `Computers`. On until something here says otherwise; its disk survives its reboots."""

    def __init__(self, among: Computers, number: int, shell: str) -> None:
        self.among, self.number = among, number
        self.name = f"{among.stem}{number + 1}"
        self.address, self.port = f"10.88.{among.net}.{number + 1}", 22
        self.folder = among.folder / self.name
        self.process: subprocess.Popen[str] | None = None
        self.pid = 0
        self.is_plugged = True
        self.host_public = ""
        for name in ("root", "disk", "etc/ssh"):
            (self.folder / name).mkdir(parents=True)
        self._write_etc(shell)
        self._make_host_key()

    def __repr__(self) -> str:
        return f"<{self.name} at {self.address}>"

    def _write_etc(self, shell: str) -> None:
        """What of /etc is not this computer's, copied over it at each boot."""
        etc = self.folder / "etc"
        accounts = {
            "passwd": f"{USER}:x:{UID}:{UID}:The team:{HOME}:{shell}",
            "group": f"{USER}:x:{UID}:",
            "shadow": f"{USER}:*:19000:0:99999:7:::",
        }
        for name, line in accounts.items():
            shutil.copy(f"/etc/{name}", etc / name)
            with (etc / name).open("a") as file:
                file.write(line + "\n")
        (etc / "hostname").write_text(self.name + "\n")
        assert self.among.proxy
        (etc / "environment").write_text(f"https_proxy={self.among.proxy.url}\n")  # for each session
        (etc / "hosts").write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"10.88.{self.among.net}.{n + 1} {self.among.stem}{n + 1}\n" for n in range(self.among.count))
        )
        # As Debian has it, whatever this computer's administrator has made of it.
        shutil.copy("/usr/share/openssh/sshd_config", etc / "ssh" / "sshd_config")

    def _make_host_key(self) -> None:
        key = self.folder / "etc/ssh/ssh_host_ed25519_key"
        key.unlink(missing_ok=True)
        _program("ssh-keygen", "-qt", "ed25519", "-N", "", "-C", f"root@{self.name}", "-f", str(key))
        self.host_public = " ".join(key.with_suffix(".pub").read_text().split()[:2])

    # Power.

    def begin(self) -> None:
        """Half of `on`, so that many boot at once; `finish` is the other."""
        network = ("nsenter", f"--target={self.among.pid}", "--mount", "--net", "--pid")
        own = ("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
        told = (INSIDE, self.name, self.address, "24", *self.among.hidden)
        with (self.folder / "console").open("a") as console:
            self.process = subprocess.Popen(
                [*network, *own, "sh", str(HERE / "computer.sh"), str(ROOT / "tests/system.sh"), *told],
                env=PLAIN, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=console,
                preexec_fn=_end_with_us,
            )  # fmt: skip

    def finish(self) -> None:
        assert self.process
        self._hear("here")
        self.pid = _only_child(_only_child(self.process.pid))
        mac = f"02:00:0a:58:{self.among.net:02x}:{self.number + 1:02x}"  # a reboot does not change it
        card = f"link add card{self.number} type veth peer name eth0 address {mac} netns {self.pid}"
        state = "up" if self.is_plugged else "down"
        self.among.in_network("ip", "-batch", "-", text=f"{card}\nlink set card{self.number} master br0 {state}\n")
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._hear("up")

    def _hear(self, word: str) -> None:
        assert self.process
        assert self.process.stdout
        said = self.process.stdout.readline().strip()
        assert said == word, f"{self.name} did not boot: {(self.folder / 'console').read_text()}"

    def on(self) -> None:
        if not self.process:
            self.begin()
            self.finish()

    def off(self) -> None:
        """As when the power goes: all of its processes end at once, and nothing is told to anybody."""
        if process := self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            _end(process)
            self.process = None
            until(lambda: not Path(f"/proc/{self.pid}").exists(), what="the end of its processes")
            # Of the card's other half, whose end a kernel takes some time for.
            self.among.in_network("ip", "link", "delete", f"card{self.number}", expect=(0, 1, 2))

    def reboot(self) -> None:
        self.off()
        self.on()

    def freeze(self) -> None:
        """It does nothing any more; connections are taken by its kernel, and nobody answers on them."""
        until(
            lambda: not [self._signal(pid, signal.SIGSTOP) for pid in self._awake()], what="that all of it stands still"
        )

    def thaw(self) -> None:
        for pid in self._pids():
            self._signal(pid, signal.SIGCONT)

    # The network.

    def unplug(self) -> None:
        """Nothing gets to it or from it, and nobody is told."""
        self.is_plugged = False
        self.among.in_network("ip", "link", "set", f"card{self.number}", "down")

    def plug(self) -> None:
        self.is_plugged = True
        self.among.in_network("ip", "link", "set", f"card{self.number}", "up")

    def kill_sshd(self) -> None:
        """The server and every session of it; what has left its session goes on."""
        for process in self._servers():
            self.run(f"kill -9 {process.pid}", user="root", expect=None)
        until(lambda: not self._servers(), what="the end of its SSH server")

    def _servers(self) -> list[Process]:
        return [one for one in self.processes() if one.words.split(" ")[0].split("/")[-1].rstrip(":") == "sshd"]

    def start_sshd(self) -> None:
        # It goes into the background before it listens, and writes its number when it does.
        listens = "until [ -s /run/sshd.pid ]; do sleep 0.02; done"
        self.run(f"rm -f /run/sshd.pid; {SSHD} -E /var/log/auth.log && {listens}", user="root")

    def new_host_key(self) -> str:
        """As when the system was installed anew. Returns the public half, which `host_public` is from now on."""
        self._make_host_key()
        self.run("rm /etc/ssh/ssh_host_ed25519_key", user="root")
        for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
            shutil.copy(self.folder / "etc/ssh" / name, self.path("/etc/ssh"))
        self.kill_sshd()
        self.start_sshd()
        return self.host_public

    def fingerprint(self) -> str:
        """Of its host key, as its administrator sees it: SHA256:…"""
        return self.run("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").out.split()[1]

    @property
    def log(self) -> str:
        """What its SSH server wrote: who signed in, by which key."""
        return self.path("/var/log/auth.log").read_text()

    # Its disks.

    def path(self, path: str) -> Path:
        """A file of it, as this computer sees it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def unshare_path(self) -> None:
        """Its `/srv/team` is its own from now on, and empty."""
        self.run(f"mount -t tmpfs -o mode=755,uid={UID},gid={UID} other {SHARED}", user="root")

    def share_path(self) -> None:
        """Takes that back."""
        self.run(f"umount -l {SHARED}", user="root")

    def fill_disk(self) -> None:
        """Not a byte more fits onto its own disk: of /home, /tmp, /etc and /var."""
        self.among.resize(f"{self.name}/disk", 0)

    def empty_disk(self) -> None:
        self.among.resize(f"{self.name}/disk", self.among.disk_mib)

    # What goes on.

    def shift_clock(self, seconds: int) -> None:
        """Whatever starts on it from now on reads a clock that is wrong by so much; all but the kernel itself.

        By a library of ours that the loader puts before everybody's: no kernel has two such clocks. Needs a C compiler.
        """
        library = "/usr/local/lib/clock.so"
        built = self.folder / "clock.so"
        _program("cc", "-shared", "-fPIC", "-O1", f"-DSECONDS=({seconds})", "-xc", "-o", str(built), "-", text=CLOCK)
        self.path(library).unlink(missing_ok=True)
        shutil.copy(built, self.path(library))
        self.path("/etc/ld.so.preload").write_text(library + "\n" if seconds else "")

    def run(self, command: str, *, user: str = USER, expect: int | None = 0) -> Done:
        """A line of shell, by hand of whoever sits there. `expect`: its status, if that must be one."""
        into = ("nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--wd")
        who = () if user == "root" else ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        home = {"HOME": "/root" if user == "root" else HOME, "USER": user}
        done = subprocess.run(
            [*into, *who, "sh", "-c", f"cd {SHARED} && {{ {command}\n}}"],
            env={**PLAIN, **home}, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert expect is None or done.returncode == expect, f"{self.name}, {command}: {done.stdout}{done.stderr}"
        return Done(done.returncode, done.stdout, done.stderr)

    def processes(self, user: str = "") -> list[Process]:
        """All of them, or the account's (`team`); but for the one that stands for its init, and that one's `sleep`."""
        found = []
        for entry in self.path("/proc").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if not entry.name.isdigit() or entry.name == "1":
                    continue
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                status = dict(
                    line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line
                )
                uid = int(status["Uid"].split()[0])
                if status["State"].startswith("Z") or (status["PPid"] == "1" and words == "sleep 1000"):
                    continue
                if not user or uid == (UID if user == USER else 0):
                    found.append(Process(int(entry.name), uid, words or f"[{status['Name']}]"))
        return sorted(found, key=lambda process: process.pid)

    def _pids(self) -> list[int]:
        """Of all its processes, as this computer counts."""
        mine, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == mine:
                    found.append(int(entry.name))
        return found

    def _awake(self) -> list[int]:
        found = []
        for pid in self._pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "TZX":
                    found.append(pid)
        return found

    @staticmethod
    def _signal(pid: int, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True


class Computers:
    """So many, on, with an account `team` on each whose `authorized_keys` is empty. Leaving the block ends them."""

    def __init__(
        self,
        count: int = 3,
        *,
        stem: str = "desk",
        shell: str = "/bin/bash",
        disk_mib: int = 512,
        shared_mib: int = 3000,
    ) -> None:
        if why := why_not():
            raise RuntimeError(why)
        self.count, self.stem, self.disk_mib, self.shared_mib = count, stem, disk_mib, shared_mib
        # What is this computer's alone: on another one, nobody would find it.
        self.hidden = (str(ROOT), sys.prefix, os.environ.get("PORTAL_VENV", sys.prefix))
        self.pasted = ""  # all of what `paste` was given
        self.process: subprocess.Popen[str] | None = None
        self.proxy: Proxy | None = None
        self.net = 0
        try:
            self._start(shell)
        except BaseException:
            self.close()
            raise

    def _start(self, shell: str) -> None:
        own = ("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
        self.process = subprocess.Popen(
            [*own, "sh", str(HERE / "network.sh"), INSIDE, str(self.shared_mib)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=PLAIN, preexec_fn=_end_with_us,
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"
        self.pid = _only_child(self.process.pid)
        self.net = self._plug_in()
        self.here = f"10.88.{self.net}.254"  # where they find this computer
        self.proxy = Proxy(self.here)
        self.folder = Path(f"/proc/{self.pid}/root{INSIDE}")  # as this computer sees it; so is `shared`
        self.shared = self.folder / "shared"
        os.chown(self.shared, UID, UID)
        self.computer = [Computer(self, number, shell) for number in range(self.count)]
        lines = []
        for one in self.computer:
            disk = f"{INSIDE}/{one.name}/disk"
            home = f"{disk}/home/{USER}"
            lines += [
                f"mount -t tmpfs -o mode=755,size={self.disk_mib}m disk {disk}",
                f"mkdir -p {disk}/upper {disk}/work {home}",
                f"chmod 755 {disk}/upper",
                f"mkdir -m 700 {home}/.ssh",
                f"touch {home}/.ssh/authorized_keys",
                f"chmod 600 {home}/.ssh/authorized_keys",
                f"chmod 700 {home}",
                f"chown -R {UID}:{UID} {home}",
            ]
        self.in_network("sh", "-eu", text="\n".join(lines))
        for one in self.computer:
            one.begin()
        for one in self.computer:
            one.finish()

    def _plug_in(self) -> int:
        """This computer, as 10.88.NET.254 on their network. The name of its card says to others that NET is taken."""
        for n in range(250):
            net = (os.getpid() + n) % 250 + 1
            card = ["ip", "link", "add", f"cx{net}", "type", "veth", "peer", "name", "wall", "netns", str(self.pid)]
            done = subprocess.run(card, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self.in_network("ip", "link", "set", "wall", "master", "br0", "up")
                _program("ip", "address", "add", f"10.88.{net}.254/24", "dev", f"cx{net}")
                _program("ip", "link", "set", f"cx{net}", "up")
                return net
            assert "File exists" in done.stderr, done.stderr
        raise RuntimeError("all networks are taken")

    def in_network(self, *words: str, text: str = "", expect: tuple[int, ...] = (0,)) -> None:
        """A program of this computer's, where their network and their disks are."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--mount", "--net", *words],
            input=text, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode in expect, f"{shlex.join(words)}: {done.stderr}"

    def __enter__(self) -> Computers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self.proxy:
            self.proxy.close()
        for one in getattr(self, "computer", ()):
            if one.process:
                one.thaw()
                one.off()
        if self.process:
            _end(self.process)
        if self.net:
            subprocess.run(["ip", "link", "delete", f"cx{self.net}"], capture_output=True, check=False)

    def __iter__(self) -> Iterator[Computer]:
        return iter(self.computer)

    def paste(self, line: str) -> None:
        """What an administrator does on each of them: one more line in the account's `authorized_keys`."""
        self.pasted += line.rstrip("\n") + "\n"
        for one in self:
            with one.path(f"{HOME}/.ssh/authorized_keys").open("a") as file:
                file.write(line.rstrip("\n") + "\n")

    def trust(self, authority: str) -> None:
        """Another authority of TLS certificates that all of them trust, as a house with one of its own has it."""
        for one in self:
            with one.path("/etc/ssl/certs/ca-certificates.crt").open("a") as file:
                file.write(authority)

    def fill_shared(self) -> None:
        """Not a byte more fits onto `/srv/team`."""
        self.resize("shared", 0)

    def empty_shared(self) -> None:
        self.resize("shared", self.shared_mib)

    def resize(self, disk: str, mib: int) -> None:
        """0: as large as what is in it."""
        there = os.statvfs(self.folder / disk)
        size = f"{mib}m" if mib else f"{(there.f_blocks - there.f_bfree) * there.f_frsize}"
        self.in_network("mount", "-o", f"remount,size={size}", f"{INSIDE}/{disk}")
