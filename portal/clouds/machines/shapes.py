"""Computers that are alike: an instance type each. `4x16` has 4 cores and about 16 GiB of memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

from portal.clouds.machines.models import Computer
from portal.clouds.types import InstanceType

_USUAL = "x86_64"


def gib(memory_gib: float) -> int:
    """As it is sold: a kernel keeps some of it, so that what it says is rounded up, by less than a tenth."""
    step = 2.0 ** max(0, math.floor(math.log2(max(memory_gib, 1))) - 4)
    return int(math.ceil(memory_gib / step) * step)


def shape(computer: Computer) -> str:
    """The name of its instance type; empty where it was not looked at yet."""
    if not computer.cores or not computer.vcpus or not computer.architecture:
        return ""
    name = f"{computer.cores}x{gib(computer.memory_gib)}"
    return name if computer.architecture == _USUAL else f"{name}-{computer.architecture}"


def instance_types(computers: Iterable[Computer]) -> list[InstanceType]:
    """Smallest first. Of computers that are nearly alike, a type has what the smallest of them has."""
    found: dict[str, list[Computer]] = {}
    for computer in computers:
        if name := shape(computer):
            found.setdefault(name, []).append(computer)
    types = [
        InstanceType(
            name,
            family=f"{alike[0].cores} cores",
            cores=alike[0].cores,
            vcpus=min(one.vcpus for one in alike),
            memory_gib=round(min(one.memory_gib for one in alike), 1),
            architecture=alike[0].architecture,
            there=len(alike),
            free=sum(one.is_free for one in alike),
        )
        for name, alike in found.items()
    ]
    return sorted(types, key=lambda one: (one.cores, one.memory_gib, one.name))
