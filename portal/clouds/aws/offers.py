"""What nodes would cost, what they count against, and where they can be."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

from botocore.exceptions import BotoCoreError, ClientError

from portal.clouds.aws import prices, quotas, types
from portal.clouds.aws.region import Region
from portal.clouds.market import Market
from portal.clouds.types import Offer, Zone

logger = logging.getLogger(__name__)


def zones(at: Region) -> list[Zone]:
    """Those of the region itself: not those in a city near by or of a phone company, which have few instance types."""
    found = at.ec2.describe_availability_zones(
        Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}, {"Name": "state", "Values": ["available"]}]
    )["AvailabilityZones"]
    return [Zone(one["ZoneName"], f"({one['ZoneId']})") for one in sorted(found, key=lambda one: one["ZoneName"])]


def having(at: Region, instance_type: str = "") -> dict[str, list[str]]:
    """The zones that have this type, or each."""
    only = {"Filters": [{"Name": "instance-type", "Values": [instance_type]}]} if instance_type else {}
    pages = at.ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", PaginationConfig={"PageSize": 1000}, **only
    )
    found = defaultdict(list)
    for page in pages:
        for one in page["InstanceTypeOfferings"]:
            found[one["InstanceType"]].append(one["Location"])
    return {name: sorted(where) for name, where in found.items()}


def market(at: Region, instance_type: str = "", *, spot: Collection[bool] = (False, True)) -> Market:
    """Of this type, or of all, some thirty calls; on demand, as spot nodes, or both. What AWS does not say is left out,
    for it keeps nobody from trying.
    """
    spot_prices: dict[str, dict[str, str]] = {}
    if True in spot:
        try:
            spot_prices = prices.spot(at, instance_type)
        except (ClientError, BotoCoreError) as error:
            logger.warning("spot prices in %s: %s", at.name, error)
    return Market(having(at, instance_type), spot_prices, quotas.limits(at, instance_type, spot=spot))


def offer(at: Region, instance_type: str, nodes: int, *, zone: str, spot: bool) -> Offer:
    """As it is now. Pages read what is kept instead: see `Market`."""
    kind = types.describe(at, instance_type)
    if kind is None:
        return Offer(None, impossible=f"{instance_type} cannot be had in {at.name}.")
    if not spot:
        try:
            kind = replace(kind, hourly_price=prices.on_demand(at, instance_type).get(instance_type))
        except (ClientError, BotoCoreError) as error:
            logger.warning("prices in %s: %s", at.name, error)
    running = quotas.running(at)
    vcpus = types.vcpus(at, running)
    return market(at, instance_type, spot=[spot]).offer(kind, nodes, zone=zone, spot=spot, running=running, vcpus=vcpus)
