"""The nodes of clusters on AWS, as moto has them; nobody signs in."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from portal.clouds import NodeState, NoRoom, Passing, Refused
from portal.clouds.aws import leftovers, nodes, roles, states, templates
from portal.clouds.aws.brake import Brake
from portal.clouds.bootstrap import user_data
from portal.clouds.types import RoleSpec, WorkspaceSpec
from tests.aws import owner
from tests.aws.box import REGION, client
from tests.aws.test_network import account, emulator, made, region  # noqa: F401 (fixtures)
from tests.clouds import hands

IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
KIND = "m5.large"


@pytest.fixture
def at(emulator, account, monkeypatch):  # noqa: F811
    return region(emulator, account, monkeypatch, image=IMAGE)


@pytest.fixture
def where(at):
    workspace = hands.tags()
    made(at, WorkspaceSpec(workspace))
    return with_role(at, workspace)


def with_role(at, workspace):
    """A cluster of the workspace that has its role."""
    owner.node_policy(client(at.session.options.endpoint, "iam", at.session.options.account))
    found = hands.tags(workspace.workspace, str(uuid.uuid4()))
    roles.ensure(at.session, RoleSpec(found))
    return found


def left(at, where):
    """Of it, but for its role, which goes last."""
    return [one for one in leftovers.of(at, where) if one.kind != "role"]


def spec(where, count=2, *, kind=KIND, **more):
    return hands.spec(where, count, kind=kind, **more)


def ask(request, *arguments):
    """As the ledger does, with the token of the last answer; what was said meanwhile."""
    token, said = "", []
    for _ in range(400):
        pending = request(*arguments, token)
        if pending is None:
            return said
        token, said = pending.token, [*said, pending.detail]
    raise AssertionError(said[-3:])


def ensure(at, what):
    return ask(lambda token: nodes.ensure(at, what, token))


def delete(at, where, ranks=None):
    return ask(lambda _: nodes.delete(at, where, ranks))


def ids(at, where):
    return [node.id for node in nodes.of(at, where)]


class Calls:
    """What is asked of EC2, and what goes wrong with it: `faults` are errors by operation, each raised once."""

    def __init__(self, at):
        self.made, self.faults, self.lost = Counter(), [], set()
        at.ec2.meta.events.register("before-call.ec2", self._before)
        at.ec2.meta.events.register("after-call.ec2", self._after)

    def _before(self, model, params, **_):
        self.made[model.name] += 1
        for fault in self.faults:
            operation, code, when = fault
            if operation == model.name and when(params["body"]):
                raise ClientError({"Error": {"Code": code, "Message": "for a test"}}, operation)

    def _after(self, model, **_):
        if model.name in self.lost:
            self.lost.remove(model.name)
            raise ReadTimeoutError(endpoint_url="aws")


@pytest.fixture
def calls(at):
    return Calls(at)


def test_nodes_come_stop_start_and_go(at, where):
    what = spec(where, 3)
    assert ensure(at, what) == []
    seen = nodes.of(at, where)
    assert [(n.rank, n.hostname, n.state, n.user, n.zone) for n in seen] == [
        (rank, f"demo-{rank}", NodeState.RUNNING, "coxswain", f"{REGION}a") for rank in range(3)
    ]
    assert all(node.address == node.private_address for node in seen), "an emulator's public addresses are strangers'"
    assert {node.note for node in seen} == {"The portal has SSH let in from 127.0.0.1/32; its terminals need no more."}
    ask(lambda _: nodes.stop(at, where))
    stopped = nodes.of(at, where)
    assert [(n.state, n.address, n.reason) for n in stopped] == [(NodeState.STOPPED, None, "")] * 3
    ensure(at, what)
    assert [node.id for node in nodes.of(at, where)] == [node.id for node in seen]
    delete(at, where)
    assert nodes.of(at, where) == left(at, where) == []


def test_what_a_node_is_made_with(at, where, monkeypatch):
    boots = []
    monkeypatch.setattr(nodes, "user_data", lambda boot: boots.append(boot) or user_data(boot))
    ensure(at, spec(where, 1, kind="c5n.18xlarge", extra_tags=(("team", "rowing"),)))
    (one,) = nodes._listed(at, nodes.tags.filters(where))
    keys = nodes.tags.read(one["Tags"])
    assert (keys["team"], keys["Name"], keys["coxswain:rank"]) == ("rowing", "demo-0", "0")
    assert nodes.tags.owner(keys) == where
    volume = one["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    (disk,) = at.ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
    assert nodes.tags.owner(nodes.tags.read(disk["Tags"])) == where
    template = templates.find(at, where)
    versions = at.ec2.describe_launch_template_versions(LaunchTemplateId=template.id)["LaunchTemplateVersions"]
    data = versions[0]["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert data["NetworkInterfaces"][0]["InterfaceType"] == "efa"
    assert [boot.efa for boot in boots] == [True]
    assert data["Placement"]["GroupName"]
    root = data["BlockDeviceMappings"][0]["Ebs"]
    assert (root["Encrypted"], root["VolumeType"], root["DeleteOnTermination"]) == (True, "gp3", True)
    assert data["ImageId"] == one["ImageId"]
    delete(at, where)
    assert left(at, where) == []


def test_the_missing_one_is_made_and_of_two_the_first_is_kept(at, where, calls):
    what = spec(where, 3)
    ensure(at, what)
    before = ids(at, where)
    at.ec2.terminate_instances(InstanceIds=[before[1]])
    dead = nodes.of(at, where)[1]
    assert (dead.state, dead.is_coming) == (NodeState.GONE, False)
    assert dead.reason == "Somebody has terminated it in AWS, and not by the portal."
    made = calls.made["RunInstances"]
    ensure(at, what)
    after = ids(at, where)
    assert calls.made["RunInstances"] == made + 1
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True]
    twin = nodes._listed(at, [{"Name": "instance-id", "Values": [after[2]]}])[0]
    nodes._run(at, what, 2, f"{REGION}a", nodes.network.found(at, _workspace(where)), templates.find(at, where), [twin])
    of_two = [one for one in nodes._listed(at, nodes.tags.filters(where)) if states.rank(one) == 2]
    first = min(of_two, key=lambda one: (one["LaunchTime"], one["InstanceId"]))  # EC2 says it in whole seconds
    ensure(at, what)
    assert len(of_two) == 2
    assert ids(at, where) == [*after[:2], first["InstanceId"]]
    assert len([one for one in nodes._listed(at, nodes.tags.filters(where)) if nodes.states.lives(one)]) == 3


def _workspace(where):
    return hands.tags(where.workspace, portal=where.portal)


def test_a_node_that_had_died_is_listed_until_its_cluster_is_deleted_and_no_longer(at, where):
    ensure(at, spec(where, 3))
    at.ec2.terminate_instances(InstanceIds=ids(at, where)[1:])
    assert [node.state for node in nodes.inventory(at, where.portal)[where]][1:] == [NodeState.GONE] * 2
    ask(lambda _: nodes.delete(at, where, [2]))
    assert [node.rank for node in nodes.inventory(at, where.portal)[where]] == [0, 1]
    ask(lambda _: nodes.delete(at, where, None))
    assert nodes.inventory(at, where.portal) == {}
    assert nodes.of(at, where) == []


def test_a_node_that_ends_again_and_again_is_not_made_for_ever(at, where):
    what = spec(where, 1)
    for _ in range(nodes.DEATHS):
        ensure(at, what)
        at.ec2.terminate_instances(InstanceIds=ids(at, where))
    with pytest.raises(Refused, match="has ended 3 times within an hour"):
        ensure(at, what)


def test_a_zone_without_room_is_left_for_the_next_one_and_that_is_said(at, where, calls):
    subnets = {one.id: one.zone for one in nodes.network.found(at, _workspace(where)).subnets}
    full = next(name for name, zone in subnets.items() if zone == f"{REGION}a")
    asked = itertools.count()
    calls.faults = [
        ("RunInstances", "InsufficientInstanceCapacity", lambda body: full in body.values() and next(asked) > 0)
    ]
    said = ensure(at, spec(where, 3))
    assert said[0] == f"{REGION}a has no more nodes of type {KIND}: trying {REGION}b"
    assert {node.zone for node in nodes.of(at, where)} == {f"{REGION}b"}
    assert len(nodes.of(at, where)) == 3
    calls.faults = [("RunInstances", "InsufficientInstanceCapacity", lambda _: True)]
    with pytest.raises(NoRoom):  # people are on them: they stay where they are
        ensure(at, spec(where, 4))
    assert len(nodes.of(at, where)) == 3


def test_no_room_anywhere_says_what_may_be_had_instead(at, where, calls):
    calls.faults = [("RunInstances", "InsufficientInstanceCapacity", lambda _: True)]
    with pytest.raises(NoRoom, match="in any zone of the workspace") as caught:
        ensure(at, spec(where, 1))
    assert "InsufficientInstanceCapacity" in caught.value.evidence
    with pytest.raises(NoRoom, match=f"in {REGION}b") as caught:
        ensure(at, spec(where, 1, zone=f"{REGION}b"))
    assert [one.zone for one in caught.value.alternatives] == [f"{REGION}a", f"{REGION}c"]
    with pytest.raises(Refused, match="no subnet in the zone"):
        ensure(at, spec(where, 1, zone="nowhere-1a"))


def test_spot_nodes_are_asked_for_once_and_never_stopped(at, where, calls):
    ensure(at, spec(where, 2, spot=True))
    assert all(node.spot for node in nodes.of(at, where))
    with pytest.raises(Refused) as caught:
        nodes.stop(at, where)
    assert caught.value.code == "spot"
    before = calls.made.total()
    nodes.inventory(at, where.portal)
    assert calls.made.total() - before == 2


def test_a_template_that_was_made_just_now_is_not_asked_for(at, where, calls):
    ensure(at, spec(where, 2))
    assert (calls.made["CreateLaunchTemplate"], calls.made["DescribeLaunchTemplateVersions"]) == (1, 0)
    ensure(at, spec(where, 3))
    assert (calls.made["CreateLaunchTemplate"], calls.made["DescribeLaunchTemplateVersions"]) == (1, 1)


def test_sixty_nodes_take_one_request_each_and_one_question_a_look(at, where, calls):
    """In portions, of which each ends soon; and so many calls as there have to be."""
    ensure(at, spec(where, 60))
    assert calls.made["RunInstances"] == 60
    assert calls.made["CreateLaunchTemplate"] == 1
    before = Counter(calls.made)
    assert len(nodes.inventory(at, where.portal)[where]) == 60
    assert (calls.made - before).total() <= 2
    before = Counter(calls.made)
    ask(lambda _: nodes.stop(at, where))
    assert calls.made["StopInstances"] - before["StopInstances"] == 1


def test_throttled_requests_wait_and_what_there_is_stays(at, where, calls):
    times = iter([True, True])
    calls.faults = [("RunInstances", "RequestLimitExceeded", lambda _: next(times, False))]
    said = ensure(at, spec(where, 2))
    assert "AWS takes so many requests" in said[0]
    assert len(nodes.of(at, where)) == 2


def test_questions_wait_longer_and_longer_while_there_are_too_many():
    now = [0.0]
    brake = Brake(clock=lambda: now[0])

    model = SimpleNamespace(name="DescribeInstances", service_model=SimpleNamespace(service_name="ec2"))

    def asked(code=""):
        try:
            brake._before(model)
        except Passing as error:
            return error.code
        brake._after(model, {"Error": {"Code": code}} if code else {})
        return "sent"

    for pause in (1, 2, 4):
        assert asked("RequestLimitExceeded") == "sent"
        now[0] += pause - 0.1
        assert asked() == "throttled"
        now[0] += 0.2
    assert asked() == "sent"
    assert asked() == "sent"


def test_an_unknown_type_or_state_is_an_error_and_no_guess(at, where):
    with pytest.raises(Refused, match=r"type 'huge\.9000'"):
        ensure(at, spec(where, 1, kind="huge.9000"))
    assert left(at, where) == []
    with pytest.raises(Refused, match="does not know"):
        nodes.states.node({"InstanceId": "i-1", "State": {"Name": "dreaming"}}, at.options, {})


def test_a_portal_that_nodes_do_not_admit_any_more_is_told_so_beside_what_they_said(
    at,
    where,
    emulator,  # noqa: F811
    account,  # noqa: F811
    monkeypatch,
):
    ensure(at, spec(where, 1))
    assert nodes.console(at, where, 0) == ""
    moved = region(emulator, account, monkeypatch, image=IMAGE, addresses=("198.51.100.7/32",))
    said = nodes.console(moved, where, 0)
    assert said.startswith("The firewall of the nodes does not admit the portal: SSH from 198.51.100.7/32 is missing")
    assert said.endswith("Update the infrastructure of the workspace.")


def test_spot_nodes_of_another_architecture_behind_the_head_and_what_is_announced_of_them(
    emulator,  # noqa: F811
    account,  # noqa: F811
    monkeypatch,
):
    """`via` and the image as moto has them; it announces nothing, so that answer is as AWS documents it."""
    at = region(emulator, account, monkeypatch, image=IMAGE.replace("x86_64", "{architecture}"))
    workspace = hands.tags()
    made(at, WorkspaceSpec(workspace, choices=(("subnets", "private"),)))
    where = with_role(at, workspace)
    ensure(at, spec(where, 2, kind="c7g.large", spot=True))
    listed = sorted(nodes._listed(at, nodes.tags.filters(where)), key=nodes.states.rank)
    (image,) = at.ec2.describe_images(ImageIds=[listed[0]["ImageId"]])["Images"]
    assert image["Architecture"] == "arm64"
    there = nodes.network.found(at, workspace)
    assert listed[0]["SubnetId"] in {door.id for door in there.doors}
    assert listed[1]["SubnetId"] in {subnet.id for subnet in there.subnets}
    assert "PublicIpAddress" not in listed[1]
    seen = nodes.of(at, where)
    assert [(node.via, node.address == node.private_address) for node in seen] == [(None, True), (0, True)]
    every, said = type(at).every, [{"InstanceId": seen[1].id, "Status": {"Code": "marked-for-termination"}}]

    def answer(self, operation, under, **asked):
        if operation != "describe_spot_instance_requests":
            return every(self, operation, under, **asked)
        assert asked["Filters"][0]["Values"] == ["marked-for-termination", "marked-for-stop"]
        return said

    monkeypatch.setattr(type(at), "every", answer)
    announced = nodes.inventory(at, where.portal)[where]
    assert [node.notice for node in announced] == ["", "AWS takes this spot node back within two minutes."]
