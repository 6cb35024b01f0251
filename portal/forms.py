"""What an action refuses is said in the form that asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.forms import BaseForm

from portal.errors import PortalError


@contextmanager
def refusals_in(form: BaseForm) -> Iterator[None]:
    """A `PortalError` raised inside is shown at the field that it is about, or above the form, and ends here."""
    try:
        yield
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, error.message)
