"""What EC2 says of an instance, as the portal says it of a node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from portal.clouds.aws import network, tags
from portal.clouds.aws.options import AwsOptions
from portal.clouds.bootstrap import OWN_KEY, READY, USER
from portal.clouds.types import CloudNode, NodeState
from portal.errors import Refused

Instance = Mapping[str, Any]

# Words of tags: that the portal has told it to go; and that all nodes of its cluster have been had, so that people may
# be on it.
HOSTNAME, ENDED, SETTLED = "hostname", "ended", "settled"
STATES = {
    "pending": NodeState.BOOTING,
    "running": NodeState.RUNNING,
    "shutting-down": NodeState.STOPPING,
    "stopping": NodeState.STOPPING,
    "stopped": NodeState.STOPPED,
    "terminated": NodeState.GONE,
}
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html, and the page “Troubleshoot Amazon EC2
# instance termination issues”.
REASONS = {
    "Server.SpotInstanceTermination": "AWS has taken the spot node back.",
    "Server.SpotInstanceShutdown": "AWS has stopped the spot node.",
    "Server.InsufficientInstanceCapacity": "AWS had no room for it when it was to start.",
    "Server.InternalError": "The computer of AWS's that it ran on has failed.",
    "Server.ScheduledStop": "AWS has stopped it, because the computer that it ran on was to be retired.",
    "Client.InstanceInitiatedShutdown": "It was shut down from inside.",
    "Client.InternalError": "Its disk could not be opened: the KMS key may not be used for it.",
    "Client.VolumeLimitExceeded": "The account's quota of disks is reached.",
    "Client.InvalidSnapshot.NotFound": "The snapshot that its image is made of is gone.",
    "Client.UserInitiatedShutdown": "Somebody has terminated it in AWS, and not by the portal.",
}
# Of spot requests: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html
NOTICES = {
    "marked-for-termination": "AWS takes this spot node back within two minutes.",
    "marked-for-stop": "AWS stops this spot node within two minutes.",
}


def word(instance: Instance) -> str:
    return str(instance["State"]["Name"])


def lives(instance: Instance) -> bool:
    """It is there, or can be started."""
    return word(instance) not in ("shutting-down", "terminated")


def rank(instance: Instance) -> int | None:
    value = tags.read(instance.get("Tags")).get(tags.RANK, "")
    return int(value) if value.isdecimal() else None


def was_ended(instance: Instance) -> bool:
    return f"{tags.PREFIX}{ENDED}" in tags.read(instance.get("Tags"))


def is_settled(instance: Instance) -> bool:
    return f"{tags.PREFIX}{SETTLED}" in tags.read(instance.get("Tags"))


def chosen(instances: Iterable[Instance]) -> dict[int, Instance]:
    """One a rank, lowest first: the first that lives, else the last that has gone without being told to."""
    found: dict[int, Instance] = {}
    for one in sorted(instances, key=lambda one: (not lives(one), str(one["LaunchTime"]), one["InstanceId"])):
        number = rank(one)
        if number is None or (word(one) == "terminated" and was_ended(one)):
            continue
        before = found.get(number)
        if before is None or not lives(before):
            found[number] = one
    return dict(sorted(found.items()))


def node(instance: Instance, options: AwsOptions, notices: Mapping[str, str]) -> CloudNode:
    """`notices` are by the ids of instances. Raises `Refused` for a state that is none of the known ones."""
    name = word(instance)
    if name not in STATES:
        raise Refused(
            f"AWS says of the node {instance['InstanceId']} that it is {name!r}, which the portal does not know.",
            code="unknown_state",
        )
    state, said = STATES[name], tags.read(instance.get("Tags"))
    number = rank(instance)
    assert number is not None
    address = via = None
    private: str | None = instance.get("PrivateIpAddress") or None
    if state in (NodeState.BOOTING, NodeState.RUNNING):
        public = instance.get("PublicIpAddress") or None
        address, via = network.reach(options, number, public=public, private=private)
    return CloudNode(
        id=instance["InstanceId"],
        rank=number,
        hostname=said.get(f"{tags.PREFIX}{HOSTNAME}", ""),
        state=state,
        address=address,
        port=22,
        private_address=private,
        user=USER,
        home=f"/home/{USER}",
        shared="/shared",
        reason=_reason(instance, state),
        zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
        spot=instance.get("InstanceLifecycle") == "spot",
        notice=notices.get(instance["InstanceId"], ""),
        via=via,
        note=f"The portal has SSH let in from {', '.join(options.addresses) or 'nowhere'}; its terminals need no more.",
        own_key=OWN_KEY,
        ready=READY,
    )


def _reason(instance: Instance, state: NodeState) -> str:
    said = instance.get("StateReason") or {}
    code = said.get("Code", "")
    if state in (NodeState.BOOTING, NodeState.RUNNING) or not code:
        return ""
    if code == "Client.UserInitiatedShutdown" and (state != NodeState.GONE or was_ended(instance)):
        return ""  # that somebody stops it is what the portal does
    return REASONS.get(code) or f"AWS says: {said.get('Message', code).removeprefix(f'{code}: ').rstrip('.')}."


def evidence(instance: Instance) -> str:
    """In AWS's own words."""
    return f"{instance['InstanceId']}: {json.dumps(instance.get('StateReason') or {})}"
