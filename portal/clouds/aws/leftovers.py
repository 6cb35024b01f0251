"""What of ours is still there, as AWS lists it: every kind of thing that the portal makes, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portal.clouds.aws import roles
from portal.clouds.aws import tags as tagging
from portal.clouds.aws.region import Region
from portal.clouds.aws.things import INTERFACE, KINDS, Kind, Thing, listed, state
from portal.clouds.types import Resource, Tags


def owners(at: Region, portal: str) -> set[Tags]:
    seen = (tagging.owner(keys) for _, keys in _ours(at, [{"Name": f"tag:{tagging.PORTAL}", "Values": [portal]}]))
    return {one for one in seen if one is not None and one.portal == portal}


def of(at: Region, tags: Tags) -> list[Resource]:
    return [found for found, keys in _ours(at, tagging.filters(tags)) if tagging.owner(keys) == tags]


def _ours(at: Region, filters: list[dict[str, Any]]) -> Iterator[tuple[Resource, dict[str, str]]]:
    """With their tags. EFS and IAM know no filters: what they list may be anybody's."""
    for kind in KINDS:
        for one in listed(at, kind, filters):
            yield _resource(kind, one), _keys(kind, one)
    for one in at.every("describe_file_systems", "FileSystems", service="efs"):
        if one["LifeCycleState"] != "deleted":
            going = one["LifeCycleState"] == "deleting"
            yield Resource("filesystem", one["FileSystemId"], is_going=going), tagging.read(one["Tags"])
    yield from _roles(at)


def _roles(at: Region) -> Iterator[tuple[Resource, dict[str, str]]]:
    for name, keys in roles.owned(at.session):
        yield Resource("role", name), keys


def _resource(kind: Kind, one: Thing) -> Resource:
    return Resource(kind.word, str(one[kind.id]), one.get("Description") or "", is_going=state(one) in kind.going)


def _keys(kind: Kind, one: Thing) -> dict[str, str]:
    return tagging.read(one.get("TagSet") if kind is INTERFACE else one.get("Tags"))
