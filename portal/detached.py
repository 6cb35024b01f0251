"""Commands that belong to a node: started once, observed by offset, gone on when the portal dies.

The portal's side of `portal/onnode/detach.py`, which is sent along with the first call.
"""

from __future__ import annotations

import json
import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any

from portal import ssh
from portal.clouds.errors import Refused

_PROGRAM = (Path(__file__).parent / "onnode" / "detach.py").read_bytes()
_NAME = f"detach-{sha256(_PROGRAM).hexdigest()[:12]}.py"


def _program(shared: str) -> str:
    return f"{shared}/.coxswain/{_NAME}"


def prepare(host: ssh.Host, shared: str) -> None:
    """Put the program where the other calls find it. Its name has its checksum, so versions live side by side."""
    ssh.check(host, f"mkdir -p -m 700 {shlex.quote(shared)}/.coxswain", what="Making the portal's folder on the node")
    ssh.put(host, _program(shared), _PROGRAM)


def _command(shared: str, *words: str) -> str:
    return shlex.join(["python3", "-I", _program(shared), *words])


def start(
    host: ssh.Host,
    shared: str,
    folder: str,
    *,
    argv: list[str],
    env: dict[str, str],
    files: dict[str, str] | None = None,
) -> None:
    """Start it with these files in its folder, unless it was ever started there. Raises `Passing` or `Refused`."""
    order = json.dumps({"argv": argv, "env": env, "files": files or {}}).encode()
    command = f"test -f {shlex.quote(_program(shared))} || exit 98; exec {_command(shared, 'start', folder)}"
    answer = ssh.run(host, command, input=order)
    if answer.status == 98:
        prepare(host, shared)
        answer = ssh.run(host, command, input=order)
    if answer.status:
        raise Refused("The command did not start on its node.", evidence=answer.said)


def observe_command(shared: str, folder: str, offsets: dict[str, int]) -> str:
    """The command whose standard output tells how it goes; see `observe` in the program."""
    return f"exec {_command(shared, 'observe', folder, json.dumps(offsets))}"


def send_signal(host: ssh.Host, shared: str, folder: str, name: str) -> bool:
    """To its process group. False when nothing is left there to signal."""
    command = f"test -f {shlex.quote(_program(shared))} || {{ echo gone; exit 0; }}; "
    return ssh.run(host, command + _command(shared, "signal", folder, name)).text == "sent"


def sweep_command(shared: str, mark: str) -> str:
    """Kills everything on a node that carries NAME=VALUE in its environment; prints how many."""
    return f"test -f {shlex.quote(_program(shared))} || {{ echo 0; exit 0; }}; exec {_command(shared, 'sweep', mark)}"


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
