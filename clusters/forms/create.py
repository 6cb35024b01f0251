from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from django import forms
from django.core.validators import RegexValidator
from django.http import QueryDict
from django.urls import reverse
from django.utils.html import format_html

from clusters import offers, sizing
from clusters.actions import MOST_NODES, SPOT_STAYS
from clusters.estimate import Wanted
from clusters.forms.durations import DELETES, GIVES_BACK, PAUSES, DurationField
from clusters.models import Cluster, EngineVersion, InstanceRole
from clusters.room import room_for, why_not_enough
from portal.clouds import Can, InstanceType
from portal.forms import plain_line
from workspaces.forms import OnceForm
from workspaces.models import Workspace

NAME = RegexValidator(
    r"^[a-z]([a-z0-9-]*[a-z0-9])?\Z",
    "Use small letters, digits and hyphens, beginning with a letter; the nodes are named after it.",
)
MOST_ROWS = 40  # instance types that a page shows at once
MOST_TAGS = 20
# What every cloud takes: some allow more.
_TAG = re.compile(r"[A-Za-z0-9_.:+@-][A-Za-z0-9_.:+@ -]{0,99}")
_TAKEN = ("aws:", "azure", "microsoft", "windows", "coxswain")
GIVE_BACK_AFTER = 60  # minutes, where nothing else was said
_ENOUGH_CORES = 4  # of a node, to try something, where nothing else says what to begin with


def _place(engine: EngineVersion) -> tuple[str, list[int]]:
    """By kind, then by the numbers of the version: 2026.8 comes before 2026.10."""
    return engine.kind, [int(number) for number in re.findall(r"[0-9]+", engine.version)]


class TagsField(forms.CharField):
    """Lines of name=value, as a dict in the order of the lines."""

    widget = forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "class": "mono"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else value

    def clean(self, value: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        lines = (line.strip() for line in (super().clean(value) or "").splitlines())
        for line in filter(None, lines):
            name, equals, text = (part.strip() for part in line.partition("="))
            shown = f"“{line[:40]}”"
            if not equals or not name:
                raise forms.ValidationError(f"{shown}: write name=value, one a line.")
            if not _TAG.fullmatch(name):
                raise forms.ValidationError(
                    f"{shown}: a name has at most 100 letters, digits, spaces and any of _ . : + @ -"
                )
            if name.lower().startswith(_TAKEN):
                raise forms.ValidationError(f"{shown}: names that begin like this belong to clouds or to the portal.")
            if len(text) > 200 or not text.isprintable():
                raise forms.ValidationError(f"{shown}: a value has at most 200 characters, and no control characters.")
            if name.lower() in map(str.lower, found):
                raise forms.ValidationError(f"{shown}: this name is there twice.")
            found[name] = text
        if len(found) > MOST_TAGS:
            raise forms.ValidationError(f"At most {MOST_TAGS} tags; these are {len(found)}.")
        return found


class TypesForm(forms.Form):
    """Which instance types are shown."""

    find = forms.CharField(
        required=False,
        max_length=80,
        label="Name or family",
        widget=forms.TextInput(attrs={"type": "search", "autocomplete": "off", "spellcheck": "false"}),
    )
    cores = forms.IntegerField(required=False, min_value=1, max_value=100_000, label="Cores at least")
    memory = forms.IntegerField(required=False, min_value=1, max_value=1_000_000, label="GiB at least")
    architecture = forms.ChoiceField(required=False)
    quick = forms.BooleanField(required=False, label="Accelerated network only")

    def __init__(self, data: QueryDict, *, of: ClusterForm) -> None:
        super().__init__(data)
        types = of.catalogue.types if of.catalogue else []
        architectures = of.catalogue.architectures if of.catalogue else []
        if len(architectures) > 1:
            choices = [("", "Any"), *((one, one) for one in architectures)]
            self.fields["architecture"].choices = choices  # type: ignore[attr-defined]
        else:
            del self.fields["architecture"]
        if not any(one.accelerated_network for one in types):
            del self.fields["quick"]
        self._of = of
        # A page that was opened while the cloud was still being asked gets all that follows from the answer.
        self.is_filled = "awaited" in data and bool(types)
        self.total = len(types)
        self.found: list[InstanceType] = []
        self.full_clean()
        if of.catalogue:
            asked = self.cleaned_data  # without what makes no sense
            self.found = of.catalogue.find(
                asked.get("find", ""),
                cores=asked.get("cores") or 0,
                memory_gib=asked.get("memory") or 0,
                quick=asked.get("quick", False),
                architecture=asked.get("architecture", ""),
            )
        self.more = max(0, len(self.found) - MOST_ROWS)
        self.has_prices = any(one.hourly_price is not None for one in types)
        self.has_numbers = any(one.there is not None for one in types)
        self.has_networks = any(one.accelerated_network for one in types) or not self.has_numbers
        self.columns = 4 + self.has_networks + self.has_prices + (of.room is not None) + self.has_numbers

    @property
    def wide(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if name != "quick"]

    @property
    def groups(self) -> list[tuple[str, list[tuple[InstanceType, int | None]]]]:
        """By family, each type with how many nodes of it fit, if that is known; first the chosen one, if it was not
        found."""
        room, chosen, shown = self._of.room, self._of.chosen_type, self.found[:MOST_ROWS]
        found = {} if chosen is None or chosen in shown else {"Chosen": [chosen]}
        for one in shown:
            found.setdefault(one.family, []).append(one)
        return [(title, [(one, room.fits(one) if room else None) for one in types]) for title, types in found.items()]

    @property
    def said(self) -> str:
        found = len(self.found)
        return f"{found:,} of {self.total:,} instance types" if found < self.total else f"{found:,} instance types"


class ClusterForm(OnceForm):
    """The instance types come from the cloud; where it offers none, `trouble` says why."""

    name = forms.CharField(
        max_length=40,
        validators=[NAME],
        help_text="Small letters, digits and hyphens. Its nodes will be called NAME-0, NAME-1 and so on.",
    )
    instance_type = forms.CharField(
        max_length=40, error_messages={"required": "Choose an instance type."}, widget=forms.RadioSelect
    )
    node_count = forms.IntegerField(
        label="Number of nodes", min_value=1, max_value=MOST_NODES, initial=2, help_text=f"1 to {MOST_NODES}."
    )
    engine_version = forms.ModelChoiceField(EngineVersion.objects.none(), empty_label=None)
    auto_pause = DurationField(
        label="Auto pause",
        initial=60,
        help_text=PAUSES,
    )
    auto_shutdown = DurationField(
        label="Auto shutdown",
        initial=0,
        help_text=DELETES,
    )
    role = forms.ChoiceField(required=False, label="Instance role")
    zone = forms.ChoiceField(required=False, help_text="Where in the region its nodes are.")
    spot = forms.BooleanField(
        required=False,
        label="Spot nodes",
        help_text="They cost less, the cloud may take them away at any time, and they cannot be paused.",
    )
    extra_tags = TagsField(
        required=False,
        max_length=8000,
        label="Tags",
        help_text=f"One a line: name=value. At most {MOST_TAGS}. The cloud writes them on everything of the cluster.",
    )
    description = forms.CharField(
        required=False, max_length=200, validators=[plain_line], help_text="What it is for, in a line."
    )
    auto_repair = forms.BooleanField(
        required=False,
        label="Repair by itself when a node is lost",
        help_text="What is missing is made again, and the other nodes are left alone. It can be changed later.",
    )

    ADVANCED: ClassVar = ("auto_shutdown", "role", "zone", "spot", "extra_tags", "description", "auto_repair")
    NEEDS: ClassVar[Mapping[str, Can]] = {
        "auto_pause": Can.PAUSE,
        "role": Can.ROLE,
        "zone": Can.ZONE,
        "spot": Can.SPOT,
        "extra_tags": Can.MAKE,
    }

    def __init__(
        self,
        *args: Any,
        workspace: Workspace,
        like: Cluster | None = None,
        size: str = "",
        **kwargs: Any,
    ) -> None:
        """Filled in with `initial`; besides with what `like` has, and with where to start for a warehouse `size`."""
        kwargs["initial"] = (_values_of(like, workspace) if like else {}) | (kwargs.get("initial") or {})
        super().__init__(*args, **kwargs)
        self.workspace = workspace
        for name, can in self.NEEDS.items():
            if can not in workspace.can:
                del self.fields[name]
        self.takes = Can.MAKE not in workspace.can  # computers that are there, and makes none
        if self.takes:
            self.fields["name"].help_text = "Small letters, digits and hyphens. Nodes keep their computers' names."
            self.fields["auto_repair"].help_text = "Another computer is taken instead. It can be changed later."
            give_back(self.fields["auto_shutdown"])
            self.initial.setdefault("auto_shutdown", GIVE_BACK_AFTER)
        self.answer = offers.catalogue(workspace)
        self.catalogue = self.answer.value
        self.room = room_for(workspace, self.catalogue.types if self.catalogue else ())
        self.starts = [] if self.takes else sizing.starts(self.catalogue)
        self.start = next((start for start in self.starts if start.size == size), None)
        if self.start:
            self.initial.update(instance_type=self.start.instance_type.name, node_count=self.start.nodes)
        self.missing = ""  # the type that was asked for, where it is not offered
        if self.catalogue and self.catalogue.types:
            asked = self.initial.get("instance_type")
            if asked and asked not in self.catalogue.named:
                self.missing = str(asked)
            if not asked or self.missing:
                self.initial["instance_type"] = self._first_choice().name
        engines = EngineVersion.objects.filter(offered=True)
        engine_field = cast("forms.ModelChoiceField[EngineVersion]", self.fields["engine_version"])
        engine_field.queryset = engines
        engine_field.choices = [(engine.pk, str(engine)) for engine in sorted(engines, key=_place, reverse=True)]
        if "role" in self.fields:
            self._offer_roles()
        if "zone" in self.fields:
            self._offer_zones()

    def _offer_roles(self) -> None:
        """Those that nodes can be given now. Who asks for another one is told that there is none."""
        field = self.fields["role"]
        roles = InstanceRole.objects.active().filter(workspace=self.workspace).order_by("name")
        own = ("", "Default: one for this cluster alone")
        field.choices = [own, *((role.arn, str(role)) for role in roles)]  # type: ignore[attr-defined]
        field.help_text = format_html(
            "What its nodes may do in the cloud account. By default no more than every node needs. <a href='{}'>"
            "Instance roles</a> has what else there is.",
            reverse("instance-roles", args=[self.workspace.uuid]),
        )

    def _offer_zones(self) -> None:
        field = self.fields["zone"]
        answer = offers.zones(self.workspace)
        choices = [(zone.name, f"{zone.name} {zone.title}".strip()) for zone in answer.value or ()]
        asked = str(self["zone"].value() or "")
        if answer.value is None:
            why = answer.trouble.message if answer.trouble else ""
            field.help_text = f"Which zones there are cannot be said now. {why}".strip()
            fits = len(asked) <= cast("int", Cluster._meta.get_field("zone").max_length)
            choices += [(asked, asked)] if asked and fits else []
        field.choices = [("", "Any: the cloud chooses"), *choices]  # type: ignore[attr-defined]

    def _first_choice(self) -> InstanceType:
        """On a machine of known size the largest of which the usual number of nodes fits; else a cheap one."""
        assert self.catalogue is not None
        types = self.catalogue.types
        if not self.room:
            return self.catalogue.nearest(_ENOUGH_CORES, 16) or types[0]
        nodes = cast("int", self.fields["node_count"].initial)
        fitting = [offer for offer in types if offer.cores * nodes <= self.room.cores]
        return fitting[-1] if fitting else types[0]

    @property
    def chosen(self) -> str:
        """The name of the instance type, whether it can be had or not."""
        return str(self["instance_type"].value() or "")

    @property
    def chosen_type(self) -> InstanceType | None:
        return self.catalogue.named.get(self.chosen) if self.catalogue else None

    @property
    def wanted(self) -> Wanted | None:
        """What is chosen now, as far as it makes sense; for the plan beside the form."""
        kind, nodes = self.chosen_type, self._known("node_count")
        if kind is None or nodes is None:
            return None
        zone, spot = self._known("zone") or "", bool(self._known("spot"))
        return Wanted(kind, nodes, zone, spot, self._known("auto_pause"))

    def _known(self, name: str) -> Any:
        """None where it is no field here, or makes no sense."""
        if name not in self.fields:
            return None
        value = self[name].value()
        if isinstance(self.fields[name], DurationField) and isinstance(value, int):
            return value  # as it was given, and not typed in two parts
        try:
            return self.fields[name].clean(value)
        except forms.ValidationError:
            return None

    @property
    def advanced(self) -> list[forms.BoundField]:
        return [self[name] for name in self.ADVANCED if name in self.fields and name != self._timer]

    @property
    def timer(self) -> forms.BoundField | None:
        """What is done first to a cluster that nobody uses."""
        return self[self._timer] if self._timer in self.fields else None

    @property
    def _timer(self) -> str:
        return "auto_shutdown" if self.takes else "auto_pause"

    @property
    def boxes(self) -> list[str]:
        return [name for name, field in self.fields.items() if isinstance(field, forms.BooleanField)]

    @property
    def is_advanced(self) -> bool:
        """Whether something of it is wrong, or chosen."""
        return any(field.errors or self._known(field.name) for field in self.advanced)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.is_taken(self.workspace.clusters.live(), name):
            raise forms.ValidationError("There is a cluster of this name in the workspace.")
        return name

    def clean_instance_type(self) -> InstanceType:
        name = self.cleaned_data["instance_type"]
        if not self.catalogue:
            raise forms.ValidationError("Which instance types there are cannot be said now. Try again in a moment.")
        if name not in self.catalogue.named:
            raise forms.ValidationError(f"{name} cannot be had here. Choose another one.")
        return self.catalogue.named[name]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        kind = data.get("instance_type")
        if data.get("spot") and data.get("auto_pause"):
            self.add_error("auto_pause", f"{SPOT_STAYS} Choose Never.")
        if data.get("spot") and kind and not kind.spot:
            self.add_error("spot", f"{kind.name} cannot be had as spot nodes.")
        # What is made later may find others free.
        if (nodes := data.get("node_count")) and kind and self.takes and "key" in self.fields:
            # Sent twice, it has them by now.
            is_made = "key" in data and self.workspace.clusters.filter(uuid=data["key"]).exists()
            if not is_made and (why := why_not_enough(self.workspace, kind.name, nodes)):
                self.add_error("node_count", why)
        return data


def give_back(field: forms.Field) -> None:
    """What auto shutdown is where the nodes are computers that others wait for."""
    field.label, field.help_text = "Give back after", GIVES_BACK


def _values_of(like: Cluster, workspace: Workspace) -> dict[str, Any]:
    """What a cluster like this one has, under a name that is free."""
    names = set(workspace.clusters.live().values_list("name", flat=True))
    stem = re.sub(r"-\d+\Z", "", like.name)[:36]
    same = ("instance_type", "node_count", "auto_pause", "auto_shutdown", "zone", "spot", "role", "extra_tags")
    return {
        **{name: getattr(like, name) for name in (*same, "description", "auto_repair")},
        "engine_version": like.engine_version_id,
        "name": like.name
        if like.name not in names
        else next(name for number in range(2, len(names) + 3) if (name := f"{stem}-{number}") not in names),
    }


def typed(data: QueryDict, *, whole: bool, prefix: str = "") -> dict[str, Any]:
    """What was typed into the form, to be shown in it again. `whole`: what is not there was left empty."""
    found = {}
    for name, field in ClusterForm.base_fields.items():
        is_box = isinstance(field.widget, forms.CheckboxInput)
        sent = f"{prefix}-{name}" if prefix else name
        omitted = sent not in data if is_box else field.widget.value_omitted_from_data(data, {}, sent)
        if whole or not (omitted or name == "key"):
            found[name] = field.widget.value_from_datadict(data, {}, sent)
    return found
