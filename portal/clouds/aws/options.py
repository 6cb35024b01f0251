"""What is decided of an AWS account: by its cloud configuration, and by whoever runs the portal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

ROLE = re.compile(r"arn:(aws[a-z-]*):iam::(\d{12}):role/([\w+=,.@/-]{1,576})", re.ASCII)


class Reach(StrEnum):
    """How the portal reaches nodes."""

    PUBLIC = "public"  # at addresses that everybody could reach; their firewall admits the portal's alone
    PRIVATE = "private"  # inside their network, which the portal is in, or is joined with


@dataclass(frozen=True)
class AwsOptions:
    """The external id, by which the role is trusted, is no option: it is what a configuration's credentials are."""

    role: str = ""  # the ARN of the role that is the portal's in the account; empty while it is not known yet
    bucket: str = ""  # of the metadata store, with …
    table: str = ""  # … its table of locks …
    region: str = ""  # … in this region

    # What follows is decided for the whole portal.
    principal: str = ""  # the ARN that is trusted; empty: whoever the portal's own credentials say it is
    reach: Reach = Reach.PUBLIC
    addresses: tuple[str, ...] = ()  # networks from which the portal reaches nodes
    image: str = ""  # of nodes: its id, or a public parameter's name; empty: Ubuntu 24.04
    endpoint: str = ""  # the address of an emulator, which is asked instead of AWS
    portal: str = ""  # the tag of this portal, which policies name

    @classmethod
    def of(cls, config: Mapping[str, str], portal: Mapping[str, Any]) -> AwsOptions:
        """From a configuration's options, in which what is not one is passed over, and the portal's own."""
        return cls(
            **{name: config.get(name, "") for name in ("role", "bucket", "table", "region")},
            **{name: portal[name] for name in ("principal", "image", "endpoint")},
            portal=portal.get("portal", ""),
            reach=Reach(portal["reach"]),
            addresses=tuple(portal["addresses"]),
        )

    @property
    def account(self) -> str:
        """Twelve digits. Empty while no role is known."""
        found = ROLE.fullmatch(self.role)
        return found[2] if found else ""

    @property
    def partition(self) -> str:
        """Of the ARNs in it: that of China and of governments is another."""
        found = ROLE.fullmatch(self.role)
        return found[1] if found else "aws"

    @property
    def in_words(self) -> list[tuple[str, str]]:
        ways = {Reach.PUBLIC: "at their public addresses", Reach.PRIVATE: "at their private addresses"}
        said = [
            ("AWS account", self.account or "not known yet"),
            ("Role", self.role or "not known yet"),
            ("Metadata store", f"{self.bucket} and {self.table}, in {self.region}" if self.bucket else "not known yet"),
            ("Nodes are reached", ways[self.reach]),
            ("Nodes admit SSH from", ", ".join(self.addresses) or "nowhere: PORTAL_AWS_ADDRESSES is not set"),
        ]
        return [("Emulated", f"by {self.endpoint}: this is not AWS"), *said] if self.endpoint else said
