"""The network and the filesystem of a workspace on AWS, as moto has it."""

from __future__ import annotations

import uuid
from collections import Counter
from itertools import count

import pytest

from portal.clouds.aws import filesystem, leftovers, network
from portal.clouds.aws.options import AwsOptions, Reach
from portal.clouds.aws.region import Region
from portal.clouds.aws.session import Session
from portal.clouds.types import WorkspaceSpec
from portal.errors import Refused
from tests.aws.box import REGION, Emulator
from tests.clouds import hands


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    made = Emulator(tmp_path_factory.mktemp("aws"))
    yield made
    made.close()


@pytest.fixture
def account():
    """One of its own for each test, so that nothing of another is in it."""
    return str(uuid.uuid4().int)[:12]


@pytest.fixture
def at(emulator, account, monkeypatch):
    return region(emulator, account, monkeypatch)


def region(emulator, account, monkeypatch, **more):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "portal")
    options = {"role": f"arn:aws:iam::{account}:role/Coxswain", "addresses": ("127.0.0.1/32",)} | more
    return Region(Session(AwsOptions(region=REGION, endpoint=emulator.endpoint, **options), "external-1"), REGION)


def spec(**choices):
    return WorkspaceSpec(hands.tags(), (("team", "rowing"),), tuple(choices.items()))


def made(at, what):
    until_none(network.ensure, at, what)
    until_none(filesystem.ensure, at, what)


def deleted(at, tags):
    until_none(filesystem.delete, at, tags)
    until_none(network.delete, at, tags)


def until_none(request, *arguments):
    hands.until(lambda: request(*arguments) is None)


class Died(BaseException):
    """The process is gone. No code has a chance to tidy up."""


class Dying:
    """A region in which the process dies right after AWS has done what the call of this number asked for."""

    def __init__(self, at, after):
        self.region, self.left, self.done = at, after, []
        self.name, self.options, self.session = at.name, at.options, self
        self.ec2, self.efs = self.client("ec2", at.name), self.client("efs", at.name)
        self.every = at.every

    def client(self, service, name):
        return Client(self, self.region.session.client(service, name))


class Client:
    def __init__(self, dying, client):
        self.dying, self.client = dying, client

    def __getattr__(self, name):
        call = getattr(self.client, name)
        if name.startswith(("describe_", "can_", "get_")):
            return call

        def counted(**words):
            answer = call(**words)
            self.dying.done.append(name)
            if len(self.dying.done) == self.dying.left:
                raise Died(name)
            return answer

        return counted


def counted(at, tags):
    """How many there are of each kind."""
    return Counter(one.kind for one in leftovers.of(at, tags))


PUBLIC = {
    "VPC": 1,
    "subnet": 3,
    "internet gateway": 1,
    "route table": 1,
    "security group": 2,
    "VPC endpoint": 1,
    "filesystem": 1,
}
PRIVATE = PUBLIC | {"subnet": 6, "route table": 2, "NAT gateway": 1, "elastic IP address": 1}


def test_a_workspace_is_made_found_and_deleted(at):
    what = spec()
    made(at, what)
    there = network.found(at, what.tags)
    assert there.zones == [f"{REGION}{letter}" for letter in "abc"]
    assert all(subnet.is_public for subnet in there.subnets)
    assert there.doors == ()
    assert len(there.groups) == 1
    assert counted(at, what.tags) == PUBLIC
    assert leftovers.owners(at, what.tags.portal) == {what.tags}
    made(at, what)
    assert counted(at, what.tags) == PUBLIC
    deleted(at, what.tags)
    assert leftovers.of(at, what.tags) == []
    assert leftovers.owners(at, what.tags.portal) == set()


def test_nodes_without_public_addresses_are_reached_through_the_first_one(at):
    what = spec(subnets="private")
    made(at, what)
    there = network.found(at, what.tags)
    assert not any(subnet.is_public for subnet in there.subnets)
    assert [subnet.zone for subnet in there.doors] == there.zones
    zone = there.zones[1]
    assert there.place(zone, 0) == there.doors[1]
    assert there.place(zone, 1) == there.subnets[1]
    assert network.reach(at.options, 1, public=None, private="10.0.0.7") == ("10.0.0.7", 0)
    with pytest.raises(Refused, match="no subnet in the zone"):
        there.place("us-east-2f", 1)


def test_a_portal_inside_the_network_reaches_each_node_itself(emulator, account, monkeypatch):
    at = region(emulator, account, monkeypatch, reach=Reach.PRIVATE)
    what = spec(subnets="private")
    made(at, what)
    assert network.found(at, what.tags).doors == ()
    assert network.reach(at.options, 1, public="203.0.113.7", private="10.0.0.7") == ("10.0.0.7", None)


@pytest.mark.parametrize("then", ["is made again", "is deleted instead"])
def test_wherever_the_portal_dies_while_it_makes_a_network(at, then):
    """… nothing is there twice, and nothing stays."""
    for number in count(1):
        what, dying = spec(subnets="private"), Dying(at, number)
        try:
            made(dying, what)
        except Died:
            if then == "is made again":
                made(at, what)
                assert counted(at, what.tags) == PRIVATE, dying.done
        else:
            assert number > 25  # the calls that change something
            return
        finally:
            deleted(at, what.tags)
            assert leftovers.of(at, what.tags) == [], dying.done


def test_wherever_the_portal_dies_while_it_deletes_a_network(at):
    for number in count(1):
        what, dying = spec(subnets="private"), Dying(at, number)
        made(at, what)
        try:
            deleted(dying, what.tags)
        except Died:
            deleted(at, what.tags)
            assert leftovers.of(at, what.tags) == [], dying.done
        else:
            assert number > 25  # the calls that change something
            return
