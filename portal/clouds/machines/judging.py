"""Whether computers of a pool are what they must be, from what they have told: by themselves, and together.

What most of the pool is, the others have to be too; in doubt, what those are that were READY before. What is wrong is a
sentence with what to do.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from portal.clouds.machines import answers
from portal.clouds.machines.findings import Told
from portal.clouds.machines.models import Computer, Pool

GLIBC = (2, 28)
CLOCK = 2.0  # seconds that clocks may differ
LEAST_FREE_GIB = 1.0  # in the base folder
LITTLE_FREE_GIB = 10.0  # of which people are told


def judge(pool: Pool, all_told: Sequence[Told]) -> None:
    """Write down of each whether it is what it must be, by itself and together with the others."""
    known = sorted((told for told in all_told if told.finding.facts), key=_first)
    for told in known:
        _alone(pool, told)
    _alike(known)
    _names(known)
    _host_keys(known)
    _sharing(pool, known)
    _ways(known)


def _first(told: Told) -> tuple[bool, int]:
    """In doubt, the pool is what those are that were READY before, and then the oldest ones."""
    return told.computer.state != Computer.State.READY, told.computer.pk


def _alone(pool: Pool, told: Told) -> None:
    finding, facts = told.finding, told.finding.facts
    finding.add("Signing in", True, f"The portal signs in as {facts['user']}; the host key is the confirmed one.")
    finding.add("Python", True, f"Python {facts['python']}.")
    if missing := facts["missing"]:
        words = f"{_list(missing)} {'is' if len(missing) == 1 else 'are'} missing."
        advice = f"Install these packages: {_list([answers.PACKAGES[name] for name in missing])}."
        finding.add("Programs", False, words, advice)
    else:
        finding.add("Programs", True, "git, flock, ssh and venv are there.")
    if told.skew is not None and abs(told.skew) >= CLOCK:
        words = f"Its clock is {abs(told.skew):.1f} s {'fast' if told.skew > 0 else 'slow'}."
        finding.add("Clock", False, words, "Have it set by NTP, for example by chrony or systemd-timesyncd.")
    elif told.skew is not None:
        finding.add("Clock", True, f"Its clock is right to {CLOCK:.0f} s.")
    _folder(pool, told)
    if facts["ended_at_logout"]:
        words = "systemd ends the account's programs when the portal's connection ends."
        finding.add("Sessions", False, words, f"As root: loginctl enable-linger {pool.user}")
    else:
        finding.add("Sessions", True, "What the portal starts goes on when its connection ends.")
    if facts["uid"] == 0:
        words = f"{facts['user']} is root by another name: its uid is 0."
        finding.add("Account", False, words, "What runs there could do anything. Make an account for the portal.")
    _load(told)
    _traces(told)
    if facts["boot_id"] == _own_boot_id() and facts["hostname"] == socket.gethostname():
        is_us = facts["uid"] == os.getuid()
        words = "It is the computer that the portal itself runs on"
        words += ", and the account is the portal's own: a run could read the portal's secrets." if is_us else "."
        finding.add(
            "The portal", False if is_us else None, words, "Use an account that can read nothing of the portal."
        )


def _own_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _folder(pool: Pool, told: Told) -> None:
    finding, base = told.finding, told.base
    if base is None or told.trouble:
        advice = f"The folder {pool.base}, or the one it lies in, must be one in which {pool.user} can write."
        finding.add("Base folder", False, f"{pool.base} cannot be used: {told.trouble}.", advice)
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


def _load(told: Told) -> None:
    facts = told.finding.facts
    words = f"Load {facts['load']:.1f} on {facts['vcpus']} CPUs"
    if facts["others"]:
        words += f"; processes of other people: {facts['others']} ({', '.join(facts['people'])})"
    is_busy = not told.computer.is_taken and facts["load"] > facts["vcpus"] / 2
    advice = "A cluster may get it all the same. Disable it while somebody else needs it." if is_busy else ""
    told.finding.add("Load", None if is_busy else True, f"{words}.", advice)


def _traces(told: Told) -> None:
    """What a program may have left behind to come back by: the account's own may do anything that the account may."""
    facts = told.finding.facts
    user, count = facts["user"], facts["other_keys"]
    if count:
        words = f"~{user}/.ssh/authorized_keys lets in {count} more {'keys' if count > 1 else 'key'} than the portal's."
        advice = "Any program of the account can add one. Remove what you do not know, or give the file to root."
        told.finding.add("Other keys", None, words, advice)
    if facts["programs"] and not told.computer.is_taken:
        words = f"Programs of {user} go on, and no cluster has the computer: {_list(facts['program_names'])}."
        advice = f"A run may have left them behind. Look at them by ps -u {user}, and end what you do not know."
        told.finding.add("Left behind", None, words, advice)


_ALIKE = (
    ("Account", "uid", "The account's uid is {}", "Give the account the same uid on all computers of the pool."),
    ("Architecture", "architecture", "Its architecture is {}", "Make a pool of its own for computers of another kind."),
    ("C library", "libc", "Its C library is {}", "Make a pool of its own for computers with another system."),
)


def _has_glibc(words: str) -> bool:
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", words)
    return found is not None and (int(found[1]), int(found[2])) >= GLIBC


def _alike(known: Sequence[Told]) -> None:
    for name, fact, words, advice in _ALIKE:
        counts = Counter(told.finding.facts[fact] for told in known)  # of equal ones the first comes first
        for told in known:
            mine, usual = told.finding.facts[fact], counts.most_common(1)[0][0]
            said = words.format(mine or "unknown")
            if fact == "libc" and not _has_glibc(mine):
                told.finding.add(name, False, f"{said}.", f"Engines need glibc {GLIBC[0]}.{GLIBC[1]} or newer.")
            elif mine == usual:
                told.finding.add(name, True, f"{said}{', as in the whole pool' if len(known) > 1 else ''}.")
            else:
                told.finding.add(name, False, f"{said}, and {usual} on others of the pool.", advice)


def _names(known: Sequence[Told]) -> None:
    seen: dict[str, Told] = {}
    for told in known:
        hostname = told.finding.facts["hostname"]
        first = seen.setdefault(hostname, told)
        if first is told:
            continue
        if first.finding.facts["boot_id"] == told.finding.facts["boot_id"]:
            words = f"It is the same computer as the one at {first.computer.where}."
            told.finding.add("Hostname", False, words, "Remove one of the two.")
        else:
            words = f"The computer at {first.computer.where} calls itself {hostname}, too."
            told.finding.add("Hostname", False, words, "Give each computer a hostname of its own.")


def _host_keys(known: Sequence[Told]) -> None:
    seen: dict[str, Told] = {}
    for told in known:
        first = seen.setdefault(told.computer.host_public, told)
        if first.finding.facts["boot_id"] != told.finding.facts["boot_id"]:
            words = f"It has the same host key as the computer at {first.computer.where}: each can pass for the other."
            advice = "Make another one: as root, rm /etc/ssh/ssh_host_*, ssh-keygen -A, and start sshd anew."
            told.finding.add("Host key", None, words, advice)


def _sharing(pool: Pool, known: Sequence[Told]) -> None:
    writing = [told for told in known if told.sees]
    if not writing:
        return

    def together(one: Told) -> list[Told]:
        return [other for other in writing if one.me in other.sees and other.me in one.sees]

    first = max(writing, key=lambda one: len(together(one)))  # of equal ones the first
    shared = together(first)
    for told in writing:
        if told in shared:
            others = [other.finding.facts["hostname"] for other in shared if other is not told]
            words = f"{pool.base} is the same folder as on {_list(others, most=3)}." if others else ""
            told.finding.add("Shared folder", True, words or "There is no other computer to share the folder with.")
        else:
            one_way = " It sees what is written there, but not the other way round." if first.me in told.sees else ""
            words = f"{pool.base} is not the same folder as on {first.finding.facts['hostname']}.{one_way}"
            advice = f"Mount the shared filesystem on it, so that {pool.base} is the same folder on all computers."
            told.finding.add("Shared folder", False, words, advice)


@dataclass(frozen=True)
class _Blocked:
    """A way from one computer to another that is none."""

    source: Told
    target: Told
    kind: str
    evidence: str


WAYS = {
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


def _ways(known: Sequence[Told]) -> None:
    """Those that have the most ways blocked are refused, one after the other, until none is blocked among the rest."""
    talks = {told.me: told for told in known}
    blocked = [
        _Blocked(told, talks[of], kind, evidence)
        for told in known
        for of, (kind, evidence) in told.ways.items()
        if of in talks
    ]
    refused: set[str] = set()
    while blocked:
        counts: Counter[str] = Counter()
        for way in blocked:
            counts.update((way.source.me, way.target.me))
        worst = max(reversed(known), key=lambda told: counts[told.me])  # of equal ones the last
        refused.add(worst.me)
        _tell(worst, [way for way in blocked if worst in (way.source, way.target)])
        blocked = [way for way in blocked if worst not in (way.source, way.target)]
    for told in known:
        if told.me not in refused and told.is_open:
            words = "It reaches the others by name, on any port and by SSH, and they reach it."
            told.finding.add("Network", True, words if len(known) > 1 else "There is no other computer to reach.")


def _tell(told: Told, blocked: Sequence[_Blocked]) -> None:
    for kind, (name, words, advice) in WAYS.items():
        its = [way for way in blocked if way.kind == kind]
        out = [way.target.finding.facts["hostname"] for way in its if way.source is told]
        into = [way.source.finding.facts["hostname"] for way in its if way.target is told]
        said = [f"It {words.format(_list(out, most=3))}."] if out else []
        if into:
            said.append(f"It is not reached: {_list(into, most=3)} {words.format('it')}.")
        if said:
            said.append(f"({its[0].evidence})")
            told.finding.add(name, False, " ".join(said), advice)


def _list(names: Iterable[str], *, most: int = 10) -> str:
    found = list(names)
    if len(found) > most:
        return f"{', '.join(found[:most])} and {len(found) - most} more"
    return " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))
