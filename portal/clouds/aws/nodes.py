"""The nodes of a cluster: EC2 instances, one a rank, found by tag."""

from __future__ import annotations

from collections.abc import Collection

from portal.clouds.aws.region import Region
from portal.clouds.types import CloudNode, NodesSpec, Tags
from portal.errors import Pending


def ensure(at: Region, spec: NodesSpec) -> Pending | None:
    raise NotImplementedError


def stop(at: Region, tags: Tags) -> Pending | None:
    raise NotImplementedError


def delete(at: Region, tags: Tags, ranks: Collection[int] | None) -> Pending | None:
    raise NotImplementedError


def of(at: Region, tags: Tags) -> list[CloudNode]:
    raise NotImplementedError


def console(at: Region, tags: Tags, rank: int) -> str:
    raise NotImplementedError


def inventory(at: Region, portal: str) -> dict[Tags, list[CloudNode]]:
    raise NotImplementedError
