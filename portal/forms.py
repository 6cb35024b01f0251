"""What an action refuses is said in the form that asked for it; and what a name may not be."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ValidationError
from django.forms import BaseForm

from portal.errors import PortalError

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")


@contextmanager
def refusals_in(form: BaseForm) -> Iterator[None]:
    """A `PortalError` raised inside is shown at the field that it is about, or above the form, and ends here."""
    try:
        yield
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, error.message)


def plain_line(text: str) -> None:
    """A validator of what people call something: on pages and in mails it stands within sentences of ours.

    A line break begins a line of its own there, and what turns the direction of writing turns the sentence around it.
    Joiners are a part of Persian words, and of some signs.
    """
    if any(unicodedata.category(one) in _UNSEEN and one not in _JOINERS for one in text):
        raise ValidationError("Write it in one line, without characters that cannot be seen.", code="unseen")
