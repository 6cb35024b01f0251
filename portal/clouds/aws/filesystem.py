"""A workspace's shared filesystem: EFS, with a mount target in each zone."""

from __future__ import annotations

from portal.clouds.aws.region import Region
from portal.clouds.types import Tags, WorkspaceSpec
from portal.errors import Pending


def ensure(at: Region, spec: WorkspaceSpec) -> Pending | None:
    raise NotImplementedError


def delete(at: Region, tags: Tags) -> Pending | None:
    raise NotImplementedError
