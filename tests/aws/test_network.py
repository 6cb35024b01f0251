"""The network and the filesystem of a workspace on AWS, as moto has it."""

from __future__ import annotations

import uuid
from collections import Counter

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
