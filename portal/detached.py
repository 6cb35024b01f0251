"""Commands that belong to a node: started once, observed by offset, gone on when the portal dies.

The portal's side of `portal/onnode/detach.py`. Our programs are sent over the connection each time and executed as
they came: nothing on the node's disks, which people's programs may change, is a part of them. Starting and observing
are what a person waits for: both are done by a process on the node that was started before, and waits for its words.
"""

from __future__ import annotations

import json
import marshal
import shlex
import struct
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

from portal import ssh
from portal.errors import Passing, PortalError, Refused

_ONNODE = Path(__file__).parent / "onnode"
# Reads our modules from a descriptor, and not a byte more, for that may be secret; and begins with `boot.py`.
_WORDS = (
    "import sys,marshal;f=open(int(sys.argv[1]),'rb',0);n=int(f.readline());d=bytearray();"
    "exec('while len(d)<n:d+=f.read(n-len(d))or sys.exit(1)');m=marshal.loads(d);exec(m['boot'])"
)


class Busy(Exception):
    """The command was not started: another one of this node holds the fence."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.folder = folder


class Programs:
    """Modules that a node is given together: what keeps a command, and those of a folder.

    `loads` are loaded ahead, by the process that waits.
    """

    def __init__(self, folder: Path | None = None, *, loads: Sequence[str] = ()) -> None:
        self.loads = loads
        files = [file for place in (_ONNODE, folder) if place for file in sorted(place.glob("*.py"))]
        sources = {file.stem: file.read_text() for file in files}
        codes = {
            name: marshal.dumps(compile(text, f"<portal>/{name}.py", "exec", dont_inherit=True))
            for name, text in sources.items()
        }
        packed = marshal.dumps({"words": _WORDS, "compiled": (MAGIC_NUMBER, codes), **sources}, 2)
        self.data = b"%d\n%b" % (len(packed), packed)

    def command(self, **env: str) -> ssh.Command:
        """What has loaded all of it, and waits for its words."""
        # -S: what is installed on the node is none of our business, and finding it takes time.
        # exec: it closes its output when it has begun, and a shell around it would not.
        line = "exec " + shlex.join(["python3", "-ISc", _WORDS, "0", "detach", "wait", *self.loads])
        return ssh.Command(line, self.data, tuple(env.items()))

    def call(self, host: ssh.Host, *words: str, more: bytes = b"", **env: str) -> ssh.Answer:
        """Have `detach.py` do this. Raises `Passing`, and `Refused` when it fails."""
        answer = ssh.run(host, self.command(**env), input=_line(*words) + more, ahead=True)
        if answer.status:
            raise Refused(f"The portal's program failed on {host.name}.", evidence=answer.said)
        return answer


def _line(*words: str) -> bytes:
    return json.dumps(words).encode() + b"\n"


OWN = Programs()


def start(
    host: ssh.Host,
    folder: str,
    *,
    argv: list[str],
    env: dict[str, str],
    programs: Programs = OWN,
    program: str = "",
    secret: str = "",
    seconds: float | None = None,
    alone: str = "",
) -> None:
    """Start it in this folder, unless it was ever started there. Raises `Passing` or `Refused`.

    With `program`, a module of `programs`, its `main` is called with `argv`; otherwise `argv` is the command. A
    `secret` is for a program: its `main` is given it too, and it is nowhere but in memory that nobody else may read.
    After `seconds` it is ended, by the node. With `alone`, a path on the node, it raises `Busy` while another command
    that was started with the same path goes on.
    """
    order: dict[str, Any] = {"argv": argv, "env": env, "seconds": seconds}
    order |= {name: value for name, value in (("program", program), ("secret", secret), ("alone", alone)) if value}
    # COXSWAIN_DETACH: a node that ends what a session leaves behind makes this one last as long as its command.
    words = ["start", folder, *(["secret"] if secret else [])]
    answer = programs.call(host, *words, more=json.dumps(order).encode(), COXSWAIN_DETACH="1")
    if answer.text.startswith("busy "):
        raise Busy(answer.text.removeprefix("busy "))


def observe(
    connections: ssh.Connections, host: ssh.Host, folder: str, at: int
) -> AbstractAsyncContextManager[ssh.Stream]:
    """What tells how it goes, as it goes, with its log from byte `at` on; see `observe` in the program.

    It is over once `sha256` or `gone` was told.
    """
    return connections.stream(host, OWN.command(), input=_line("observe", folder, str(at)), ahead=True)


class Alive(StrEnum):
    """Whether something lives. UNKNOWN is no NO, and ends nothing."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


def send_signal(host: ssh.Host, folder: str, name: str) -> Alive:
    """To its process group. NO: nothing is left there to signal."""
    return {"sent": Alive.YES, "gone": Alive.NO}.get(OWN.call(host, "signal", folder, name).text, Alive.UNKNOWN)


def sweep(
    hosts: Sequence[ssh.Host], run: str, *, alone: str = "", others: bool = False
) -> list[ssh.Answer | PortalError]:
    """End whatever carries COXSWAIN_RUN=`run` on these nodes, and what descends from it. How many, or why not, a host.

    With `alone`, also whatever was started with that path, under whatever name; with `others`, also what was started by
    SSH with another key than the portal's, where the nodes' server can tell. The variables are for nodes whose
    sessions do not see each other: there the SSH server ends the sessions themselves, which nothing in them can hinder,
    and nobody has to look for more.
    """
    env = {"COXSWAIN_SWEEP": run, **({"COXSWAIN_SWEEP_STAYING": "1"} if alone else {})}
    env |= {"COXSWAIN_SWEEP_OTHERS": "1"} if others else {}
    command, words = OWN.command(**env), _line("sweep", f"COXSWAIN_RUN={run}", alone)
    # Of this computer's nodes alone: what a shell finds in its environment elsewhere, a run may have put there.
    near = replace(command, line=f'test "$COXSWAIN_APART" && exec echo "$COXSWAIN_SWEPT"; {command.line}')
    return ssh.run_each([(host, near if host.door else command, words) for host in hosts])


def end_all(
    hosts: Sequence[ssh.Host], marks: Sequence[tuple[str, str]], *, seconds: float = 40
) -> list[ssh.Answer | PortalError]:
    """On each, end whatever has its mark, NAME=VALUE, in its environment or anything open below the folder that comes
    with it, and what descends from that. How many, or why not, a host."""
    command = OWN.command()
    calls = [(host, command, _line("sweep", *mark)) for host, mark in zip(hosts, marks, strict=True)]
    return ssh.run_each(calls, seconds=seconds)


class Spoilt(Refused):
    """What a command has in its folder makes no sense: its own programs can write there, and will not do better."""


@dataclass(frozen=True)
class Frame:
    """A piece of what one rank wrote, or of what was said before (rank None). `kind`: see `onnode/telling.py`."""

    kind: str
    world: int
    rank: int | None
    at: int  # ns since 1970, by its node's clock
    data: bytes


_FRAME = struct.Struct(">cHIIQ")
_NOBODY = 0xFFFFFFFF
MOST_FRAME = 1 << 20


def frames(log: bytes) -> tuple[list[tuple[Frame, int]], int]:
    """The whole frames at the beginning of a log, each with the offset of its end; and how far that is.

    Raises `Spoilt` at what is no frame: then nothing of the log after it can be read.
    """
    found: list[tuple[Frame, int]] = []
    at = 0
    while len(log) - at >= _FRAME.size:
        kind, world, rank, size, when = _FRAME.unpack_from(log, at)
        if kind not in b"oens" or size > MOST_FRAME:
            raise Spoilt("The head node's log of the run makes no sense.", evidence=log[at : at + 60].hex(" "))
        end = at + _FRAME.size + size
        if end > len(log):
            break
        data = log[at + _FRAME.size : end]
        found.append((Frame(kind.decode(), world, None if rank == _NOBODY else rank, when, data), end))
        at = end
    return found, at


def _object(host: ssh.Host, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not ("unknown" in found or {"exit", "begun", "said"} <= found.keys()):
        raise Passing(f"{host.name} says what makes no sense.", evidence=repr(text[:200]))
    return found


def look(host: ssh.Host, folder: str) -> tuple[dict[str, Any] | None, bool, str]:
    """How it ended (None: not yet), whether it was started, and the end of its output.

    Raises `Passing` where the node cannot say that now, and `Refused` where it says what makes no sense.
    """
    answer = OWN.call(host, "look", folder)
    told = _object(host, answer.out)
    if "unknown" in told:
        raise Passing(f"{host.name} cannot say how a command goes.", evidence=str(told["unknown"])[:300])
    end = told["exit"]
    if end is not None and not isinstance(end, dict):
        raise Refused(f"{host.name} does not say how a command ended.", evidence=str(end)[:200])
    return end, bool(told["begun"]), str(told["said"]).strip()
