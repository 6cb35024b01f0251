"""On the head node: runs a command on all ranks, and decides how the run ended.

    main([FOLDER, ORDER])      ORDER in JSON: {"size", "hostfile", "engine", "source", "command": [...], "facts": {...},
                                        "hidden": [names of variables whose values nobody is to see],
                                        "notebook": whether papermill leaves one}

`source` is the ranks' working directory. Parent of `mpiexec`, whose exit status says little: each rank stands under
`rank.py`, which tells how it really ended. All that they print and tell comes through Hydra into a FIFO for each rank,
and from here into FOLDER/log.

Between `start` and `launch` may be time: `job.py` has mpiexec and all `rank.py` come up while it fetches the source,
and there they wait. They are let go when each of them has said that it waits.

- All ranks end with 0: the run is good, whatever mpiexec makes of it.
- One fails: the others have GRACE seconds to end by themselves, so that their last words are kept; then mpiexec is
  killed, its proxies see that and end what they have, and we wait until every node is clear.
- mpiexec ends without a word of why: the nodes are asked, and those that do not answer are named.

Writes FOLDER/verdict.json (`Launcher.verdict`) and exits with 0, or with what the first failing rank had.
"""

import collections
import contextlib
import errno
import json
import os
import pathlib
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import boot
import hiding
import notebook
import telling
from prctl import prctl

FRAME = struct.Struct(">cIQ")  # of rank.py
MOST = 1 << 20  # bytes of one frame; a rank may write into the pipe of its own wrapper
GRACE = 2.0  # seconds that the others have, once one has failed
TOGETHER = 0.25  # seconds within which failures are taken for one: what follows from it may be heard of first
LINGER, FINALIZE = 1.0, 10.0  # seconds that mpiexec has once all have ended; or are in MPI_Finalize, the last of them
CLEAR = 6.0  # seconds within which all nodes are clear, or it is said that one is not
TERMINATED = 4.0  # seconds between a TERM to us and the end of mpiexec; who asked has a little more patience
MOST_ERROR = 500  # characters of an error that `runner.py` tells
WORDS = 4096  # bytes of what a rank said last that are kept for the verdict
MOST_FAILURES = 64
LOOK = 0.1  # seconds between looks at what programs that others spawned have printed, and at facts
# Without the place of the source, where a file may have the name of what the wrapper imports. The wrapper returns in
# its child alone, where that goes on as the rank.
WRAPPER = (
    "import marshal,os,sys;sys.path[0] or sys.path.pop(0);"
    "exec(marshal.loads(bytes.fromhex(os.environ['COXSWAIN_WRAPPER'])),{'__name__':'__main__'});"
    "exec(marshal.loads(bytes.fromhex(os.environ.pop('COXSWAIN_RUNNER'))))"
)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# What MPI says in a rank whose peer went away: it follows from another's failure, and explains nothing.
FOLLOWS = re.compile(
    rb"UCX +(ERROR|WARN)|Connection reset|Other MPI error|Fatal error in internal_|MPIDI_|assert \(!closed\)"
)

# What Hydra says in the place of a spawned program that is not there; who spawned it waits for ever.
NOT_STARTED = re.compile(rb"\[proxy:[^\n]*HYDU_create_process[^\n]*execvp error on file ([^\n]+) \(([^\n]+)\)\n")

# Programs that MPI_Comm_spawn starts have no wrapper: Hydra starts them as they are, in the environment of mpiexec,
# which unlike that of ranks leads to this. One in Python puts itself under it. Then the sitecustomize that would have
# been found without this one has its turn.
HOOK = """\
import os, sys
fresh = "PMI_FD" in os.environ and "COXSWAIN_RANK" not in os.environ and "COXSWAIN_WRAPPER" in os.environ
if fresh and hasattr(sys, "orig_argv"):  # Python 3.10 and newer
    os.execv(sys.executable, [sys.executable, "-ISc", os.environ["COXSWAIN_WRAP"], sys.executable, *sys.orig_argv[1:]])
def _next():
    import _frozen_importlib, _frozen_importlib_external  # importlib itself takes as long to load as all else
    here = os.path.dirname(os.path.abspath(__file__))
    others = [place for place in sys.path if os.path.abspath(place or ".") != here]
    spec = _frozen_importlib_external.PathFinder.find_spec("sitecustomize", others)
    if spec and spec.loader:
        module = _frozen_importlib.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)
_next()
"""


def place_of_our_own():
    """A folder of this node. Those of launchers that were killed go: one at a time is on a node."""
    for parent in filter(None, (os.environ.get("TMPDIR"), "/tmp", "/var/tmp")):  # noqa: S108
        with contextlib.suppress(OSError):
            for left in pathlib.Path(parent).glob("ranks-*"):
                shutil.rmtree(left, ignore_errors=True)
            return pathlib.Path(tempfile.mkdtemp(prefix="ranks-", dir=parent))
    raise FileNotFoundError(errno.ENOENT, "no folder for what is temporary")


# As what a variable of the environment can hold, and is read without loading anything.
RANK, RUNNER = (boot.brought.code(module).hex() for module in ("rank", "runner"))


class Hosts:
    """Which rank is where: Hydra fills `HOST:CORES` lines in their order, and begins anew when there are more ranks."""

    def __init__(self, text):
        lines = [line.split("#")[0].strip() for line in text.splitlines()]
        pairs = [line.partition(":") for line in lines if line]
        self.names = [name for name, _, _ in pairs]
        self.slots = [name for name, _, cores in pairs for _ in range(int(cores or 1))]

    def of(self, rank):
        return self.slots[rank % len(self.slots)]


class Channel:
    """What comes from one rank: frames, or of spawned programs that nobody wrapped, bytes of one kind."""

    def __init__(self, world, rank, kind=b""):
        self.world, self.rank, self.kind = world, rank, kind
        self.rest = b""
        self.broken = False

    def frames(self, data):
        """(kind, payload, time) of each. What is none ends them: from then on it is taken for the rank's output."""
        if self.kind or self.broken:
            return [(self.kind or b"o", data, time.time_ns())]
        data, at, found = self.rest + data, 0, []
        while len(data) - at >= FRAME.size:
            kind, size, when = FRAME.unpack_from(data, at)
            if kind not in b"oenx" or size > MOST:
                self.broken = True
                found.append((b"o", data[at:], time.time_ns()))
                at = len(data)
                break
            if at + FRAME.size + size > len(data):
                break
            at += FRAME.size
            found.append((kind, data[at : at + size], when))
            at += size
        self.rest = data[at:]
        return found


class Launcher:
    def __init__(self, folder, order, environment=os.environ):
        """`environment` has the values of the variables that `order` calls hidden."""
        self.folder = folder
        self.hider = hiding.Hider([environment[name] for name in order.get("hidden", ()) if name in environment])
        self.size = order["size"]
        self.command = order["command"]
        self.notebook = order.get("notebook")
        self.engine = pathlib.Path(order["engine"])
        self.facts = {}
        self.mpiexec = None
        self.hosts = Hosts(pathlib.Path(order["hostfile"]).read_text())
        self.place = place_of_our_own()  # of this node: FIFOs, and what is spawned prints
        self.log = telling.Log(folder)
        self.poll = select.epoll()
        self.channels = {}  # by descriptor
        self.names = set()  # of files in `place` that are read
        self.nodes = {}  # (world, rank): node, of those that have started
        self.ends = {}  # (world, rank): how, of those whose program has ended
        self.over = set()  # of world 0: those that have ended as processes too
        self.ended = collections.deque(maxlen=5)  # [rank, time] of the last ones that ended while others went on
        self.words = {}  # (world, rank): the end of its stderr
        self.said = {}  # (world, rank): the end of its stdout
        self.failures = []
        self.failed = set()  # (world, rank) of all that failed, and not by our ending them
        self.left = 0
        self.deadline = None  # when mpiexec is killed
        self.ready = None  # those of the ranks that wait to be let go; None: they do not wait
        self.killed = False
        self.cancelled = False
        self.looked = 0.0
        self.told = 0

    # Starting

    def start(self, env, source, *, waits=False):
        """In this environment. With `waits` the wrappers come up, and nothing else before `launch`."""
        if waits:
            self.ready = set()
            source.mkdir()  # Hydra takes its place for that of programs that others spawn, too
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for rank in range(self.size):
            os.mkfifo(self.place / f"o.0.{rank}", 0o600)
            self.add(f"o.0.{rank}")
        python = str(self.engine / "bin" / "python")
        is_python = self.is_python(env)
        hook = self.folder / "hook"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text(HOOK)
        places = [str(hook), str(self.folder / "packages") if waits else "", env.get("PYTHONPATH", "")]
        env = {
            **env,
            "COXSWAIN_WRAP": WRAPPER,
            "COXSWAIN_WRAPPER": RANK,
            "COXSWAIN_RUNNER": RUNNER,
            **({"COXSWAIN_ALONE": "1"} if self.notebook else {}),
            "PYTHONPATH": ":".join(filter(None, places)),
        }
        argv = [
            str(self.engine / "bin" / "mpiexec"),
            *("-n", str(self.size), "-f", str(self.place / "hosts")),
            *("-outfile-pattern", f"{self.place}/o.%g.%r", "-errfile-pattern", f"{self.place}/e.%g.%r"),
            *(("-env", "PYTHONPATH", "", python, "-c") if is_python else (python, "-ISc")),
            *(WRAPPER, *(("--wait", str(source)) if waits else ()), *self.command),
        ]
        (self.place / "hosts").write_text("".join(f"{line}\n" for line in self.lines()))
        self.hydra = (self.place / "hydra").open("ab")
        self.mpiexec = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self.hydra,
            stderr=self.hydra,
            env=env,
            cwd=source,
            start_new_session=True,  # signals of our group are for us; we tell it
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )

    def is_python(self, env):
        """Whether the Python of a wrapper that is not isolated can be the rank's: then one is started in place of two.

        It is started before the source is there, and so only where neither options nor variables say what it is to be.
        """
        program, *words = self.command
        is_plain = words and (words[0] in ("-m", "-c") or not words[0].startswith("-"))
        same = program == str(self.engine / "bin" / "python")
        return bool(same and is_plain and not any(name.startswith("PYTHON") for name in env))

    def is_waiting(self):
        """Whether mpiexec is there. What ended it is none of the run's business: `abandon` it, and start anew."""
        return self.mpiexec is not None and self.mpiexec.poll() is None

    def abandon(self):
        """Nothing of it stays. Its ranks have run nothing yet."""
        if self.mpiexec:
            self.mpiexec.kill()  # and its proxies end what they have
            self.mpiexec.wait()
        for fd in self.channels:
            os.close(fd)
        shutil.rmtree(self.place, ignore_errors=True)

    def listen(self):
        # Its ssh clients become our children when it dies: they last as long as their nodes' processes.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.wake, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.terminate)
        self.poll.register(self.wake, select.EPOLLIN)

    def lines(self):
        """The hostfile, read once: which rank is where must not change under us."""
        counts = collections.Counter(self.hosts.slots)
        return [f"{name}:{counts[name]}" for name in dict.fromkeys(self.hosts.names)]

    def add(self, name):
        self.names.add(name)
        kind, world, rank = name.split(".")
        fd = os.open(self.place / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if world == "0" and kind == "o":
            self.poll.register(fd, select.EPOLLIN)
            kind = ""
        elif kind == "o" and b'{"start"' in os.pread(fd, FRAME.size + 8, 0):
            kind = ""  # a spawned program that put itself under the wrapper
        self.channels[fd] = Channel(int(world), int(rank), kind.encode())

    # Listening

    def read(self, fd):
        """Take in what has come. Whether something has."""
        try:
            data = os.read(fd, 1 << 20)
        except BlockingIOError:
            return False
        channel = self.channels[fd]
        key = channel.world, channel.rank
        for kind, payload, when in channel.frames(data) if data else ():
            if kind == b"x":
                self.event(key, payload, when)
                continue
            payload = self.hider.hide((fd, kind), payload)
            if not payload:
                continue
            self.log.write(kind, payload, world=channel.world, rank=channel.rank, at=when)
            if channel.kind and key not in self.words and (missing := NOT_STARTED.match(payload)):
                error = b": ".join(missing.groups()).decode(errors="replace")
                self.words[key] = f"{error}\n".encode()
                self.fail(key, when, status=127, error=error)
            elif kind in b"en":
                self.words[key] = (self.words.get(key, b"") + payload)[-WORDS:]
            else:
                self.said[key] = (self.said.get(key, b"") + payload[-WORDS:])[-WORDS:]
        if channel.broken and not channel.kind and key not in self.ends:
            self.ends[key] = {"broken": True}
            self.over.add(key[1])
            self.fail(key, time.time_ns(), broken=True)
        return bool(data)

    def event(self, key, payload, when):
        try:
            facts = json.loads(payload)
            known = isinstance(facts, dict)
            known = known and isinstance(facts.get("left", 0), int) and isinstance(facts.get("error", ""), str)
        except (ValueError, RecursionError):
            known = False
        if not known:
            return self.fail(key, when, broken=True)
        if "waits" in facts:
            return self.let_go(key)
        if "start" in facts:
            self.nodes[key] = self.hosts.of(key[1]) if key[0] == 0 else str(facts.get("node"))[:80]
            return None
        if "aborts" in facts or any(facts.get(word) for word in ("fails", "status", "signal")):
            known = {name: facts[name] for name in ("aborts", "status", "signal", "rss", "error") if name in facts}
            if "error" in known:
                known["error"] = self.hider.text(known["error"], most=MOST_ERROR)
            self.fail(key, when, **({"status": facts["fails"]} if "fails" in facts else {}), **known)
        if "fails" not in facts and "aborts" not in facts:
            self.left += facts.get("left", 0)
            if key[0] == 0:
                if key not in self.ends:
                    self.ended.append([key[1], when / 1e9])
                self.ends[key] = facts
                if "done" not in facts:
                    self.over.add(key[1])
        if len([k for k in self.ends if k[0] == 0]) == self.size:
            wait = FINALIZE if len(self.over) < self.size else LINGER if not self.failures else 0
            self.end_within(wait)
        return None

    def let_go(self, key):
        """The ranks, when all of them wait: a signal to one that is not there yet would end it."""
        if self.ready is not None and key not in self.ready:
            self.ready.add(key)
            if len(self.ready) == self.size:
                self.mpiexec.send_signal(signal.SIGUSR1)  # Hydra passes it on to all, on all nodes

    def fail(self, key, when, **how):
        """Remember a failure, once for each rank: what it said before it ended counts more than its end."""
        known = next((f for f in self.failures if (f["world"], f["rank"]) == key), None)
        if known:
            for name, value in how.items():
                known.setdefault(name, value)
            return
        ours = self.killed or self.cancelled  # then ranks end because we end them
        if not ours:
            self.failed.add(key)
        if len(self.failures) >= MOST_FAILURES:
            return
        node = self.nodes.get(key) or (self.hosts.of(key[1]) if key[0] == 0 else "")
        self.failures.append({"world": key[0], "rank": key[1], "node": node, "at": when, "ours": ours, **how})
        self.end_within(GRACE)

    def end_within(self, seconds):
        until = time.monotonic() + seconds
        self.deadline = until if self.deadline is None else min(self.deadline, until)

    def terminate(self, *_):
        """A handler of TERM: ranks get it too, and have a while to save what they have."""
        if not self.cancelled:
            self.cancelled = True
            self.mpiexec.terminate()
            self.end_within(TERMINATED)

    def look(self):
        """What comes without a wake-up: programs that were spawned, and facts that are due."""
        now = time.monotonic()
        if now - self.looked > LOOK or self.mpiexec.returncode is not None:
            self.looked = now
            for name in set(os.listdir(self.place)) - self.names - {"hydra", "hosts"}:
                self.add(name)
            self.know_who_ended(now)
        for fd in [fd for fd, channel in self.channels.items() if channel.world or channel.kind]:
            while self.read(fd):
                pass

    def know_who_ended(self, now):
        """While some ranks have ended and others go on, that is said: they may wait for those, and for ever."""
        if len(self.ends) != self.told and now - self.began > 1 and len(self.ends) < self.size:
            self.told = len(self.ends)
            self.facts["ended"] = {"count": self.told, "of": self.size, "last": list(self.ended)}
            telling.know(self.folder, self.facts)

    def launch(self, source, facts):
        """From here to the end of the run. Never returns."""
        os.chdir(source)
        self.facts = facts
        self.began = time.monotonic()
        try:
            if self.mpiexec is None:
                self.start(os.environ, source)
            self.listen()
            verdict = self.run()
            if self.notebook:
                notebook.publish(self.folder, self.hider)
            draft = self.folder / "verdict.new"
            draft.write_text(json.dumps(verdict))
            draft.replace(self.folder / "verdict.json")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            sys.exit(os.EX_IOERR)  # as jobs/causes.py knows it; mpiexec ends with us, and its proxies with it
        finally:
            shutil.rmtree(self.place, ignore_errors=True)
        first = (verdict["failures"] or [{"signal": signal.SIGTERM} if verdict["cancelled"] else {}])[0]
        how = first.get("status") or first.get("aborts", 0) & 255 or (128 + first["signal"] if "signal" in first else 1)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        os._exit(0 if verdict["good"] else how)

    def run(self):
        while self.mpiexec.poll() is None:
            wait = LOOK if len(self.names) > self.size or self.told != len(self.ends) else 0.5
            if self.deadline:
                wait = max(0.0, min(wait, self.deadline - time.monotonic()))
            for fd, _ in self.poll.poll(wait):
                if fd == self.wake:
                    os.read(fd, 4096)
                else:
                    self.read(fd)
            self.look()
            self.log.flush()
            if self.deadline and time.monotonic() >= self.deadline and not self.killed:
                self.killed = True
                self.mpiexec.kill()  # the proxies see its socket close, and end what they have
        clear = self.wait_until_clear()
        self.look()
        for fd in self.channels:
            while self.read(fd):
                pass
        for (fd, kind), data in self.hider.rest():
            self.log.write(kind, data, world=self.channels[fd].world, rank=self.channels[fd].rank)
        return self.verdict(clear)

    def wait_until_clear(self):
        """Whether all ssh clients, and so all processes on the nodes, have ended."""
        until = time.monotonic() + CLEAR
        while time.monotonic() < until:
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    for fd, _ in self.poll.poll(0.01):
                        if fd != self.wake:
                            self.read(fd)
            except ChildProcessError:
                return True
        return False

    # The verdict

    def verdict(self, clear):
        """How it ended, for people and for the portal.

        "failures": the first one first; each {"world", "rank", "node", "at": ns, "words"} and what is known of
        "status", "signal", "aborts", "error", "rss". "lost": nodes that do not answer. "hydra": its own words.
        """
        failures = self.in_order()
        good = not self.failures and len([key for key in self.ends if key[0] == 0]) == self.size
        hydra = (self.place / "hydra").read_bytes()[-WORDS:].decode(errors="replace").strip()
        hydra = self.hider.text(hydra)
        lost = [] if good or failures or self.cancelled else self.silent_nodes()
        if not good and not failures and not self.cancelled and hydra:
            self.log.say(hydra)
        for failure in failures:
            key = failure["world"], failure["rank"]
            words = self.words.get(key) or self.said.get(key) or b""
            failure["words"] = words.decode(errors="replace").strip()[-1500:]
        self.log.flush()
        return {
            "good": good,
            "size": self.size,
            "started": len([key for key in self.nodes if key[0] == 0]),
            "failures": failures[:16],
            "failed": len(self.failed),
            "lost": lost,
            "clear": clear,
            "left": self.left,
            "cancelled": self.cancelled,
            "mpiexec": self.mpiexec.returncode,
            "hydra": "" if good else hydra[-1500:],
        }

    def in_order(self):
        """Failures, the one that the others follow from first. None of those that our own ending made."""
        found = sorted((f for f in self.failures if not f.pop("ours")), key=lambda f: f["at"])
        if not found:
            return []
        together = [f for f in found if f["at"] - found[0]["at"] <= TOGETHER * 1e9]

        def follows(failure):
            words = self.words.get((failure["world"], failure["rank"]), b"")
            if FOLLOWS.search(words) or FOLLOWS.search(failure.get("error", "").encode(errors="replace")):
                return 2
            return int("signal" in failure)

        return sorted(together, key=follows) + found[len(together) :]

    def silent_nodes(self):
        """Those of the nodes that cannot be reached from here."""
        client = os.environ.get("HYDRA_LAUNCHER_EXEC") or "ssh"
        asked = {
            name: subprocess.Popen(
                [client, "-o", "ConnectTimeout=4", name, "true"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name in dict.fromkeys(self.hosts.names)
        }
        lost = []
        for name, process in asked.items():
            try:
                if process.wait(6):
                    lost.append(name)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                lost.append(name)
        return lost


def main(words, _stream=None):
    order = json.loads(words[1])
    Launcher(pathlib.Path(words[0]), order).launch(order["source"], order["facts"])
