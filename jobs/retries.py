"""A run that failed is tried again, where whoever asked for it wants that: each attempt is a run of its own.

`Run.move` writes down when, in the UPDATE that makes it FAILED; the watch process begins what is due. Who dies in
between has done nothing: a run has one attempt after it at most, by the database.
"""

from __future__ import annotations

import logging

from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import audit
from accounts.access import Can
from jobs.actions import Program, start_run
from jobs.models import Job, Letter, Run
from portal.errors import PortalError
from portal.prepared import prepared_keys
from portal.tasks import live

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 200  # of one look


def retry_due() -> int:
    """Begin the attempts whose time has come. Returns how many."""
    if not _due():
        return 0
    due = Run.objects.filter(retry_at__lte=Now()).order_by("retry_at")
    of = ("job__workspace__organization", "job__workspace__cloud_config", "cluster", "started_by", "schedule")
    begun = 0
    for run in due.select_related(*of)[:MOST_AT_ONCE]:
        try:
            begun += _retry(run) is not None
        except Exception:  # whatever is wrong with one, the others are tried again
            logger.exception("run %s is not tried again now", run.uuid)
    return begun


@prepared_keys
def _due() -> QuerySet[Run]:
    return Run.objects.filter(retry_at__lte=Now())[:1]


@audit.atomic()
def _retry(run: Run) -> Run | None:
    """None where somebody else has begun it, or it cannot be begun: then its page says why."""
    # Its job first, as whoever deletes that does.
    Job.objects.select_for_update(no_key=True).get(pk=run.job_id)
    if not Run.objects.filter(pk=run.pk, retry_at__lte=Now()).update(retry_at=None):
        return None
    try:
        if run.started_by is None or not Run.objects.where(run.started_by, Can.RUN_JOBS).filter(pk=run.pk).exists():
            raise PortalError("Whoever asked for it may not run jobs here any more.")
        return start_run(run.job, by=run.started_by, program=Program.of_run(run), schedule=run.schedule, retry_of=run)
    except PortalError as error:
        logger.info("run %s is not tried again: %s", run.uuid, error)
        advice = f"{run.advice} It was not tried again: {error}".strip()
        Run.objects.filter(pk=run.pk).update(needs_you=True, advice=advice)
        Letter.objects.write(run, Letter.Kind.FAILED)
        live.ring(*run.live_names())
        return None
