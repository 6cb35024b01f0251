"""What a computer says of itself, as far as it can be believed to be an answer at all.

A computer is not ours, and neither is the account on it, whose programs may stand in the place of each other: whatever
comes from there is a few words of a known kind, or is refused. Nothing else of it gets into a row, onto a page, or into
a file of another computer.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from portal.errors import Refused

MOST_NUMBER = 1_000_000.0
MOST_UID = 2.0**32  # directories give people large ones
# Of Debian, by what may be missing: see `missing` of `onnode/look.py`.
PACKAGES = {"git": "git", "flock": "util-linux", "ssh": "openssh-client", "venv": "python3-venv"}
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*")
_BOOT_ID = re.compile(r"[0-9a-f-]{36}")
_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})  # unicodedata's categories


def shown(text: str, most: int = 300) -> str:
    """In one line, without characters that cannot be seen or that turn the writing around them."""
    return "".join("\ufffd" if unicodedata.category(one) in _UNSEEN else one for one in text[:most])


def parsed(line: bytes) -> dict[str, Any]:
    """Raises `Refused`."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise nonsense(line.decode(errors="replace"))
    return found


def nonsense(said: object) -> Refused:
    evidence = said if isinstance(said, str) else type(said).__name__
    return Refused("It answers with something else than it was asked for.", evidence=shown(evidence, 200))


def text(value: object, most: int = 120) -> str:
    """The beginning of it, where it is longer."""
    if not isinstance(value, str):
        raise nonsense(value)
    return shown(value, most)


def number(value: object, most: float = MOST_NUMBER) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise nonsense(value)
    if not (isinstance(value, int) or math.isfinite(value)) or not 0 <= value <= most:
        raise nonsense(value)
    return value


def count(value: object, most: float = MOST_NUMBER) -> int:
    return int(number(value, most))


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise nonsense(value)
    return value


def names(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > 10:
        raise nonsense(value)
    return [text(one) for one in value]


def programs(value: object) -> list[str]:
    found = names(value)
    if not set(found) <= PACKAGES.keys():
        raise nonsense(value)
    return found


def hostname(value: object) -> str:
    """Others of its pool, and MPI on them, use it as a word of a command and in files of lines."""
    said = text(value, 1000)
    if len(said) > 64 or not _HOSTNAME.fullmatch(said):
        raise Refused(
            f"It calls itself “{shown(said, 64)}”, which is no hostname.",
            advice="Give it a hostname of at most 64 letters, digits and - _ . , for example by hostnamectl.",
        )
    return said


def boot_id(value: object) -> str:
    said = text(value)
    if not _BOOT_ID.fullmatch(said):
        raise nonsense(value)
    return said


FACTS: dict[str, Callable[[Any], Any]] = {
    "hostname": hostname,
    **dict.fromkeys(("python", "system", "kernel", "libc", "user"), text),
    "architecture": partial(text, most=20),
    "missing": programs,
    "uid": partial(count, most=MOST_UID),
    **dict.fromkeys(("cores", "vcpus", "others"), count),
    **dict.fromkeys(("memory_gib", "load", "temporary_free_gib"), number),
    "boot_id": boot_id,
    "people": names,
    **dict.fromkeys(("programs", "other_keys"), count),
    "program_names": names,
    "ended_at_logout": flag,
    "temporary": partial(text, most=250),
}
FOLDER: dict[str, Callable[[Any], Any]] = {
    "kind": text,
    "within": partial(text, most=400),
    "executes": flag,
    "owner": text,
    "is_ours": flag,
    "is_others": flag,
    "free_gib": partial(number, most=1e12),
}


def read(said: object, kinds: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """What it says of each of these. Raises `Refused`."""
    if not isinstance(said, dict) or not kinds.keys() <= said.keys():
        raise nonsense(said)
    return {name: kind(said[name]) for name, kind in kinds.items()}
