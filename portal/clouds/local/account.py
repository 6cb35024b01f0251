"""`LocalAccount`: what may be had of this computer, and whether the portal may have it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from portal.clouds.local import limits
from portal.clouds.local.cloud import NOTES, LocalCloud
from portal.clouds.local.options import LocalOptions
from portal.clouds.local.records import NAMESPACES
from portal.clouds.local.sizes import cores, instance_types
from portal.clouds.local.store import FolderStore
from portal.clouds.types import (
    Can,
    CloudKind,
    Identity,
    InstanceType,
    Permission,
    Region,
    RoleSpec,
    Tags,
    not_here,
)

__all__ = ["LocalAccount"]

_HERE = Region("this-computer", "This computer")


class LocalAccount:
    kind = CloudKind.LOCAL
    can = LocalCloud.can

    def __init__(self, here: LocalCloud, store: Path | None = None) -> None:
        self._here = here
        self._store = FolderStore(store or here.root.with_name(f"{here.root.name}.store"))

    @classmethod
    def of(cls, options: LocalOptions) -> LocalAccount:
        return cls(LocalCloud(options.root, options=options), options.store)

    def check(self) -> Identity:
        rung, _ = self._here.rung()
        memory = limits.machine_memory() / 2**30
        detail = f"{cores()} cores, {memory:.0f} GiB of memory"
        return Identity(socket.gethostname(), detail if rung == NAMESPACES else f"{detail}. {NOTES[rung]}")

    def permissions(self) -> list[Permission]:
        rung, why = self._here.rung()  # makes the folder, or is refused
        return [
            Permission(
                "Write to the portal's data folder",
                os.access(self._here.root, os.W_OK),
                "nodes and shared filesystems lie in it",
            ),
            Permission(
                "Make namespaces",
                rung == NAMESPACES,
                why or "so that programs see little of this computer",
                "" if rung == NAMESPACES else "sysctl -w user.max_user_namespaces=15000",
            ),
        ]

    def regions(self) -> list[Region]:
        return [_HERE]

    def instance_types(self, region: str) -> list[InstanceType]:
        return instance_types()

    def check_role(self, name: str) -> Identity:
        raise not_here(Can.ROLE, _HERE.title)

    def attach_role(self, name: str) -> None:
        raise not_here(Can.ROLE, _HERE.title)

    def detach_role(self, name: str) -> None:
        raise not_here(Can.ROLE, _HERE.title)

    def ensure_role(self, spec: RoleSpec, *, token: str = "") -> None:
        raise not_here(Can.ROLE, _HERE.title)

    def delete_role(self, tags: Tags, *, token: str = "") -> None:
        raise not_here(Can.ROLE, _HERE.title)

    def reading(self, bucket: str) -> str:
        raise not_here(Can.BUCKET, _HERE.title)

    @property
    def store(self) -> FolderStore:
        return self._store

    def cloud(self, region: str) -> LocalCloud:
        return self._here
