from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.db.models import Case, F, IntegerField, Value, When

from clusters.models import Cluster, ClusterQuerySet, EngineVersion

# In lists by status, what goes on and what needs somebody comes first.
_BY_STATUS = (
    *(Cluster.Status.FAILED, Cluster.Status.NEW, Cluster.Status.INPROGRESS, Cluster.Status.RESTARTING),
    *(Cluster.Status.RESUMING, Cluster.Status.SCALING, Cluster.Status.PAUSING, Cluster.Status.STOPPING),
    *(Cluster.Status.TERMINATING, Cluster.Status.RUNNING, Cluster.Status.PAUSED, Cluster.Status.STOPPED),
)


def _select(choices: list[tuple[str, str]], label: str) -> forms.ChoiceField:
    return forms.ChoiceField(
        choices=choices, required=False, widget=forms.Select(attrs={"aria-label": label}), label=label
    )


class GoneFilterForm(forms.Form):
    """Of the clusters that are TERMINATED."""

    ORDERS: ClassVar[dict[str, tuple[str, ...]]] = {"": ("-pk",)}

    q = forms.CharField(
        max_length=40,
        required=False,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Find by name", "aria-label": "Find by name"}),
    )
    tab = forms.CharField(required=False, widget=forms.HiddenInput)

    @property
    def asked(self) -> dict[str, Any]:
        """Of what is filled in; the form has been found valid."""
        return {"q": self.cleaned_data["q"]} if self.cleaned_data["q"] else {}

    @property
    def order(self) -> str:
        """A key of `ORDERS`."""
        return ""

    @staticmethod
    def narrow(rows: ClusterQuerySet, asked: Mapping[str, Any]) -> ClusterQuerySet:
        rows = rows.filter(status=Cluster.Status.TERMINATED)
        return rows.filter(name__icontains=asked["q"]) if "q" in asked else rows

    @staticmethod
    def placed(rows: ClusterQuerySet, order: str) -> ClusterQuerySet:
        """With what `ORDERS` names besides fields."""
        return rows


class ClusterFilterForm(GoneFilterForm):
    """Of those that are there."""

    ORDERS: ClassVar[dict[str, tuple[str, ...]]] = {
        "": ("name", "pk"),
        "new": ("-pk",),
        "status": ("place", "pk"),
        "cores": ("-all_cores", "pk"),
    }

    status = _select(
        [
            ("", "Any status"),
            *(
                (status.value, Cluster.STATES[status].badge.word)
                for status in Cluster.Status
                if status != Cluster.Status.TERMINATED
            ),
        ],
        "Status",
    )
    engine = _select([("", "Any engine"), *EngineVersion.Kind.choices], "Engine")
    sort = _select(
        [("", "By name"), ("new", "Newest first"), ("status", "By status"), ("cores", "Most cores first")], "Order"
    )

    @property
    def asked(self) -> dict[str, Any]:
        said = {name: self.cleaned_data[name] for name in ("q", "status", "engine")}
        said["jobs"] = self.cleaned_data["tab"] == "jobs"
        return {name: value for name, value in said.items() if value}

    @property
    def order(self) -> str:
        return str(self.cleaned_data["sort"])

    @staticmethod
    def narrow(rows: ClusterQuerySet, asked: Mapping[str, Any]) -> ClusterQuerySet:
        rows = rows.filter(status=asked["status"]) if "status" in asked else rows.live()
        rows = rows.filter(dedicated=True) if "jobs" in asked else rows
        if "engine" in asked:
            rows = rows.filter(engine_version__kind=asked["engine"])
        return rows.filter(name__icontains=asked["q"]) if "q" in asked else rows

    @staticmethod
    def placed(rows: ClusterQuerySet, order: str) -> ClusterQuerySet:
        match order:
            case "cores":
                return rows.annotate(all_cores=F("cores_per_node") * F("node_count"))
            case "status":
                places = [When(status=status, then=Value(place)) for place, status in enumerate(_BY_STATUS)]
                return rows.annotate(place=Case(*places, default=len(places), output_field=IntegerField()))
        return rows
