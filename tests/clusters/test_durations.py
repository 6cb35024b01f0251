"""How long a cluster may be without activity, as people type it."""

from __future__ import annotations

import pytest
from django import forms
from django.http import QueryDict
from django.template import Context, Template

from clusters.durations import in_words
from clusters.forms.durations import DurationField


class Form(forms.Form):
    auto_pause = DurationField(label="Auto pause", initial=60)


def sent(number, unit):
    return Form(QueryDict(f"auto_pause_0={number}&auto_pause_1={unit}"))


@pytest.mark.parametrize(
    ("number", "unit", "minutes"),
    [("90", "minutes", 90), ("1", "hours", 60), (" 2 ", "days", 2880), ("60", "days", 86400),
     ("", "never", 0), ("7", "never", 0), ("abc", "never", 0)],
)  # fmt: skip
def test_what_is_typed_becomes_minutes(number, unit, minutes):
    form = sent(number, unit)
    assert form.is_valid()
    assert form.cleaned_data == {"auto_pause": minutes}


@pytest.mark.parametrize(
    ("number", "unit", "says"),
    [("", "hours", "Say how long, or choose Never."), ("0", "hours", "choose Never"), ("-5", "minutes", "At least 1"),
     ("1.5", "hours", "whole number"), ("x", "days", "whole number"), ("61", "days", "At most 60 days."),
     ("86401", "minutes", "At most 60 days."), ("9" * 400, "days", ""), ("5", "fortnights", ""),
     ("5", "", "Say how long"), ("", "", "Say how long")],
)  # fmt: skip
def test_what_makes_no_sense_is_said_at_the_field_and_stays_typed(number, unit, says):
    form = sent(number, unit)
    assert not form.is_valid()
    assert says in form.errors["auto_pause"][0]
    assert form["auto_pause"].value() == [number, unit]


def test_nothing_sent_is_no_never():
    assert not Form(QueryDict("")).is_valid()


@pytest.mark.parametrize(
    ("minutes", "shown", "unit", "words"),
    [(60, 'value="1"', "hours", "1 hour"), (90, 'value="90"', "minutes", "90 minutes"),
     (2880, 'value="2"', "days", "2 days"), (0, "", "never", "never")],
)  # fmt: skip
def test_minutes_are_shown_in_the_largest_unit_that_needs_no_fraction(minutes, shown, unit, words):
    form = Form(initial={"auto_pause": minutes})
    page = Template('{% include "_field.html" with field=form.auto_pause %}').render(Context({"form": form}))
    assert shown in page
    assert f'<option value="{unit}" selected>' in page
    assert 'for="id_auto_pause_0"' in page and 'id="id_auto_pause_0"' in page  # noqa: PT018
    assert in_words(minutes) == words
    assert Form(QueryDict("auto_pause_0=1&auto_pause_1=hours"), initial={"auto_pause": 60}).has_changed() is False
