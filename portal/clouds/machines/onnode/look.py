"""Looks at the computer that it runs on, and at what lies between it and the others of its pool.

Sent over SSH and executed from standard input, with the standard library alone, by Python 3.9 or newer. It is asked and
answers in lines of JSON; each answer begins with `MARK`, because what the account's shell prints comes before it. It
ends when nobody asks any more, and takes away what it has made.
"""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import platform
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

MARK = "@coxswain "
AT_ONCE = 8  # others that are reached at a time: each of them is reached by all the rest meanwhile
PATIENCE = 5.0  # seconds for one connection
SSH_PATIENCE = 20.0
MARKER = ".coxswain-workspace"
GRACE = 60.0  # seconds that a program of the account may go on before it is wondered at
STALE = 3600.0  # seconds after which what an interrupted look has left behind is taken away


def say(**words):
    sys.stdout.write("\n" + MARK + json.dumps(words) + "\n")
    sys.stdout.flush()


def hear():
    line = sys.stdin.buffer.readline()
    return json.loads(line) if line else None


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def cores(cpus):
    """Physical ones among these."""
    ids = set()
    for cpu in cpus:
        topology = f"/sys/devices/system/cpu/cpu{cpu}/topology/"
        ids.add((read(topology + "physical_package_id"), read(topology + "core_id") or str(cpu)))
    return len(ids)


def missing():
    """Of the programs that are needed; `venv` is what makes environments, which Debian has in a package of its own."""
    found = [name for name in ("git", "flock", "ssh") if not shutil.which(name)]
    makes = shutil.which("uv") or all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    return found if makes else [*found, "venv"]


def libc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""  # musl, for one


def system():
    for line in read("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")
    return platform.system()


def others():
    """How many processes other people have here, and who they are."""
    count, uids = 0, set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                uid = os.stat("/proc/" + name).st_uid
            except OSError:
                continue  # it has ended
            if uid >= 1000 and uid not in (os.getuid(), 65534):
                count += 1
                uids.add(uid)
    return count, sorted(person(uid) for uid in uids)[:5]


def unknown():
    """Programs of the account that have gone on for a while, are of no session of SSH, and carry no cluster's mark."""
    found, mine = [], os.getuid()
    uptime, ticks = float(read("/proc/uptime").split()[0]), os.sysconf("SC_CLK_TCK")
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            if os.stat("/proc/" + pid).st_uid != mine:
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                is_marked = b"COXSWAIN_" in file.read()
        except OSError:
            continue  # it has ended, or is one of those that change their user
        name, _, rest = read(f"/proc/{pid}/stat").partition("(")[2].rpartition(")")
        is_old = rest and uptime - int(rest.split()[19]) / ticks > GRACE
        if is_old and not is_marked and not name.startswith(("sshd", "systemd", "(sd-pam")):
            found.append(name)
    return found


def keys_of_others(known):
    """How many keys the account lets in besides this one."""
    folder = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".ssh")
    text = "\n".join(read(os.path.join(folder, name)) for name in ("authorized_keys", "authorized_keys2"))
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return sum(known not in line for line in lines)


def person(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def ended_at_logout(user):
    """Whether systemd-logind ends what is left of a session when that ends (logind.conf(5))."""
    if not os.path.isdir("/run/systemd/system") or os.path.exists("/var/lib/systemd/linger/" + user):
        return False
    files = {}
    for folder in ("/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd"):
        with contextlib.suppress(OSError):  # there need not be any
            for name in os.listdir(folder + "/logind.conf.d"):
                files[name] = folder + "/logind.conf.d/" + name
    kills, spared = False, ["root"]
    for path in ["/etc/systemd/logind.conf", *(files[name] for name in sorted(files))]:
        for line in read(path).splitlines():
            name, _, value = line.strip().partition("=")
            if name.strip() == "KillUserProcesses":
                kills = value.strip().lower() in ("1", "yes", "true", "on")
            if name.strip() == "KillExcludeUsers":
                spared = value.split()
    return kills and user not in spared


def mount_of(path):
    """The kind of the filesystem that this lies on, and whether programs can be started from it."""
    best = ("", "", "")
    real = os.path.realpath(path)
    for line in read("/proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        point, options = fields.split()[4].replace("\\040", " "), fields.split()[5]
        if len(point) >= len(best[0]) and (real + "/").startswith(point.rstrip("/") + "/"):
            best = (point, options, rest.split()[0])
    return best[2], "noexec" not in best[1].split(",")


def facts(known):
    cpus = os.sched_getaffinity(0)
    user = person(os.getuid())
    count, people = others()
    programs = unknown()
    return {
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
        "system": system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "libc": libc(),
        "missing": missing(),
        "user": user,
        "uid": os.getuid(),
        "cores": cores(cpus),
        "vcpus": len(cpus),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "boot_id": read("/proc/sys/kernel/random/boot_id").strip(),
        "load": os.getloadavg()[0],
        "others": count,
        "people": people,
        "programs": len(programs),
        "program_names": sorted(set(programs))[:5],
        "other_keys": keys_of_others(known),
        "ended_at_logout": ended_at_logout(user),
        "temporary": tempfile.gettempdir(),
        "temporary_free_gib": round(shutil.disk_usage(tempfile.gettempdir()).free / 2**30, 1),
    }


class Folder:
    """The base folder, and in it one for this look, in which each computer leaves a token."""

    def __init__(self, base, look, me):
        self.base, self.me = base, me
        self.path = os.path.join(base, ".look-" + look)
        self.tokens = []

    def open(self):
        """What there is to say of it."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.base, 0o700)  # but not what it lies in: that would hide that something is not mounted
        self._sweep()
        about = os.stat(self.base)
        kind, executes = mount_of(self.base)
        return {
            "kind": kind,
            "within": self.within(),
            "executes": executes,
            "owner": person(about.st_uid),
            "is_ours": about.st_uid == os.getuid(),
            "is_others": bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not about.st_mode & stat.S_ISVTX,
            "free_gib": round(shutil.disk_usage(self.base).free / 2**30, 1),
        }

    def within(self):
        """The folder of a workspace that it lies in; with that one it would be removed."""
        above = os.path.realpath(self.base)
        while above != "/":
            if os.path.lexists(os.path.join(above, MARKER)):
                return above
            above = os.path.dirname(above)
        return ""

    def _sweep(self):
        for entry in os.scandir(self.base):
            if entry.name.startswith(".look-") and time.time() - entry.stat().st_mtime > STALE:
                shutil.rmtree(entry.path, ignore_errors=True)  # another computer sweeps too

    def write(self, token):
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        path = os.path.join(self.path, f"{self.me}.{len(self.tokens)}")
        with open(path, "w", encoding="ascii") as file:
            self.tokens.append(path)
            file.write(token)
            file.flush()
            os.fsync(file.fileno())

    def sees(self, tokens):
        """Those of them, by whose they are, that are here as they were written."""
        number = len(self.tokens) - 1
        return [of for of, token in tokens.items() if read(os.path.join(self.path, f"{of}.{number}")) == token]

    def close(self):
        for path in self.tokens:
            with contextlib.suppress(OSError):  # the next look takes away what is left
                os.unlink(path)
        with contextlib.suppress(OSError):  # another one still has its own in there, and is the last
            os.rmdir(self.path)


class Listener:
    """A port of this computer at which it says its token."""

    def __init__(self, token):
        self.token = token.encode()
        everywhere = ("::", 0) if socket.has_dualstack_ipv6() else ("", 0)
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self.socket = socket.create_server(
            everywhere, family=family, backlog=128, dualstack_ipv6=socket.has_dualstack_ipv6()
        )
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.answer, daemon=True).start()

    def answer(self):
        while True:
            try:
                connection, _ = self.socket.accept()
                with connection:
                    connection.sendall(self.token)
            except OSError:
                if self.socket.fileno() < 0:
                    return


class Way:
    """How this computer signs in to the others: in a folder of its own, with nothing of the account's own files."""

    def __init__(self, ask):
        self.folder = tempfile.mkdtemp(prefix="coxswain-look-")
        self.user = person(os.getuid())
        for name, text in (("key", ask["key"]), ("key-cert.pub", ask["certificate"]), ("known_hosts", ask["known"])):
            with open(os.open(self.at(name), os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
                file.write(text)

    def at(self, name):
        return os.path.join(self.folder, name)

    def command(self, peer):
        options = {
            "BatchMode": "yes",
            "CertificateFile": self.at("key-cert.pub"),
            "ConnectTimeout": "8",
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": peer["of"],
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "LogLevel": "ERROR",
            "PreferredAuthentications": "publickey",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.at("known_hosts"),
        }
        words = ["ssh", "-F", "none", "-i", self.at("key"), "-p", str(peer["ssh"]), "-l", self.user, "-n", "-T"]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return [*words, peer["name"], "exit 0"]

    def close(self):
        shutil.rmtree(self.folder)


def reach(peer, way):
    """What is in the way to another computer, as two words: which way, and what was said. None where nothing is."""
    try:
        found = socket.getaddrinfo(peer["name"], peer["port"], type=socket.SOCK_STREAM)
    except OSError as error:
        return ["name", str(error)]
    said, trouble = twice(listen_to, peer)
    if trouble:
        return ["port", f"{found[0][4][0]}, port {peer['port']}: {trouble}"]
    if said != peer["token"]:
        return ["elsewhere", found[0][4][0]]
    # A server forks for whoever connects, and drops some where many come at once (MaxStartups): not all sign in to all.
    _, trouble = twice(sign_in, way, peer) if peer["signs_in"] else (None, "")
    return ["ssh", trouble] if trouble else None


def twice(function, *args):
    """What it returns, and what was in the way the second time: the first may be a computer's being busy."""
    trouble = ""
    for attempt in range(2):
        time.sleep(attempt * (0.5 + os.urandom(1)[0] / 170))
        try:
            return function(*args), ""
        except (OSError, subprocess.SubprocessError) as error:
            trouble = getattr(error, "stderr", b"") or error
    if isinstance(trouble, bytes):
        trouble = trouble.decode(errors="replace").strip()
    return None, str(trouble)[-300:]


def listen_to(peer):
    with socket.create_connection((peer["name"], peer["port"]), PATIENCE) as connection:
        return connection.recv(200).decode(errors="replace")


def sign_in(way, peer):
    words = way.command(peer)
    subprocess.run(words, check=True, capture_output=True, timeout=SSH_PATIENCE, stdin=subprocess.DEVNULL)


def reach_all(ask):
    way = Way(ask)
    try:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(pool.map(lambda peer: (peer["of"], reach(peer, way)), ask["peers"]))
    finally:
        way.close()
    return {of: trouble for of, trouble in found.items() if trouble}


def attempt(function, *args):
    """What it returns, and what went wrong with the files of the base folder, if anything did."""
    try:
        return function(*args), ""
    except OSError as error:
        return None, f"{error.strerror or error}: {error.filename or ''}"


def main():
    first = hear()
    folder = Folder(first["base"], first["look"], first["me"])
    listener = Listener(first["token"])
    try:
        about, trouble = attempt(folder.open)
        if not trouble:
            _, trouble = attempt(folder.write, first["token"])
        say(facts=facts(first["known"]), port=listener.port, base=about, trouble=trouble)
        while True:
            ask = hear()
            if not ask:
                return
            answer = {"clock": time.time()}
            if "write" in ask:
                _, answer["trouble"] = attempt(folder.write, ask["write"])
            if "tokens" in ask:
                answer["sees"] = folder.sees(ask["tokens"])
            if "peers" in ask:
                answer["ways"] = reach_all(ask)
            say(**answer)
    finally:
        listener.socket.close()
        folder.close()


main()
