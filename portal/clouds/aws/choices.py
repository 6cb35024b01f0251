"""What may be chosen of a workspace on AWS: `WorkspaceSpec.choices`, in words, and what they may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from ipaddress import IPv4Network, ip_network

from portal.clouds.aws.options import AwsOptions
from portal.errors import Refused

SMALLEST, LARGEST = 22, 16  # networks: a VPC is split into sixteen parts, and AWS allows none larger
GROUPS = 5  # that an interface may have: AWS's quota, unless it was raised

# What is nobody's on the Internet: RFC 1918, and RFC 6598.
PRIVATE = [ip_network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]
LOOPBACK = ip_network("127.0.0.0/8")  # where an emulator's nodes can be

_VPC, _SUBNET, _GROUP = (re.compile(rf"{kind}-[0-9a-f]{{8,17}}") for kind in ("vpc", "subnet", "sg"))
_KEY = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):\d{12}:key/[\w-]{1,100}", re.ASCII)


class Kind(StrEnum):
    """Of the subnets that nodes are in."""

    PUBLIC = "public"  # each node has a public address; its firewall admits the portal's alone
    PRIVATE = "private"  # no node has one: they reach the Internet through a NAT gateway


@dataclass(frozen=True)
class Choices:
    range: str = ""  # the network's addresses; empty: the first range that the account does not use yet
    subnets: Kind = Kind.PUBLIC
    vpc: str = ""  # one that is there already, and is not the portal's …
    vpc_subnets: tuple[str, ...] = ()  # … with the subnets that nodes are in, one a zone …
    vpc_groups: tuple[str, ...] = ()  # … and their security groups; none: the portal makes one
    kms_key: str = ""  # the ARN of the one that encrypts filesystem and disks; empty: AWS's own

    @classmethod
    def of(cls, chosen: Iterable[tuple[str, str]], options: AwsOptions) -> Choices:
        """Raises `Refused`, whose `field` is the word, for what is unknown or cannot be."""
        words = dict(chosen)
        if unknown := sorted(words.keys() - {field.name for field in fields(cls)}):
            raise _wrong(unknown[0], f"Nothing that is called {unknown[0]} can be chosen of a workspace on AWS.")
        try:
            kind = Kind(words.get("subnets") or Kind.PUBLIC)
        except ValueError as error:
            raise _wrong("subnets", f"Subnets are {' or '.join(Kind)}.") from error
        several = {name: tuple(re.findall(r"[^\s,]+", words.get(name, ""))) for name in ("vpc_subnets", "vpc_groups")}
        single = {name: words.get(name, "").strip() for name in ("range", "vpc", "kms_key")}
        made = cls(subnets=kind, **single, **several)  # type: ignore[arg-type]
        made._check(options)
        return made

    def _check(self, options: AwsOptions) -> None:
        if self.range:
            network_of(self.range, options)
        if self.vpc:
            self._check_vpc()
        elif self.vpc_subnets or self.vpc_groups:
            name = "vpc_subnets" if self.vpc_subnets else "vpc_groups"
            raise _wrong(name, "These are for a VPC that is there already. Name it, or leave this empty.")
        if self.kms_key and not _KEY.fullmatch(self.kms_key):
            raise _wrong("kms_key", "This is no ARN of a KMS key, such as arn:aws:kms:REGION:ACCOUNT:key/ID.")

    def _check_vpc(self) -> None:
        if not _VPC.fullmatch(self.vpc):
            raise _wrong("vpc", "This is no id of a VPC, such as vpc-0123456789abcdef0.")
        if self.range:
            raise _wrong("range", "A VPC that is there has its range of addresses. Leave this empty.")
        for name, pattern in (("vpc_subnets", _SUBNET), ("vpc_groups", _GROUP)):
            ids = getattr(self, name)
            if wrong := next((one for one in ids if not pattern.fullmatch(one)), ""):
                raise _wrong(name, f"{wrong} is no id of a {'subnet' if pattern is _SUBNET else 'security group'}.")
            if len(set(ids)) < len(ids):
                raise _wrong(name, "The same id is there twice.")
        if len(self.vpc_subnets) < 2:
            raise _wrong("vpc_subnets", "Name two subnets or more, each in another zone.")
        if len(self.vpc_groups) > GROUPS:
            raise _wrong("vpc_groups", f"A node can have {GROUPS} security groups at most.")

    @property
    def words(self) -> dict[str, str]:
        """As `of` reads them; what is not chosen is not in it."""
        chosen = {
            "range": self.range,
            "subnets": "" if self.vpc else str(self.subnets),
            "vpc": self.vpc,
            "vpc_subnets": " ".join(self.vpc_subnets),
            "vpc_groups": " ".join(self.vpc_groups),
            "kms_key": self.kms_key,
        }
        return {name: value for name, value in chosen.items() if value}

    @property
    def in_words(self) -> list[tuple[str, str]]:
        """What was chosen and how it is called, for people."""
        if self.vpc:
            said = [
                ("Network", f"{self.vpc}, which is not the portal's"),
                ("Subnets", ", ".join(self.vpc_subnets)),
                ("Security groups", ", ".join(self.vpc_groups) or "the portal's own"),
            ]
        else:
            kinds = {Kind.PUBLIC: "public", Kind.PRIVATE: "private, with a NAT gateway"}
            said = [("Network", self.range or "chosen by the portal"), ("Subnets", kinds[self.subnets])]
        return [*said, ("Encrypted with", self.kms_key or "AWS's own keys")]


def network_of(text: str, options: AwsOptions) -> IPv4Network:
    """A range for a network of the portal's. Raises `Refused`."""
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise _wrong("range", "This is no range of IPv4 addresses, such as 10.64.0.0/16.") from error
    if not LARGEST <= network.prefixlen <= SMALLEST:
        raise _wrong("range", f"A range is between /{LARGEST} and /{SMALLEST}.")
    allowed = [*PRIVATE, *([LOOPBACK] if options.endpoint else [])]
    if not any(network.subnet_of(one) for one in allowed if isinstance(one, IPv4Network)):
        raise _wrong("range", f"Take private addresses: a part of {', '.join(map(str, allowed))}.")
    return network


def ranges(options: AwsOptions) -> Iterator[IPv4Network]:
    """Those that are taken where nobody chooses one, in this order."""
    first, numbers = (127, range(80, 120)) if options.endpoint else (10, range(64, 256))
    return (IPv4Network(f"{first}.{number}.0.0/16") for number in numbers)


def free_range(taken: Iterable[IPv4Network], options: AwsOptions) -> IPv4Network:
    """The first one that overlaps with none of these. Raises `Refused`."""
    taken = list(taken)
    found = next((one for one in ranges(options) if not any(map(one.overlaps, taken))), None)
    if found is None:
        raise _wrong("range", "All ranges that the portal would take are in use. Choose one.")
    return found


def _wrong(name: str, message: str) -> Refused:
    return Refused(message, code="wrong_choice", field=name)
