"""Stands around each rank: child of Hydra's proxy, parent of the rank, and outlives it.

Hydra does not say how a rank ended, takes a rank that left without MPI_Finalize for the death of all, and mixes what
ranks print. This process knows: it has the rank's streams, its exact end, and whatever it left behind; and it passes on
what the rank says to PMI, so that Hydra acts when `launcher.py` has decided, not before.

On stdout go frames: kind (1 byte), size (4), time in ns (8), big endian; then the payload. Kinds are those of
`telling.py`, and `x`: an event in JSON, one of
    {"start": pid, "node": name}                  {"fails": status, "error": text}, before MPI_Finalize
    {"aborts": status}: MPI_Abort was called      {"done": true}: the program has ended well
    {"status": N | "signal": N, "rss": KiB, "left": N}: the process has ended

With `--wait FOLDER` in front of the command it says {"waits": true}, and begins in that folder when USR1 comes.

Starting Python takes longer than all else, so where we are the Python that the rank would be (not isolated, with the
engine's packages, in the rank's own environment), our child becomes the rank as it is: it returns, for `WRAPPER` of
`launcher.py` to go on with `runner.py`. Everywhere else it executes the command.

It is there once for each rank, so it loads nothing that it can do without: no ctypes, json, signal or struct, which
take longer than all else. It comes in the environment, as code, and reads no file.
"""

import _ctypes
import _signal as signal
import _socket as socket
import fcntl
import os
import select
import sys
import time

HOLD = 8.0  # seconds that we stay when the rank has failed: else Hydra sees its PMI end, and kills at once
PATIENCE = 0.1, 0.6  # seconds until what the rank left behind gets TERM, and KILL
IGNORED = [
    getattr(signal, f"SIG{name}")
    for name in ["TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "TSTP", "ALRM", "PIPE", "XFSZ"]
]
CODE = "import marshal,os;exec(marshal.loads(bytes.fromhex(os.environ.pop('COXSWAIN_RUNNER'))))"
WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")  # options of Python that have their value in the next word
F_SETPIPE_SZ = 1031
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")


def prctl(option, value):
    _ctypes.call_function(_address, (option, value, 0, 0, 0))


def frame(kind, data):
    data = kind + len(data).to_bytes(4, "big") + time.time_ns().to_bytes(8, "big") + data
    while data:
        data = data[os.write(1, data) :]


def event(text):
    frame(b"x", text.encode())


def children():
    own = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    if int(file.read().rsplit(b")", 1)[1].split()[1]) == own:
                        yield int(name)
            except (OSError, IndexError, ValueError):
                continue


def leave_pmi(fd):
    """Say to PMI what MPI_Finalize would have said, its barrier included, as the rank has not.

    A rank that ends well without it (MPI_Finalize gave an error, os._exit(0), no MPI at all) would make Hydra kill its
    neighbours on this node, and those on others wait for ever.
    """
    try:
        for words, answer in ((b"cmd=barrier_in\n", b"barrier_out"), (b"cmd=finalize\n", b"finalize_ack")):
            os.write(fd, words)
            said = b""
            while answer not in said:
                more = os.read(fd, 4096)
                if not more:
                    return
                said += more
    except OSError:
        return  # Hydra has closed it


def wait_to_go(wake, hydra):
    """Until the launcher has the source."""
    poll = select.poll()
    for fd in (wake, hydra):
        poll.register(fd, select.POLLIN)
    event('{"waits":true}')
    if any(fd == hydra for fd, _ in poll.poll()):
        os._exit(1)  # Hydra has ended


def with_runner(command):
    """The command, with `runner.py` in front of a Python program."""
    if not os.path.basename(command[0]).startswith("python"):
        os.environ.pop("COXSWAIN_RUNNER", None)
        return command
    at, command = 1, list(command)
    while at < len(command) and command[at][:1] == "-" and command[at] != "-":  # python's own options
        word = command[at]
        if word[1] not in "WX-":
            found = min((word.index(letter) for letter in "mc" if letter in word), default=0)
            if found:  # the last of them: -m MODULE or -c CODE
                command[at : at + 1] = [word] if found == 1 else [word[:found], f"-{word[found:]}"]
                at += found > 1
                break
        at += 2 if word in WITH_VALUE else 1
    return [*command[:at], "-c", CODE, *command[at:]]


def become(command, folder, is_python, out, err, told, pmi):
    """In the child: turn into the rank, in this folder if there is one. Returns where we are its Python already."""
    signal.set_wakeup_fd(-1)
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    for fd, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(fd, number)
    os.set_inheritable(told, True)
    rank = os.environ.get("PMI_RANK", "0")
    if os.environ.pop("COXSWAIN_ALONE", None):  # its kernel has Hydra's words and not its descriptor: MPI_Init fails
        pmi = None
        for name in [name for name in os.environ if name.startswith(("PMI_", "HYDI_", "MPI_LOCAL"))]:
            del os.environ[name]
    if pmi is not None:
        os.set_inheritable(pmi, True)
        os.environ["PMI_FD"] = str(pmi)
    os.environ["COXSWAIN_TELL"] = str(told)
    os.environ["COXSWAIN_RANK"] = rank
    for name in ("COXSWAIN_WRAPPER", "COXSWAIN_WRAP"):  # programs that it spawns get them from Hydra, as the hook
        os.environ.pop(name, None)
    try:
        if folder:
            os.chdir(folder)
        if is_python:
            go_on(command, told, pmi)
        else:
            command = with_runner(command)
            os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{error.filename or command[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(127)


def go_on(command, *ours):
    """As the rank finds it where it is started anew: signals, descriptors, words."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    at = 3
    for fd in sorted(fd for fd in ours if fd is not None):
        os.closerange(at, fd)
        at = fd + 1
    os.closerange(at, 65536)
    sys.path.insert(0, "")
    sys.argv[1:] = command[1:]
    if hasattr(sys, "orig_argv"):  # Python 3.10 and newer
        sys.orig_argv[:] = command


class Rank:
    def __init__(self, command):
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the rank leaves behind becomes our child
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # we end with Hydra's proxy
        self.hydra = pmi = int(os.environ.get("PMI_FD", 2))
        os.closerange(3, pmi)  # Hydra lets each rank inherit the pipes of those that it started before
        os.closerange(max(3, pmi + 1), 65536)
        wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake[1], warn_on_full_buffer=False)
        folder, places = "", os.environ.pop("PYTHONPATH", "").split(":")[1:]  # the first is for what ranks spawn
        if command[0] == "--wait":
            signal.signal(signal.SIGUSR1, lambda *_: None)
            wait_to_go(wake[0], pmi)
            _, folder, *command = command
            packages = f"{os.path.dirname(folder)}/packages"
            places = [packages] if os.path.isdir(packages) else places[1:]
        out, err, told = os.pipe(), os.pipe(), os.pipe()
        self.pmi = theirs = None
        if pmi > 2:
            os.set_inheritable(pmi, False)
            self.pmi, theirs = (end.detach() for end in socket.socketpair())
        try:  # noqa: SIM105 (contextlib takes as long to load as all else)
            fcntl.fcntl(out[1], F_SETPIPE_SZ, 1 << 18)
        except OSError:
            pass  # the person has too many large pipes; a small one does
        # Not where something is to be found that was not there when it was started, or a thread of a package's runs.
        is_python = not sys.flags.isolated and not places and len(os.listdir("/proc/self/task")) == 1
        if places:
            os.environ["PYTHONPATH"] = ":".join(places)
        own = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != own:
                os._exit(1)
            become(command, folder, is_python, out[1], err[1], told[1], theirs)
            return
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)  # Hydra signals the whole group: the rank has it already
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.kinds = {out[0]: b"o", err[0]: b"e", told[0]: b"t", wake[0]: b"w"}
        self.poll = select.poll()
        for fd in self.kinds:
            os.set_blocking(fd, False)
            self.poll.register(fd, select.POLLIN)
        for _, writable in (out, err, told):
            os.close(writable)
        if self.pmi is not None:
            os.close(theirs)
            for fd, kind in ((self.pmi, b"p"), (pmi, b"h")):
                self.kinds[fd] = kind
                self.poll.register(fd, select.POLLIN)
        self.finalized = False  # the rank has said so to PMI
        self.end = None  # (word, number, rss), once it has ended
        self.done = False  # its program has ended well: only MPI_Finalize is left to do
        self.left = set()  # processes of its that were still there after it
        self.words = b""
        name = "".join(c for c in os.uname().nodename if c.isprintable() and c not in '\\"')  # as JSON takes it
        event(f'{{"start":{self.pid},"node":"{name}"}}')

    def pump(self, ready):
        """Pass on what there is, and last what the program tells of itself. Whether there was some."""
        moved = False
        for fd in sorted(ready):
            kind = self.kinds.get(fd)
            if kind is None:
                continue  # Hydra's end, just now, was its too
            try:
                data = os.read(fd, 1 << 18)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                self.poll.unregister(fd)
                del self.kinds[fd]
                if kind == b"h":
                    os.close(self.pmi)  # Hydra has ended: the rank is to see that
                    self.forget(self.pmi)
            elif kind == b"h":
                self.pass_on(self.pmi, data)
            elif kind == b"p":
                self.hear(data)
            elif kind in b"oe":
                frame(b"n" if self.done and kind == b"e" else kind, data)
                moved = True
            elif kind == b"t":
                self.words = (self.words + data)[-8192:]
                self.listen()
        return moved

    def forget(self, fd):
        if self.kinds.pop(fd, None):
            self.poll.unregister(fd)

    def pass_on(self, to, data):
        try:
            while data:
                data = data[os.write(to, data) :]
        except OSError:
            return  # that side has ended, and what follows from it is seen elsewhere

    def hear(self, data):
        """What the rank says to PMI. Of MPI_Abort Hydra hears nothing: it would kill us before we can tell of it."""
        if b"cmd=abort" in data:
            words = data.split(b"exitcode=", 1)[-1].split()
            event(f'{{"aborts":{int(words[0]) if words and words[0].lstrip(b"-").isdigit() else 1}}}')
            return
        self.finalized = self.finalized or b"cmd=finalize" in data
        self.pass_on(self.hydra, data)

    def listen(self):
        """Lines of `PID STATUS JSON`; those of the rank's own children, which end like it, are not believed."""
        while b"\n" in self.words:
            line, self.words = self.words.split(b"\n", 1)
            pid, _, words = line.partition(b" ")
            status, _, error = words.partition(b" ")
            if pid == b"%d" % self.pid and status.isdigit() and not self.done:
                self.done = status == b"0"
                event('{"done":true}' if self.done else f'{{"fails":{int(status)},"error":{error.decode()}}}')

    def reap(self):
        """Take what has ended. Whether something is left that has not."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self.pid:
                ended = ("status", os.WEXITSTATUS(status)) if os.WIFEXITED(status) else ("signal", os.WTERMSIG(status))
                self.end = (*ended, usage.ru_maxrss)
                self.ended = time.monotonic()

    def end_what_is_left(self):
        late = time.monotonic() - self.ended
        for child in children() if late > PATIENCE[0] else ():
            try:
                os.kill(child, signal.SIGKILL if late > PATIENCE[1] else signal.SIGTERM)
            except ProcessLookupError:
                continue
            self.left.add(child)

    def last(self):
        return [fd for fd, kind in self.kinds.items() if kind in b"oe"]

    def live(self):
        while True:
            self.pump([fd for fd, _ in self.poll.poll(20 if self.end else None)])
            if self.reap():
                if self.end:
                    self.end_what_is_left()
            elif self.end:
                break
        while self.pump(self.last()):
            pass
        self.pump([fd for fd, kind in self.kinds.items() if kind == b"t"])
        word, number, rss = self.end
        if self.done and (word, number) != ("status", 0):  # the program was right, and MPI_Finalize was not
            word, number = "status", 0
        event(f'{{"{word}":{number},"rss":{rss},"left":{len(self.left)}}}')
        if (word, number) == ("status", 0):
            if self.pmi is not None and not self.finalized:
                leave_pmi(self.hydra)
            os._exit(0)
        time.sleep(HOLD)  # the launcher ends the run meanwhile
        os._exit(number if word == "status" else 128 + number)


rank = Rank(sys.argv[1:])
if rank.pid:
    rank.live()
