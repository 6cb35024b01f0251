"""What a region of a cloud configuration's account lists: asked by the watch process, and read by pages from rows.

A list of 1,400 instance types with their prices takes some forty questions. All processes share what was answered, and
it is asked for again before it is an hour old, as long as there is a workspace in the region. What counts against
quotas changes with each cluster, and is one question: it is asked for every two minutes.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from portal.clouds import Account, Can, InstanceType, Market, Offer, Zone
from portal.clouds.market import Limit
from portal.errors import PortalError
from portal.prepared import prepared_keys
from portal.tasks import live
from workspaces.checks import trouble
from workspaces.models import CloudConfig, Listing, Workspace

EVERY = timedelta(minutes=50)
AGAIN = timedelta(minutes=2)  # after a question that was not answered
COUNTED_EVERY = timedelta(minutes=2)
PATIENCE = 180.0  # seconds for all that is asked at a time


def ask(account: Account, region: str, *, whole: bool = True) -> dict[str, Any]:
    """`types`, `zones`, `market` and `running` as `clouds` has them, as JSON, or not `whole` the last alone; or
    `trouble`. No database is asked.
    """
    try:
        if not whole:
            return {"running": account.cloud(region).running()}
        found: dict[str, Any] = {"types": [_plain(one) for one in account.instance_types(region)]}
        if Can.ZONE in account.can:
            found["zones"] = [asdict(one) for one in account.cloud(region).zones()]
        if Can.PRICES in account.can:
            found |= {"market": asdict(account.cloud(region).market()), "running": account.cloud(region).running()}
    except PortalError as error:
        return {"trouble": trouble(error) | {"code": error.code}}
    return found


def due() -> set[int]:
    """Those to ask for now: of each region in which a workspace is, or is being made."""
    far = _far()
    if not far:
        return set()
    wanted = set(Workspace.objects.filter(pk__in=far).values_list("cloud_config", "region").distinct())
    rows = {tuple(place): pk for pk, *place in Listing.objects.values_list("pk", "cloud_config", "region")}
    if new := wanted - rows.keys():
        Listing.objects.bulk_create(
            (Listing(cloud_config_id=config, region=region) for config, region in new),
            ignore_conflicts=True,  # another process was faster
        )
        rows = {tuple(place): pk for pk, *place in Listing.objects.values_list("pk", "cloud_config", "region")}
    asked = [pk for place, pk in rows.items() if place in wanted]
    is_due = Q(due__lte=Now()) | Q(count_due__lte=Now())
    return set(Listing.objects.filter(is_due, pk__in=asked).values_list("pk", flat=True))


@prepared_keys
def _far() -> QuerySet[Workspace]:
    return Workspace.objects.staying().filter(cloud_config__kind__in=CloudConfig.FAR, cloud_config__deleted=None)


def write_down(listing: Listing, found: dict[str, Any], *, whole: bool = True) -> None:
    """What was answered to `ask`. A refusal takes the place of the list that was there; anything else leaves it."""
    row = Listing.objects.filter(pk=listing.pk)
    counted = {"count_due": Now() + COUNTED_EVERY} | ({"counted": Now()} if "running" in found else {})
    if not whole:
        row.update(running=found.get("running", listing.running), **counted)
        return
    if "trouble" in found:
        row.update(trouble=found["trouble"], due=Now() + AGAIN, **counted)
    else:
        row.update(**found, **counted, trouble={}, read=Now(), due=Now() + EVERY)
    workspaces = listing.cloud_config.workspaces.staying().filter(region=listing.region)
    live.ring(*(name for one in workspaces.select_related("organization") for name in one.live_names()))


def _plain(one: InstanceType) -> dict[str, Any]:
    return asdict(one) | {"hourly_price": None if one.hourly_price is None else str(one.hourly_price)}


def types(listing: Listing) -> list[InstanceType]:
    return [
        InstanceType(**one | {"hourly_price": None if one["hourly_price"] is None else Decimal(one["hourly_price"])})
        for one in listing.types
    ]


def offer(listing: Listing, kind: InstanceType, nodes: int, *, zone: str, spot: bool) -> Offer:
    """`kind` is of the same list."""
    known = listing.market | {"limits": [Limit(**one) for one in listing.market.get("limits", ())]}
    vcpus = {one["name"]: one["vcpus"] for one in listing.types if one["name"] in listing.running}
    return Market(**known).offer(kind, nodes, zone=zone, spot=spot, running=listing.running, vcpus=vcpus)


def zones(listing: Listing) -> list[Zone]:
    return [Zone(**one) for one in listing.zones]
