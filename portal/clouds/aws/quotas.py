"""How many vCPUs an account may have at once, and how many of them it has.

AWS counts by classes of families, and those on demand and spot apart. The codes of its quotas are from Service Quotas,
service `ec2`.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from portal.clouds.aws.region import Region
from portal.clouds.market import Limit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Class:
    """Families that count against one quota."""

    title: str
    families: re.Pattern[str]  # of an instance type's name, before the dot
    on_demand: str  # the quota's code
    spot: str  # and that of spot instances; empty: there are none


# In this order: the first that fits. A family's letters end where its number begins.
CLASSES = (
    Class("DL", re.compile(r"dl\d"), "L-6E869C2A", "L-85EED4F7"),
    Class("F", re.compile(r"f\d"), "L-74FC7D96", "L-88CF9481"),
    Class("G and VT", re.compile(r"(g|gr|vt)\d"), "L-DB2E81BA", "L-3819A6DF"),
    Class("HPC", re.compile(r"hpc\d"), "L-F7808C92", ""),
    Class("Inf", re.compile(r"inf\d"), "L-1945791B", "L-B5D1601B"),
    Class("P", re.compile(r"p\d"), "L-417A185B", "L-7212CCBC"),
    Class("Trn", re.compile(r"trn\d"), "L-2C3B7624", "L-6B0D517C"),
    Class("High Memory", re.compile(r"u(-|\d)"), "L-43DA4232", ""),
    Class("X", re.compile(r"x\d"), "L-7295265B", "L-E3A00192"),
    Class(
        "Standard (A, C, D, H, I, M, R, T, Z)", re.compile(r"(a|c|d|h|i|im|is|m|r|t|z)\d"), "L-1216C47A", "L-34B43A08"
    ),
)


def class_of(instance_type: str) -> Class | None:
    return next((one for one in CLASSES if one.families.match(instance_type)), None)


def limits(at: Region, instance_type: str = "", *, spot: Collection[bool] = (False, True)) -> list[Limit]:
    """What this type counts against, or what any does. A call for each."""
    known = [of] if (of := class_of(instance_type)) else [] if instance_type else CLASSES
    return [
        Limit(
            f"vCPUs of {'spot' if is_spot else 'on-demand'} instances, {one.title}",
            one.families.pattern,
            is_spot,
            _most(at, code),
        )
        for one in known
        for is_spot in spot
        if (code := one.spot if is_spot else one.on_demand)
    ]


def _most(at: Region, code: str) -> int | None:
    """None where AWS does not say, or not to us: nobody is kept from trying by that, and the plan says so."""
    try:
        found = at.session.client("service-quotas", at.name).get_service_quota(ServiceCode="ec2", QuotaCode=code)
    except (ClientError, BotoCoreError) as error:
        logger.warning("quota %s in %s: %s", code, at.name, error)
        return None
    return int(found["Quota"]["Value"])


def running(at: Region) -> dict[str, list[int]]:
    """What counts, by instance type, on demand and spot: everything in the region of the account."""
    states = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    pages = at.ec2.get_paginator("describe_instances").paginate(Filters=[states], PaginationConfig={"PageSize": 1000})
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for page in pages:
        for reservation in page["Reservations"]:
            for one in reservation["Instances"]:
                counts[one["InstanceType"]][one.get("InstanceLifecycle") == "spot"] += 1
    return dict(counts)
