"""What a kind of cloud lets people choose of a workspace, beside its name and its region."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from ipaddress import IPv4Network
from typing import Any

from django import forms

from portal.clouds.aws import choices as aws
from portal.errors import Refused
from workspaces.models import CloudConfig, Workspace

MOST_TAGS = 40  # AWS allows 50 on a thing, and the portal's own are among them
_TAG = re.compile(r"[\w +=.,:/@-]*")  # what AWS's services all allow in a key and in a value


class AwsChoices(forms.Form):
    """Fields of the workspace form. They are called as `Choices` calls what is chosen."""

    range = forms.CharField(
        label="Addresses",
        required=False,
        max_length=18,
        help_text=f"The range of the network that is made, /{aws.LARGEST} to /{aws.SMALLEST}. No other network that it "
        "is ever to be joined with may use them. Empty: the first one that the account does not use.",
    )
    subnets = forms.ChoiceField(
        required=False,
        initial=aws.Kind.PUBLIC,
        choices=[
            (aws.Kind.PUBLIC, "Public: each node has a public address; only the portal gets in"),
            (aws.Kind.PRIVATE, "Private: no node has one; a NAT gateway, which costs money by the hour, leads out"),
        ],
    )
    vpc = forms.CharField(
        label="VPC that is there already",
        required=False,
        max_length=40,
        help_text="Instead of a network that is made. Nothing in it that is not the portal's is changed or deleted. "
        "The portal's role needs further rights for it, which the page of the cloud configuration shows.",
    )
    vpc_subnets = forms.CharField(
        label="Its subnets",
        required=False,
        max_length=400,
        help_text="Two or more, each in another zone, all with a route to the Internet.",
    )
    vpc_groups = forms.CharField(
        label="Security groups of nodes",
        required=False,
        max_length=160,
        help_text="They admit nodes to each other, and SSH from the portal. Empty: the portal makes one.",
    )
    kms_key = forms.CharField(
        label="KMS key",
        required=False,
        max_length=200,
        help_text="Its ARN: it encrypts the filesystem and the nodes' disks. The portal's role needs rights on it, "
        "which the page of the cloud configuration shows. Empty: AWS's own keys encrypt.",
    )
    tags = forms.CharField(
        label="Tags",
        required=False,
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Of your own, on everything that is made: one a line, such as cost-center=42.",
    )


FIELDS: Mapping[str, type[forms.Form]] = {CloudConfig.Kind.AWS: AwsChoices}


def fields_of(config: CloudConfig | None) -> dict[str, forms.Field]:
    """None where its kind of cloud asks for nothing more."""
    return deepcopy(FIELDS[config.kind].base_fields) if config and config.kind in FIELDS else {}


def suggested(config: CloudConfig) -> dict[str, Any]:
    """What the fields say before anybody has typed."""
    try:
        return {"range": str(aws.free_range(_taken(), config.connection))}  # type: ignore[arg-type]
    except Refused:
        return {}


def chosen(config: CloudConfig, data: Mapping[str, Any]) -> dict[str, str]:
    """For `Workspace.choices`. Raises `Refused`, whose `field` is the one that it is about."""
    words = [(name, data.get(name) or "") for name in AwsChoices.base_fields if name != "tags"]
    if data.get("vpc"):
        words = [(name, value) for name, value in words if name not in ("range", "subnets")]
    made = aws.Choices.of(words, config.connection)  # type: ignore[arg-type]
    if made.range:
        network = IPv4Network(made.range)
        if any(network.overlaps(other) for other in _taken()):
            raise Refused("Another workspace of this portal has some of these addresses.", field="range")
    return made.words


def _taken() -> list[IPv4Network]:
    """By networks of workspaces that are there: whoever reaches two of them knows them apart by their addresses."""
    live = Workspace.objects.live().filter(cloud_config__kind=CloudConfig.Kind.AWS)
    return [IPv4Network(one["range"]) for one in live.values_list("choices", flat=True) if one.get("range")]


def tags_of(text: str) -> dict[str, str]:
    """Of lines such as KEY=VALUE. Raises `Refused`."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        key, is_there, value = (part.strip() for part in line.partition("="))
        if not (key and is_there):
            raise Refused(f"This is no tag, such as cost-center=42: {line}", field="tags")
        if key in found:
            raise Refused(f"{key} is there twice.", field="tags")
        if key == "Name" or key.lower().startswith(("aws:", "coxswain:")):
            raise Refused(f"{key} is not free: it is AWS's, or the portal's.", field="tags")
        if len(key) > 128 or len(value) > 256 or not (_TAG.fullmatch(key) and _TAG.fullmatch(value)):
            raise Refused(f"AWS does not take this tag: {line}", field="tags")
        found[key] = value
    if len(found) > MOST_TAGS:
        raise Refused(f"{MOST_TAGS} tags can be given at most.", field="tags")
    return found


def in_words(workspace: Workspace) -> Iterable[tuple[str, str]]:
    """What was chosen of it, for people."""
    config = workspace.cloud_config
    if config.kind != CloudConfig.Kind.AWS:
        return
    try:
        yield from aws.Choices.of(workspace.choices.items(), config.connection).in_words  # type: ignore[arg-type]
    except Refused as error:
        yield "Network", error.message
    if workspace.extra_tags:
        yield "Tags", ", ".join(f"{key}={value}" for key, value in sorted(workspace.extra_tags.items()))
