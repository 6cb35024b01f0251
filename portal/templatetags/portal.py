"""How times, sizes and statuses are written on pages. Loaded for every template."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from secrets import token_hex
from typing import Any
from uuid import UUID, uuid4

from django import template
from django.conf import settings
from django.forms import BaseForm, BoundField, Select, TextInput
from django.forms.utils import flatatt
from django.template.base import Node, Parser, TextNode, Token
from django.template.library import SimpleNode
from django.urls import reverse
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localtime, now

from portal.states import Badge

register = template.Library()


@register.filter
def duration(value: timedelta | None) -> str:
    """12 s, 41 min 07 s, 2 h 05 min. The same in live.js."""
    if value is None:
        return ""
    seconds = max(0, int(value.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds // 60 % 60:02} min"


@register.filter
def in_words(look: Badge) -> str:
    """A status as titles of pages have it: In progress, Finished."""
    return "In progress" if look.word == "INPROGRESS" else look.word.capitalize()


@register.filter
def roughly(value: timedelta | None) -> str:
    """For what is only expected: 4 s, 3 min, 2 h."""
    if value is None:
        return ""
    seconds = max(1, round(value.total_seconds()))
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{round(seconds / 3600)} h"


@register.filter
def since(value: datetime | None) -> SafeString | str:
    """How long ago something began that still goes on. Pages with JavaScript count it up."""
    if value is None:
        return ""
    return format_html('<span data-since="{}">{}</span>', value.isoformat(), duration(now() - value))


@register.filter
def until(value: datetime | None) -> SafeString | str:
    """How long it is until then. Pages with JavaScript count it down."""
    if value is None:
        return ""
    return format_html('<span data-until="{}">{}</span>', value.isoformat(), duration(value - now()))


@register.filter
def clock(value: datetime | None) -> SafeString | str:
    """15:42:07 CET today; with the day for other days. In the person's time zone, as all times of pages."""
    if value is None:
        return ""
    here = localtime(value)
    today = here.date() == datetime.now(here.tzinfo).date()
    return _time(here, "%H:%M:%S %Z" if today else "%-d %b %Y, %H:%M %Z")


@register.filter
def short(value: datetime | None) -> SafeString | str:
    """24 Nov 15:42, with the year where it is another one; for columns, whose heading has `{% zone %}`."""
    if value is None:
        return ""
    here = localtime(value)
    this_year = here.year == datetime.now(here.tzinfo).year
    return _time(here, "%-d %b %H:%M" if this_year else "%-d %b %Y %H:%M")


@register.inclusion_tag("_emulated.html")
def emulation() -> dict[str, Any]:
    """On each page where AWS is emulated, that it is."""
    return {"endpoint": settings.AWS["endpoint"]}


@register.simple_tag
def zone() -> str:
    """The name of the time zone of this page's times: UTC, CET, -03."""
    return f"{localtime(now()):%Z}"


def _time(here: datetime, form: str) -> SafeString:
    """Nothing that people write is in it: there is nothing to escape, in columns with a time in each row."""
    title, words = here.strftime("%A %-d %B %Y, %H:%M:%S %Z"), here.strftime(form)
    return SafeString(f'<time datetime="{here.isoformat()}" title="{title}">{words}</time>')


@register.filter
def hours(value: Decimal) -> str:
    """Of nodes or cores: 1,234.50."""
    return f"{value:,.2f}"


@register.filter
def dollars(value: Decimal | None) -> str:
    """$1,234.50; nothing for what has no price. What is less than a cent, and not nothing, is said to be so."""
    if value is None:
        return ""
    return "under $0.01" if 0 < value < Decimal("0.005") else f"${value:,.2f}"


@register.filter
def number(value: int) -> str:
    return f"{value:,}"


@register.filter
def plural(value: int, words: str) -> str:
    """{{ n|plural:"node,nodes" }}: 1 node, 3 nodes."""
    one, many = words.split(",")
    return f"{value:,} {one if value == 1 else many}"


@register.filter
def to_mend(form: BaseForm) -> str:
    """What is to be done about a form that was refused, behind a colon; nothing where it is not about its fields."""
    wrong = sum(bool(field.errors) for field in form.visible_fields())
    if not wrong:
        return ""
    return ": one field needs a change" if wrong == 1 else f": {wrong} fields need a change"


_MARK = token_hex(8)  # nothing that people write looks like it


def _mark(place: str) -> str:
    """It has an end: the name of one place may be the beginning of another's."""
    return f"place-{_MARK}-{place}-"


@register.simple_tag(takes_context=True)
def stamp(context: template.RequestContext, name: str, *same: Any, **places: Any) -> SafeString:
    """A part of a row that differs from other rows' in a few places only, such as a menu: rendered once for them all.

    `same` is all that decides what is in it; rows that have it in common share one rendering. `places` are variables of
    the template that it prints as they are, and does nothing else with.
    """
    stamps: dict[Any, str] = vars(context.request).setdefault("stamps", {})
    key = (name, *(tuple(one) if isinstance(one, list) else one for one in same))
    made = stamps.get(key)
    if made is None:
        assert context.template is not None
        with context.push(**{place: _mark(place) for place in places}):
            made = stamps[key] = context.template.engine.get_template(name).render(context)
    for place, value in places.items():
        made = made.replace(_mark(place), conditional_escape(value))
    return SafeString(made)


@register.simple_tag(takes_context=True)
def in_organization(context: dict[str, Any]) -> SafeString | str:
    """For the forms of an organization's pages: which one they were made for. See `accounts.place`."""
    request = context.get("request")
    organization = getattr(request, "organization", None)
    if organization is None or hasattr(request, "workspace"):
        return ""
    return format_html('<input type="hidden" name="in_organization" value="{}">', organization.uuid)


@register.simple_tag
def new_key() -> UUID:
    """For a form that may be sent twice, and starts one thing."""
    return uuid4()


@register.tag("icon")
def icon_tag(parser: Parser, token: Token) -> Node:
    """`{% icon "name" "look" %}`, which is text from then on where it is about no variable."""
    said = [parser.compile_filter(one) for one in token.split_contents()[1:]]
    if any(one.is_var or one.filters for one in said):
        return SimpleNode(icon, False, said, {}, None)
    return TextNode(icon(*(one.var for one in said)))


@lru_cache(maxsize=1000)
def icon(name: str, look: str = "") -> SafeString:
    """A picture from `portal/icons.css`, beside words: no screen reader hears of it."""
    return format_html('<i class="bi bi-{}" aria-hidden="true"></i>', f"{name} {look}".rstrip())


_STEP_LOOKS = {
    "done": ("is-done", "check-circle-fill", "done"),
    "running": ("is-now", "arrow-repeat", "in progress"),
    "failed": ("is-bad", "x-octagon-fill", "failed"),
    "undone": ("is-undone", "arrow-counterclockwise", "undone"),
}


@register.filter
def step_look(status: str) -> tuple[str, str, str]:
    """The class, the icon and the word of a step."""
    return _STEP_LOOKS.get(status, ("is-wait", "circle", "not started"))


@register.simple_tag
def address(page: str, *of: UUID | str) -> str:
    """`{% url %}` for rows of lists: it remembers what it has found, where that looks through all addresses again."""
    return _address(page, *map(str, of))


@lru_cache(maxsize=10_000)
def _address(page: str, *of: str) -> str:
    return reverse(page, args=of)


@register.simple_tag
@lru_cache(maxsize=100)  # each row has one of a few
def badge(look: Badge) -> SafeString:
    """A status: word, colour and icon, never one alone."""
    return format_html('<span class="st {}"><i class="bi {}" aria-hidden="true"></i>{}</span>', *_parts(look))


def _parts(look: Badge) -> tuple[str, str, str]:
    return look.look, look.icon, look.word


@register.simple_tag
def options(choices: Iterable[tuple[str, str]], chosen: str) -> SafeString:
    """The choices of a control that is no form's field."""
    return _options(tuple(choices), chosen)


@lru_cache(maxsize=100)  # each row of a list may have the same control
def _options(choices: tuple[tuple[str, str], ...], chosen: str) -> SafeString:
    marked = ((value, " selected" if value == chosen else "", label) for value, label in choices)
    return format_html_join("", '<option value="{}"{}>{}</option>', marked)


@register.filter
def control(field: BoundField) -> SafeString:
    """The control of a form's field, with its classes, and tied to its hint and its errors."""
    widget = field.field.widget
    kind = getattr(widget, "input_type", "text")
    look = {"select": "form-select", "checkbox": "form-check-input", "hidden": ""}.get(kind, "form-control")
    attrs: dict[str, Any] = {"class": f"{look} {widget.attrs.get('class', '')}".strip()}
    described = [f"{field.id_for_label}-hint"] if field.help_text else []
    if field.errors:
        attrs["class"] += " is-invalid"
        attrs["aria-invalid"] = "true"
        described.append(f"{field.id_for_label}-error")
    if described:
        attrs["aria-describedby"] = " ".join(described)
    if type(widget) is Select:
        return _select(field, attrs)
    return _input(field, attrs) if type(widget) is TextInput else field.as_widget(attrs=attrs)


def _input(field: BoundField, attrs: dict[str, Any]) -> SafeString:
    """As Django does it, without its four templates."""
    widget = field.field.widget
    attrs = {"id": field.auto_id, **field.build_widget_attrs(attrs, widget)}
    of = widget.get_context(field.html_name, field.value(), attrs)["widget"]
    value = {} if of["value"] is None else {"value": of["value"]}
    return format_html('<input type="{}" name="{}"{}{}>', of["type"], of["name"], flatatt(value), flatatt(of["attrs"]))


def _select(field: BoundField, attrs: dict[str, Any]) -> SafeString:
    """As Django does it, without a template for each of its options: the filters above a list have many."""
    widget = field.field.widget
    choices = [(str(value), label) for value, label in widget.choices]
    if any(isinstance(label, list | tuple) for _, label in choices):  # in groups
        return field.as_widget(attrs=attrs)
    attrs = {"id": field.auto_id, **field.build_widget_attrs(attrs, widget)}
    (chosen,) = widget.format_value(field.value())
    return format_html(
        '<select name="{}"{}>{}</select>',
        field.html_name,
        flatatt(widget.build_attrs(widget.attrs, attrs)),
        _options(tuple((value, str(label)) for value, label in choices), chosen),
    )


_SECTIONS = {
    "dashboard": ("/dashboard/",),
    "usage": ("/usage/",),
    "audit": ("/organization/audit/",),
    "tokens": ("/tokens/",),
    "people": ("/people/",),
    "organization-settings": ("/organization/settings/", "/organization/delete/"),
    "organization": ("/organization/",),
    "profile": ("/profile/", "/accounts/email/"),
    "security": ("/accounts/security/", "/accounts/password/", "/accounts/connections/"),
    "sessions": ("/accounts/sessions/",),
    "clusters": ("/clusters/",),
    "jobs": ("/jobs/", "/runs/", "/schedules/", "/excluded-days/", "/templates/"),
    "cloud-configs": ("/cloud-configurations/", "/left-behind/", "/strays/", "/pools/", "/computers/"),
    "settings": ("/settings/", "/delete/", "/instance-roles/", "/roles/", "/git-credentials/"),
    "workspaces": ("/workspaces/",),
}


@register.simple_tag(takes_context=True)
def section(context: dict[str, Any]) -> str:
    """Which entry of the bar this page belongs to; the pages of a task belong to its subject's."""
    request = context.get("request")
    if request is None:
        return ""
    if request.path in ("/", "/runs/"):
        return "dashboard"
    task = context.get("task")
    path = f"/{task.kind.split('.')[0]}/" if task is not None else request.path
    return next((name for name, parts in _SECTIONS.items() if any(part in path for part in parts)), "")
