"""What is found of a computer: a line for each thing that was looked at, and what it has told of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from portal.clouds.machines.models import Computer


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


@dataclass(eq=False)
class Told:
    """What one computer has told in the course of a check, for `judging`."""

    computer: Computer
    finding: Finding
    is_open: bool = False  # it answers still
    base: dict[str, Any] | None = None  # of the base folder
    trouble: str = ""  # with that
    skew: float | None = None  # seconds that its clock is ahead of ours
    sees: set[str] = field(default_factory=set)  # whose tokens it has read
    ways: dict[str, list[str]] = field(default_factory=dict)  # what is in the way to the others, by whose it is

    @property
    def me(self) -> str:
        """What it is called in a check."""
        return self.computer.uuid.hex
