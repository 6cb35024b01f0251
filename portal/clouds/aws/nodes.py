"""The nodes of a cluster: EC2 instances, one a rank, found by tag."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from portal.clouds.aws import network, offers, states, tags, templates
from portal.clouds.aws.network import Network
from portal.clouds.aws.options import AwsOptions, Reach
from portal.clouds.aws.region import Region
from portal.clouds.aws.states import Instance
from portal.clouds.aws.templates import Template
from portal.clouds.aws.trouble import NO_CAPACITY, THROTTLED, code_of, passed_over, told
from portal.clouds.bootstrap import Boot, Mount, user_data
from portal.clouds.types import CloudNode, NodesSpec, Tags
from portal.errors import Alternative, NoRoom, Passing, Pending, PortalError, Refused

# What EC2 takes of RunInstances: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
BURST, RATE = 5, 2.0  # calls at once, and calls a second from then on
SECONDS = 25.0  # that one `ensure` makes nodes for
LOOK_IN = 5.0
AT_ONCE = 500  # instances in one call
DEATHS = 3  # of one rank within the hour for which EC2 lists them: then it is not made again
CONSOLE = 16 << 10  # characters
# Each node mounts by the target in its own zone: https://docs.aws.amazon.com/efs/latest/ug/mounting-fs-nfs-mount-settings.html
NFS = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,_netdev,nofail"


def ensure(at: Region, spec: NodesSpec, token: str) -> Pending | None:
    """`token` names the zones that had no room, where the cluster may be in any."""
    listed = _listed(at, tags.filters(spec.tags))
    there, spare = _by_rank(listed)
    _end(at, spare)
    wanted = {number: one for number, one in there.items() if number < spec.nodes}
    missing = [number for number in range(spec.nodes) if number not in wanted]
    if missing:
        return _make(at, spec, listed, missing, token.split(",") if token else [])
    halting = [one for one in wanted.values() if states.word(one) == "stopping"]
    if halting:
        return Pending(f"{len(halting)} of {spec.nodes} nodes still stop", LOOK_IN)
    if halted := [one["InstanceId"] for one in wanted.values() if states.word(one) == "stopped"]:
        for some in _portions(halted):
            at.ec2.start_instances(InstanceIds=some)
    _mark(at, states.SETTLED, [one["InstanceId"] for one in wanted.values() if not states.is_settled(one)])
    return None


def stop(at: Region, of: Tags) -> Pending | None:
    there, _ = _by_rank(_listed(at, tags.filters(of)))
    if spot := [one for one in there.values() if one.get("InstanceLifecycle") == "spot"]:
        raise Refused(
            "Spot nodes cannot be stopped: AWS keeps no disks of them.",
            evidence=", ".join(one["InstanceId"] for one in spot),
            code="spot",
        )
    running = [one["InstanceId"] for one in there.values() if states.word(one) == "running"]
    for some in _portions(running):
        at.ec2.stop_instances(InstanceIds=some)
    # One that has only just been asked for can be stopped once it runs.
    if going := [one for one in there.values() if states.word(one) != "stopped"]:
        return Pending(f"{len(going)} of {len(there)} nodes still stop", LOOK_IN)
    return None


def delete(at: Region, of: Tags, ranks: Collection[int] | None) -> Pending | None:
    listed = _listed(at, tags.filters(of))
    theirs = [one for one in listed if ranks is None or states.rank(one) in ranks]
    _end(at, [one for one in theirs if states.lives(one)])
    # Of one that had gone by itself, nobody is to be told any more.
    with passed_over(missing=True):
        _mark(at, states.ENDED, [one["InstanceId"] for one in theirs if _has_died(one)])
    if going := [one for one in theirs if states.word(one) != "terminated"]:
        return Pending(f"{len(going)} of {len(theirs)} nodes still go", LOOK_IN)
    if ranks is None:
        templates.delete(at, of)
    return None


def of(at: Region, whose: Tags) -> list[CloudNode]:
    return _nodes(at, _listed(at, tags.filters(whose)))


def inventory(at: Region, portal: str) -> dict[Tags, list[CloudNode]]:
    ours = [{"Name": f"tag:{tags.PORTAL}", "Values": [portal]}, {"Name": "tag-key", "Values": [tags.RANK]}]
    by_owner: defaultdict[Tags, list[Instance]] = defaultdict(list)
    listed = _listed(at, ours)
    for one in listed:
        if owner := tags.owner(tags.read(one.get("Tags"))):
            by_owner[owner].append(one)
    notices = _notices(at, listed)
    found = {
        owner: [states.node(one, at.options, notices) for one in states.chosen(theirs).values()]
        for owner, theirs in by_owner.items()
    }
    return {owner: nodes for owner, nodes in found.items() if nodes}


def console(at: Region, whose: Tags, rank: int) -> str:
    """And first, why the portal may not reach it: what it said itself is the same then as where all is well."""
    one = states.chosen(_listed(at, tags.filters(whose, rank=str(rank)))).get(rank)
    if one is None:
        return ""
    return "\n".join(filter(None, [_out_of_reach(at, whose), _said(at, one)]))


def _out_of_reach(at: Region, whose: Tags) -> str:
    try:
        return network.why_not_reached(at, replace(whose, subject=whose.workspace))
    except PortalError as error:  # what is wrong with the network is evidence too
        return f"{error.message} {error.evidence}".strip()


def _said(at: Region, one: Instance) -> str:
    said = ""
    with passed_over("UnsupportedOperation", missing=True):  # older types keep it for themselves until they are up
        said = at.ec2.get_console_output(InstanceId=one["InstanceId"], Latest=True).get("Output", "")
    if not said:
        with passed_over(missing=True):
            said = at.ec2.get_console_output(InstanceId=one["InstanceId"]).get("Output", "")
    return str(said)[-CONSOLE:]


def _listed(at: Region, filters: list[dict[str, Any]]) -> list[Instance]:
    found = at.every("describe_instances", "Reservations", Filters=filters, PaginationConfig={"PageSize": 1000})
    return [one for reservation in found for one in reservation["Instances"]]


def _by_rank(listed: Iterable[Instance]) -> tuple[dict[int, Instance], list[Instance]]:
    """The one of each rank that lives, and what lives besides: after two calls that did not hear of each other."""
    there = {number: one for number, one in states.chosen(listed).items() if states.lives(one)}
    kept = {one["InstanceId"] for one in there.values()}
    return there, [one for one in listed if states.lives(one) and one["InstanceId"] not in kept]


def _nodes(at: Region, listed: Sequence[Instance]) -> list[CloudNode]:
    notices = _notices(at, listed)
    return [states.node(one, at.options, notices) for one in states.chosen(listed).values()]


def _notices(at: Region, listed: Iterable[Instance]) -> Mapping[str, str]:
    """What AWS has announced of spot nodes, by their ids; it says so of their requests. Asked only where some run."""
    if not any(one.get("InstanceLifecycle") == "spot" and states.word(one) == "running" for one in listed):
        return {}
    # Of whomever in the region: there are few at a time, and the requests have none of our tags.
    announced = [{"Name": "status-code", "Values": list(states.NOTICES)}]
    found = at.every("describe_spot_instance_requests", "SpotInstanceRequests", Filters=announced)
    return {
        one["InstanceId"]: states.NOTICES[code]
        for one in found
        if (code := one.get("Status", {}).get("Code", "")) in states.NOTICES and "InstanceId" in one
    }


def _end(at: Region, these: Iterable[Instance]) -> None:
    """And say of them that it was the portal: of one that has gone by itself, people are told why."""
    these = list(these)
    unsaid = [one["InstanceId"] for one in these if not states.was_ended(one)]
    _mark(at, states.ENDED, unsaid)
    for some in _portions([one["InstanceId"] for one in these]):
        with passed_over(missing=True):
            at.ec2.terminate_instances(InstanceIds=some)


def _mark(at: Region, word: str, names: Sequence[str]) -> None:
    for some in _portions(names):
        at.ec2.create_tags(Resources=some, Tags=[{"Key": f"{tags.PREFIX}{word}", "Value": "by the portal"}])


def _has_died(instance: Instance) -> bool:
    return states.word(instance) == "terminated" and not states.was_ended(instance)


def _portions(names: Sequence[str]) -> Iterable[list[str]]:
    return (list(names[start : start + AT_ONCE]) for start in range(0, len(names), AT_ONCE))


def _make(
    at: Region, spec: NodesSpec, listed: Sequence[Instance], missing: Sequence[int], full: Sequence[str]
) -> Pending | None:
    _refuse_to_go_on(spec, listed)
    of_workspace = network.found(at, replace(spec.tags, subject=spec.tags.workspace))
    template = templates.ensure(at, spec, of_workspace)
    living = [one for one in listed if states.lives(one)]
    # From where people may be, the others do not go elsewhere.
    fixed = next((_zone(one) for one in living if states.is_settled(one)), "") or spec.zone
    zones = [fixed] if fixed else _zones(at, spec, of_workspace)
    if set(zones) <= set(full):
        full = []  # asked again, later
    zone = fixed or next((_zone(one) for one in living), "") or next(one for one in zones if one not in full)
    if zone in full or any(_zone(one) != zone for one in living):
        return _leave(at, living, full)
    if going := [one for one in listed if states.word(one) == "shutting-down" and _zone(one) != zone]:
        return Pending(f"{len(going)} nodes in another zone still go", LOOK_IN, token=",".join(full))
    began, made = time.monotonic(), list[str]()
    for number in missing:
        spent = time.monotonic() - began
        if len(made) >= BURST + RATE * spent or spent > SECONDS:
            return _more(spec, len(missing) - len(made), BURST / RATE, full)
        try:
            made.append(_run(at, spec, number, zone, of_workspace, template, listed))
        except Passing as error:
            if error.code != "throttled":
                raise
            return _more(spec, len(missing) - len(made), LOOK_IN, full)
        except ClientError as error:
            if code_of(error) in THROTTLED:
                return _more(spec, len(missing) - len(made), LOOK_IN, full)
            if code_of(error) not in NO_CAPACITY:
                raise
            return _elsewhere(at, spec, zone, zones, [*full, zone], error)
    _mark(at, states.SETTLED, [*made, *(one["InstanceId"] for one in living if not states.is_settled(one))])
    return None


def _more(spec: NodesSpec, left: int, seconds: float, full: Sequence[str]) -> Pending:
    detail = f"{spec.nodes - left} of {spec.nodes} nodes are asked for: AWS takes so many requests at a time"
    return Pending(detail, seconds, token=",".join(full))


def _leave(at: Region, living: Sequence[Instance], full: Sequence[str]) -> Pending:
    """The nodes of a cluster are in one zone. These are in one that had no room for all; nobody has been on them."""
    living = [one for one in living if not states.is_settled(one)]
    _end(at, living)
    return Pending(f"{len(living)} nodes go: their zone has no room for all of them", LOOK_IN, token=",".join(full))


def _elsewhere(
    at: Region, spec: NodesSpec, zone: str, zones: Sequence[str], full: Sequence[str], error: ClientError
) -> Pending:
    """What follows where a zone has no room. Raises `NoRoom` where no other is left, or may be taken."""
    others = [one for one in zones if one not in full]
    what = "spot nodes" if spec.spot else "nodes"
    if others:
        return Pending(
            f"{zone} has no more {what} of type {spec.instance_type}: trying {others[0]}", 1.0, token=",".join(full)
        )
    where = f"in {zone}" if len(zones) == 1 else f"in any zone of the workspace: {', '.join(zones)}"
    instead = [] if len(zones) > 1 else [Alternative(zone=one) for one in _zones(at, spec, None) if one != zone]
    raise NoRoom(
        f"AWS has no more {what} of type {spec.instance_type} {where}.", instead, evidence=told(error).evidence
    ) from error


def _zones(at: Region, spec: NodesSpec, of_workspace: Network | None) -> list[str]:
    """Those of the workspace that have the type. Raises `NoRoom` where none has."""
    of_workspace = of_workspace or network.found(at, replace(spec.tags, subject=spec.tags.workspace))
    having = offers.having(at, spec.instance_type).get(spec.instance_type, [])
    if found := [zone for zone in of_workspace.zones if zone in having]:
        return found
    raise NoRoom(
        f"No zone of the workspace has nodes of type {spec.instance_type}.",
        evidence=f"The workspace is in {', '.join(of_workspace.zones)}; the type is in {', '.join(having) or 'none'}.",
    )


def _zone(instance: Instance) -> str:
    return str(instance["Placement"]["AvailabilityZone"])


def _refuse_to_go_on(spec: NodesSpec, listed: Sequence[Instance]) -> None:
    """Where nodes end again and again right after they were made: each costs something."""
    for number in range(spec.nodes):
        dead = [one for one in listed if states.rank(one) == number and not states.lives(one)]
        dead = [one for one in dead if not states.was_ended(one)]
        if len(dead) < DEATHS:
            continue
        last = max(dead, key=lambda one: str(one["LaunchTime"]))
        why = states.node(last, AwsOptions(), {}).reason
        raise Refused(
            f"{spec.name}-{number} has ended {len(dead)} times within an hour. {why}".rstrip(),
            evidence="\n".join(states.evidence(one) for one in dead),
            code="ends_again",
        )


def _run(
    at: Region, spec: NodesSpec, number: int, zone: str, of_workspace: Network, template: Template,
    listed: Sequence[Instance],
) -> str:  # fmt: skip
    """Its id."""
    subnet, hostname = of_workspace.place(zone, number), f"{spec.name}-{number}"
    words = {"rank": str(number), states.HOSTNAME: hostname}
    written = tags.written(spec.tags, spec.extra_tags, name=hostname, **words)
    spot: dict[str, Any] = {}
    if spec.spot:
        spot = {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}}
    answer = at.ec2.run_instances(
        LaunchTemplate={"LaunchTemplateId": template.id, "Version": "1"},
        MinCount=1,
        MaxCount=1,
        UserData=_user_data(at, spec, number, of_workspace, efa=template.interface.get("InterfaceType") == "efa"),
        # Said again, because a place belongs to it: a request's own interfaces take the place of the template's.
        NetworkInterfaces=[
            {
                **template.interface,
                "SubnetId": subnet.id,
                "AssociatePublicIpAddress": subnet.is_public and at.options.reach == Reach.PUBLIC,
            }
        ],
        **({"IamInstanceProfile": dict(template.profile)} if template.profile else {}),
        **spot,
        ClientToken=_token(spec, number, zone, listed),
        TagSpecifications=tags.specified(["instance", "volume", "network-interface"], written),
    )
    return str(answer["Instances"][0]["InstanceId"])


def _user_data(at: Region, spec: NodesSpec, number: int, of_workspace: Network, *, efa: bool) -> str:
    top = "amazonaws.com.cn" if at.options.partition == "aws-cn" else "amazonaws.com"
    mount = Mount(f"{of_workspace.filesystem}.efs.{at.name}.{top}:/", "nfs4", NFS)
    return user_data(Boot(f"{spec.name}-{number}", spec.host_keys[number], spec.authorized_keys, mount, efa=efa))


def _token(spec: NodesSpec, number: int, zone: str, listed: Iterable[Instance]) -> str:
    """The same where an answer was lost, so that EC2 makes no second node, and another one for each life of a rank.

    EC2 lists what has ended for an hour. What has ended before that has another hour in its token.
    """
    lives = sorted(one["InstanceId"] for one in listed if states.rank(one) == number)
    hour = datetime.now(UTC).strftime("%Y-%m-%dT%H")
    words = [spec.tags.portal, spec.tags.subject, str(number), spec.host_keys[number].public, zone, hour, *lives]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:64]
