"""Whether a job's repository, reference and file can be reached, before it is asked for: for the button Check.

By the program with which nodes fetch a source, in a process of its own, with a bound of time.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from jobs.actions import Credential
from jobs.repositories import where_it_is_now
from portal.secrets import redact
from workspaces.models import CloudConfig

_PROGRAM = Path(__file__).parent / "onnode" / "look.py"
SECONDS = 20  # for all of it
_few = threading.BoundedSemaphore(3)  # of this process: each takes a thread, the network and some of the disk


@dataclass(frozen=True)
class Found:
    """A sentence, what shows it, and the next step. Where it is `good`, a run would find its program."""

    good: bool
    message: str
    evidence: str = ""
    advice: str = ""


def look(config: CloudConfig, git_url: str, reference: str, command: str, credential: Credential | None) -> Found:
    """All four have been found valid. Takes no longer than `SECONDS`, and a little."""
    if not _few.acquire(blocking=False):
        return Found(False, "Others have the portal look at their repositories just now.", advice="Try again.")
    try:
        return _look(config, git_url, reference, file_of(command), credential)
    finally:
        _few.release()


def file_of(command: str) -> str:
    """The Python file that it names; empty where it names a module, or none."""
    words = shlex.split(command)
    first = words[0] if words else ""
    return "" if first.startswith("-") else first


def _look(config: CloudConfig, git_url: str, reference: str, file: str, credential: Credential | None) -> Found:
    with tempfile.TemporaryDirectory(prefix="coxswain-look-") as place:
        order = {
            "git_url": where_it_is_now(git_url),
            "reference": reference,
            "file": file,
            "place": place,
            "shared": place,
            "scratch": place,
            "private": config.kind == CloudConfig.Kind.LOCAL,  # its nodes are where the portal is
            "credential": {"username": credential.username, "password": credential.password} if credential else None,
            "allow_this_machine": settings.GIT_FROM_THIS_MACHINE,
            "git_seconds": SECONDS,
            "git_silence_seconds": SECONDS // 2,
            "environment": {"COXSWAIN_RUN": "check"},
        }
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(_PROGRAM)],
                input=json.dumps(order).encode(),
                capture_output=True,
                timeout=SECONDS + 5,
                check=True,
                cwd=place,
            )
            said = json.loads(done.stdout)
        except (subprocess.SubprocessError, ValueError) as error:
            evidence = getattr(error, "stderr", None) or b""
            return Found(
                False, "It took too long, or could not be looked for.", evidence.decode(errors="replace")[-800:]
            )
    if "message" in said:
        return Found(False, said["message"], redact(said["evidence"]), said["advice"])
    at = f"{reference or 'The main branch'} is {said['commit'][:10]}, “{said['subject']}”."
    if not said["has"]:
        return Found(False, f"The repository has no file {file}.", at, "Check the command, and the reference.")
    return Found(True, f"{at} {f'It has {file}.' if file else ''}".strip())
