"""A real portal, started as a person starts it, in a throw-away data folder; and a hand inside it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests import migrated

ROOT = Path(__file__).resolve().parent.parent


def until(condition, *, seconds=30, what="it"):
    """Wait for something that other processes do. Returns what the condition returned."""
    end = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < end, f"{what} did not come true within {seconds} s"
        time.sleep(0.05)


def free_port():
    """Below those that the kernel gives away itself, so that it is still free when somebody binds it."""
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randrange(10_000, 32_768)))  # noqa: S311
            return probe.getsockname()[1]
    raise AssertionError("no port is free")


def end_with_us():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a test run that is killed leaves no portal behind


class RunningPortal:
    def __init__(self, folder: Path, *, collected: bool = False, **env: str):
        self.folder = folder
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir(parents=True, exist_ok=True)
        self.var = folder / "var"
        self.port = free_port()
        self.patience = 180 if collected else 60
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PORTAL_", "DJANGO_", "PYTEST_"))},
            "PORTAL_VAR": str(self.var),
            "PORTAL_URL": self.url,
            "PORTAL_FAILPOINTS": str(self.failpoints),
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            **({} if collected else {"PORTAL_STATIC_COLLECTED": "0"}),  # which takes seconds, and few tests ask for
            **env,
        }
        self.process = None
        self.driver = None

    def start(self):
        if not self.var.exists() and "DATABASE_URL" not in self.env:
            self.var.mkdir(mode=0o700)
            migrated.copy(self.var / "portal.sqlite3")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up", "--port", str(self.port)],
                cwd=ROOT,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=end_with_us,
            )
        self.said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        try:
            self._wait_for("Ready: ")
        except AssertionError:
            self.stop()
            raise
        return self

    def _read(self, stdout):
        with stdout:
            for line in stdout:
                self.said.put(line)

    def _wait_for(self, words):
        end = time.monotonic() + self.patience
        while True:
            try:
                line = self.said.get(timeout=0.2)
            except queue.Empty:
                assert self.process.poll() is None, f"the portal ended: {self.log()[-3000:]}"
                assert time.monotonic() < end, f"the portal did not say {words!r}: {self.log()[-3000:]}"
                continue
            if words in line:
                return line

    def log(self):
        """What the supervisor and its processes wrote."""
        files = [self.folder / "log", *sorted((self.var / "log").glob("*.log"))]
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')[-4000:]}" for file in files if file.exists()
        )

    def stop(self):
        if self.driver:
            with self.driver.stdin, self.driver.stdout:
                self.driver.stdin.close()
                self.driver.wait(60)
            self.driver = None
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def kill(self):
        """-9 to the supervisor itself."""
        self.process.kill()
        self.process.wait()

    def pids(self, word):
        """Of the supervisor's children whose command has this word: web, watch, worker, valkey."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if parent == self.process.pid and any(w == word or w.endswith(f"/{word}") or word in w for w in words):
                    found.append(int(entry.name))
        return found

    def kill_part(self, word):
        pids = until(lambda: self.pids(word), what=f"a {word} process")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def arm(self, name):
        """The next process that passes this failpoint dies there of SIGKILL."""
        (self.failpoints / name).touch()

    def fired(self, name):
        return not (self.failpoints / name).exists()

    def call(self, function, **arguments):
        """Run a function of tests/driver.py inside the portal's code, against its database."""
        if self.driver is None or self.driver.poll() is not None:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "tests.driver"],
                cwd=ROOT,
                env={"PORTAL_STATIC_COLLECTED": "1", **self.env, "PORTAL_FAILPOINTS": ""},  # as the portal has it
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self.driver.stdin.write(json.dumps([function, arguments]) + "\n")
        self.driver.stdin.flush()
        answer = json.loads(self.driver.stdout.readline())
        assert "error" not in answer, f"{answer['error']}\n{self.log()[-2000:]}"
        return answer["result"]
