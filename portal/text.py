"""Words of others (git, pip, nodes, browsers): as every database takes them, and what they may stand for."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID


def storable(value: Any) -> Any:
    """The same value, without what databases refuse: NUL, half of a surrogate pair, numbers that are none.

    For text, and for what JSON may say. Names of files that are no UTF-8 come as such halves; each becomes "?".
    `portal.postgresql` applies it to whatever is asked or written, so that no caller can forget it; a caller that
    compares or hashes what it writes applies it before.
    """
    if isinstance(value, str):
        return (
            value
            if value.isascii() and "\0" not in value
            else value.replace("\0", "").encode(errors="replace").decode()
        )
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [storable(one) for one in value]
    if isinstance(value, dict):
        return {storable(name): storable(one) for name, one in value.items()}
    return value


def uuid_in(text: str) -> UUID | None:
    """None where it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None
