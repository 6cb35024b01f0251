"""`AwsAccount`: a cloud configuration that trusts the portal with a role in an account."""

from __future__ import annotations

from functools import cached_property
from threading import Lock

from portal.clouds.aws import permissions, policy, roles
from portal.clouds.aws import types as instance_types
from portal.clouds.aws.cloud import AwsCloud
from portal.clouds.aws.options import AwsOptions
from portal.clouds.aws.region import Region
from portal.clouds.aws.session import Session
from portal.clouds.aws.store import AwsStore
from portal.clouds.aws.trouble import in_words
from portal.clouds.stores import Store
from portal.clouds.types import CloudKind, Identity, InstanceType, Permission, RoleSpec, Tags
from portal.clouds.types import Region as RegionName
from portal.errors import Pending


class AwsAccount:
    kind = CloudKind.AWS
    can = AwsCloud.can

    def __init__(self, options: AwsOptions, external_id: str = "") -> None:
        self._session = Session(options, external_id)
        self._clouds: dict[str, AwsCloud] = {}
        self._lock = Lock()

    @in_words
    def check(self) -> Identity:
        return permissions.identity(self._session)

    @in_words
    def permissions(self) -> list[Permission]:
        return permissions.ask(self._session)

    @in_words
    def regions(self) -> list[RegionName]:
        return permissions.regions(self._session)

    @in_words
    def instance_types(self, region: str) -> list[InstanceType]:
        return instance_types.ask(self._region(region))

    @in_words
    def check_role(self, name: str) -> Identity:
        return roles.check(self._session, name)

    @in_words
    def attach_role(self, name: str) -> None:
        roles.attach(self._session, name)

    @in_words
    def detach_role(self, name: str) -> None:
        roles.detach(self._session, name)

    @in_words
    def ensure_role(self, spec: RoleSpec, *, token: str = "") -> Pending | None:
        return roles.ensure(self._session, spec)

    @in_words
    def delete_role(self, tags: Tags, *, token: str = "") -> Pending | None:
        return roles.delete(self._session, tags)

    def reading(self, bucket: str) -> str:
        return policy.in_lines(policy.reading_of_a_bucket(bucket, self._session.options.partition))

    @cached_property
    def store(self) -> Store:
        return AwsStore(self._session)

    def cloud(self, region: str) -> AwsCloud:
        with self._lock:
            return self._clouds.setdefault(region, AwsCloud(self._region(region)))

    def _region(self, name: str) -> Region:
        return Region(self._session, name)
