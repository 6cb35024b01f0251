"""Commands that belong to a node: started once, observed by offset, gone on when the portal dies.

The portal's side of `portal/onnode/detach.py`, which is put on the nodes by the first call. Starting and observing are
what a person waits for: both are done by a process on the node that was started before, and waits for its words.
"""

from __future__ import annotations

import json
import shlex
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from portal import ssh
from portal.clouds.errors import Refused

MISSING = 98  # exit status: a program is not on the node yet


@dataclass(frozen=True)
class Program:
    """A Python program of one file. On nodes its name has its checksum, so that versions live side by side."""

    source: Path

    @cached_property
    def data(self) -> bytes:
        return self.source.read_bytes()

    def path(self, shared: str) -> str:
        return f"{shared}/.coxswain/{self.source.stem}-{sha256(self.data).hexdigest()[:12]}.py"


_DETACH = Program(Path(__file__).parent / "onnode" / "detach.py")


def prepare(host: ssh.Host, shared: str, *programs: Program) -> None:
    """Put our program, and these, where the other calls find them."""
    ssh.check(host, f"mkdir -p -m 700 {shlex.quote(shared)}/.coxswain", what="Making the portal's folder on the node")
    for program in (_DETACH, *programs):
        ssh.put(host, program.path(shared), program.data)


def _command(shared: str, *words: str) -> str:
    # -S: what is installed on the node is none of our business, and finding it takes time.
    return shlex.join(["python3", "-IS", _DETACH.path(shared), *words])


def _waiting(shared: str, *programs: Program) -> str:
    paths = [program.path(shared) for program in programs]
    there = " && ".join(f"test -f {shlex.quote(path)}" for path in (_DETACH.path(shared), *paths))
    return f"{there} || exit {MISSING}; exec {_command(shared, 'wait', *paths)}"


def _words(*words: str) -> bytes:
    return json.dumps(words).encode() + b"\n"


def start(
    host: ssh.Host,
    shared: str,
    folder: str,
    *,
    argv: list[str],
    program: Program | None = None,
    env: dict[str, str],
    files: dict[str, str] | None = None,
    secret: str = "",
) -> None:
    """Start it with these files in its folder, unless it was ever started there. Raises `Passing` or `Refused`.

    With `program`, its `main` is called with `argv`; otherwise `argv` is the command. A `secret` is for a program: its
    `main` is given it too, and it is nowhere but in memory that nobody else may read.
    """
    programs = [program] if program else []
    order: dict[str, Any] = {"argv": argv, "env": env, "files": files or {}}
    if program:
        order["program"] = program.path(shared)
    if secret:
        order["secret"] = secret
    command, words = _waiting(shared, *programs), _words("start", folder) + json.dumps(order).encode()
    answer = ssh.run(host, command, input=words, ahead=True)
    if answer.status == MISSING:
        prepare(host, shared, *programs)
        answer = ssh.run(host, command, input=words, ahead=True)
    if answer.status:
        raise Refused("The command did not start on its node.", evidence=answer.said)


def observe(
    connections: ssh.Connections, host: ssh.Host, shared: str, folder: str, offsets: dict[str, int]
) -> AbstractAsyncContextManager[ssh.Reader]:
    """What tells how it goes, as it goes; see `observe` in the program."""
    words = _words("observe", folder, json.dumps(offsets))
    return connections.stream(host, _waiting(shared), input=words, ahead=True)


def send_signal(host: ssh.Host, shared: str, folder: str, name: str) -> bool:
    """To its process group. False when nothing is left there to signal."""
    command = f"test -f {shlex.quote(_DETACH.path(shared))} || {{ echo gone; exit 0; }}; "
    return ssh.run(host, command + _command(shared, "signal", folder, name)).text == "sent"


def sweep_command(shared: str, mark: str) -> str:
    """Kills everything on a node that carries NAME=VALUE in its environment; prints how many."""
    return (
        f"test -f {shlex.quote(_DETACH.path(shared))} || {{ echo 0; exit 0; }}; exec {_command(shared, 'sweep', mark)}"
    )


def look(host: ssh.Host, folder: str) -> tuple[dict[str, Any] | None, bool, str]:
    """How it ended (None: not yet), whether it was started, and the end of its output."""
    place = shlex.quote(folder)
    answer = ssh.run(
        host,
        f"cat {place}/exit 2>/dev/null; echo; test -e {place}/pid && echo started || echo never; "
        f"tail -qc 2000 {place}/out {place}/err 2>/dev/null",
    )
    first, _, rest = answer.out.decode(errors="replace").partition("\n")
    if first:
        rest = rest.lstrip("\n")
    started, _, said = rest.partition("\n")
    return (json.loads(first) if first else None), started == "started", said.strip()
