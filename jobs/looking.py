"""Whether a job's repository, reference and file can be reached, before it is asked for: for the button Check.

By the program with which nodes fetch a source, in processes of their own, with bounds of time, memory and disk: what
they fetch may be anybody's, and made to hurt.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.cache import cache

from accounts.models import User
from jobs.actions import Credential
from jobs.repositories import is_example, where_it_is_now
from portal.environment import private_folder
from portal.secrets import redact
from portal.tasks.output import plain_text
from workspaces.models import CloudConfig

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).parent / "onnode" / "look.py"
SECONDS = 20  # for all of it
MOST_BYTES = 256 << 20  # of disk, for all of it
MOST_ANSWER = 1 << 20  # bytes
_LOOK_EVERY = 0.1  # seconds, at the disk
_KEPT = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "HTTPS_PROXY", "https_proxy", "http_proxy",
         "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")  # fmt: skip
_few = threading.BoundedSemaphore(3)  # of this process: each takes a thread, the network and some of the disk


@dataclass(frozen=True)
class Found:
    """A sentence, what shows it, and the next step. Where it is `good`, a run would find its program."""

    good: bool
    message: str
    evidence: str = ""
    advice: str = ""


TOO_MUCH = Found(
    False,
    "The repository takes too much time or room to be looked at from here.",
    advice="A run of the job may fetch it all the same: it has more of both.",
)


def look(
    config: CloudConfig, git_url: str, reference: str, command: str, credential: Credential | None, *, by: User
) -> Found:
    """The middle three have been found valid. Takes no longer than `SECONDS`, and a little; one at a time a person."""
    turn = f"jobs.looking.{by.pk}"
    if not cache.add(turn, True, SECONDS + 10):
        return Found(False, "The portal looks at a repository for you just now.", advice="Try again in some seconds.")
    try:
        if not _few.acquire(blocking=False):
            return Found(False, "Others have the portal look at their repositories just now.", advice="Try again.")
        try:
            return _look(config, git_url, reference, file_of(command), credential)
        finally:
            _few.release()
    finally:
        cache.delete(turn)


def file_of(command: str) -> str:
    """The Python file that it names; empty where it names a module, or none."""
    words = shlex.split(command)
    first = words[0] if words else ""
    return "" if first.startswith("-") else first


def _look(config: CloudConfig, git_url: str, reference: str, file: str, credential: Credential | None) -> Found:
    is_here = config.kind == CloudConfig.Kind.LOCAL  # its nodes are where the portal is
    with _place() as place:
        order = {
            "git_url": where_it_is_now(git_url),
            "reference": reference,
            "file": file,
            "place": place,
            "shared": place,
            "scratch": place,
            "private": is_example(git_url) or (is_here and settings.LOCAL_NODES["neighbours"]),
            "loopback": is_here,
            "portal": urlsplit(settings.PORTAL_URL).hostname,
            "credential": {"username": credential.username, "password": credential.password} if credential else None,
            "allow_this_machine": settings.GIT_FROM_THIS_MACHINE,
            "git_seconds": SECONDS,
            "git_silence_seconds": SECONDS // 2,
            "environment": {"COXSWAIN_RUN": "check"},
        }
        said = _ask(order, Path(place))
    if said is None:
        return TOO_MUCH
    if "message" in said:
        return Found(False, _plain(said["message"]), _plain(redact(said["evidence"])), said["advice"])
    at = f"{reference or 'The main branch'} is {said['commit'][:10]}, “{_plain(said['subject'])}”."
    if said["has"] is None:
        return Found(True, at, advice=f"Whether it has {file} is not known: that is behind a link, or in a submodule.")
    if not said["has"]:
        return Found(False, f"The repository has no file {file}.", at, "Check the command, and the reference.")
    return Found(True, f"{at} {f'It has {file}.' if file else ''}".strip())


@contextmanager
def _place() -> Iterator[str]:
    """A folder that is gone at the end. Those of a portal that was killed meanwhile go with the next one."""
    parent = private_folder(settings.VAR / "looking")
    for left in parent.iterdir():
        with suppress(OSError):  # another one is just taking it away
            if left.stat().st_mtime < time.time() - 600:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as place:
        yield place


def _ask(order: dict[str, Any], place: Path) -> dict[str, Any] | None:
    """What the program says; None where it, and all that it has begun, had to be ended, or failed."""
    answer = place / "answer"
    with answer.open("wb") as out, (place / "trouble").open("wb") as trouble:
        program = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=trouble,
            cwd=place,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},  # no secret of the portal's
            start_new_session=True,
        )
    until = time.monotonic() + SECONDS + 5
    try:
        with suppress(BrokenPipeError):
            program.communicate(json.dumps(order).encode(), timeout=_LOOK_EVERY)
    except subprocess.TimeoutExpired:
        while program.poll() is None and time.monotonic() < until and _size(place) <= MOST_BYTES:
            with suppress(subprocess.TimeoutExpired):
                program.wait(_LOOK_EVERY)
    finally:
        with suppress(ProcessLookupError):  # whatever it has begun is of its group
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    if program.returncode or answer.stat().st_size > MOST_ANSWER:
        logger.warning("a repository was not looked at: %s", (place / "trouble").read_bytes()[-2000:])
        return None
    found: dict[str, Any] = json.loads(answer.read_bytes())
    return found


def _size(place: Path) -> int:
    """Bytes of disk of what is in it now."""
    size = 0
    for folder, _, files in os.walk(place):
        for name in files:
            with suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return size


def _plain(text: str) -> str:
    """Without what a page or a terminal would not show as it is."""
    return "\n".join(plain_text(line.encode(errors="replace")) for line in text.splitlines())
