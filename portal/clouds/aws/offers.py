"""What nodes would cost, what they count against, and where they can be."""

from __future__ import annotations

from portal.clouds.aws.region import Region
from portal.clouds.types import Offer, Zone


def zones(at: Region) -> list[Zone]:
    raise NotImplementedError


def offer(at: Region, instance_type: str, nodes: int, *, zone: str, spot: bool) -> Offer:
    raise NotImplementedError
