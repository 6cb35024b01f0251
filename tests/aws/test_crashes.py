"""Who works on a plan dies after each kind of thing that AWS has done, and after single calls (every fifth;
EACH_CALL=1: each): somebody goes on, or takes all of it away.
"""

from __future__ import annotations

import itertools
from functools import partial

import pytest

from clusters.actions import (
    create_cluster,
    delete_cluster,
    pause_cluster,
    restart_cluster,
    resume_cluster,
    scale_cluster,
    start_cluster,
    stop_cluster,
)
from clusters.models import EngineVersion
from portal.clouds import connect
from portal.clouds.aws import making, session
from portal.tasks import ledger
from tests.aws import account
from tests.aws.account import go_on, more
from tests.aws.box import REGION
from workspaces.actions import create_workspace, delete_workspace

pytestmark = [
    *(pytest.mark.slow, pytest.mark.timeout(600)),
    *(pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")),
]

# What AWS is asked to change by each plan, in the order in which that comes first.
NETWORK = [
    "CreateVpc", "ModifyVpcAttribute", "CreateSubnet", "CreateInternetGateway", "AttachInternetGateway",
    "CreateRouteTable", "AssociateRouteTable", "CreateRoute", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress",
    "AuthorizeSecurityGroupEgress", "CreateVpcEndpoint", "AllocateAddress", "CreateNatGateway", "CreateFileSystem",
    "CreateMountTarget",
]  # fmt: skip
NODES = [
    "CreateRole", "AttachRolePolicy", "CreateInstanceProfile", "AddRoleToInstanceProfile", "CreatePlacementGroup",
    "CreateLaunchTemplate", "RunInstances", "CreateTags",
]  # fmt: skip
STORE = {"PutItem", "PutObject", "DeleteObject"}
OF_WORKSPACE = {
    "VPC": 1, "subnet": 4, "internet gateway": 1, "route table": 3, "security group": 3, "elastic IP address": 1,
    "NAT gateway": 1, "VPC endpoint": 1, "filesystem": 1, "network interface": 3, "object": 1,
}  # fmt: skip
OF_CLUSTER = {  # of two nodes; moto makes two disks of each
    "instance": 2, "volume": 4, "network interface": 2, "launch template": 1, "placement group": 1, "role": 1,
    "instance profile": 1, "object": 1,
}  # fmt: skip
LIFE = [  # of a cluster of two nodes: what is asked for, what it is then, and how many nodes there are
    (pause_cluster, "paused", 2),
    (resume_cluster, "running", 2),
    (partial(scale_cluster, nodes=3), "running", 3),
    (partial(scale_cluster, nodes=2), "running", 2),
    (restart_cluster, "running", 2),
    (stop_cluster, "stopped", 0),
    (start_cluster, "running", 2),
]


@pytest.fixture
def deaths(moto, settings, monkeypatch):
    account.settle(settings, monkeypatch, moto.endpoint)
    account.Nodes(monkeypatch)
    session.portal_session.cache_clear()
    connect.cache_clear()
    monkeypatch.setattr(making, "MOST_ZONES", 2)  # each further one is more of the same
    yield account.Deaths(monkeypatch)
    session.portal_session.cache_clear()
    connect.cache_clear()


@pytest.fixture
def config(moto, harbor, alice, deaths):
    return account.configuration(moto, harbor, alice)


@pytest.fixture
def world(moto, config):
    return account.World(moto, config.options["account"], config.options["bucket"])


def workspace(config, alice, name="sea"):
    return create_workspace(
        config.organization, name=name, cloud_config=config, region=REGION, by=alice, choices={"subnets": "private"}
    )


def cluster(where, alice, name="tide"):
    return create_cluster(
        where, name=name, instance_type=account.TYPES[1], node_count=2, by=alice,
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip


def with_nodes(count):
    """What a cluster has that has so many."""
    return OF_CLUSTER | {"instance": count, "volume": 2 * count, "network interface": count} if count else {}


def changes(done):
    """What AWS was asked for, each once, but for the store's."""
    return [name for name in dict.fromkeys(done) if name not in STORE]


def test_a_life_in_which_the_worker_dies_after_every_change_has_nothing_twice_and_leaves_nothing(
    config, world, deaths, alice
):
    before = world.things()
    deaths.begin()
    sea = workspace(config, alice)
    assert (go_on(sea).status, sea.status) == ("finished", "ready")
    assert changes(deaths.done) == NETWORK
    empty = world.things()
    assert more(before, empty) == OF_WORKSPACE

    deaths.begin()
    tide = cluster(sea, alice)
    assert (go_on(tide).status, tide.status) == ("finished", "running"), (tide.last_task.cause, tide.last_task.evidence)
    assert changes(deaths.done) == NODES
    assert more(empty, world.things()) == OF_CLUSTER
    nodes = world.things()["instance"]

    for ask, status, asked in (
        (pause_cluster, "paused", ["StopInstances"]),
        (resume_cluster, "running", ["StartInstances"]),
        (restart_cluster, "running", ["StopInstances", "StartInstances"]),
    ):
        deaths.begin()
        ask(tide, by=alice)
        assert (go_on(tide).status, tide.status) == ("finished", status)
        assert changes(deaths.done) == asked
        assert world.things()["instance"] == nodes

    deaths.begin()
    scale_cluster(tide, 3, by=alice)
    assert (go_on(tide).status, tide.status, tide.node_count) == ("finished", "running", 3)
    assert {"RunInstances", "CreateTags"} < {*deaths.done}
    assert more(empty, world.things()) == with_nodes(3)
    assert world.things()["instance"] > nodes
    deaths.begin()
    scale_cluster(tide, 1, by=alice)
    assert (go_on(tide).status, tide.status, tide.node_count) == ("finished", "running", 1)
    assert {"CreateTags", "TerminateInstances"} < {*deaths.done}
    assert more(empty, world.things()) == with_nodes(1)

    deaths.begin()
    delete_cluster(tide, by=alice)
    assert (go_on(tide).status, tide.status) == ("finished", "terminated")
    assert {"TerminateInstances", "DeleteLaunchTemplate", "DeletePlacementGroup", "DeleteRole"} < {*deaths.done}
    assert more(empty, world.things()) == {}

    deaths.begin()
    delete_workspace(sea, by=alice)
    assert (go_on(sea).status, sea.status) == ("finished", "terminated")
    assert {"DeleteNatGateway", "ReleaseAddress", "DeleteFileSystem", "DeleteMountTarget", "DeleteVpc"} < {*deaths.done}
    assert world.things() == before, "what is somebody else's is as it was"


MADE = [name for name in NETWORK if name.startswith(("Create", "Allocate"))]


def test_a_workspace_whose_worker_has_died_is_cancelled_and_nothing_of_it_is_left(config, world, deaths, alice):
    before = world.things()
    for number, operation in enumerate(MADE):
        deaths.begin(operation)
        sea = workspace(config, alice, f"sea-{number}")
        task = sea.last_task
        account.work(task)
        assert deaths.done == [operation]
        assert ledger.cancel_task(task)
        deaths.begin(f"Delete{operation.removeprefix('Create')}", "PutItem")  # and whoever takes it away dies too
        assert (go_on(sea).status, sea.status) == ("cancelled", "terminated"), operation
    assert world.things() == before


def test_a_cluster_whose_worker_has_died_is_deleted_by_force_and_nothing_of_it_is_left(config, world, deaths, alice):
    sea = workspace(config, alice)
    go_on(sea)
    empty = world.things()
    later = {"StopInstances": pause_cluster, "StartInstances": resume_cluster}
    for number, operation in enumerate([*NODES, *later]):
        tide = cluster(sea, alice, f"tide-{number}")
        if operation in later:
            go_on(tide)
        if operation == "StartInstances":
            pause_cluster(tide, by=alice)
            go_on(tide)
        if operation in later:
            later[operation](tide, by=alice)
        deaths.begin(operation)
        account.work(tide.last_task)
        assert deaths.done == [operation]
        deaths.begin("TerminateInstances", "DeleteLaunchTemplate", "DeleteRole")
        delete_cluster(tide, by=alice, force=True)
        assert (go_on(tide).status, tide.status) == ("finished", "terminated"), operation
        deaths.begin("nothing")
    assert more(empty, world.things()) == {}


@pytest.mark.slow
def test_a_workspace_is_cancelled_after_single_calls_and_nothing_of_it_is_left(config, world, deaths, alice):
    before = world.things()
    for number in account.calls():
        deaths.begin(at=number)
        sea = workspace(config, alice, f"sea-{number}")
        if not account.until_death(sea, deaths):
            break
        is_cancelled = ledger.cancel_task(sea.last_task)
        deaths.begin(at=number % 20)  # and whoever takes it away dies too
        if not is_cancelled:  # all was done, and only its end was not written down
            go_on(sea)
            delete_workspace(sea, by=alice)
        assert go_on(sea).is_finished
        assert sea.status == "terminated", number
    assert number > 2 * len(NETWORK)
    delete_workspace(sea, by=alice)
    go_on(sea)
    assert world.things() == before


@pytest.mark.slow
def test_a_cluster_is_deleted_by_force_after_single_calls_and_nothing_of_it_is_left(config, world, deaths, alice):
    sea = workspace(config, alice)
    go_on(sea)
    empty = world.things()
    for number in account.calls():
        deaths.begin(at=number)
        tide = cluster(sea, alice, f"tide-{number}")
        died = account.until_death(tide, deaths)
        deaths.begin(at=number)  # and whoever deletes it dies too
        delete_cluster(tide, by=alice, force=True)
        assert (go_on(tide).status, tide.status) == ("finished", "terminated"), number
        if not died:
            break
    assert number > len(NODES)
    assert more(empty, world.things()) == {}


def after_single_calls(make, delete, ready, made, world, deaths, alice):
    """One is made, and deleted, again and again: each time both die after another call, and somebody goes on.

    Returns after how many calls nobody died.
    """
    before = world.things()
    for number in account.calls():
        deaths.begin(at=number)
        one = make(number)
        assert (go_on(one).status, one.status) == ("finished", ready), number
        assert more(before, world.things()) == made, number
        died = deaths.done
        deaths.begin(at=number)
        delete(one, by=alice)
        assert (go_on(one).status, one.status) == ("finished", "terminated"), number
        assert world.things() == before, number
        if not died:
            break
    return number


@pytest.mark.slow
def test_a_workspace_is_gone_on_with_after_single_calls_and_has_each_thing_once(config, world, deaths, alice):
    def make(number):
        return workspace(config, alice, f"sea-{number}")

    calls = after_single_calls(make, delete_workspace, "ready", OF_WORKSPACE, world, deaths, alice)
    assert calls > 2 * len(NETWORK)


@pytest.mark.slow
def test_a_cluster_is_gone_on_with_after_single_calls_and_has_each_thing_once(config, world, deaths, alice):
    sea = workspace(config, alice)
    go_on(sea)

    def make(number):
        return cluster(sea, alice, f"tide-{number}")

    calls = after_single_calls(make, delete_cluster, "running", OF_CLUSTER, world, deaths, alice)
    assert calls > len(NODES)


@pytest.mark.slow
def test_a_cluster_lives_on_after_single_calls_and_has_each_thing_once(config, world, deaths, alice):
    sea = workspace(config, alice)
    go_on(sea)
    empty = world.things()
    tide = cluster(sea, alice)
    go_on(tide)
    nodes = world.things()["instance"] - empty["instance"]
    every, died = 20, 0
    for number in itertools.takewhile(lambda number: number < every, account.calls()):
        deaths.begin(at=number, every=every)
        for ask, status, count in LIFE:
            ask(tide, by=alice)
            assert (go_on(tide).status, tide.status) == ("finished", status), (number, ask, deaths.done)
            things = world.things()
            assert more(empty, things) == with_nodes(count), (number, ask, deaths.done)
            before, nodes = nodes, things["instance"] - empty["instance"]
            assert len(before & nodes) == min(len(before), count), "none takes another's place"
        died += len(deaths.done)
    assert died > len(LIFE)


@pytest.mark.slow
def test_a_cluster_is_deleted_by_force_after_single_calls_of_its_life(config, world, deaths, alice):
    sea = workspace(config, alice)
    go_on(sea)
    empty = world.things()
    for number in account.calls():
        deaths.begin("nothing")
        tide = cluster(sea, alice, f"tide-{number}")
        go_on(tide)
        deaths.begin(at=number)
        died = any(ask(tide, by=alice) and account.until_death(tide, deaths) for ask, *_ in LIFE)
        deaths.begin(at=number % 15)  # and whoever deletes it dies too
        delete_cluster(tide, by=alice, force=True)
        assert (go_on(tide).status, tide.status) == ("finished", "terminated"), number
        assert more(empty, world.things()) == {}, number
        if not died:
            break
    assert number > 3 * len(LIFE)
