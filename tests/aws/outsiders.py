"""Programs of others that stand in for AWS, or before it, each in an environment of its own, which is kept."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.aws.box import end_with_us, plain_environment
from tests.running import ROOT, free_port, until

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "coxswain"


class NotToBeHad(Exception):
    """Why there is no such environment, as a sentence."""


def environment(name: str) -> Path:
    """The folder with the programs of NAME-constraints.txt; the first call installs them. Raises `NotToBeHad`."""
    pins = HERE / f"{name}-constraints.txt"
    made_of = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    venv = CACHE / f"{name}-{made_of}"
    whole = venv / "whole"
    if whole.exists():
        return venv / "bin"
    specification = importlib.util.spec_from_file_location("environment", ROOT / "bin/environment.py")
    assert specification
    assert specification.loader
    ours: Any = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(ours)
    try:
        with ours.only_one(CACHE / f"{name}.lock"):
            if not whole.exists():
                ours.make(venv)
                ours.install(venv / "bin/python", pins)
                whole.touch()
    except SystemExit as end:
        raise NotToBeHad(f"{name} is not to be had: {end}") from end
    return venv / "bin"


@contextlib.contextmanager
def running(name: str, *words: str, folder: Path, ready: str, **env: str) -> Iterator[None]:
    """The program, until the block is left. `ready`: an address that answers once it is up."""
    program = environment(name) / name
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *words], env=plain_environment(**env), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=folder, preexec_fn=end_with_us,
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, (folder / f"{name}.log").read_text()
        try:
            with urllib.request.urlopen(ready, timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    try:
        until(answers, seconds=60, what=name)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ministack(folder: Path) -> Iterator[str]:
    """The address of an AWS that judges policies. Its owner is `test` with the secret `test`."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    env = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "AUTH": "true", "HOME": str(folder)}
    with running("ministack", folder=folder, ready=f"{address}/_ministack/health", **env):
        yield address


class Faults:
    """What goes wrong on the way to an emulator, by rules. `endpoint` is where the portal asks."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.endpoint}/_microburst/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")


@contextlib.contextmanager
def microburst(folder: Path, emulator: str) -> Iterator[Faults]:
    """In front of an emulator: passes everything on, until it is told otherwise."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = ("--upstream", emulator, "--port", str(port), "--host", "127.0.0.1")
    with running("microburst", *words, folder=folder, ready=f"{address}/_microburst/health"):
        yield Faults(address)
