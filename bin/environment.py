"""Make the virtual environment, or bring it up to date. Called by `bin/python`; only the standard library is here.

The stamp is taken away before anything is changed and written when all is done, so an environment with a stamp is
whole; one without is made anew.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PINS = {"run": HERE / "constraints.txt", "test": HERE / "constraints-test.txt"}
# What pip calls it: what uv calls it, and what stands between several values.
PIP_TO_UV = {
    "index-url": ("UV_DEFAULT_INDEX", ""),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", ""),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", ""),
    "proxy": ("ALL_PROXY", ""),
}


def main(venv: Path, packages: str) -> None:
    """Leave a whole environment with these packages at `venv`, or exit with a sentence that says why not."""
    stamp = venv / "coxswain.json"
    wanted = fingerprints(venv)
    if is_ready(stamp, wanted, packages):
        return
    with only_one(venv.with_name(venv.name + ".lock")):
        if is_ready(stamp, wanted, packages):
            return
        began = time.monotonic()
        have = read(stamp)
        if have.get("base") != wanted["base"]:
            make(venv)
            have = {"base": wanted["base"]}
        stamp.unlink(missing_ok=True)
        say("Installing " + ("what the tests and linters need" if packages == "test" else "what the portal needs"))
        install(venv / "bin" / "python", PINS[packages])
        have[packages] = wanted[packages]
        if packages == "test":
            have["run"] = wanted["run"]
        elif have.get("test") != wanted["test"]:
            have.pop("test", None)
        write(stamp, have)
        say(f"The environment is ready after {time.monotonic() - began:.0f} s")


def fingerprints(venv: Path) -> dict[str, str]:
    """What the environment's stamp says when all is as it should be."""
    version = ".".join(map(str, sys.version_info[:3]))
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = {"base": f"Python {version}, {base}, {venv}"}
    for packages, pins in PINS.items():
        found[packages] = hashlib.sha256(pins.read_bytes()).hexdigest()
    return found


def is_ready(stamp: Path, wanted: dict[str, str], packages: str) -> bool:
    have = read(stamp)
    return have.get("base") == wanted["base"] and have.get(packages) == wanted[packages]


def read(stamp: Path) -> dict[str, str]:
    try:
        found = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(stamp: Path, content: dict[str, str]) -> None:
    fresh = stamp.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1))
    fresh.replace(stamp)


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold the lock; a second call waits here until the first one has made the environment."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        sys.exit(
            f"The environment can not be made in {lock.parent}: {error.strerror}. PORTAL_VENV may name another folder."
        )
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another call is making the environment; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make(venv: Path) -> None:
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            sys.exit(f"{venv} is there, and is not a virtual environment. Move it away, or set PORTAL_VENV.")
        shutil.rmtree(venv)
    base = getattr(sys, "_base_executable", sys.executable)
    say(f"Making {venv} with Python {sys.version.split()[0]} ({base})")
    made = subprocess.run([base, "-m", "venv", venv], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(
            f"{made.stdout}{made.stderr}\n{base} can not make virtual environments. On Debian and Ubuntu, install"
            f" {name}-venv; or name another interpreter: PORTAL_PYTHON=/path/to/python3"
        )


def install(python: Path, pins: Path) -> None:
    """Install exactly these versions: with uv, which takes seconds, or else with pip, which takes a minute."""
    uv = python.with_name("uv")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    pinned = re.search(r"^uv==\S+", PINS["run"].read_text(), re.MULTILINE)
    assert pinned
    quiet = {"capture_output": True, "text": True}
    if subprocess.run([*pip, "install", "--quiet", "--only-binary=:all:", pinned[0]], **quiet).returncode == 0:
        environment = {**as_uv_reads_it(pip), **os.environ, "UV_PYTHON_DOWNLOADS": "never"}
        command = [str(uv), "pip", "install", "--quiet", "--python", str(python), "--requirements", str(pins)]
        if not cache_is_writable():
            command.append("--no-cache")
        tried = subprocess.run(command, cwd=HERE, env=environment, **quiet)
        if tried.returncode == 0:
            return
        say(f"uv could not do it, trying pip:\n{tried.stderr.strip()}")
    else:
        say("uv is not to be had here; installing with pip, which takes a minute or two")
    if subprocess.run([*pip, "install", "--quiet", "--requirement", str(pins)]).returncode:
        sys.exit("The packages could not be installed; the lines above say why. Calling again starts afresh.")


def as_uv_reads_it(pip: list[str]) -> dict[str, str]:
    """What pip's configuration says about indexes and certificates, in uv's words: uv does not read it."""
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout
    settings: dict[str, str] = {}
    order = ("global", "install", ":env:")
    lines = [line.partition("=") for line in listed.splitlines()]
    for level in order:
        for name, _, value in lines:
            section, _, option = name.rpartition(".")
            if section == level and option in PIP_TO_UV:
                settings[option] = str(ast.literal_eval(value))
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip looks: the pinned version in every index
    for option, value in settings.items():
        variable, between = PIP_TO_UV[option]
        words = value.split()
        if option in ("extra-index-url", "find-links"):
            words = [word for word in words if not is_a_missing_folder(word)]
        if words:
            found[variable] = between.join(words) if between else value
    return found


def is_a_missing_folder(place: str) -> bool:
    """Whether this is a folder that is not there: pip passes over it, uv stops."""
    path = place.removeprefix("file://")
    return "://" not in path and not Path(path).expanduser().exists()


def cache_is_writable() -> bool:
    place = Path(os.environ.get("UV_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    while not place.exists():
        place = place.parent
    return os.access(place, os.W_OK)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
