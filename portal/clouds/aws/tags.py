"""How things in an account say whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from portal.clouds.types import Tags

PREFIX = "coxswain:"
PORTAL = f"{PREFIX}portal"
RANK = f"{PREFIX}rank"
PART = f"{PREFIX}part"  # which one of its kind a thing is, where a subject has several

Written = list[dict[str, str]]


def written(tags: Tags, extra: Iterable[tuple[str, str]] = (), *, name: str = "", **more: str) -> Written:
    """For a call that makes something. `extra` are people's, and take no key that is ours; `more` are further ones of
    ours, by their words, such as `rank`. `name` is what AWS's console shows.
    """
    ours = {f"{PREFIX}{word}": value for word, value in {**asdict(tags), **more}.items()}
    theirs = {key: value for key, value in extra if not key.lower().startswith((PREFIX, "aws:")) and key != "Name"}
    both = {**theirs, **({"Name": name} if name else {}), **ours}
    return [{"Key": key, "Value": value} for key, value in both.items()]


def specified(kinds: str | Sequence[str], keys: Written) -> list[dict[str, Any]]:
    """As EC2's calls take them, for a thing of this kind (or of each of these)."""
    return [{"ResourceType": kind, "Tags": keys} for kind in ([kinds] if isinstance(kinds, str) else kinds)]


def filters(tags: Tags, **more: str) -> list[dict[str, Any]]:
    """For EC2's Describe calls: the things of this subject of this portal."""
    ours = {"portal": tags.portal, "subject": tags.subject, **more}
    return [{"Name": f"tag:{PREFIX}{word}", "Values": [value]} for word, value in ours.items()]


def read(found: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """Of a thing's tags, by key. A service that has no tags for a thing answers nothing."""
    return {one["Key"]: one["Value"] for one in found or ()}


def owner(found: Mapping[str, str]) -> Tags | None:
    """Whose a thing is. None where it is not ours, or was made by something else than a portal."""
    values = {word: found.get(f"{PREFIX}{word}", "") for word in ("portal", "organization", "workspace", "subject")}
    return Tags(**values) if all(values.values()) else None
