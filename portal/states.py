"""The status machine, once: what a thing may be, what it is called on pages and in the API, and how it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.db import models


@dataclass(frozen=True)
class Badge:
    """How a status looks on a page.

    `word` is the product's own, in capitals; `look` is a class of portal.css; `icon` is a Bootstrap icon.
    """

    word: str
    look: str
    icon: str

    @classmethod
    def working(cls, word: str) -> Badge:
        return cls(word, "st-run", "bi-arrow-repeat")

    @classmethod
    def waiting(cls, word: str, icon: str = "bi-circle") -> Badge:
        return cls(word, "", icon)

    @classmethod
    def good(cls, word: str, icon: str = "bi-check-circle-fill") -> Badge:
        return cls(word, "st-ok", icon)

    @classmethod
    def bad(cls, word: str) -> Badge:
        return cls(word, "st-bad", "bi-x-octagon-fill")

    @classmethod
    def warning(cls, word: str, icon: str = "bi-exclamation-triangle-fill") -> Badge:
        return cls(word, "st-warn", icon)

    @classmethod
    def gone(cls, word: str) -> Badge:
        return cls(word, "st-gone", "bi-slash-circle")


@dataclass(frozen=True)
class State:
    """One row of a model's table: the page's word, the API's (where it is another one), and what it may follow."""

    badge: Badge
    api: str = ""
    follows: Iterable[str] = field(default_factory=tuple)

    @property
    def api_word(self) -> str:
        return self.api or self.badge.word


class HasStatus(models.Model):
    """A row whose `status` only changes along its table, by one conditional UPDATE each time."""

    STATES: ClassVar[Mapping[str, State]]

    status: str

    class Meta:
        abstract = True

    @property
    def state(self) -> str:
        """The key of STATES that people are shown: the status, where a model derives nothing finer from it."""
        return self.status

    @property
    def badge(self) -> Badge:
        return self.STATES[self.state].badge

    @property
    def api_status(self) -> str:
        return self.STATES[self.state].api_word

    def move(self, to: str, **fields: Any) -> bool:
        """Change the status, with other fields in the same UPDATE, and say whether this call was the one that did it.

        False: the row is in a status that `to` does not follow, and nothing was written; `status` says which. What it
        returns must be looked at: `tests/test_house.py` finds the call that does not.
        """
        rows: Any = type(self)._default_manager
        moved = rows.filter(pk=self.pk, status__in=list(self.STATES[to].follows)).update(status=to, **fields)
        if moved:
            self.status = to
            for name, value in fields.items():
                setattr(self, name, value)
        else:
            self.refresh_from_db(fields=["status"])
        return bool(moved)
