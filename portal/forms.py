"""What an action refuses is said in the form that asked for it; and what a name may not be."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from django.core.exceptions import ValidationError
from django.forms import BaseForm

from portal.errors import PortalError

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
JOINERS = frozenset("\u200c\u200d")


@contextmanager
def refusals_in(form: BaseForm) -> Iterator[None]:
    """A `PortalError` raised inside is shown at the field that it is about, or above the form, and ends here."""
    try:
        yield
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, error.message)


def version_of(*what: Any) -> str:
    """Another one whenever one of these is another."""
    return sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:32]


def is_overtaken(form: BaseForm, version: str) -> bool:
    """Whether what the form is about, which is of this version, was changed since its page was opened: else whoever
    had it open would take back what they never saw. The form says so, once: its page has the new version. So this is
    asked of each form that is sent, and not of those alone that are right in all else.
    """
    if form.data.get("version", version) == version:
        return False
    form.add_error(
        None,
        "It was changed since you opened this. Look at what it is now; sent once more, this takes the place of that.",
    )
    return True


def plain_line(text: str) -> None:
    """A validator of what people call something: on pages and in mails it stands within sentences of ours.

    A line break begins a line of its own there, and what turns the direction of writing turns the sentence around it.
    Joiners are a part of Persian words, and of some signs.
    """
    if any(unicodedata.category(one) in _UNSEEN and one not in JOINERS for one in text):
        raise ValidationError("Write it in one line, without characters that cannot be seen.", code="unseen")
