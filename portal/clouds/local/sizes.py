"""The instance types of this computer: shares of it, by cores."""

from __future__ import annotations

import os
import platform

from portal.clouds.local import limits
from portal.clouds.types import InstanceType

MOST_NODES = 64  # of a cluster
_FAMILY = "This computer"


def cores() -> int:
    return len(os.sched_getaffinity(0))


def instance_types() -> list[InstanceType]:
    """Smallest first; the largest is all of it."""
    whole = cores()
    sizes = sorted({1 << power for power in range(whole.bit_length()) if 1 << power <= whole} | {whole})
    share = limits.machine_memory() / 2**30 / whole
    return [
        InstanceType(f"local.{size}", _FAMILY, size, size, round(share * size, 1), architecture=platform.machine())
        for size in sizes
    ]
