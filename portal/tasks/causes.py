"""Why a task failed, for people: a table of causes, which a site extends.

What is stored of a failure is what was said then. It is explained when it is read, so that a cause which somebody adds
to the table explains the failures of before too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.urls import reverse

from portal.clouds import Alternative, NoRoom
from portal.errors import PortalError
from portal.tasks.models import Task, TaskStatus

_OURS = Path(__file__).with_name("causes.toml")
BUTTONS = frozenset({"retry", "other-type", "other-zone", "keep", "config"})
_WORDS = {"code", "pattern", "say", "advice", "lines"}
_LISTS = {"kinds", "buttons"}


@dataclass(frozen=True)
class Entry:
    """One row of the table. It is about failures with this code, or in which this is found; of these kinds of tasks."""

    code: str = ""
    pattern: re.Pattern[str] | None = None
    kinds: tuple[str, ...] = ()  # such as clusters.*; none: all
    say: str = ""  # \1 is the first group of the pattern; empty: as it was said
    advice: str = ""
    lines: re.Pattern[str] | None = None  # of the evidence, which lines tell most; none: those that the pattern found
    buttons: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Entry:
        """Raises ValueError in words."""
        if unknown := sorted(set(row) - _WORDS - _LISTS):
            raise ValueError(f"{unknown[0]!r} is no word of a cause")
        if wrong := [name for name in _WORDS & set(row) if not isinstance(row[name], str)]:
            raise ValueError(f"{wrong[0]} is to be a text")
        if wrong := [name for name in _LISTS & set(row) if not isinstance(row[name], list)]:
            raise ValueError(f"{wrong[0]} is to be a list of texts")
        if not row.get("code") and not row.get("pattern"):
            raise ValueError("a cause needs a code or a pattern")
        if unknown := sorted(set(row.get("buttons", ())) - BUTTONS):
            raise ValueError(f"there is no button {unknown[0]!r}, only {', '.join(sorted(BUTTONS))}")
        try:
            pattern, lines = (re.compile(row[name], re.M) if row.get(name) else None for name in ("pattern", "lines"))
            if pattern is not None:  # that its groups are there is seen now, and not by a reader of a page
                pattern.sub(row.get("say", ""), "")
        except re.error as error:
            raise ValueError(f"{error}") from error
        return cls(
            code=row.get("code", ""),
            pattern=pattern,
            kinds=tuple(row.get("kinds", ())),
            say=row.get("say", ""),
            advice=row.get("advice", ""),
            lines=lines,
            buttons=tuple(row.get("buttons", ())),
        )

    def finds(self, kind: str, code: str, said: str) -> bool:
        if self.kinds and not any(fnmatchcase(kind, one) for one in self.kinds):
            return False
        if self.code and self.code != code:
            return False
        return self.pattern is None or bool(self.pattern.search(said))


@dataclass(frozen=True)
class Explanation:
    say: str
    advice: str
    lines: Sequence[str]  # two of the evidence at most
    evidence: str  # all of it
    buttons: Sequence[str]
    alternatives: Sequence[Alternative] = ()
    guide: str = ""  # the address of what is written about it at length

    @property
    def told(self) -> str:
        return "\n".join(self.lines)

    @property
    def has_more(self) -> bool:
        return len(self.evidence.strip().splitlines()) > len(self.lines)


@dataclass(frozen=True)
class Way:
    """A button: a link, or where it changes something, a form."""

    label: str
    url: str
    icon: str
    changes: bool = False
    for_admins: bool = False  # of the organization: to others it is no way


@lru_cache(maxsize=2)
def table(path: str) -> tuple[Entry, ...]:
    """The site's entries, from this file, before ours. Raises ValueError in words. Read once in a process's life."""
    return (*(_read(Path(path)) if path else ()), *_read(_OURS))


def _read(path: Path) -> Iterable[Entry]:
    try:
        rows = tomllib.loads(path.read_text()).get("cause", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    for number, row in enumerate(rows, 1):
        try:
            yield Entry.of(row)
        except ValueError as error:
            raise ValueError(f"{path}: cause {number}: {error}") from error


def explain(kind: str, code: str, cause: str, evidence: str, advice: str = "") -> Explanation:
    """By the first entry that is about this; by what was said then, where none is."""
    said = f"{cause}\n{evidence}"
    entry = next((one for one in table(settings.CAUSES) if one.finds(kind, code, said)), Entry())
    found = entry.pattern.search(said) if entry.pattern else None
    say = (found.expand(entry.say) if found else entry.say) or cause
    whole = evidence
    if say != cause and cause not in evidence:
        whole = f"{cause}\n{evidence}".strip()  # what was said is not lost behind a better sentence
    lines = _two(evidence or whole, entry.lines or entry.pattern)
    return Explanation(say, entry.advice or advice, lines, whole, entry.buttons or ("retry",))


def explain_task(task: Task) -> Explanation | None:
    """None where it has not failed."""
    if task.status != TaskStatus.FAILED:
        return None
    known: Mapping[str, Any] = next((step.memo["error"] for step in task.steps.all() if "error" in step.memo), {})
    made = explain(task.kind, known.get("code", ""), task.cause, task.evidence, task.advice)
    others = tuple(Alternative(**one) for one in known.get("alternatives", ()))
    return replace(made, alternatives=others, guide=_guide(task.cloud, known.get("code", "")))


def _guide(cloud: str, code: str) -> str:
    section = guides().get(cloud, {}).get(code)
    return f"{reverse(f'{cloud}-guide')}#{section}" if section else ""


@lru_cache(maxsize=1)
def guides() -> dict[str, dict[str, str]]:
    """By kinds of clouds and codes of failures: the section of that cloud's guide, by its anchor."""
    found: dict[str, dict[str, str]] = tomllib.loads(_OURS.read_text())["guides"]
    return found


def remembered(error: PortalError) -> dict[str, Any]:
    """What the memo of the step keeps of it, beside the words that the task has."""
    others = error.alternatives if isinstance(error, NoRoom) else ()
    return {
        "code": error.code,
        "alternatives": [{"zone": one.zone, "instance_type": one.instance_type} for one in others],
    }


def _two(evidence: str, telling: re.Pattern[str] | None) -> list[str]:
    """The lines that tell most, in their order: those with what is looked for, else the last ones."""
    lines = [line for line in evidence.splitlines() if line.strip()]
    if len(lines) <= 2:
        return lines
    marked = [n for n, line in enumerate(lines) if telling and telling.search(line)][:2]
    if len(marked) == 1:
        marked = [marked[0], marked[0] + 1] if marked[0] + 1 < len(lines) else [marked[0] - 1, marked[0]]
    return [lines[n] for n in marked] if marked else lines[-2:]
