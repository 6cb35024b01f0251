"""What makes long pages cheap gives the same page."""

from __future__ import annotations

import pytest
from django import forms
from django.template import RequestContext, Template
from django.test import RequestFactory
from django.test.html import parse_html

from portal.templatetags import portal as tags

CHOICES = [("", "Any"), ("a", "A & <B>"), ("7", "Seven")]


class Form(forms.Form):
    plain = forms.ChoiceField(choices=CHOICES, required=False)
    must = forms.ChoiceField(choices=CHOICES, help_text="Choose.", widget=forms.Select(attrs={"aria-label": "Must"}))
    number = forms.TypedChoiceField(choices=[(7, "Seven"), (8, "Eight")], coerce=int, initial=8, disabled=True)
    grouped = forms.ChoiceField(choices=[("One", [("a", "A")]), ("b", "B")], required=False)


@pytest.mark.parametrize(
    "sent", [None, {}, {"plain": "a", "must": "7"}, {"plain": "<x>", "must": "no", "grouped": "a"}]
)
def test_a_select_is_what_django_makes_of_it(sent, monkeypatch):
    for field in Form(sent):
        ours = tags.control(field)
        with monkeypatch.context() as patch:
            patch.setattr(tags, "Select", object)  # no widget is of this type
            assert parse_html(ours) == parse_html(tags.control(field)), field.name


def test_parts_that_are_alike_are_rendered_once_and_have_their_own_places(monkeypatch):
    rendered = []
    real = Template.render
    monkeypatch.setattr(Template, "render", lambda self, context: rendered.append(self.name) or real(self, context))
    request = RequestFactory().get("/")
    row = '{% for n in rows %}{% stamp "tasks/cancel_words.html" n.even page=n.page %}{% endfor %}'
    rows = [{"even": n % 2 == 0, "page": f"/{n}/<b>"} for n in range(10)]
    engine = Template(row).engine
    part = Template("{% if n.even %}even{% else %}odd{% endif %} {{ page }};", name="part")
    monkeypatch.setattr(engine, "get_template", lambda name: part)
    said = Template(row).render(RequestContext(request, {"rows": rows}))
    assert said == "".join(f"{'odd' if n % 2 else 'even'} /{n}/&lt;b&gt;;" for n in range(10))
    assert rendered.count("part") == 2


def test_a_place_may_begin_as_another_is_called(monkeypatch):
    row = Template('{% stamp "part" id="7" id_of="x" %}')
    monkeypatch.setattr(row.engine, "get_template", lambda name: Template("{{ id_of }} {{ id }}"))
    assert row.render(RequestContext(RequestFactory().get("/"), {})) == "x 7"
