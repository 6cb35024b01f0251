"""Parameters of templates: what they may be, and how their values get into what a job runs.

A value takes the place of `{name}` in the command of a Python program, in the reference, and in variables. The command
is split into its words before: whatever a value has in it, it stays within one argument. No shell ever reads it: a
shell command has its parameters as variables of its environment, `NAME`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Self

from django.core.exceptions import ValidationError
from django.db.models import TextChoices

from jobs import rules
from jobs.models import Kind

MOST = 30  # parameters of a template
LONGEST = 1000  # characters of a value
MOST_CHOICES = 100
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
DIGITS, PLACES = 30, 15  # of a number, and how many of them behind its point
_WHOLE = re.compile(r"-?[0-9]{1,15}")
_NUMBER = re.compile(rf"{_WHOLE.pattern}(\.[0-9]{{1,15}})?")
_PLACE = re.compile(r"(?<!\$)\{([a-z][a-z0-9_]{0,39})\}")  # ${name} is a shell's


class Type(TextChoices):
    TEXT = "text", "Text"
    WHOLE = "whole", "Whole number"
    DECIMAL = "decimal", "Number"
    CHOICE = "choice", "One of several"
    SWITCH = "switch", "Yes or no"
    SECRET = "secret", "Secret"


@dataclass(frozen=True)
class Parameter:
    """`default` is text, as are `least` and `most`, the bounds of a number; empty: there is none."""

    name: str
    type: str = Type.TEXT
    help: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    least: str = ""
    most: str = ""

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Self:
        return cls(**{**kept, "choices": tuple(kept["choices"])})

    @property
    def kept(self) -> dict[str, Any]:
        return {**asdict(self), "choices": list(self.choices)}

    @property
    def variable(self) -> str:
        """What a secret one, or one of a shell command, is called in the environment."""
        return self.name.upper()

    @property
    def words(self) -> str:
        """What it may be, and usually is: “Whole number: 1 to 64, usually 8”."""
        may_be = ""
        if self.type == Type.CHOICE:
            may_be = ", ".join(self.choices)
        elif self.least and self.most:
            may_be = f"{self.least} to {self.most}"
        elif self.least or self.most:
            may_be = f"{self.least} or more" if self.least else f"{self.most} or less"
        said = f"{Type(self.type).label}: {may_be}" if may_be else str(Type(self.type).label)
        return f"{said}, usually {self.default}" if self.default else said


def name(text: str) -> str:
    """Raises `ValidationError`, as all here do."""
    text = text.strip()
    if not _NAME.fullmatch(text):
        raise ValidationError(
            "A name has small letters, digits and _, and begins with a letter: learning_rate.", code="no_name"
        )
    return text


def choices(text: str) -> tuple[str, ...]:
    """One a line, or with commas between."""
    found = tuple(dict.fromkeys(part.strip() for part in re.split(r"[,\n]", text) if part.strip()))
    if len(found) > MOST_CHOICES:
        raise ValidationError(f"At most {MOST_CHOICES} choices; these are {len(found):,}.", code="too_many")
    for one in found:
        value(one)
    return found


def bounds(found: Sequence[str], *, whole: bool) -> tuple[str, str]:
    """The least and the most of a number, of what `choices` has read; the second may be left out."""
    if len(found) > 2 or not all((_WHOLE if whole else _NUMBER).fullmatch(one) for one in found):
        kind = "whole number" if whole else "number"
        raise ValidationError(f"Of a {kind}, give the least and the most: 1, 64.", code="bounds")
    least, most = (*found, "", "")[:2]
    if least and most and Decimal(least) > Decimal(most):
        raise ValidationError(f"{least} is more than {most}: give the least first.", code="bounds")
    return least, most


def value(text: str) -> str:
    if len(text) > LONGEST:
        raise ValidationError(f"At most {LONGEST:,} characters; these are {len(text):,}.", code="too_long")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValidationError("This cannot have line breaks or control characters in it.", code="control")
    return text


def as_text(given: Any) -> str:
    """Of what a field of its type has made of it."""
    if isinstance(given, bool):
        return "true" if given else "false"
    return f"{given:f}" if isinstance(given, Decimal) else "" if given is None else str(given)


def check(parameters: Sequence[Parameter], program: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with them and with where they are used: {field of the program, or a parameter's name: why}."""
    wrong: dict[str, str] = {}
    known = {one.name: one for one in parameters}
    is_shell = program["kind"] == Kind.SHELL
    texts = {"reference": program["reference"], "environment": "\n".join(program["environment"].values())}
    if not is_shell:
        texts["command"] = program["command"]
    used: set[str] = set()
    for field, text in texts.items():
        for place in _PLACE.findall(text):
            if place not in known:
                wrong.setdefault(field, f"{{{place}}} names no parameter. Add one of that name, or take it out.")
            elif known[place].type == Type.SECRET:
                variable = known[place].variable
                wrong.setdefault(
                    field,
                    f"{{{place}}} is secret: it would be seen here. The program has it as the variable {variable}.",
                )
            used.add(place)
    taken = {name.upper() for name in program["environment"]}
    for one in parameters:
        is_variable = is_shell or one.type == Type.SECRET
        if is_variable:
            try:
                rules.environment([(one.variable, "")])
            except ValidationError as error:
                wrong.setdefault(one.name, error.messages[0])
            if one.variable in taken:
                wrong.setdefault(one.name, f"There is a variable {one.variable} already.")
        elif one.name not in used:
            wrong.setdefault(one.name, f"It is used nowhere: write {{{one.name}}} where its value is to stand.")
    return wrong


def bind(
    parameters: Sequence[Parameter], program: Mapping[str, Any], values: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The program with these values in it, and its secret variables. Raises `ValidationError`."""

    def put(text: str) -> str:
        return _PLACE.sub(lambda place: values.get(place[1], place[0]), text)

    bound = dict(program)
    bound["reference"] = rules.reference(put(program["reference"]))
    environment = {name: put(text) for name, text in program["environment"].items()}
    if program["kind"] == Kind.SHELL:
        environment |= {one.variable: values[one.name] for one in parameters if one.type != Type.SECRET}
    else:
        bound["command"] = rules.command_of(
            program["kind"], shlex.join(put(word) for word in shlex.split(program["command"]))
        )
    bound["environment"] = rules.environment(list(environment.items()))
    secrets = {one.variable: values[one.name] for one in parameters if one.type == Type.SECRET and values[one.name]}
    rules.secrets(list(secrets.items()), (), bound["environment"])
    return bound, secrets
