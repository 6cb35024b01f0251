"""What instances cost: the Price List for those on demand, and what spot instances have cost last.

The Price List is asked in a few regions, for all of them. In US dollars; an account in China pays in others, and there
nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from portal.clouds.aws.region import Region

_ASKED_IN = "us-east-1"
# Of the many products with one instance type, the one that is plain Linux at the price that everybody pays.
_PLAIN = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "capacitystatus": "Used",
    "preInstalledSw": "NA",
    "marketoption": "OnDemand",
}
_SPOT_PRODUCT = "Linux/UNIX"


def on_demand(at: Region, instance_type: str = "") -> dict[str, Decimal]:
    """Dollars an hour by instance type; of one of them, or of all; without those of which AWS says nothing."""
    if at.options.partition != "aws":
        return {}
    wanted = {**_PLAIN, "regionCode": at.name, **({"instanceType": instance_type} if instance_type else {})}
    pages = at.session.client("pricing", _ASKED_IN).get_paginator("get_products")
    found: dict[str, Decimal] = {}
    for page in pages.paginate(
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
    ):
        for product in page["PriceList"]:
            found |= _read(json.loads(product))
    return found


def _read(product: Mapping[str, Any]) -> dict[str, Decimal]:
    name = product.get("product", {}).get("attributes", {}).get("instanceType")
    prices = list(_hourly(product))
    return {name: prices[0]} if name and prices else {}


def _hourly(product: Mapping[str, Any]) -> Iterator[Decimal]:
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            dollars = dimension.get("pricePerUnit", {}).get("USD")
            if dimension.get("unit") != "Hrs" or not dollars:
                continue
            try:
                price = Decimal(dollars)
            except InvalidOperation:
                continue
            if price > 0:
                yield price


def spot(at: Region, instance_type: str = "") -> dict[str, dict[str, str]]:
    """What a spot instance costs now, in dollars an hour, by type and zone: of this one or of all; those without any
    price are left out.
    """
    pages = at.ec2.get_paginator("describe_spot_price_history").paginate(
        ProductDescriptions=[_SPOT_PRODUCT],
        StartTime=datetime.now(UTC),
        PaginationConfig={"PageSize": 1000},
        **({"InstanceTypes": [instance_type]} if instance_type else {}),
    )
    found: dict[tuple[str, str], tuple[datetime, str]] = {}
    for page in pages:
        for one in page["SpotPriceHistory"]:
            place, when = (one["InstanceType"], one["AvailabilityZone"]), one["Timestamp"]
            if place not in found or found[place][0] < when:
                found[place] = when, one["SpotPrice"]
    prices: dict[str, dict[str, str]] = {}
    for (name, zone), (_, price) in found.items():
        prices.setdefault(name, {})[zone] = price
    return prices
