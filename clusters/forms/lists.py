from __future__ import annotations

from typing import ClassVar

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

    q = forms.CharField(
        max_length=40,
        required=False,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Find by name", "aria-label": "Find by name"}),
    )
    tab = forms.CharField(required=False, widget=forms.HiddenInput)

    def narrow(self, rows: ClusterQuerySet) -> ClusterQuerySet:
        """The form has been found valid."""
        rows = rows.filter(status=Cluster.Status.TERMINATED)
        return rows.filter(name__icontains=self.cleaned_data["q"]) if self.cleaned_data["q"] else rows

    def placed(self, rows: ClusterQuerySet) -> ClusterQuerySet:
        """With what `order` names besides fields."""
        return rows

    @property
    def order(self) -> tuple[str, ...]:
        return ("-pk",)


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

    def narrow(self, rows: ClusterQuerySet) -> ClusterQuerySet:
        asked = self.cleaned_data
        rows = rows.filter(status=asked["status"]) if asked["status"] else rows.live()
        rows = rows.filter(dedicated=True) if asked["tab"] == "jobs" else rows
        if asked["engine"]:
            rows = rows.filter(engine_version__kind=asked["engine"])
        return self.placed(rows.filter(name__icontains=asked["q"]) if asked["q"] else rows)

    def placed(self, rows: ClusterQuerySet) -> ClusterQuerySet:
        match self.cleaned_data["sort"]:
            case "cores":
                return rows.annotate(all_cores=F("cores_per_node") * F("node_count"))
            case "status":
                places = [When(status=status, then=Value(place)) for place, status in enumerate(_BY_STATUS)]
                return rows.annotate(place=Case(*places, default=len(places), output_field=IntegerField()))
        return rows

    @property
    def order(self) -> tuple[str, ...]:
        return self.ORDERS[self.cleaned_data["sort"]]
