from __future__ import annotations

import re
from typing import Any, cast

from django import forms
from django.core.validators import RegexValidator
from django.db.models import Q

from accounts.forms import ConfirmDeleteForm
from clusters.actions import CHANGEABLE, MOST_NODES
from clusters.models import Cluster, ClusterQuerySet, EngineVersion
from clusters.plans import DELETE
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


class EditForm(forms.Form):
    """What may be changed of a cluster in the status that it is in."""

    name = forms.CharField(max_length=40, validators=[NAME])
    description = forms.CharField(max_length=200, required=False, help_text="What it is for, in a line.")
    node_count = forms.IntegerField(
        label="Number of nodes", min_value=1, max_value=MOST_NODES, help_text="It has so many when it is started."
    )
    engine_version = forms.ModelChoiceField(EngineVersion.objects.none(), empty_label=None)
    auto_repair = forms.BooleanField(
        required=False,
        label="Repair by itself when a node is lost",
        help_text="What is missing is made again, and the other nodes are left alone.",
    )

    def __init__(self, data: Any = None, *, cluster: Cluster) -> None:
        values = {name: getattr(cluster, name) for name in CHANGEABLE}
        super().__init__(data, initial=values)
        self.cluster = cluster
        for name, (_, statuses) in CHANGEABLE.items():
            # What was sent all the same is refused in words, by whoever compares it with what is so now.
            if cluster.status not in statuses and (data is None or name not in data):
                del self.fields[name]
        if "name" in self.fields and cluster.status != Cluster.Status.STOPPED:
            self.fields["name"].help_text = f"Its nodes keep their names, {cluster.stem}-0 and so on."
        if field := cast("Any", self.fields.get("engine_version")):
            field.queryset = EngineVersion.objects.filter(Q(offered=True) | Q(pk=cluster.engine_version_id))

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        others = self.cluster.workspace.clusters.live().exclude(pk=self.cluster.pk)
        if others.filter(name__iexact=name).exists():
            raise forms.ValidationError("There is a cluster of this name in the workspace.")
        return name


class ScaleForm(forms.Form):
    """`sure` is the number of nodes for which somebody has read which ones go."""

    node_count = forms.IntegerField(label="Number of nodes", min_value=1, max_value=MOST_NODES)
    sure = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: Any = None, *, cluster: Cluster) -> None:
        super().__init__(data, initial={"node_count": cluster.node_count})
        self.cluster = cluster
        self.fields["node_count"].help_text = f"1 to {MOST_NODES}. It has {cluster.node_count} now."

    @property
    def going(self) -> list[str]:
        """The names of the nodes that would go."""
        wanted = self.cleaned_data.get("node_count") if self.is_bound and self.is_valid() else None
        ranks = range(wanted or self.cluster.node_count, self.cluster.node_count)
        return [f"{self.cluster.stem}-{rank}" for rank in ranks]

    @property
    def is_sure(self) -> bool:
        return bool(self.cleaned_data["sure"] == self.cleaned_data["node_count"])


class DeleteForm(ConfirmDeleteForm):
    """By force is asked where something goes on that would have to end first."""

    force = forms.BooleanField(
        required=False,
        label="Delete by force",
        help_text="What is being done to it now is broken off. Without this, wait for it to end, or cancel it.",
    )

    def __init__(self, data: Any = None, *, cluster: Cluster) -> None:
        super().__init__(data, expected=cluster.name)
        if cluster.status in DELETE.begins or cluster.status in Cluster.DELETED:
            del self.fields["force"]


class GoneFilterForm(forms.Form):
    """Of the clusters that are TERMINATED."""

    q = forms.CharField(
        max_length=40,
        required=False,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Find by name", "aria-label": "Find by name"}),
    )
    tab = forms.CharField(required=False, widget=forms.HiddenInput)

    def narrow(self, rows: ClusterQuerySet) -> ClusterQuerySet:
        rows = rows.filter(status=Cluster.Status.TERMINATED)
        return rows.filter(name__icontains=self.cleaned_data["q"]) if self.cleaned_data["q"] else rows


class ClusterFilterForm(GoneFilterForm):
    """Of those that are there."""

    status = forms.ChoiceField(
        choices=[
            ("", "Any status"),
            *(
                (status.value, Cluster.STATES[status].badge.word)
                for status in Cluster.Status
                if status != Cluster.Status.TERMINATED
            ),
        ],
        required=False,
        widget=forms.Select(attrs={"aria-label": "Status"}),
    )
    sort = forms.ChoiceField(
        choices=[("", "Name"), ("new", "Newest first")],
        required=False,
        widget=forms.Select(attrs={"aria-label": "Order"}),
    )

    def narrow(self, rows: ClusterQuerySet) -> ClusterQuerySet:
        asked = self.cleaned_data
        rows = rows.filter(status=asked["status"]) if asked["status"] else rows.live()
        return rows.filter(name__icontains=asked["q"]) if asked["q"] else rows
