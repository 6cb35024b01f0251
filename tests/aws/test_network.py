"""The network and the filesystem of a workspace on AWS, as moto has it."""

from __future__ import annotations

import uuid

import pytest

from portal.clouds.aws import filesystem, leftovers, network
from portal.clouds.aws.options import AwsOptions
from portal.clouds.aws.region import Region
from portal.clouds.aws.session import Session
from portal.clouds.types import WorkspaceSpec
from tests.aws.box import CUSTOMER, REGION, Emulator
from tests.clouds import hands

ROLE = f"arn:aws:iam::{CUSTOMER}:role/Coxswain"


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


def test_a_workspace_is_made_found_and_deleted(at):
    what = spec()
    made(at, what)
    there = network.found(at, what.tags)
    assert there.zones == [f"{REGION}{letter}" for letter in "abc"]
    assert all(subnet.is_public for subnet in there.subnets)
    assert len(there.groups) == 1
    deleted(at, what.tags)
    assert leftovers.of(at, what.tags) == []
