"""The network and the filesystem of a workspace on AWS, as moto has it."""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import suppress
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


@pytest.mark.parametrize("every", [1, 2, 3])
def test_however_often_the_portal_dies_it_makes_one_network_and_deletes_all_of_it(at, every):
    """After so many changes each time: whoever comes next finds them, and goes on."""
    what = spec(subnets="private")
    assert deaths(every, at, lambda dying: made(dying, what)) > 25 / every  # the calls that change something
    assert counted(at, what.tags) == PRIVATE
    made(at, what)
    assert counted(at, what.tags) == PRIVATE
    assert deaths(every, at, lambda dying: deleted(dying, what.tags)) > 25 / every
    assert leftovers.of(at, what.tags) == []


def deaths(every, at, act):
    """How many there were until it was done."""
    for number in count():
        with suppress(Died):
            act(Dying(at, every))
            return number
    raise AssertionError


@pytest.mark.parametrize("first", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_what_there_is_of_a_network_is_deleted_wherever_the_portal_died_while_it_made_it(at, first):
    for number in count(first, step=3):
        what, dying = spec(subnets="private"), Dying(at, number)
        with suppress(Died):
            made(dying, what)
            assert number > 25  # the calls that change something
            return
        deleted(at, what.tags)
        assert leftovers.of(at, what.tags) == [], dying.done
