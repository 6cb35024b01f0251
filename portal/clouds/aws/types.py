"""Which instance types there are in a region, with their prices."""

from __future__ import annotations

from portal.clouds.aws.region import Region
from portal.clouds.types import InstanceType


def ask(at: Region) -> list[InstanceType]:
    raise NotImplementedError
