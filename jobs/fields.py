"""Fields of a job's forms that no other form has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.models import ModelChoiceIterator
from django.http import QueryDict
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.timezone import now

from clusters.models import Cluster
from jobs import rules
from jobs.dispatch import GONE
from workspaces.models import Workspace

OWN = "new"  # in the place of a cluster's uuid: one is made for each run


class _WithOwn(ModelChoiceIterator):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        """The clusters are read once, however often this is gone through: Django's own reads them each time."""
        if self.field.empty_label is not None:
            yield "", self.field.empty_label
        for cluster in self.queryset:
            yield self.choice(cluster)
        if self.field.own:  # type: ignore[attr-defined]
            yield OWN, self.field.own  # type: ignore[attr-defined]


class ClusterField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """The clusters of a workspace that a run may be asked for on. `OWN` where `own`, its words, are given."""

    iterator = _WithOwn
    own = ""

    def __init__(self) -> None:
        super().__init__(Cluster.objects.none(), to_field_name="uuid", empty_label=None)

    def label_from_instance(self, cluster: Any) -> str:
        return f"{cluster.name}, {cluster.badge.word}, {cluster.cores} core{'' if cluster.cores == 1 else 's'}"

    def offer(self, workspace: Workspace, chosen: Cluster | None, own: str = "") -> None:
        """Where the chosen one is gone, none is chosen: the person has to say which."""
        self.own = own
        self.queryset = workspace.clusters.shared().exclude(status__in=GONE).with_lost_nodes().order_by("name")
        self.empty_label = "Choose a cluster" if chosen and chosen.status in GONE else None

    def to_python(self, value: Any) -> Any:
        return OWN if self.own and value == OWN else super().to_python(value)


class DueField(forms.DateTimeField):
    """When a run begins, by the clock of whoever reads the page: of a time that comes twice, the first, as schedules
    have it."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%d-%m-%Y %H:%M"], **kwargs)

    def clean(self, value: Any) -> datetime | None:
        try:
            due = super().clean(value)
        except ValidationError as error:
            if error.code != "ambiguous_timezone" or not error.params:
                raise
            naive, place = error.params["datetime"], error.params["current_timezone"]
            due = naive.replace(tzinfo=place)
            if due.astimezone(UTC).astimezone(place).replace(tzinfo=None) != naive:
                raise ValidationError(
                    f"{naive:%H:%M} does not exist that day in {place}, because clocks go forward. Give another time.",
                    code="no_such_time",
                ) from error
        return rules.due(due, now()) if due else None


class TagsField(forms.CharField):
    """The tags of a job, in one line."""

    widget = forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"})

    def prepare_value(self, value: Any) -> Any:
        return " ".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        return rules.tags(super().clean(value))


class _Rows(forms.Widget):
    """A row for each variable, and an empty one."""

    is_secret = False
    kept: Collection[str] = ()  # names of secret ones that have a value

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        def each(part: str) -> list[str]:
            key = f"{name}_{part}"
            return data.getlist(key) if isinstance(data, QueryDict) else list(data.get(key, ()))

        return list(zip(each("name"), each("value"), strict=False))

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        return f"{name}_name" not in data

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        pairs = list(value.items()) if isinstance(value, Mapping) else [pair for pair in value or () if any(pair)]
        attrs = attrs or {}
        context = {
            "name": name,
            "rows": [*pairs, ("", "")],
            "is_secret": self.is_secret,
            "kept": self.kept,
            "id": attrs.get("id"),
            "described": attrs.get("aria-describedby"),
            "invalid": attrs.get("aria-invalid"),
        }
        return render_to_string("jobs/_environment.html", context)


class _SecretRows(_Rows):
    """Without the values: what was typed is typed again."""

    is_secret = True

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        names = [key for key, *_ in value or ()] if value and not isinstance(value[0], str) else value
        return super().render(name, [(key, "") for key in names or ()], attrs, renderer)


class SecretsField(forms.Field):
    """Secret variables, as pairs of name and value. Initially the names of those that are kept."""

    widget = _SecretRows

    def clean(self, value: Any) -> list[tuple[str, str]]:
        pairs = [(name.strip(), text.replace("\r\n", "\n")) for name, text in value or ()]
        return [pair for pair in pairs if any(pair)]


class EnvironmentField(forms.Field):
    """Variables of the environment, as a dict. A row without a name and a value is none."""

    widget = _Rows

    def clean(self, value: Any) -> dict[str, str]:
        pairs = [(name.strip(), text.replace("\r\n", "\n")) for name, text in value or ()]
        return rules.environment([pair for pair in pairs if any(pair)])
