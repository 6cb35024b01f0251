"""Which addresses of e-mail are taken: those that are what they look like."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

LONGEST = 254  # as its column


def check_address(email: str) -> None:
    """Raises `ValidationError` with a sentence about this address.

    A domain that is not ASCII may be written with letters of another alphabet that look the same, or with ones that
    are not seen at all; its xn-- form looks like nothing else.
    """
    if len(email) > LONGEST:
        raise ValidationError(f"{email[:40]}… has {len(email)} letters, and an address has at most {LONGEST}.")
    if not email.isascii() or not email.isprintable():
        seen = email.encode("ascii", "backslashreplace").decode()
        raise ValidationError(
            f"{seen} has letters that are not seen, or look like others. Write such a domain in its xn-- form."
        )
    try:
        validate_email(email)
    except ValidationError as error:
        raise ValidationError(f"This is no e-mail address: {email}.") from error
