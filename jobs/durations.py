"""How long the last runs of jobs took, as small charts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet

from jobs.models import Run, newest_of_each
from portal.aggregates import Seconds
from portal.prepared import prepared
from portal.templatetags.portal import duration

MOST = 12  # runs of a job
HIGH = 20  # of the chart; each bar is 4 wide, with 1 between two
LEAST = 2  # the height of a bar


@dataclass(frozen=True)
class Chart:
    """Bars of runs, the oldest first: `good` and `bad` are paths of those that FINISHED, and of the others."""

    good: str
    bad: str
    words: str

    @classmethod
    def of(cls, runs: Sequence[tuple[str, float]]) -> Chart | None:
        """Of status and seconds of each, the newest first. One alone says no more than its time."""
        if len(runs) < 2:
            return None
        longest, shortest = (pick(took for _, took in runs) for pick in (max, min))
        paths: dict[bool, list[str]] = {True: [], False: []}
        for n, (status, took) in enumerate(reversed(runs)):
            height = max(LEAST, round(HIGH * (took / longest))) if longest else LEAST
            paths[status == Run.Status.FINISHED].append(f"M{5 * n} {HIGH}v-{height}h4v{height}z")
        failed = sum(status == Run.Status.FAILED for status, _ in runs)
        least, most = (duration(timedelta(seconds=took)) for took in (shortest, longest))
        said = f"The last {len(runs)} runs took {least} to {most}"
        if failed:
            said += f"; {failed} of them failed"
        return cls("".join(paths[True]), "".join(paths[False]), said)


@prepared
def _ended(jobs: tuple[int, ...]) -> QuerySet[Any, Any]:
    ended = Run.objects.filter(started__isnull=False, ended__isnull=False)
    rows = newest_of_each("job", jobs, MOST, ended).order_by("-pk")
    return rows.values_list("job", "status", Seconds("started", "ended"))


def charts(jobs: Collection[int]) -> dict[int, Chart]:
    """By job, of those that ended after they had begun."""
    found: defaultdict[int, list[tuple[str, float]]] = defaultdict(list)
    for job, status, took in _ended(tuple(jobs)):
        found[job].append((status, max(0.0, took)))
    return {job: chart for job, runs in found.items() if (chart := Chart.of(runs))}
