"""Looking at a pool's computers: at all of them at once, because most of what they must be lies between them.

`check` asks; what is made of the answers is `judging.py`, and neither reads or writes a row. What is asked on the
computers themselves is `onnode/look.py`.

1. Each computer says what it has, writes a token of its own into the base folder, and another one to whoever connects
   to a port of it.
2. Each reads the tokens of all others, connects to their ports by their names, and signs in to some of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from portal import ssh
from portal.clouds.machines import answers, certificates
from portal.clouds.machines.findings import Finding, Told
from portal.clouds.machines.judging import WAYS, judge
from portal.clouds.machines.models import Computer, Pool
from portal.errors import Passing, PortalError, Refused

T = TypeVar("T")
PYTHON = (3, 9)
CONNECT_AT_ONCE = 12
FEW = 4  # computers
WITNESSES = 3
SIGN_IN_TO = 1  # the next one in a ring; all, where they are few. It costs more than all else together
FACTS_WITHIN = 20.0  # seconds
WAYS_WITHIN = 60.0
ROUNDS = 3  # of tokens: a network filesystem may remember for a while that there was nothing
ROUND_SECONDS = 3.0
MOST_HEARD = 1 << 20  # bytes that are listened to before an answer is over
MOST_WORDS = 600  # characters of what somebody's system says of an error
_KEY_SECONDS = 900.0

_PROGRAM = (Path(__file__).parent / "onnode" / "look.py").read_bytes()
_MARK = b"@coxswain "
_NO_PYTHON = "no_python"
# It says itself that it is too old: an old Python does not get as far as reading a program that it cannot parse.
_BEGIN = (
    f'import sys;v=sys.version_info;v<{PYTHON} and sys.exit("python %d.%d"%v[:2]);exec(sys.stdin.buffer.read({{}}))'
)
_LINE = f"exec /bin/sh -c 'exec python3 -IS -c \"$0\" 2>&1' '{_BEGIN.format(len(_PROGRAM))}'"


async def check(pool: Pool, computers: Sequence[Computer]) -> list[Finding]:
    """A finding for each, in their order. Their host keys are confirmed. Raises `portal.secrets.CannotDecrypt`."""
    connections = ssh.Connections()
    private, public = ssh.new_key("coxswain check")
    # By which they sign in to each other, to do nothing.
    certificate = certificates.sign(pool, public, f"check of pool {pool.uuid}", seconds=_KEY_SECONDS, command="true")
    key = {"key": private, "certificate": certificate}
    look = secrets.token_hex(8)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(connections.close)
        turns = asyncio.Semaphore(CONNECT_AT_ONCE)
        talks = [_Talk(pool, computer, look) for computer in computers]
        await asyncio.gather(*(talk.begin(connections, stack, turns) for talk in talks))
        open_ = [talk for talk in talks if talk.is_open]
        await _share(open_)
        await asyncio.gather(*(talk.compare_clocks() for talk in open_))
        await _meet(open_, key)
    judge(pool, talks)
    return [talk.finding for talk in talks]


class _Talk(Told):
    """With the program that looks at one computer."""

    def __init__(self, pool: Pool, computer: Computer, look: str) -> None:
        super().__init__(computer, Finding(computer))
        self.pool = pool
        self.host = certificates.host(pool, computer)
        self.look = look
        self.token = secrets.token_hex(16)
        self.port = 0
        self._lines: deque[bytes] = deque()  # that have come, and the beginning of one more
        self._rest = b""
        self._noise = b""

    async def begin(
        self, connections: ssh.Connections, stack: contextlib.AsyncExitStack, turns: asyncio.Semaphore
    ) -> None:
        first = {"base": self.pool.base, "look": self.look, "me": self.me, "token": self.token}
        first["known"] = self.pool.key_public.split()[1]
        command = ssh.Command(_LINE, first=_PROGRAM + _line(first))
        try:
            async with turns:
                self._terminal = await stack.enter_async_context(connections.terminal(self.host, command))
            said = await self._hear(FACTS_WITHIN)
            facts, base = answers.read(said.get("facts"), answers.FACTS), said.get("base")
            self.port, self.trouble = answers.count(said.get("port")), answers.text(said.get("trouble"), MOST_WORDS)
            self.base = None if base is None else answers.read(base, answers.FOLDER)
        except Refused as error:
            self._refused(error)
        except PortalError as error:
            self.finding.silence = " ".join(filter(None, [error.message, error.evidence]))
        else:
            self.is_open = True
            self.finding.facts = facts

    def _refused(self, error: Refused) -> None:
        """It answers, and that is all."""
        match error.code:
            case "host_key":
                self.finding.another_key = True
                words = "It shows another host key than the one that was confirmed."
                advice = (
                    "Compare the fingerprints on this page, and accept the new key only if you know why it changed."
                )
                self.finding.add("Host key", False, words, advice)
            case "not_let_in":
                words = f"It does not let the portal in as {self.pool.user}."
                advice = (
                    f"Append the pool's line to ~{self.pool.user}/.ssh/authorized_keys on it. sshd passes over a file "
                    "that others than the account can write to, or that lies in such a folder."
                )
                self.finding.add("Signing in", False, words, advice)
            case code if code == _NO_PYTHON:
                advice = f"Install Python {PYTHON[0]}.{PYTHON[1]} or newer, so that `python3` finds it."
                self.finding.add("Python", False, error.message, advice)
            case _:
                self.finding.add(
                    "Looking", False, " ".join(filter(None, [error.message, error.evidence])), error.advice
                )

    async def _hear(self, seconds: float) -> dict[str, Any]:
        """The next answer. Raises `Passing`, and `Refused` where the program does not run."""
        heard = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    while self._lines:
                        line = self._lines.popleft()
                        if line.startswith(_MARK):
                            return answers.parsed(line[len(_MARK) :])
                        self._noise = (self._noise[-2000:] + line[-2000:] + b"\n")[-2000:]
                    data = await self._terminal.read(65536)
                    if not data:
                        break
                    heard += len(data)
                    if heard > MOST_HEARD:
                        raise Refused("It answers with more than it was asked for.")
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    self._lines.extend(lines)
                status = await self._terminal.status()
        except TimeoutError:
            raise Passing(f"It has not answered within {seconds:.0f} seconds.") from None
        said = answers.shown((self._noise + self._rest[-2000:]).decode(errors="replace").strip()[-300:])
        if status is None:
            raise Passing("The connection broke.", evidence=said)
        if status == 127:
            raise Refused("It has no Python.", code=_NO_PYTHON)
        if status == 1 and said.startswith("python "):
            raise Refused(f"Its Python is too old: {said.removeprefix('python ')}.", code=_NO_PYTHON)
        raise Refused("The portal's program cannot run on it.", evidence=said or f"exit status {status}")

    async def ask(self, seconds: float, **words: Any) -> dict[str, Any] | None:
        """None where it answers no more: then there is nothing further to ask."""
        if not self.is_open:
            return None
        try:
            async with asyncio.timeout(seconds):
                await self._terminal.write(_line(words))
            answer = await self._hear(seconds)
        except TimeoutError:
            self.is_open = False
            self.finding.silence = f"It has taken nothing more for {seconds:.0f} seconds."
            return None
        except Refused as error:
            self._spoilt(error)
            return None
        except PortalError as error:
            self.is_open = False
            self.finding.silence = " ".join(filter(None, [error.message, error.evidence]))
            return None
        return answer

    def _spoilt(self, error: Refused) -> None:
        """It answers, but not as the portal's program does: somebody else's stands in its place."""
        self.is_open = False
        self._refused(error)

    async def ask_for(self, name: str, kind: Callable[[Any], T], seconds: float, **words: Any) -> T | None:
        """As `ask`, and what the answer has by this name, if it is of that kind."""
        if (answer := await self.ask(seconds, **words)) is None:
            return None
        try:
            return kind(answer.get(name))
        except Refused as error:
            self._spoilt(error)
            return None

    async def compare_clocks(self) -> None:
        began = time.time()
        clock = await self.ask_for("clock", partial(answers.number, most=1e12), FACTS_WITHIN, clock=True)
        if clock is not None:
            self.skew = clock - min(max(clock, began), time.time())  # it was looked at somewhere in between

    async def reach(self, others: Sequence[_Talk], sign_in_to: Collection[_Talk], key: dict[str, str]) -> None:
        peers = [
            {
                "of": other.me,
                "name": other.finding.facts["hostname"],
                "port": other.port,
                "token": other.token,
                "ssh": other.computer.port,
                "signs_in": other in sign_in_to,
            }
            for other in others
        ]
        known = "".join(f"{other.me} {other.computer.host_public}\n" for other in others)
        ways = await self.ask_for("ways", _ways, WAYS_WITHIN, peers=peers, known=known, **key) or {}
        self.ways.update({other.me: ways[other.me] for other in others if other.me in ways})


def _seen(said: object) -> set[str]:
    """Whose tokens a computer has read, as it says. Raises `Refused`."""
    if not isinstance(said, list):
        raise answers.nonsense(said)
    return {answers.text(one) for one in said}


def _ways(said: object) -> dict[str, list[str]]:
    """What is in the way to others, as it says. Raises `Refused`."""
    if not isinstance(said, dict):
        raise answers.nonsense(said)
    for way in said.values():
        if not isinstance(way, list) or len(way) != 2 or way[0] not in list(WAYS):
            raise answers.nonsense(way)
    return {of: [kind, answers.text(words, MOST_WORDS)] for of, (kind, words) in said.items()}


def _line(words: dict[str, Any]) -> bytes:
    return json.dumps(words).encode() + b"\n"


async def _share(talks: Sequence[_Talk]) -> None:
    """Have each read what the others have written, and write anew where one has not seen all of it."""
    for attempt in range(ROUNDS):
        writing = [talk for talk in talks if talk.is_open and not talk.trouble]
        if attempt:
            await asyncio.sleep(ROUND_SECONDS)
            await asyncio.gather(*(_write(talk) for talk in writing))
        tokens = {talk.me: talk.token for talk in writing}
        seen = await asyncio.gather(*(talk.ask_for("sees", _seen, FACTS_WITHIN, tokens=tokens) for talk in writing))
        for talk, whose in zip(writing, seen, strict=True):
            talk.sees = (whose or set()) & tokens.keys()
        if all(talk.sees == set(tokens) for talk in writing):
            return


async def _write(talk: _Talk) -> None:
    words = partial(answers.text, most=MOST_WORDS)
    talk.trouble = await talk.ask_for("trouble", words, FACTS_WITHIN, write=talk.token) or ""


async def _meet(talks: Sequence[_Talk], key: dict[str, str]) -> None:
    """Have each reach all others; where they are many, and one cannot sign in to the next, it is asked whose fault."""
    rings = {talk: [*talks[place + 1 :], *talks[:place]] for place, talk in enumerate(talks)}
    are_few = len(talks) <= FEW
    nexts = {talk: ring if are_few else ring[:SIGN_IN_TO] for talk, ring in rings.items()}
    await asyncio.gather(*(talk.reach(ring, nexts[talk], key) for talk, ring in rings.items()))
    by_uuid = {talk.me: talk for talk in talks}
    pairs = [
        (talk, by_uuid[of]) for talk in talks for of, (kind, _) in talk.ways.items() if kind == "ssh" and not are_few
    ]
    suspects = {talk for pair in pairs for talk in pair}
    witnesses = [talk for talk in talks if talk not in suspects][:WITNESSES]
    if suspects and witnesses:
        asked = [*((one, list(suspects)) for one in witnesses), *((one, witnesses) for one in suspects)]
        await asyncio.gather(*(one.reach(others, others, key) for one, others in asked))
