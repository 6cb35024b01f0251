"""What all nodes of a cluster are alike in: a launch template, and a placement group where the type can be in one.

The template is made with the cluster's first node and never changed: what is made later has the same image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from portal.clouds.aws import images, roles, tags
from portal.clouds.aws.network import Network
from portal.clouds.aws.region import Region
from portal.clouds.aws.trouble import code_of, passed_over
from portal.clouds.types import NodesSpec, Tags
from portal.errors import Passing, Refused

DISK = 40  # GiB of a node's own disk; what is to stay lies on the shared filesystem


@dataclass(frozen=True)
class Template:
    id: str
    interface: Mapping[str, Any]  # of each node, without where it is
    profile: Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """Of an instance type, what a template needs to know."""

    architecture: str
    fast: bool  # it has EFA
    together: bool  # its nodes can be near each other


def ensure(at: Region, spec: NodesSpec, network: Network) -> Template:
    found = find(at, spec.tags)
    if found is not None:
        return found
    kind = _kind(at, spec.instance_type)
    image = images.newest(at, kind.architecture)
    group = _ensure_group(at, spec) if kind.together else ""
    name = _name(spec.tags)
    written = tags.written(spec.tags, spec.extra_tags, name=spec.name)
    data = _data(at, spec, network, kind, image, group)
    try:
        made = at.ec2.create_launch_template(
            LaunchTemplateName=name,
            LaunchTemplateData=data,
            TagSpecifications=tags.specified("launch-template", written),
        )
    except ClientError as error:
        if code_of(error) != "InvalidLaunchTemplateName.AlreadyExistsException":
            raise
        # Made by a call whose answer was lost, and not everywhere known yet.
        raise Passing("AWS does not list yet what it has made.", evidence=str(error), code="not_now") from error
    return Template(
        made["LaunchTemplate"]["LaunchTemplateId"], data["NetworkInterfaces"][0], data["IamInstanceProfile"]
    )


def find(at: Region, of: Tags) -> Template | None:
    one = _listed(at, of)
    if one is None:
        return None
    versions = at.ec2.describe_launch_template_versions(LaunchTemplateId=one["LaunchTemplateId"], Versions=["1"])
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    (interface,) = data["NetworkInterfaces"]
    return Template(one["LaunchTemplateId"], interface, data.get("IamInstanceProfile", {}))


def delete(at: Region, of: Tags) -> None:
    """After the nodes. Raises what says `Passing` while one of them still goes."""
    if (one := _listed(at, of)) is not None:
        with passed_over("InvalidLaunchTemplateId.NotFound", missing=True):
            at.ec2.delete_launch_template(LaunchTemplateId=one["LaunchTemplateId"])
    for group in _groups(at, of):
        with passed_over(missing=True):
            at.ec2.delete_placement_group(GroupName=group)


def _listed(at: Region, of: Tags) -> dict[str, Any] | None:
    found = at.every("describe_launch_templates", "LaunchTemplates", Filters=tags.filters(of))
    return next(iter(sorted(found, key=lambda one: str(one["CreateTime"]))), None)


def _groups(at: Region, of: Tags) -> list[str]:
    found = at.ec2.describe_placement_groups(Filters=tags.filters(of))["PlacementGroups"]
    return [one["GroupName"] for one in found if one.get("State") not in ("deleting", "deleted")]


def _ensure_group(at: Region, spec: NodesSpec) -> str:
    if found := _groups(at, spec.tags):
        return found[0]
    name = _name(spec.tags)
    with passed_over("InvalidPlacementGroup.Duplicate"):  # whose name is made of what it is found by
        at.ec2.create_placement_group(
            GroupName=name,
            Strategy="cluster",
            TagSpecifications=tags.specified("placement-group", tags.written(spec.tags, spec.extra_tags)),
        )
    return name


def _kind(at: Region, name: str) -> Kind:
    try:
        found = at.ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
    except ClientError as error:
        if code_of(error) not in ("InvalidInstanceType", "InvalidParameterValue"):
            raise
        found = []
    if not found:
        raise Refused(
            f"There is no instance type '{name}' in {at.name}.",
            advice="Choose another instance type.",
            code="no_such_type",
        )
    (one,) = found
    known = [word for word in one["ProcessorInfo"]["SupportedArchitectures"] if word in ("x86_64", "arm64")]
    if not known:
        raise Refused(f"There is no image for nodes of the type {name}.", code="wrong_image")
    return Kind(
        known[0],
        bool(one.get("NetworkInfo", {}).get("EfaSupported")),
        "cluster" in one.get("PlacementGroupInfo", {}).get("SupportedStrategies", ()),
    )


def _data(at: Region, spec: NodesSpec, network: Network, kind: Kind, image: images.Image, group: str) -> dict[str, Any]:
    disk: dict[str, Any] = {"VolumeType": "gp3", "VolumeSize": DISK, "Encrypted": True, "DeleteOnTermination": True}
    if network.key:
        disk["KmsKeyId"] = network.key
    return {
        "ImageId": image.id,
        "InstanceType": spec.instance_type,
        "BlockDeviceMappings": [{"DeviceName": image.disk, "Ebs": disk}],
        # Of version 2 alone, which a request that was sent on by a program does not pass; nor does it get far.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "InterfaceType": "efa" if kind.fast else "interface",
                "Groups": list(network.groups),
                "DeleteOnTermination": True,
            }
        ],
        **({"Placement": {"GroupName": group}} if group else {}),
        "IamInstanceProfile": {"Name": roles.profile(at.session, spec)},
    }


def _name(of: Tags) -> str:
    """Nobody else's in the region, and the same each time; people see it in AWS's console."""
    return f"coxswain-{of.portal}-{of.subject}"
