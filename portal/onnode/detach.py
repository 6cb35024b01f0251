"""Runs on a node: starts a command that belongs to the node and not to whoever started it, and tells how it goes.

    start FOLDER [secret]
                     < {"argv": [...], "program": module, "env": {...}, "secret": text, "seconds": N,
                        "alone": path}
                     starts it, once in this folder's life; prints "started", "ran already" or "busy FOLDER"
    observe FOLDER N streams what is new in its log from byte N on, until the end
    signal FOLDER TERM
    look FOLDER      prints how it ended, if it has, whether it was ever started, and the end of what it printed
    sweep NAME=VALUE PATH
                     ends all that carry this in their environment, whoever has the file PATH open or anything below
                     it, and what descends from them; prints how many
    wait [MODULE]    < ["start", FOLDER] and so on: waits for its words, as a line of JSON; after an observation that it
                     has seen to its end, for others

`boot.py` brings it there. A command is an argv, or `main(argv)` of a module that was brought too; with a secret it is
`main(argv, secret)`, and the memory that had it is nobody's to read, although the command's own processes belong to the
same user. (Whoever may trace the others of his account, and has taken hold of `wait` before that, is inside all the
same.) `wait` is started before it is needed, with everything loaded, because that takes longer than all that follows.
`seconds` is how long the command may take; `alone` names a file that only one command of this node holds at a time,
whoever starts them and whatever became of the answers.

The folder holds `lock` (held by the keeper for its life), `begun` (when, and on which node), `control` (a FIFO: words
for the keeper), `life` (a FIFO that the keeper holds open, and that is rung at news), `out`, `err`, `log`,
`facts.json`, `verdict.json` and at the end `exit`. Whether the command lives has three answers: where a file system
does not say, or the folder is seen from another node than its keeper's, that is not known, and nobody takes it for
dead. Everything is observed from files, and nothing by process number: sessions of a node may not see each other's
processes. So the portal may die, come back and lose nothing. The command's own programs can put anything in the place
of any of these; what is no file, or no FIFO, is taken for nothing.
"""

import contextlib
import errno
import fcntl
import functools
import importlib
import io
import json
import os
import pathlib
import select
import signal
import stat
import sys
import time

import boot
from prctl import prctl
from telling import FRAME

BLOCK = 256 * 1024
MOST_FRAME = 1 << 20  # bytes of a frame's payload
MOST_SAID = 64 * 1024  # bytes of facts or of a verdict that are told
ROOM = 16 * 1024  # bytes that are kept free, so that the end can be written down when the disk is full
GRACE = 5.0  # seconds between TERM and KILL
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
SIGNALS = {name: getattr(signal, f"SIG{name}") for name in ("TERM", "KILL", "INT")}


def write_whole(path, text):
    """All of the text or nothing, on disk before it can be seen."""
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")  # nobody has put something else there
    with draft.open("x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def open_file(path):
    """For reading bytes of it. Programs of a run may put a FIFO in its place, and opening that would wait for ever."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no file", str(path))
    return file


def take(path):
    """The descriptor of this file with its lock, or None when somebody has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def take_back(path, is_such):
    """Put aside what an earlier command may have left in this place and is not `is_such` a thing; else, open it up."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not is_such(mode):
            os.rename(path, f"{path}.{os.urandom(8).hex()}")
        elif mode & 0o700 != 0o700 and (stat.S_ISDIR(mode) or mode & 0o600 != 0o600):
            os.chmod(path, mode & 0o777 | 0o700)


def take_back_home():
    """The home, which nobody can put aside, and in it the place for what is temporary."""
    home, temporary = os.environ.get("HOME"), os.environ.get("TMPDIR", "")
    if home:
        take_back(home, lambda mode: True)
        if temporary.startswith(f"{home}/"):
            take_back(temporary, stat.S_ISDIR)
            os.makedirs(temporary, mode=0o700, exist_ok=True)


def hide():
    """Nobody of our account looks into our memory, files or environment: not of this process, until it executes
    something, and not of those that it forks."""
    prctl(PR_SET_DUMPABLE, 0)


def become_hidden():
    """Go on in a process that was never anybody's to look into: what was opened of this one before, and is kept open,
    shows nothing of what comes. This one waits for its end, and ends as it does."""
    hide()
    if not (child := os.fork()):
        return
    prctl(PR_SET_DUMPABLE, 1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # its answer ends when it closes that
        os.dup2(null, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else 1)


def start(folder, order):
    if "secret" in order:
        hide()
    take_back_home()
    take_back(folder.parent, stat.S_ISDIR)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (lock := take(folder / "lock")) is None:
        print("runs already")
        return
    if (folder / "begun").exists():
        print("ran already")
        return
    fence = None
    if "alone" in order:
        take_back(order["alone"], stat.S_ISREG)
        fence = take(order["alone"])
        if fence is None:
            print("busy", tail(order["alone"], 4096, 0))  # the folder of who has it
            return
        os.ftruncate(fence, 0)
        os.write(fence, str(folder).encode())
    (folder / "room").write_bytes(os.urandom(ROOM))
    for name in ("control", "life"):
        with contextlib.suppress(FileExistsError):
            os.mkfifo(folder / name, 0o600)
    # From here on it is never started again: O_EXCL is the fence.
    begun = os.open(folder / "begun", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(begun, json.dumps({"at": time.time(), **this_node()}).encode() + b"\n")
    if os.environ.pop("COXSWAIN_STAY", None):
        # Our session lasts as long as we do, and is answered when we close our output.
        print("started", flush=True)
        keep(Keeper(folder, order, lock, fence), begun)
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
    os.close(readable)
    keep(Keeper(folder, order, lock, fence), begun, writable)


class Keeper:
    """Owns the command: passes on signals, ends it when its time is up, and writes down how it ended."""

    def __init__(self, folder, order, lock, fence, command=0, until=None, control=None, life=None):
        self.folder = folder
        self.order = order
        self.lock = lock
        self.fence = fence
        self.command = command
        self.until = until  # by the clock of `time.monotonic`, which goes over an exec
        # Open from before anybody can know of the command: what is asked waits in one, and what is rung in the other,
        # whose end is seen by whoever reads it.
        self.control, self.life = control, life

    def words(self):
        """For `finish`, after an exec."""
        given = [self.lock, self.fence, self.command, self.until, self.control, self.life]
        return [str(self.folder), json.dumps(given)]

    def files(self):
        return [file for file in (self.lock, self.fence, self.control, self.life) if file is not None]


def keep(keeper, begun, told=None):
    """The keeper's life. Never returns. `begun` is the file that says so, and is made sure of beside the command."""
    folder, order = keeper.folder, keeper.order
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(folder / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, file in ((0, null), (1, log), (2, log)):
        os.dup2(file, number)
    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes our child
    keeper.control, keeper.life = (
        os.open(folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) for name in ("control", "life")
    )
    if told is not None:
        os.write(told, b"1")
        os.close(told)
    keeper.until = time.monotonic() + order["seconds"] if order.get("seconds") else None
    own = os.getpid()
    readable, writable = os.pipe()
    keeper.command = os.fork()
    if not keeper.command:
        os.close(begun)
        os.close(readable)
        become(keeper, own, writable)
    os.close(writable)
    os.read(readable, 1)  # until it is a group, and hears signals: those that were sent before would be lost
    os.close(readable)
    with contextlib.suppress(OSError):  # a disk that takes no more: it runs all the same
        os.fsync(begun)
    os.close(begun)
    if "secret" in order:
        # On with an empty memory.
        for file in keeper.files():
            os.set_inheritable(file, True)
        with contextlib.suppress(OSError):
            boot.execute(sys.executable, "detach", ["finish", *keeper.words()])
    finish(keeper)


def finish(keeper):
    """Wait for the command and act on what is asked meanwhile; then end what it left, and write down how it ended."""
    folder, control = keeper.folder, keeper.control
    wake, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    asked, late, limit = set(), None, False
    while (status := reap(keeper.command)) is None:
        now = time.monotonic()
        if keeper.until is not None and now >= keeper.until and not limit:
            limit = True
            signal_group(keeper.command, signal.SIGTERM)
            late = now + GRACE
        if late is not None and now >= late:
            signal_group(keeper.command, signal.SIGKILL)
            late = now + 0.2
        due = [at for at in (late, None if limit else keeper.until) if at is not None]
        poll.poll(max(0.0, min(due) - now) * 1000 + 1 if due else None)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        with contextlib.suppress(BlockingIOError):
            for word in os.read(control, 4096).decode(errors="replace").split():
                if word in SIGNALS:
                    asked.add(word)
                    signal_group(keeper.command, SIGNALS[word])
    ended = time.time()
    left = end_descendants(keeper.command)
    fault = tail(folder / "fault")
    end = {"status": status if status >= 0 else None, "signal": -status if status < 0 else None, "ended": ended}
    if keeper.fence is not None:
        os.close(keeper.fence)  # before it can be known that this has ended, so that the next one is not refused
    (folder / "room").unlink(missing_ok=True)
    write_whole(folder / "exit", json.dumps({**end, "fault": fault, "limit": limit, "asked": sorted(asked),
                                             "left": left}))  # fmt: skip
    with contextlib.suppress(OSError):  # full: it rings already
        os.write(keeper.life, b".")
    os._exit(0)


def reap(command):
    """How the command ended, or None. Takes what else has ended with it."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == command:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def signal_group(leader, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def end_descendants(leader):
    """Kill what the command left: its group, and all that was orphaned to us, until there is nothing. How many."""
    signal_group(leader, signal.SIGKILL)
    killed = set()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        reap(0)
        found = descendants({os.getpid()})
        if not found:
            break
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.005)
    return len(killed)


def processes():
    """{pid: parent} of all that live and are seen."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = pathlib.Path(f"/proc/{name}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
            if fields[0] not in "ZX":
                found[int(name)] = int(fields[1])
    return found


def descendants(family):
    """Of these processes, without themselves."""
    everything, first = processes(), set(family)
    family = set(family)
    while more := {pid for pid, parent in everything.items() if parent in family} - family:
        family |= more
    return family - first


def become(keeper, parent, hears):
    """In the keeper's child: turn into the command, in a session of its own. Never returns.

    `hears` is closed when the command is there for whoever signals it.
    """
    folder, order = keeper.folder, keeper.order
    status = 1
    try:
        for file in keeper.files():
            os.close(file)
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # ends when its keeper is killed
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.close(hears)
        if os.getppid() != parent:
            os._exit(status)  # it was killed before the call
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, number)
        os.chdir(folder)
        os.environ.update(order.get("env", {}))
        if "program" in order:
            program = importlib.import_module(order["program"])
            program.main(order["argv"], *([order["secret"]] if "secret" in order else []))
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
def this_node():
    """By what a command's node is known, and each of its lives."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return {"host": os.uname().nodename, "boot": boot.read_text().strip() if boot.exists() else ""}


class Unknown(Exception):
    """Whether something is there, or lives, cannot be said from here; why not, in words."""


def there(path):
    """Whether it exists. Raises `Unknown`: a file system that is away is no empty folder.

    One that its programs have closed is as good as deleted: the keeper cannot write down how the command ends.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    except OSError as error:
        raise Unknown(str(error)) from error
    return True


def is_alive(folder):
    """Whether its keeper lives. Raises `Unknown`."""
    began = json.loads(said(folder / "begun") or "null")
    if isinstance(began, dict):
        here = this_node()
        if began.get("host") != here["host"]:
            raise Unknown(f"it was started on {began.get('host')}, and this is {here['host']}")
        if began.get("boot") != here["boot"]:
            return False  # the node was started again since
    try:
        lock = take(folder / "lock")
    except OSError as error:
        raise Unknown(str(error)) from error
    if lock is not None:
        os.close(lock)
    return lock is None


def is_of_an_earlier_boot(folder):
    """Whether the computer was started again since the command was."""
    began = json.loads(said(folder / "begun") or "null")
    return isinstance(began, dict) and began.get("boot") != this_node()["boot"]


def observe(folder, at):
    """Write JSON lines to stdout, those of the log followed by `size` raw bytes; end when the command has ended.

    The order matters: `exit` is looked for before the log is read, so that all output comes before it. The checksums
    come last, one a kind of frame; while they are computed there are beats, however long it takes. Nothing stays open:
    this process observes others after this one.
    """
    with contextlib.ExitStack() as opened:
        tell_all(folder, at, opened)


def tell_all(folder, at, opened):
    """For `observe`: what it opens is closed by `opened`."""
    to = sys.stdout.buffer
    log = None
    facts, told = "", 0.0
    quiet_since = time.monotonic()
    poll, watched = select.poll(), False
    rung = False  # whether we hear `life`: rung at what is new in the log, hung up when the keeper ends

    def tell(word, body=b""):
        to.write(json.dumps(word).encode() + b"\n" + body)

    while True:
        unknown, moved = "", False
        try:
            ended = there(folder / "exit")
            # Its lock was there before: without it, programs are just deleting the folder, and nothing says who lives.
            begun = ended or (there(folder / "begun") and there(folder / "lock"))
            alive = ended or (begun and is_alive(folder))
        except Unknown as why:
            unknown, ended, begun, alive = str(why), False, True, True
        new = said(folder / "facts.json")
        if new and new != facts:
            facts = new
            tell({"facts": json.loads(facts)})
            moved = True
        if log is None:
            with contextlib.suppress(OSError):
                log = opened.enter_context(open_file(folder / "log"))
        while log is not None and (data := os.pread(log.fileno(), BLOCK, at)):
            tell({"log": at, "size": len(data)}, data)
            at += len(data)
            moved = True
        if ended:
            end = json.loads(said(folder / "exit") or "null")
            if isinstance(end, dict):
                end["now"] = time.time()  # lest it matter what this node's clock says
                end["verdict"] = json.loads(said(folder / "verdict.json") or "null")
                end["said"] = tail(folder / "err") or tail(folder / "out")
            tell({"exit": end})
            to.flush()
            tell({"sha256": digests(folder / "log", lambda: (tell({"beat": time.time()}), to.flush()))})
            to.flush()
            return
        if begun and not alive:
            with contextlib.suppress(Unknown):  # it is told in the next round
                if not there(folder / "exit"):
                    tell({"gone": True, "rebooted": is_of_an_earlier_boot(folder)})
                    to.flush()
                    return
            continue
        now = time.monotonic()
        if moved:
            quiet_since = now
        if moved or now - told > 1:
            if not moved:
                tell({"unknown": unknown} if unknown else {"beat": time.time()} if begun else {"never": True})
            told = now
            to.flush()
        if begun and not watched:
            with contextlib.suppress(OSError):
                life = os.open(folder / "life", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                opened.callback(os.close, life)
                if stat.S_ISFIFO(os.fstat(life).st_mode):
                    poll.register(life, select.POLLIN)
                    rung = True
            watched = True
        # Where nothing rings, often after something happened, for more is likely then. Who rings does not know whether
        # another observer has taken it.
        for file, what in poll.poll(1000 * (0.03 if rung else min(0.03, max(0.002, (now - quiet_since) / 8)))):
            if what & select.POLLIN:
                with contextlib.suppress(BlockingIOError):  # another observer was quicker
                    os.read(file, 65536)
            else:
                poll.unregister(file)
                rung = False


def said(path):
    """A text of JSON that the command wrote, if it is whole and small enough to be told."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open_file(path) as file:
            text = file.read(MOST_SAID + 1).decode()
        if len(text) <= MOST_SAID:
            json.loads(text)
            return text
    return ""


def tail(path, size=2000, at=None):
    with contextlib.suppress(OSError), open_file(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size) if at is None else at)
        return file.read(size).decode(errors="replace").strip()
    return ""


def digests(path, beat):
    """{kind: sha256} over the payloads of the frames; what MPI says at the end counts with what was said before."""
    import hashlib  # here: nobody else waits for what it loads

    sums, told = {}, time.monotonic()
    with contextlib.suppress(OSError), io.BufferedReader(open_file(path), 1 << 20) as file:
        while len(head := file.read(FRAME.size)) == FRAME.size:
            kind, _, _, size, _ = FRAME.unpack(head)
            data = file.read(min(size, MOST_FRAME))
            if len(data) < size:
                break  # what was being written when its writer was killed, or the disk full, is no frame for anybody
            sums.setdefault("s" if kind == b"n" else kind.decode("latin-1"), hashlib.sha256()).update(data)
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                beat()
    return {kind: total.hexdigest() for kind, total in sums.items()}


def send_signal(folder, name):
    """Prints `sent`; `gone` when there is nothing left to signal; or `unknown` and why."""
    answer = "gone"
    try:
        if not there(folder / "exit"):
            try:
                control = os.open(folder / "control", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                os.write(control, f"{name}\n".encode())
                answer = "sent"
            except OSError:  # nobody reads it; it was never started; its programs have spoilt it
                answer = "sent" if there(folder / "begun") and is_alive(folder) else "gone"
    except Unknown as why:
        answer = f"unknown {why}"
    print(answer)


def look(folder):
    """Prints JSON."""
    try:
        begun = there(folder / "begun")
    except Unknown as why:
        print(json.dumps({"unknown": str(why)}))
        return
    end = json.loads(said(folder / "exit") or "null")
    words = "\n".join(tail(folder / name, 1000) for name in ("out", "err"))
    print(json.dumps({"exit": end, "begun": begun, "said": words}))


def sweep(mark, alone):
    """Prints how many were ended; those that the node itself has ended for us are in COXSWAIN_SWEPT."""
    own, killed = {os.getpid(), os.getppid()}, set()
    for _ in range(40):
        found = {pid for pid in processes() if carries(pid, mark) or (alone and has_open(pid, alone))} - own
        found |= descendants(found) - own
        if not found:
            break
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.05)
    print(len(killed) + int(os.environ.get("COXSWAIN_SWEPT") or 0))


def carries(pid, mark):
    try:
        return mark.encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def has_open(pid, path):
    places = [f"/proc/{pid}/cwd"]
    with contextlib.suppress(OSError):
        places += [entry.path for entry in os.scandir(f"/proc/{pid}/fd")]
    for place in places:
        with contextlib.suppress(OSError):
            if f"{os.readlink(place)}/".startswith(f"{path}/"):
                return True
    return False


def main(words, stream):
    if words[0] != "wait":
        do(words, stream)
        return
    for module in words[1:]:
        importlib.import_module(module)
    while line := stream.readline():  # none: it is not needed
        do(json.loads(line), stream)


def do(words, stream):
    verb, target, *rest = words
    if verb == "start":
        if rest == ["secret"]:
            become_hidden()  # before it is read
        start(pathlib.Path(target), json.load(stream))
    elif verb == "observe":
        with contextlib.suppress(BrokenPipeError):
            observe(pathlib.Path(target), int(rest[0]))
    elif verb == "signal":
        send_signal(pathlib.Path(target), rest[0])
    elif verb == "look":
        look(pathlib.Path(target))
    elif verb == "finish":  # the keeper alone calls it, of itself
        finish(Keeper(pathlib.Path(target), {}, *json.loads(rest[0])))
    elif verb == "sweep":
        sweep(target, rest[0])
    else:
        sys.exit(f"unknown: {verb}")
