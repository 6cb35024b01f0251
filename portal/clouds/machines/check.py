"""What a pool's computers must be, and whether they are: all of them at once, because most of it lies between them.

`check` asks and judges; it reads and writes no row. What is asked on the computers themselves is `onnode/look.py`.

1. Each computer says what it has, writes a token of its own into the base folder, and another one to whoever connects
   to a port of it.
2. Each reads the tokens of all others, connects to their ports by their names, and signs in to some of them.
3. What most of the pool is, the others have to be too; in doubt, what those are that were READY before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from portal import ssh
from portal.clouds.machines import answers, certificates
from portal.clouds.machines.models import Computer, Pool
from portal.errors import Passing, PortalError, Refused

T = TypeVar("T")
PYTHON = (3, 9)
GLIBC = (2, 28)
CLOCK = 2.0  # seconds that clocks may differ
LEAST_FREE_GIB = 1.0  # in the base folder
LITTLE_FREE_GIB = 10.0  # of which people are told
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


@dataclass(frozen=True)
class Line:
    """One thing that was looked at. `ok` is None where it is no reason to refuse the computer, but people should know.

    `message` is a sentence, `advice` what to do.
    """

    name: str
    ok: bool | None
    message: str
    advice: str = ""


@dataclass
class Finding:
    """What was found of one computer."""

    computer: Computer
    facts: dict[str, Any] = field(
        default_factory=dict
    )  # as it says them, see `onnode/look.py`; empty without an answer
    lines: list[Line] = field(default_factory=list)
    silence: str = ""  # why it gave no answer at all: it may be away, and nothing is known of it
    another_key: bool = False  # it shows another host key than the one that was confirmed

    @property
    def failing(self) -> list[dict[str, Any]]:
        return [asdict(line) for line in self.lines if line.ok is False]

    def add(self, name: str, ok: bool | None, message: str, advice: str = "") -> None:
        self.lines.append(Line(name, ok, message, advice))


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
    _judge(pool, talks)
    return [talk.finding for talk in talks]


class _Talk:
    """With the program that looks at one computer."""

    def __init__(self, pool: Pool, computer: Computer, look: str) -> None:
        self.pool, self.computer = pool, computer
        self.host = certificates.host(pool, computer)
        self.me = computer.uuid.hex
        self.look = look
        self.token = secrets.token_hex(16)
        self.finding = Finding(computer)
        self.is_open = False
        self.port = 0
        self.base: dict[str, Any] | None = None
        self.trouble = ""  # with the base folder
        self.skew: float | None = None
        self.sees: set[str] = set()
        self.ways: dict[str, list[str]] = {}  # what is in the way to the others, by whose it is
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
        if not isinstance(way, list) or len(way) != 2 or way[0] not in list(_WAYS):
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


def _judge(pool: Pool, talks: Sequence[_Talk]) -> None:
    """Write down of each whether it is what it must be, by itself and together with the others."""
    known = sorted((talk for talk in talks if talk.finding.facts), key=_first)
    for talk in known:
        _judge_alone(pool, talk)
    _judge_alike(known)
    _judge_names(known)
    _judge_host_keys(known)
    _judge_sharing(pool, known)
    _judge_ways(known)


def _first(talk: _Talk) -> tuple[bool, int]:
    """In doubt, the pool is what those are that were READY before, and then the oldest ones."""
    return talk.computer.state != Computer.State.READY, talk.computer.pk


def _judge_alone(pool: Pool, talk: _Talk) -> None:
    finding, facts = talk.finding, talk.finding.facts
    finding.add("Signing in", True, f"The portal signs in as {facts['user']}; the host key is the confirmed one.")
    finding.add("Python", True, f"Python {facts['python']}.")
    if missing := facts["missing"]:
        words = f"{_list(missing)} {'is' if len(missing) == 1 else 'are'} missing."
        advice = f"Install these packages: {_list([answers.PACKAGES[name] for name in missing])}."
        finding.add("Programs", False, words, advice)
    else:
        finding.add("Programs", True, "git, flock, ssh and venv are there.")
    if talk.skew is not None and abs(talk.skew) >= CLOCK:
        words = f"Its clock is {abs(talk.skew):.1f} s {'fast' if talk.skew > 0 else 'slow'}."
        finding.add("Clock", False, words, "Have it set by NTP, for example by chrony or systemd-timesyncd.")
    elif talk.skew is not None:
        finding.add("Clock", True, f"Its clock is right to {CLOCK:.0f} s.")
    _judge_folder(pool, talk)
    if facts["ended_at_logout"]:
        words = "systemd ends the account's programs when the portal's connection ends."
        finding.add("Sessions", False, words, f"As root: loginctl enable-linger {pool.user}")
    else:
        finding.add("Sessions", True, "What the portal starts goes on when its connection ends.")
    if facts["uid"] == 0:
        words = f"{facts['user']} is root by another name: its uid is 0."
        finding.add("Account", False, words, "What runs there could do anything. Make an account for the portal.")
    _judge_load(talk)
    _judge_traces(talk)
    if facts["boot_id"] == _own_boot_id() and facts["hostname"] == socket.gethostname():
        is_us = facts["uid"] == os.getuid()
        words = "It is the computer that the portal itself runs on"
        words += ", and the account is the portal's own: a run could read the portal's secrets." if is_us else "."
        finding.add(
            "The portal", False if is_us else None, words, "Use an account that can read nothing of the portal."
        )


def _own_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _judge_folder(pool: Pool, talk: _Talk) -> None:
    finding, base = talk.finding, talk.base
    if base is None or talk.trouble:
        advice = f"The folder {pool.base}, or the one it lies in, must be one in which {pool.user} can write."
        finding.add("Base folder", False, f"{pool.base} cannot be used: {talk.trouble}.", advice)
    elif base["within"]:
        words = f"{pool.base} lies in the folder of a workspace, {base['within']}, and would be removed with it."
        finding.add("Base folder", False, words, "Make a pool with a folder that lies elsewhere.")
    elif not base["is_ours"]:
        words = f"{pool.base} belongs to {base['owner']}."
        finding.add("Base folder", False, words, f"As root: chown {pool.user}: {pool.base}")
    elif base["is_others"]:
        words = f"Others than {pool.user} may write in {pool.base}."
        finding.add("Base folder", False, words, f"chmod go-w {pool.base}")
    elif not base["executes"]:
        words = f"{pool.base} lies on a filesystem that is mounted noexec: engines cannot be started from it."
        finding.add("Base folder", False, words, "Mount it without noexec, or choose another folder.")
    elif base["free_gib"] < LEAST_FREE_GIB:
        words = f"Only {base['free_gib']} GiB are free in {pool.base}."
        finding.add("Base folder", False, words, "Make room there.")
    else:
        is_little = base["free_gib"] < LITTLE_FREE_GIB
        words = f"{pool.base} can be written to: {base['kind']}, {base['free_gib']:,.0f} GiB free."
        finding.add("Base folder", None if is_little else True, words, "An engine needs some GiB." if is_little else "")


def _judge_load(talk: _Talk) -> None:
    facts = talk.finding.facts
    words = f"Load {facts['load']:.1f} on {facts['vcpus']} CPUs"
    if facts["others"]:
        words += f"; processes of other people: {facts['others']} ({', '.join(facts['people'])})"
    is_busy = not talk.computer.is_taken and facts["load"] > facts["vcpus"] / 2
    advice = "A cluster may get it all the same. Disable it while somebody else needs it." if is_busy else ""
    talk.finding.add("Load", None if is_busy else True, f"{words}.", advice)


def _judge_traces(talk: _Talk) -> None:
    """What a program may have left behind to come back by: the account's own may do anything that the account may."""
    facts = talk.finding.facts
    user, count = facts["user"], facts["other_keys"]
    if count:
        words = f"~{user}/.ssh/authorized_keys lets in {count} more {'keys' if count > 1 else 'key'} than the portal's."
        advice = "Any program of the account can add one. Remove what you do not know, or give the file to root."
        talk.finding.add("Other keys", None, words, advice)
    if facts["programs"] and not talk.computer.is_taken:
        words = f"Programs of {user} go on, and no cluster has the computer: {_list(facts['program_names'])}."
        advice = f"A run may have left them behind. Look at them by ps -u {user}, and end what you do not know."
        talk.finding.add("Left behind", None, words, advice)


_ALIKE = (
    ("Account", "uid", "The account's uid is {}", "Give the account the same uid on all computers of the pool."),
    ("Architecture", "architecture", "Its architecture is {}", "Make a pool of its own for computers of another kind."),
    ("C library", "libc", "Its C library is {}", "Make a pool of its own for computers with another system."),
)


def _has_glibc(words: str) -> bool:
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", words)
    return found is not None and (int(found[1]), int(found[2])) >= GLIBC


def _judge_alike(known: Sequence[_Talk]) -> None:
    for name, fact, words, advice in _ALIKE:
        counts = Counter(talk.finding.facts[fact] for talk in known)  # of equal ones the first comes first
        for talk in known:
            mine, usual = talk.finding.facts[fact], counts.most_common(1)[0][0]
            said = words.format(mine or "unknown")
            if fact == "libc" and not _has_glibc(mine):
                talk.finding.add(name, False, f"{said}.", f"Engines need glibc {GLIBC[0]}.{GLIBC[1]} or newer.")
            elif mine == usual:
                talk.finding.add(name, True, f"{said}{', as in the whole pool' if len(known) > 1 else ''}.")
            else:
                talk.finding.add(name, False, f"{said}, and {usual} on others of the pool.", advice)


def _judge_names(known: Sequence[_Talk]) -> None:
    seen: dict[str, _Talk] = {}
    for talk in known:
        hostname = talk.finding.facts["hostname"]
        first = seen.setdefault(hostname, talk)
        if first is talk:
            continue
        if first.finding.facts["boot_id"] == talk.finding.facts["boot_id"]:
            words = f"It is the same computer as the one at {first.computer.where}."
            talk.finding.add("Hostname", False, words, "Remove one of the two.")
        else:
            words = f"The computer at {first.computer.where} calls itself {hostname}, too."
            talk.finding.add("Hostname", False, words, "Give each computer a hostname of its own.")


def _judge_host_keys(known: Sequence[_Talk]) -> None:
    seen: dict[str, _Talk] = {}
    for talk in known:
        first = seen.setdefault(talk.computer.host_public, talk)
        if first.finding.facts["boot_id"] != talk.finding.facts["boot_id"]:
            words = f"It has the same host key as the computer at {first.computer.where}: each can pass for the other."
            advice = "Make another one: as root, rm /etc/ssh/ssh_host_*, ssh-keygen -A, and start sshd anew."
            talk.finding.add("Host key", None, words, advice)


def _judge_sharing(pool: Pool, known: Sequence[_Talk]) -> None:
    writing = [talk for talk in known if talk.sees]
    if not writing:
        return

    def together(one: _Talk) -> list[_Talk]:
        return [other for other in writing if one.me in other.sees and other.me in one.sees]

    first = max(writing, key=lambda one: len(together(one)))  # of equal ones the first
    shared = together(first)
    for talk in writing:
        if talk in shared:
            others = [other.finding.facts["hostname"] for other in shared if other is not talk]
            words = f"{pool.base} is the same folder as on {_list(others, most=3)}." if others else ""
            talk.finding.add("Shared folder", True, words or "There is no other computer to share the folder with.")
        else:
            one_way = " It sees what is written there, but not the other way round." if first.me in talk.sees else ""
            words = f"{pool.base} is not the same folder as on {first.finding.facts['hostname']}.{one_way}"
            advice = f"Mount the shared filesystem on it, so that {pool.base} is the same folder on all computers."
            talk.finding.add("Shared folder", False, words, advice)


@dataclass(frozen=True)
class _Blocked:
    """A way from one computer to another that is none."""

    source: _Talk
    target: _Talk
    kind: str
    evidence: str


_WAYS = {
    "name": (
        "Names",
        "does not find {} by name",
        "Put all computers of the pool into DNS, or into /etc/hosts of each.",
    ),
    "elsewhere": (
        "Names",
        "finds another computer by the name of {}",
        "Correct DNS or /etc/hosts: on each computer, a hostname must lead to the computer that calls itself so.",
    ),
    "port": (
        "Ports",
        "cannot connect to a port of {}",
        "MPI chooses its ports: let the computers of the pool reach each other on all TCP ports from 1024 on.",
    ),
    "ssh": (
        "SSH among them",
        "cannot sign in to {}",
        "The pool's line must be in authorized_keys on all of them, and sshd must let computers of the pool in.",
    ),
}


def _judge_ways(known: Sequence[_Talk]) -> None:
    """Those that have the most ways blocked are refused, one after the other, until none is blocked among the rest."""
    talks = {talk.me: talk for talk in known}
    blocked = [
        _Blocked(talk, talks[of], kind, evidence)
        for talk in known
        for of, (kind, evidence) in talk.ways.items()
        if of in talks
    ]
    refused: set[str] = set()
    while blocked:
        counts: Counter[str] = Counter()
        for way in blocked:
            counts.update((way.source.me, way.target.me))
        worst = max(reversed(known), key=lambda talk: counts[talk.me])  # of equal ones the last
        refused.add(worst.me)
        _tell(worst, [way for way in blocked if worst in (way.source, way.target)])
        blocked = [way for way in blocked if worst not in (way.source, way.target)]
    for talk in known:
        if talk.me not in refused and talk.is_open:
            words = "It reaches the others by name, on any port and by SSH, and they reach it."
            talk.finding.add("Network", True, words if len(known) > 1 else "There is no other computer to reach.")


def _tell(talk: _Talk, blocked: Sequence[_Blocked]) -> None:
    for kind, (name, words, advice) in _WAYS.items():
        its = [way for way in blocked if way.kind == kind]
        out = [way.target.finding.facts["hostname"] for way in its if way.source is talk]
        into = [way.source.finding.facts["hostname"] for way in its if way.target is talk]
        said = [f"It {words.format(_list(out, most=3))}."] if out else []
        if into:
            said.append(f"It is not reached: {_list(into, most=3)} {words.format('it')}.")
        if said:
            said.append(f"({its[0].evidence})")
            talk.finding.add(name, False, " ".join(said), advice)


def _list(names: Iterable[str], *, most: int = 10) -> str:
    found = list(names)
    if len(found) > most:
        return f"{', '.join(found[:most])} and {len(found) - most} more"
    return " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))
