from __future__ import annotations

import re
from typing import Any, cast

from django import forms
from django.core.validators import RegexValidator

from clusters.actions import MOST_NODES
from clusters.models import EngineVersion
from clusters.room import Sums, room_for
from portal.clouds import InstanceType
from portal.errors import PortalError
from workspaces.forms import OnceForm
from workspaces.models import Workspace

NAME = RegexValidator(
    r"^[a-z]([a-z0-9-]*[a-z0-9])?\Z",
    "Use small letters, digits and hyphens, beginning with a letter; the nodes are named after it.",
)


def _place(engine: EngineVersion) -> tuple[str, list[int]]:
    """By kind, then by the numbers of the version: 2026.8 comes before 2026.10."""
    return engine.kind, [int(number) for number in re.findall(r"[0-9]+", engine.version)]


class ClusterForm(OnceForm):
    """The instance types come from the cloud; where it offers none, `trouble` says why."""

    name = forms.CharField(
        max_length=40,
        validators=[NAME],
        help_text="Small letters, digits and hyphens. Its nodes will be called NAME-0, NAME-1 and so on.",
    )
    instance_type = forms.ChoiceField(widget=forms.RadioSelect)
    node_count = forms.IntegerField(
        label="Number of nodes", min_value=1, max_value=MOST_NODES, initial=2, help_text=f"1 to {MOST_NODES}."
    )
    engine_version = forms.ModelChoiceField(EngineVersion.objects.none(), empty_label=None)
    auto_repair = forms.BooleanField(
        required=False,
        label="Repair by itself when a node is lost",
        help_text="What is missing is made again, and the other nodes are left alone. It can be changed later.",
    )

    def __init__(self, *args: Any, workspace: Workspace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workspace = workspace
        self.trouble: PortalError | None = None
        self.offers: list[InstanceType] = []
        try:
            self.offers = workspace.cloud_config.account.instance_types(workspace.region)
        except PortalError as error:
            self.trouble = error
        self.fields["instance_type"].choices = [(offer.name, offer.name) for offer in self.offers]  # type: ignore[attr-defined]
        self.room = room_for(workspace, self.offers)
        if self.offers:
            self.fields["instance_type"].initial = self._first_choice().name
        engines = EngineVersion.objects.filter(offered=True)
        engine_field = cast("forms.ModelChoiceField[EngineVersion]", self.fields["engine_version"])
        engine_field.queryset = engines
        engine_field.choices = [(engine.pk, str(engine)) for engine in sorted(engines, key=_place, reverse=True)]

    def _first_choice(self) -> InstanceType:
        """The largest of which the usual number of nodes fits."""
        nodes = cast("int", self.fields["node_count"].initial)
        fitting = [offer for offer in self.offers if not self.room or offer.cores * nodes <= self.room.cores]
        return fitting[-1] if fitting else self.offers[0]

    @property
    def rows(self) -> list[tuple[InstanceType, int | None]]:
        """What is offered, and how many nodes of it would have cores of their own, where that is known."""
        return [(offer, self.room.fits(offer) if self.room else None) for offer in self.offers]

    @property
    def sums(self) -> Sums | None:
        """Of what is chosen in the form now, whether it can be made or not."""
        chosen = next((offer for offer in self.offers if offer.name == self["instance_type"].value()), None)
        try:
            nodes = min(MOST_NODES, max(1, int(self["node_count"].value())))
        except (TypeError, ValueError):
            return None
        return self.room.sum_of(chosen, nodes) if self.room and chosen else None

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.is_taken(self.workspace.clusters.live(), name):
            raise forms.ValidationError("There is a cluster of this name in the workspace.")
        return name

    def clean_instance_type(self) -> InstanceType:
        return next(offer for offer in self.offers if offer.name == self.cleaned_data["instance_type"])
