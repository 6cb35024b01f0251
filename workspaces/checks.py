"""What the account of a cloud configuration says of itself: asked by the watch process, and read by pages from rows.

No page waits for a cloud. Somebody who wants to know what it says now makes the check due, and reads the answer when it
has come.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from portal.clouds import Account
from portal.errors import PortalError
from portal.prepared import prepared_keys
from portal.tasks import live
from workspaces.models import CloudConfig

logger = logging.getLogger(__name__)

EVERY = timedelta(hours=1)
PATIENCE = 90.0  # seconds for all that is asked of an account at a check


def ask(account: Account) -> dict[str, Any]:
    """Who we are, what we may do and where. No database is asked.

    `identity` (name, detail), `permissions` and `regions` (as `clouds.types` has them), as far as they were given, and
    `trouble` (message, evidence, advice) where something was not.
    """
    found: dict[str, Any] = {}
    try:
        found["identity"] = asdict(account.check())
        found["permissions"] = [asdict(one) for one in account.permissions()]
        found["regions"] = [asdict(one) for one in account.regions()]
    except PortalError as error:
        found["trouble"] = trouble(error)
    return found


def trouble(error: PortalError) -> dict[str, str]:
    return {"message": error.message, "evidence": error.evidence, "advice": error.advice}


@transaction.atomic
def want(config: CloudConfig) -> None:
    """Have it checked soon. Asked for twice, it is checked once."""
    if CloudConfig.objects.live().filter(pk=config.pk).update(check_due=Now(), check_asked=Now()):
        live.ring(live.WATCH_CHECKS, *config.live_names())


def renew(uuid: UUID) -> None:
    """Have it checked soon, though nobody waits for that: something in its account has changed."""
    CloudConfig.objects.live().filter(uuid=uuid).update(check_due=Now())


@prepared_keys
def due() -> QuerySet[CloudConfig]:
    """Of one whose role nobody knows yet, there is nothing to ask."""
    unknown = Q(kind=CloudConfig.Kind.AWS, options__role__isnull=True, options__awaited__isnull=True)
    return CloudConfig.objects.live().filter(check_due__lte=Now()).exclude(unknown)


@transaction.atomic
def write_down(config: CloudConfig, found: dict[str, Any], every: timedelta = EVERY) -> None:
    """What was found. The regions that were known stay where none were given now. It is asked anew after `every`."""
    kept = {"regions": config.findings["regions"]} if config.findings.get("regions") else {}
    row = CloudConfig.objects.filter(pk=config.pk)
    row.update(findings=kept | found, checked=Now())
    # Not where somebody has asked since this check began: that one is to come.
    row.filter(check_due__lte=config.check_due).update(check_asked=None, check_due=Now() + every)
    live.ring(*config.live_names())
