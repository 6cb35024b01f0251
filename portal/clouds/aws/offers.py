"""What nodes would cost, what they count against, and where they can be."""

from __future__ import annotations

from decimal import Decimal

from botocore.exceptions import BotoCoreError, ClientError

from portal.clouds.aws import prices, quotas, types
from portal.clouds.aws.region import Region
from portal.clouds.aws.trouble import told
from portal.clouds.types import Offer, Zone


def zones(at: Region) -> list[Zone]:
    """Those of the region itself: not those in a city near by or of a phone company, which have few instance types."""
    found = at.ec2.describe_availability_zones(
        Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}, {"Name": "state", "Values": ["available"]}]
    )["AvailabilityZones"]
    return [Zone(one["ZoneName"], f"({one['ZoneId']})") for one in sorted(found, key=lambda one: one["ZoneName"])]


def having(at: Region, instance_type: str) -> list[str]:
    """The zones that have this type."""
    pages = at.ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [instance_type]}]
    )
    return sorted(one["Location"] for page in pages for one in page["InstanceTypeOfferings"])


def offer(at: Region, instance_type: str, nodes: int, *, zone: str, spot: bool) -> Offer:
    kind = types.describe(at, instance_type)
    if kind is None:
        return Offer(None, impossible=f"{instance_type} cannot be had in {at.name}.")
    where = having(at, instance_type)
    if zone and zone not in where:
        others = f"Those that have it: {', '.join(where)}." if where else ""
        return Offer(None, impossible=f"{instance_type} cannot be had in {zone}. {others}".strip())
    if spot and not kind.spot:
        return Offer(None, impossible=f"{instance_type} cannot be had as a spot node.")
    warnings = []
    try:
        price = _price(at, instance_type, [zone] if zone else where, spot=spot)
    except (ClientError, BotoCoreError) as error:
        price = None
        warnings.append(f"AWS did not say what it costs. {told(error).message}")
    else:
        if price is None:
            warnings.append("AWS does not say what it costs." + (" There may be no spot nodes." if spot else ""))
    quota = quotas.ask(at, instance_type, kind.vcpus * nodes, spot=spot)
    if quota and quota.left is None:
        warnings.append("AWS does not say how many vCPUs the account may have.")
    if len(where) == 1 and not zone:
        warnings.append(f"Only {where[0]} has this type.")
    return Offer(price * nodes if price is not None else None, (quota,) if quota else (), tuple(warnings))


def _price(at: Region, instance_type: str, where: list[str], *, spot: bool) -> Decimal | None:
    """Of spot nodes the highest of the zones in which they may come to be: nobody is promised less."""
    if spot:
        return max(prices.spot(at, instance_type, where).values(), default=None)
    return prices.on_demand(at, instance_type).get(instance_type)
