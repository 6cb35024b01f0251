"""Other programs that the set-up of a run calls: their lines as they come, and an end for those that hang."""

import contextlib
import os
import pathlib
import selectors
import signal
import subprocess
import time

MOST_OUTPUT = 256 * 1024 * 1024  # bytes of standard output; what writes more is ended
LAST = 16 * 1024  # characters of what a program said that are remembered


class SetupFailed(Exception):
    """The run cannot be set up: a sentence, what shows it, what may be done, and a code that `jobs/causes.py` knows."""

    def __init__(self, message, evidence="", advice="", code="setup"):
        super().__init__(message)
        evidence = evidence[-1500:].replace("\0", "\N{REPLACEMENT CHARACTER}")  # which databases do not take
        self.facts = {"message": message, "evidence": evidence, "advice": advice, "code": code}


class ProgramFailed(Exception):
    """It ended with another status than 0. `said` is the end of what it said."""

    def __init__(self, said):
        super().__init__(said)
        self.said = said


class TookTooLong(Exception):
    """It was ended. `said` is the end of what it said."""

    def __init__(self, said):
        super().__init__(said)
        self.said = said


def run(argv, *, until, **how):
    """(standard output, what it said); raises `ProgramFailed` or, at `until` of the monotonic clock, `TookTooLong`."""
    with begun(argv, **how) as wait:
        return wait(until)


@contextlib.contextmanager
def begun(argv, *, env, cwd, tell=None, merged=False, holds=()):
    """It goes on: what is given waits for its end until then, as `run` does. At the end of this it is ended.

    What it says is its standard error, or with `merged` both, and `tell(line)` is called with each line of that as it
    comes, while it is waited for. A carriage return ends a line too. `holds` are descriptors that it has as well.
    """
    output, lines = bytearray(), _Lines(tell)
    process = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        pass_fds=holds,
    )

    def wait(until):
        while selector.get_map():
            for key, _ in selector.select(max(0, until - time.monotonic())):
                data = os.read(key.fd, 65536)
                key.data(data)
                if not data:
                    selector.unregister(key.fileobj)
            if len(output) > MOST_OUTPUT:
                raise ProgramFailed(f"{argv[0]} printed more than {MOST_OUTPUT >> 20} MiB, and was ended.")
            if time.monotonic() > until:
                raise TookTooLong(lines.said())
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise TookTooLong(lines.said()) from error
        if process.returncode:
            printed = "" if merged else output[-LAST:].decode(errors="replace")
            raise ProgramFailed(f"{lines.said()}\n{printed}".strip())
        return bytes(output), lines.said()

    with process, selectors.DefaultSelector() as selector:
        try:
            selector.register(process.stdout, selectors.EVENT_READ, lines if merged else output.extend)
            if process.stderr:
                selector.register(process.stderr, selectors.EVENT_READ, lines)
            yield wait
        finally:
            if process.poll() is None:
                _end(process.pid)


class _Lines:
    """Makes lines of bytes, and knows the last ones. No bytes are the end of them."""

    def __init__(self, tell):
        self.tell = tell
        self.rest = b""
        self.last = ""

    def __call__(self, data):
        *pieces, self.rest = (self.rest + data).replace(b"\r", b"\n").split(b"\n")
        if not data or len(self.rest) > LAST:
            pieces.append(self.rest)
            self.rest = b""
        for piece in pieces:
            if line := piece.decode(errors="replace").rstrip():
                self.last = f"{self.last}{line}\n"[-LAST:]
                if self.tell:
                    self.tell(line)

    def said(self):
        return self.last.strip()


class Progress:
    """Says a line a second of those that a program writes, and none of what takes less."""

    def __init__(self, say):
        self.say = say
        self.told = time.monotonic()

    def __call__(self, line):
        if time.monotonic() - self.told >= 1:
            self.say(line)
            self.told = time.monotonic()


def _end(pid):
    """End it and all that descend from it: they are in our group, where what cancels the run reaches them too."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_bytes().rsplit(b")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, ())
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
