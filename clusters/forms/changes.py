from __future__ import annotations

from typing import Any, cast

from django import forms
from django.db.models import Q

from accounts.forms import ConfirmDeleteForm
from clusters import offers
from clusters.actions import CHANGEABLE, MOST_NODES
from clusters.forms.create import NAME, give_back
from clusters.forms.durations import DELETES, PAUSES, DurationField
from clusters.models import Cluster, EngineVersion
from clusters.plans import DELETE
from clusters.room import why_not_enough
from portal.clouds import Can
from portal.forms import plain_line


class EditForm(forms.Form):
    """What may be changed of a cluster in the status that it is in."""

    name = forms.CharField(max_length=40, validators=[NAME])
    description = forms.CharField(
        required=False, max_length=200, validators=[plain_line], help_text="What it is for, in a line."
    )
    node_count = forms.IntegerField(
        label="Number of nodes", min_value=1, max_value=MOST_NODES, help_text="It has so many when it is started."
    )
    engine_version = forms.ModelChoiceField(EngineVersion.objects.none(), empty_label=None)
    auto_pause = DurationField(label="Auto pause", help_text=PAUSES)
    auto_shutdown = DurationField(label="Auto shutdown", help_text=DELETES)
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
            sent = data is not None and (name in data or f"{name}_1" in data)
            if cluster.status not in statuses and not sent:
                del self.fields[name]
        for name in ("auto_pause", "auto_shutdown"):  # a page of an older portal does not know them: they stay
            if data is not None and f"{name}_1" not in data:
                del self.fields[name]
        if Can.PAUSE not in cluster.can:
            self.fields.pop("auto_pause", None)
        if cluster.takes and "auto_shutdown" in self.fields:
            give_back(self.fields["auto_shutdown"])
        if "name" in self.fields and cluster.takes:
            self.fields["name"].help_text = "Its nodes keep their computers' names."
        elif "name" in self.fields and cluster.status != Cluster.Status.STOPPED:
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
        words = [f"1 to {MOST_NODES}. It has {cluster.node_count} now."]
        if cluster.takes and (answer := offers.catalogue(cluster.workspace).value):
            kind = answer.named.get(cluster.instance_type)
            free = (kind.free if kind else 0) or "No"
            words.append(f"{free} more {'is' if free == 1 else 'are'} free.")
        self.fields["node_count"].help_text = " ".join(words)

    def clean_node_count(self) -> int:
        nodes: int = self.cleaned_data["node_count"]
        more = nodes - self.cluster.node_count
        why = ""
        if more > 0 and self.cluster.takes:
            why = why_not_enough(self.cluster.workspace, self.cluster.instance_type, more)
        if why:
            raise forms.ValidationError(why)
        return nodes

    @property
    def going(self) -> list[str]:
        """The names of the nodes that would go."""
        wanted = self.cleaned_data.get("node_count") if self.is_bound and self.is_valid() else None
        ranks = range(wanted or self.cluster.node_count, self.cluster.node_count)
        names = dict(self.cluster.nodes.filter(rank__in=ranks).values_list("rank", "hostname"))
        return [names.get(rank, f"{self.cluster.stem}-{rank}") for rank in ranks]

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
