"""Runs on a node: starts a command that belongs to the node and not to whoever started it, and tells how it goes.

    python3 detach.py start FOLDER     < {"argv": [...], "env": {...}, "files": {name: text}}
                                                                         starts it, once in this folder's life
    python3 detach.py observe FOLDER '{"out": 0, "err": 0, "setup": 0}'  streams what is new, until the end
    python3 detach.py signal FOLDER TERM                                 to its process group
    python3 detach.py sweep NAME=VALUE                                   kills all that carry this in their environment

The folder holds `pid` (of the keeper: pid and start time), `group`, `out`, `err`, `setup`, `facts.json`, `notes` and at
the end `exit`. Standard library only, Python 3.9 or newer. Everything is observed from files, so that the portal may
die, come back and lose nothing.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

STREAMS = ("setup", "out", "err")
BLOCK = 256 * 1024


def start_time(pid):
    """The start time of a live process in clock ticks since boot, or None. Tells a pid from its re-use."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def write_whole(path, text):
    """All of the text or nothing, on disk before it can be seen."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def start(folder):
    order = json.load(sys.stdin)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("runs already")
        return
    if (folder / "pid").exists():
        print("ran already")
        return
    for name, text in order.get("files", {}).items():
        write_whole(folder / name, text)
    readable, writable = os.pipe()
    if os.fork():
        os.close(writable)
        if os.read(readable, 1) != b"1":
            sys.exit(f"did not start, see {folder}/keeper.log")
        print("started")
        return
    os.setsid()
    if os.fork():  # the keeper is no session leader's child: the end of this SSH session does not reach it
        os._exit(0)
    keep(folder, order, writable)
    os._exit(0)


def keep(folder, order, writable):
    """The keeper: owns the command, and writes down how it ended. Holds the lock for its life."""
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(folder / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # From here on it is never started again: O_EXCL is the fence.
    pid = os.open(folder / "pid", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(pid, f"{os.getpid()} {start_time(os.getpid())}\n".encode())
    os.fsync(pid)
    os.close(pid)
    os.write(writable, b"1")
    os.close(writable)

    def as_command():
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: ends when its keeper is killed
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)

    status, fault = None, ""
    with open(folder / "out", "ab") as out, open(folder / "err", "ab") as err:
        try:
            command = subprocess.Popen(
                order["argv"],
                cwd=order.get("cwd") or str(folder),
                env={**os.environ, **order.get("env", {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=as_command,
            )
            (folder / "group").write_text(f"{command.pid}\n")
            status = command.wait()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(command.pid, signal.SIGKILL)  # what it left behind in its group
        except OSError as error:
            status, fault = 127, str(error)
    end = {"status": status if status >= 0 else None, "signal": -status if status < 0 else None, "ended": time.time()}
    write_whole(folder / "exit", json.dumps({**end, "fault": fault}))


def is_alive(folder):
    try:
        pid, began = (folder / "pid").read_text().split()
    except (OSError, ValueError):
        return False
    return start_time(pid) == int(began)


def observe(folder, offsets):
    """Write JSON lines to stdout, those of a stream followed by `size` raw bytes; end when the command has ended.

    The order matters: `exit` is looked for before the streams are read, so that all output comes before it.
    """
    to = sys.stdout.buffer
    files = {}
    facts = ""
    told = 0.0
    pause = 0.005

    def tell(word, body=b""):
        to.write(json.dumps(word).encode() + b"\n" + body)

    while True:
        ended = (folder / "exit").exists()
        alive = ended or is_alive(folder)
        moved = False
        with contextlib.suppress(OSError):
            new = (folder / "facts.json").read_text()
            if new != facts:
                facts = new
                tell({"facts": json.loads(facts)})
                moved = True
        for name in STREAMS:
            if name not in files:
                with contextlib.suppress(FileNotFoundError):
                    files[name] = open(folder / name, "rb", buffering=0)  # noqa: SIM115
            if name in files:
                while data := os.pread(files[name].fileno(), BLOCK, offsets[name]):
                    tell({"stream": name, "offset": offsets[name], "size": len(data)}, data)
                    offsets[name] += len(data)
                    moved = True
        if ended:
            end = json.loads((folder / "exit").read_text())
            with contextlib.suppress(OSError):
                end["notes"] = (folder / "notes").read_text()[:4000]
            tell({"exit": end})
            to.flush()
            tell({"sha256": {name: digest(folder / name) for name in STREAMS}})
            to.flush()
            return
        if not alive:
            if not (folder / "exit").exists():
                tell({"gone": True})
                to.flush()
                return
            continue
        if moved or time.monotonic() - told > 1:
            if not moved:
                tell({"beat": time.time()})
            told = time.monotonic()
            to.flush()
        pause = 0.005 if moved else min(0.03, pause * 1.5)
        time.sleep(pause)


def digest(path):
    total = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        while data := file.read(1 << 20):
            total.update(data)
    return total.hexdigest()


def send_signal(folder, name):
    """Prints `gone` when there is nothing left to signal."""
    if (folder / "exit").exists() or not (folder / "pid").exists():
        print("gone")
        return
    try:
        os.killpg(int((folder / "group").read_text()), getattr(signal, f"SIG{name}"))
        print("sent")
    except (OSError, ValueError):
        print("sent" if is_alive(folder) else "gone")


def sweep(mark):
    """Prints how many were killed."""
    killed = set()
    for _ in range(20):
        found = False
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                marks = pathlib.Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                if mark.encode() in marks and start_time(entry) is not None:
                    os.kill(int(entry), signal.SIGKILL)
                    killed.add(entry)
                    found = True
        if not found:
            break
        time.sleep(0.05)
    print(len(killed))


def main():
    verb, target, *rest = sys.argv[1:]
    if verb == "start":
        start(pathlib.Path(target))
    elif verb == "observe":
        with contextlib.suppress(BrokenPipeError):
            observe(pathlib.Path(target), json.loads(rest[0]))
    elif verb == "signal":
        send_signal(pathlib.Path(target), rest[0])
    elif verb == "sweep":
        sweep(target)
    else:
        sys.exit(f"unknown: {verb}")


if __name__ == "__main__":
    main()
