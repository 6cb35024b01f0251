"""Which instance types there are in a region, with their prices."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from portal.clouds.aws import prices
from portal.clouds.aws.region import Region
from portal.clouds.types import InstanceType

logger = logging.getLogger(__name__)

ARCHITECTURES = ("x86_64", "arm64")  # for which there is an image
# What a node is: 64 bits, on a virtual machine with a disk that lasts over a stop.
_FILTERS = [
    {"Name": "processor-info.supported-architecture", "Values": list(ARCHITECTURES)},
    {"Name": "supported-root-device-type", "Values": ["ebs"]},
    {"Name": "supported-usage-class", "Values": ["on-demand", "spot"]},
]


def ask(at: Region) -> list[InstanceType]:
    """All that a node can be, smallest first. Some twenty calls."""
    pages = at.ec2.get_paginator("describe_instance_types").paginate(
        Filters=_FILTERS, PaginationConfig={"PageSize": 100}
    )
    found = [kind for page in pages for one in page["InstanceTypes"] if (kind := read(one)) is not None]
    costs: dict[str, Decimal] = {}
    try:
        costs = prices.on_demand(at)
    except (ClientError, BotoCoreError) as error:  # the plan beside the form says so, and permissions say why
        logger.warning("prices in %s: %s", at.name, error)
    found = [replace(one, hourly_price=costs.get(one.name)) for one in found]
    return sorted(found, key=lambda one: (one.cores, one.memory_gib, one.name))


def describe(at: Region, name: str) -> InstanceType | None:
    """This one, without its price. None where the region has none."""
    found = at.ec2.describe_instance_types(
        Filters=[*_FILTERS, {"Name": "instance-type", "Values": [name]}],
    )["InstanceTypes"]
    return read(found[0]) if found else None


def vcpus(at: Region, names: Collection[str]) -> dict[str, int]:
    """Of each of these that the region knows."""
    if not names:
        return {}
    named = {"Name": "instance-type", "Values": sorted(names)[:200]}
    pages = at.ec2.get_paginator("describe_instance_types").paginate(Filters=[named])
    return {
        one["InstanceType"]: int(one["VCpuInfo"]["DefaultVCpus"]) for page in pages for one in page["InstanceTypes"]
    }


def read(one: Mapping[str, Any]) -> InstanceType | None:
    """None of what no image of ours starts on, such as a computer of Apple's."""
    name: str = one["InstanceType"]
    offered = one["ProcessorInfo"].get("SupportedArchitectures", ())
    architecture = next((known for known in ARCHITECTURES if known in offered), "")
    if not architecture:
        return None
    processors = one["VCpuInfo"]
    return InstanceType(
        name=name,
        family=name.partition(".")[0],
        # Not half of the vCPUs: those of Graviton, and of some of AMD's, are cores each.
        cores=int(processors.get("DefaultCores") or processors["DefaultVCpus"]),
        vcpus=int(processors["DefaultVCpus"]),
        memory_gib=round(one["MemoryInfo"]["SizeInMiB"] / 1024, 2),
        accelerated_network=bool(one.get("NetworkInfo", {}).get("EfaSupported")),
        architecture=architecture,
        spot="spot" in one.get("SupportedUsageClasses", ()),
    )
