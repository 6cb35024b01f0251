"""How a status looks on a page: icon, word and colour, from one table beside each enum."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Badge:
    """`word` is the product's own, in capitals; `look` is a class of portal.css; `icon` is a Bootstrap icon."""

    word: str
    look: str
    icon: str

    @classmethod
    def working(cls, word: str) -> Badge:
        return cls(word, "st-run", "bi-arrow-repeat")

    @classmethod
    def waiting(cls, word: str) -> Badge:
        return cls(word, "", "bi-circle")

    @classmethod
    def good(cls, word: str, icon: str = "bi-check-circle-fill") -> Badge:
        return cls(word, "st-ok", icon)

    @classmethod
    def bad(cls, word: str) -> Badge:
        return cls(word, "st-bad", "bi-x-octagon-fill")

    @classmethod
    def gone(cls, word: str) -> Badge:
        return cls(word, "st-gone", "bi-slash-circle")
