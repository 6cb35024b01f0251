from __future__ import annotations

from django import forms

from clusters.models import Cluster, ClusterQuerySet


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
