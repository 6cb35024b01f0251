"""What forms say of themselves, in the portal's voice instead of Django's: what to do, in few words.

Said once for every form, those of allauth and of staff too, because each asks the same classes.
"""

from __future__ import annotations

from django import forms
from django.core import validators
from django.db.models import Field

REQUIRED = "Fill this in."
NO_CHOICE = "This cannot be chosen here."
ADDRESS = "This is no e-mail address: it looks like name@example.org."
FIELDS: dict[type[forms.Field], dict[str, str]] = {
    forms.Field: {"required": REQUIRED},
    forms.ChoiceField: {"invalid_choice": NO_CHOICE},
    forms.TypedChoiceField: {"invalid_choice": NO_CHOICE},
    forms.MultipleChoiceField: {"invalid_choice": NO_CHOICE, "invalid_list": NO_CHOICE},
    forms.ModelChoiceField: {"invalid_choice": NO_CHOICE},
    forms.IntegerField: {"invalid": "Write a whole number."},
    forms.DateField: {"invalid": "Write a date like 2026-11-24."},
    forms.UUIDField: {"invalid": "This is no id."},
}


def speak() -> None:
    """Called once, when the apps are ready."""
    for field, sentences in FIELDS.items():
        field.default_error_messages = {**field.default_error_messages, **sentences}
    Field.default_error_messages = {**Field.default_error_messages, "blank": REQUIRED, "invalid_choice": NO_CHOICE}
    validators.EmailValidator.message = ADDRESS
    validators.validate_email.message = ADDRESS  # made before this was said
    validators.MinValueValidator.message = "At least %(limit_value)s."
    validators.MaxValueValidator.message = "At most %(limit_value)s."
    validators.MaxLengthValidator.message = "At most %(limit_value)d characters; these are %(show_value)d."
    validators.ProhibitNullCharactersValidator.message = "There is a character in it that cannot be kept."
