"""A workspace's shared filesystem: EFS, with a mount target in each zone of its network.

It is found by its creation token, of which AWS lets there be one filesystem only. Its tags say what was chosen where
that is not the portal's and so has no tags of ours: whoever makes nodes finds it there.
"""

from __future__ import annotations

from typing import Any

from portal.clouds.aws import firewall, making
from portal.clouds.aws import tags as tagging
from portal.clouds.aws.choices import Choices, Kind
from portal.clouds.aws.region import Region
from portal.clouds.aws.things import GROUP, INSTANCE, SUBNET, Ours, part_of, state, where
from portal.clouds.aws.trouble import passed_over
from portal.clouds.types import Tags, WorkspaceSpec
from portal.errors import Passing, Pending, Refused

GROUPS = f"{tagging.PREFIX}groups"  # tags: the security groups of nodes, if they are somebody else's …
KEY = f"{tagging.PREFIX}key"  # … and the KMS key of disks
_SOON = 5.0  # seconds until a look is worth it
_GOING = frozenset({"deleting", "deleted"})


def ensure(at: Region, spec: WorkspaceSpec) -> Pending | None:
    chosen = Choices.of(spec.choices, at.options)
    ours = Ours(at, spec.tags, spec.extra_tags)
    found = of(at, spec.tags) or _made(ours, chosen)
    if found["LifeCycleState"] in ("creating", *_GOING):
        return Pending(f"The shared filesystem {found['FileSystemId']} is {found['LifeCycleState']}.", _SOON)
    if found["LifeCycleState"] == "error":
        raise Refused(
            f"AWS says that the shared filesystem {found['FileSystemId']} is broken.",
            advice="Ask AWS: what is on it may still be saved. Delete the workspace where it cannot be.",
            code="refused",
        )
    group = _group(ours)
    subnets = chosen.vpc_subnets or [one["SubnetId"] for one in _subnets(ours, chosen.subnets)]
    there = {one["SubnetId"]: one for one in targets(at, found["FileSystemId"])}
    for subnet in subnets:
        if subnet not in there:
            # A zone that has no EFS is one that nodes are not in.
            with passed_over("MountTargetConflict", "UnsupportedAvailabilityZone"):
                made = at.efs.create_mount_target(
                    FileSystemId=found["FileSystemId"], SubnetId=subnet, SecurityGroups=[group]
                )
                there[subnet] = made
        elif there[subnet]["LifeCycleState"] == "available":
            _guard(at, there[subnet]["MountTargetId"], group)
    if coming := [one["MountTargetId"] for one in there.values() if one["LifeCycleState"] != "available"]:
        return Pending(f"AWS makes the mount targets of the filesystem: {', '.join(sorted(coming))}.", _SOON)
    return None


def delete(at: Region, tags: Tags) -> Pending | None:
    found = of(at, tags)
    if found is None:
        return None
    filesystem = found["FileSystemId"]
    _not_mounted(at, tags)
    left = targets(at, filesystem)
    for one in left:
        if one["LifeCycleState"] not in _GOING:
            with passed_over(missing=True):
                at.efs.delete_mount_target(MountTargetId=one["MountTargetId"])
    if left := targets(at, filesystem) if left else []:
        ids = ", ".join(sorted(one["MountTargetId"] for one in left))
        return Pending(f"Waiting until this is gone: mount target {ids}.", _SOON)
    if found["LifeCycleState"] not in _GOING:
        with passed_over(missing=True):
            at.efs.delete_file_system(FileSystemId=filesystem)
    return Pending(f"Waiting until this is gone: filesystem {filesystem}.", _SOON) if of(at, tags) else None


def of(at: Region, tags: Tags) -> dict[str, Any] | None:
    """The filesystem of this subject. Raises `Refused` where one of its token is somebody else's."""
    for one in at.every("describe_file_systems", "FileSystems", service="efs", CreationToken=_token(tags)):
        if one["LifeCycleState"] == "deleted":
            continue
        if tagging.owner(tagging.read(one.get("Tags"))) != tags:
            raise Refused(
                f"Something that is not the portal's is in the way: filesystem {one['FileSystemId']}.",
                advice="It has the creation token of the workspace's, and other tags. Ask whoever changed them.",
                code="in_the_way",
            )
        return one
    return None


def targets(at: Region, filesystem: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with passed_over(missing=True):
        found = at.every("describe_mount_targets", "MountTargets", service="efs", FileSystemId=filesystem)
    return [one for one in found if one["LifeCycleState"] != "deleted"]


def _token(tags: Tags) -> str:
    return f"coxswain-{tags.subject}"


def _made(ours: Ours, chosen: Choices) -> dict[str, Any]:
    keys = tagging.written(ours.tags, ours.extra, name=ours.name())
    more = [(GROUPS, " ".join(chosen.vpc_groups)), (KEY, chosen.kms_key)]
    made: dict[str, Any] = ours.at.efs.create_file_system(
        CreationToken=_token(ours.tags),
        PerformanceMode="generalPurpose",
        ThroughputMode="elastic",
        Encrypted=True,
        **({"KmsKeyId": chosen.kms_key} if chosen.kms_key else {}),
        Backup=False,
        Tags=[*keys, *({"Key": key, "Value": value} for key, value in more if value)],
    )
    return made


def _group(ours: Ours) -> str:
    found = ours.every(GROUP, part=firewall.FILES)
    if not found:
        raise _no_network()
    return str(found[0]["GroupId"])


def _subnets(ours: Ours, kind: Kind) -> list[dict[str, Any]]:
    part = making.PRIVATE if kind is Kind.PRIVATE else making.PUBLIC
    found = [one for one in ours.every(SUBNET) if part_of(one) == part]
    if not found:
        raise _no_network()
    return found


def _no_network() -> Passing:
    return Passing("The workspace's network is not there, which its filesystem is in.", code="missing")


def _guard(at: Region, target: str, group: str) -> None:
    """Nobody but nodes reaches the files, whatever somebody has changed."""
    has = at.efs.describe_mount_target_security_groups(MountTargetId=target)["SecurityGroups"]
    if has != [group]:
        at.efs.modify_mount_target_security_groups(MountTargetId=target, SecurityGroups=[group])


def _not_mounted(at: Region, tags: Tags) -> None:
    filters = where(**{f"tag:{tagging.PREFIX}portal": tags.portal, f"tag:{tagging.PREFIX}workspace": tags.workspace})
    nodes = at.every(INSTANCE.operation, INSTANCE.under, Filters=filters)
    if there := [one["InstanceId"] for one in nodes if state(one) in ("pending", "running", "stopping")]:
        raise Passing(
            "The shared filesystem is still in use by nodes of its workspace.", evidence="\n".join(sorted(there))
        )
