from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.http import QueryDict

from accounts.forms import ConfirmDeleteForm
from clusters.models import Cluster

MOST = 100  # clusters that are chosen at once


def chosen(query: QueryDict) -> list[UUID]:
    """The UUIDs that a list's boxes send, each once; what is none is left out."""
    found = []
    for word in dict.fromkeys(query.getlist("cluster")):
        try:
            found.append(UUID(word))
        except ValueError:
            continue
    return found[:MOST]


class DeleteSeveralForm(ConfirmDeleteForm):
    """Of one cluster its name is typed, of several how many they are: whoever reads that reads the list."""

    def __init__(self, data: Any = None, *, clusters: list[Cluster]) -> None:
        one = clusters[0].name if len(clusters) == 1 else f"{len(clusters)} clusters"
        super().__init__(data, expected=one)


class PauseSeveralForm(forms.Form):
    """Nothing is lost: there is nothing to type."""

    def __init__(self, data: Any = None, *, clusters: list[Cluster]) -> None:
        super().__init__(data)
