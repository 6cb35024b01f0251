"""`AwsCloud`: one region of an account. What each method does is in the module of what it is about."""

from __future__ import annotations

from collections.abc import Collection

from portal.clouds.aws import filesystem, leftovers, network, nodes, offers, quotas
from portal.clouds.aws.region import Region
from portal.clouds.aws.trouble import in_words
from portal.clouds.market import Market, Running
from portal.clouds.types import (
    Can,
    CloudKind,
    CloudNode,
    NodesSpec,
    Offer,
    Resource,
    Tags,
    WorkspaceSpec,
    Zone,
)
from portal.errors import Pending


class AwsCloud:
    kind = CloudKind.AWS
    can = frozenset(Can)
    look_in = 5.0

    def __init__(self, region: Region) -> None:
        self._at = region

    @in_words
    def zones(self) -> list[Zone]:
        return offers.zones(self._at)

    @in_words
    def offer(self, instance_type: str, nodes: int, *, zone: str = "", spot: bool = False) -> Offer:
        return offers.offer(self._at, instance_type, nodes, zone=zone, spot=spot)

    @in_words
    def market(self) -> Market:
        return offers.market(self._at)

    @in_words
    def running(self) -> Running:
        return quotas.running(self._at)

    @in_words
    def ensure_network(self, spec: WorkspaceSpec, *, token: str = "") -> Pending | None:
        return network.ensure(self._at, spec)

    @in_words
    def delete_network(self, tags: Tags, *, token: str = "") -> Pending | None:
        return network.delete(self._at, tags)

    @in_words
    def ensure_filesystem(self, spec: WorkspaceSpec, *, token: str = "") -> Pending | None:
        return filesystem.ensure(self._at, spec)

    @in_words
    def delete_filesystem(self, tags: Tags, *, token: str = "") -> Pending | None:
        return filesystem.delete(self._at, tags)

    @in_words
    def ensure_nodes(self, spec: NodesSpec, *, token: str = "") -> Pending | None:
        return nodes.ensure(self._at, spec, token)

    @in_words
    def stop_nodes(self, tags: Tags, *, token: str = "") -> Pending | None:
        return nodes.stop(self._at, tags)

    @in_words
    def delete_nodes(self, tags: Tags, ranks: Collection[int] | None = None, *, token: str = "") -> Pending | None:
        return nodes.delete(self._at, tags, ranks)

    @in_words
    def nodes(self, tags: Tags) -> list[CloudNode]:
        return nodes.of(self._at, tags)

    @in_words
    def console(self, tags: Tags, rank: int) -> str:
        return nodes.console(self._at, tags, rank)

    @in_words
    def inventory(self, portal: str) -> dict[Tags, list[CloudNode]]:
        return nodes.inventory(self._at, portal)

    @in_words
    def owners(self, portal: str) -> set[Tags]:
        return leftovers.owners(self._at, portal)

    @in_words
    def leftovers(self, tags: Tags) -> list[Resource]:
        return leftovers.of(self._at, tags)
