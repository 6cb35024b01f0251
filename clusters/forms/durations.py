"""How long a cluster may be without activity, as a field of a form: a number and its unit, or never."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.safestring import SafeString

from clusters.durations import MOST, MOST_DAYS, NEVER, UNITS, split

PAUSES = "After so long without runs and terminals its nodes stop. They keep their disks, and can be resumed."
GIVES_BACK = (
    "After so long without runs and terminals it is deleted, and its computers are free for others. What lies on the"
    " shared filesystem stays."
)
DELETES = "After so long without runs and terminals it is deleted. The time goes on while it is PAUSED."


class DurationWidget(forms.MultiWidget):
    """A number and its unit, side by side. The unit is the second control: `NAME_1`."""

    def __init__(self) -> None:
        choices = [*((unit, unit.capitalize()) for unit in UNITS), (NEVER, "Never")]
        number = forms.NumberInput(attrs={"min": 1, "max": MOST, "step": 1, "inputmode": "numeric"})
        super().__init__([number, forms.Select(choices=choices, attrs={"aria-label": "Unit"})])

    def decompress(self, value: Any) -> list[Any]:
        return list(split(value)) if value is not None else [None, "minutes"]

    def id_for_label(self, id_: str) -> str:
        return f"{id_}_0" if id_ else ""

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        """The classes that a control is given are those of a text field."""
        context = super().get_context(name, value, attrs)
        for part in context["widget"]["subwidgets"]:
            part["attrs"]["class"] = f"{part['attrs'].get('class', '')} w-s".strip()
        part["attrs"]["class"] = part["attrs"]["class"].replace("form-control", "form-select")
        return context

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        return format_html('<div class="pair">{}</div>', super().render(name, value, attrs, renderer))


class DurationField(forms.MultiValueField):
    """The value is in minutes; 0: never. What stands in the number's place beside “Never” does not matter."""

    def __init__(self, **kwargs: Any) -> None:
        whole = "Use a whole number."
        fields = (
            forms.IntegerField(required=False, error_messages={"invalid": whole}),
            forms.ChoiceField(choices=[(unit, unit) for unit in (*UNITS, NEVER)]),
        )
        errors = {"incomplete": "Say how long, or choose Never.", "required": "Say how long, or choose Never."}
        super().__init__(
            fields=fields, widget=DurationWidget(), require_all_fields=False, error_messages=errors, **kwargs
        )

    def clean(self, value: Any) -> int:
        if isinstance(value, list | tuple) and list(value[1:]) == [NEVER]:
            return 0
        minutes: int = super().clean(value)
        return minutes

    def compress(self, data_list: Sequence[Any]) -> int:
        number, unit = data_list
        if number is None:
            raise forms.ValidationError(self.error_messages["incomplete"], code="incomplete")
        if number < 1:
            raise forms.ValidationError("At least 1. To switch it off, choose Never.", code="min_value")
        minutes: int = number * UNITS[unit]
        if minutes > MOST:
            raise forms.ValidationError(f"At most {MOST_DAYS} days.", code="max_value")
        return minutes
