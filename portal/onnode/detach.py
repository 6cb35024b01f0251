"""Runs on a node: starts a command that belongs to the node and not to whoever started it, and tells how it goes.

    python3 detach.py start FOLDER     < {"argv": [...], "program": path, "env": {...}, "files": {name: text},
                                          "secret": text}
                                                                         starts it, once in this folder's life
    python3 detach.py observe FOLDER '{"out": 0, "err": 0, "setup": 0}'  streams what is new, until the end
    python3 detach.py signal FOLDER TERM                                 to its process group
    python3 detach.py sweep NAME=VALUE                                   kills all that carry this in their environment
    python3 detach.py wait [PROGRAM]   < ["start", FOLDER] and so on     waits for its words, as a line of JSON

A command is an argv, or the `main(argv)` of a PROGRAM: a Python file that need not be an interpreter of its own. With a
secret it is `main(argv, secret)`, and the memory that had it is nobody's to read, although the command's own processes
belong to the same user. `wait`
is started before it is needed, with everything loaded, because that takes longer than all that follows.

The folder holds `pid` (of the keeper: pid and start time), `group`, `out`, `err`, `setup`, `facts.json`, `notes` and at
the end `exit`. Standard library only, Python 3.9 or newer. Everything is observed from files, so that the portal may
die, come back and lose nothing.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import select
import signal
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
    if "secret" in order:
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE: nobody looks into our memory, until we execute something
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
        (folder / name).write_text(text)  # for the command alone, which does not outlive the machine
    readable, writable = os.pipe()
    if os.fork():
        os.close(writable)
        if os.read(readable, 1) != b"1":
            sys.exit(f"did not start, see {folder}/keeper.log")
        print("started", flush=True)
        os._exit(0)  # an interpreter's orderly end takes longer than all of this
    os.setsid()
    if os.fork():  # the keeper is no session leader's child: the end of this SSH session does not reach it
        os._exit(0)
    keep(folder, order, writable, lock)
    os._exit(0)


def keep(folder, order, writable, lock):
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

    keeper = os.getpid()
    command = os.fork()
    if not command:
        become(order, folder, keeper)
    (folder / "group").write_text(f"{command}\n")
    if "secret" in order:
        # On with an empty memory, so that it may be looked at again: what sweeps a node looks at all that run there.
        os.set_inheritable(lock, True)
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, "-IS", __file__, "finish", str(folder), str(command)])
    finish(folder, command)


def finish(folder, command):
    """The rest of the keeper's life: wait for its child, and write down how it ended."""
    status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command, signal.SIGKILL)  # what it left behind in its group
    fault = (folder / "fault").read_text() if (folder / "fault").exists() else ""
    end = {"status": status if status >= 0 else None, "signal": -status if status < 0 else None, "ended": time.time()}
    write_whole(folder / "exit", json.dumps({**end, "fault": fault}))


def become(order, folder, keeper):
    """In the keeper's child: turn into the command, in a session of its own. Never returns."""
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: ends when its keeper is killed
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        if os.getppid() != keeper:
            os._exit(status)  # it was killed before the call
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, number)
        os.chdir(folder)
        os.environ.update(order.get("env", {}))
        if "program" in order:
            load(order["program"]).main(order["argv"], *([order["secret"]] if "secret" in order else []))
            status = 0
        else:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what it becomes would too
            os.execvp(order["argv"][0], order["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except OSError as error:
        write_whole(folder / "fault", str(error))
        status = 127
    except Exception:  # noqa: BLE001 (whatever it is, the run's output says so)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


@functools.cache
def load(path):
    """The module of a program of one file. Python keeps it compiled beside it."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    quiet_since = time.monotonic()
    keeper = end_of_keeper(folder)

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
        now = time.monotonic()
        if moved:
            quiet_since = now
        if moved or now - told > 1:
            if not moved:
                tell({"beat": time.time()})
            told = now
            to.flush()
        # Often after something happened, for more is likely then; and at once when the keeper ends.
        keeper.poll(1000 * min(0.03, max(0.002, (now - quiet_since) / 8)))


def end_of_keeper(folder):
    """Something to poll, which wakes at the end of the keeper."""
    poll = select.poll()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it has ended; or Linux before 5.3
        poll.register(os.pidfd_open(int((folder / "pid").read_text().split()[0])), select.POLLIN)
    return poll


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
    words = sys.argv[1:]
    if words[0] == "wait":
        for program in words[1:]:
            load(program)
        line = sys.stdin.readline()
        if not line:
            return  # it was not needed
        words = json.loads(line)
    verb, target, *rest = words
    if verb == "start":
        start(pathlib.Path(target))
    elif verb == "observe":
        with contextlib.suppress(BrokenPipeError):
            observe(pathlib.Path(target), json.loads(rest[0]))
    elif verb == "signal":
        send_signal(pathlib.Path(target), rest[0])
    elif verb == "finish":  # the keeper alone calls it, of itself
        finish(pathlib.Path(target), int(rest[0]))
    elif verb == "sweep":
        sweep(target)
    else:
        sys.exit(f"unknown: {verb}")


if __name__ == "__main__":
    main()
