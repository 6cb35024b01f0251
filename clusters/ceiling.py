"""How many clusters that are dedicated to runs may be there at once: in a workspace, and in an organization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count

from clusters.models import Cluster
from workspaces.models import Workspace


@dataclass(frozen=True)
class Left:
    """`places` more may be begun. Where that is none, `full` says in half a sentence who has as many as may be."""

    places: int
    full: str = ""


def left(workspaces: Collection[Workspace]) -> dict[int, Left]:
    """By the workspace's primary key, in one query. It stays true while somebody holds the workspace's row.

    Two workspaces of one organization that begin some at the same moment do not see each other; the watch process,
    which begins them, is one.
    """
    begun = Cluster.objects.live().filter(dedicated=True).exclude(pk__in=Cluster.objects.not_begun().values("pk"))
    near = begun.filter(workspace__organization__in={workspace.organization_id for workspace in workspaces})
    fields = ("workspace", "workspace__organization")
    here, everywhere = Counter[int](), Counter[int]()
    for workspace_pk, organization_pk, count in near.order_by().values_list(*fields).annotate(Count("pk")):
        here[workspace_pk] += count
        everywhere[organization_pk] += count
    return {one.pk: _left(one, here[one.pk], everywhere[one.organization_id]) for one in workspaces}


def _left(workspace: Workspace, here: int, everywhere: int) -> Left:
    places = [
        (settings.DEDICATED_PER_WORKSPACE, here, workspace),
        (settings.DEDICATED_PER_ORGANIZATION, everywhere, workspace.organization),
    ]
    for most, there, whose in places:
        if there >= most:
            runs = f"{there} clusters of runs" if there > 1 else "the cluster of a run"
            return Left(0, f"{whose} has {runs}, and no more may be there at once")
    return Left(min(most - there for most, there, _ in places))
