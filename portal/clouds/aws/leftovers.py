"""What of ours is still there."""

from __future__ import annotations

from portal.clouds.aws.region import Region
from portal.clouds.types import Resource, Tags


def owners(at: Region, portal: str) -> set[Tags]:
    raise NotImplementedError


def of(at: Region, tags: Tags) -> list[Resource]:
    raise NotImplementedError
