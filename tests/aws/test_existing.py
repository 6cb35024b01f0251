"""A workspace in a VPC of somebody else's, on moto: looked at before it is used, used, and left as it was."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from portal.clouds.aws import existing, filesystem, firewall, leftovers, network, nodes
from portal.clouds.aws import tags as tagging
from portal.clouds.aws.choices import Choices
from portal.clouds.types import WorkspaceSpec
from portal.errors import Refused
from tests.aws.box import REGION
from tests.aws.test_network import account, counted, deleted, emulator, made, region  # noqa: F401 (fixtures)
from tests.aws.test_nodes import IMAGE, delete, ensure, ids, spec, with_role
from tests.clouds import hands

ALL = {"IpProtocol": "-1"}


class Theirs:
    """A network with two public subnets, as somebody may have made it; its security group is right, too."""

    def __init__(self, ec2):
        self.ec2 = ec2
        self.vpc = ec2.create_vpc(CidrBlock="10.50.0.0/16")["Vpc"]["VpcId"]
        ec2.modify_vpc_attribute(VpcId=self.vpc, EnableDnsHostnames={"Value": True})
        self.subnets = [self.subnet(f"10.50.{number}.0/24", letter) for number, letter in ((1, "a"), (2, "b"))]
        self.gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.vpc)
        (self.table,) = (
            one["RouteTableId"]
            for one in ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])["RouteTables"]
        )
        self.route = {"RouteTableId": self.table, "DestinationCidrBlock": "0.0.0.0/0"}
        ec2.create_route(**self.route, GatewayId=self.gateway)
        self.group = self.new_group("nodes")
        self.admit(self.group, [ALL | {"UserIdGroupPairs": [{"GroupId": self.group}]}, self.ssh("127.0.0.1/32")])

    def subnet(self, block, letter):
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=block, AvailabilityZone=f"{REGION}{letter}")
        return made["Subnet"]["SubnetId"]

    def new_group(self, name):
        made = self.ec2.create_security_group(GroupName=name, Description="Theirs.", VpcId=self.vpc)
        return made["GroupId"]

    def admit(self, group, rules):
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)

    @staticmethod
    def ssh(network):
        return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": network}]}

    def choices(self, **more):
        """As people give them; `None` for what they leave out."""
        chosen = {"vpc": self.vpc, "vpc_subnets": " ".join(self.subnets), "vpc_groups": self.group} | more
        return tuple((name, value) for name, value in chosen.items() if value is not None)

    def state(self):
        """All that there is of it, and how it is."""
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        ec2 = self.ec2
        return (
            ec2.describe_vpcs(VpcIds=[self.vpc])["Vpcs"],
            {one["SubnetId"]: one for one in ec2.describe_subnets(Filters=filters)["Subnets"]},
            ec2.describe_route_tables(Filters=filters)["RouteTables"],
            {one["GroupId"]: one for one in ec2.describe_security_groups(Filters=filters)["SecurityGroups"]},
            ec2.describe_internet_gateways(InternetGatewayIds=[self.gateway])["InternetGateways"],
            ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"],
        )


@pytest.fixture
def at(emulator, account, monkeypatch):  # noqa: F811
    return region(emulator, account, monkeypatch, image=IMAGE)


@pytest.fixture
def as_owner(emulator, account):  # noqa: F811
    """The clients of the account's owner, who does what the portal's role may not."""
    return lambda service: emulator.client(service, account)


@pytest.fixture
def owner(as_owner):
    return as_owner("ec2")


@pytest.fixture
def theirs(owner):
    return Theirs(owner)


def workspace(theirs, **more):
    return WorkspaceSpec(hands.tags(), (("team", "rowing"),), theirs.choices(**more))


@pytest.mark.parametrize("groups", ["named", "made"])
def test_nodes_are_in_it_and_all_of_it_stays_as_it_was(at, theirs, groups):
    before = theirs.state()
    what = workspace(theirs, **({} if groups == "named" else {"vpc_groups": None}))
    made(at, what)
    made(at, what)
    own = {"filesystem": 1, "security group": 1 if groups == "named" else 2}
    assert counted(at, what.tags) == own, "the group of the files, and of the nodes where none is named"
    there = network.found(at, what.tags)
    assert (there.vpc, [one.id for one in there.subnets]) == (theirs.vpc, theirs.subnets)
    assert there.doors == ()
    assert (theirs.group in there.groups) == (groups == "named")
    cluster = with_role(at, what.tags)
    ensure(at, spec(cluster, 2))
    listed = at.ec2.describe_instances(InstanceIds=ids(at, cluster))["Reservations"]
    seen = [one for reservation in listed for one in reservation["Instances"]]
    assert {one["VpcId"] for one in seen} == {theirs.vpc}
    assert {one["SubnetId"] for one in seen} == {theirs.subnets[0]}
    assert {
        tuple(group["GroupId"] for group in face["Groups"]) for one in seen for face in one["NetworkInterfaces"]
    } == {there.groups}
    delete(at, cluster)
    deleted(at, what.tags)
    assert leftovers.of(at, what.tags) == []
    assert theirs.state() == before


BAD = {
    "no such VPC": (lambda it: it.choices(vpc="vpc-0123456789abcdef0"), "vpc", "There is no vpc-0123456789abcdef0"),
    "no DNS": (
        lambda it: it.ec2.modify_vpc_attribute(VpcId=it.vpc, EnableDnsHostnames={"Value": False}),
        "vpc", "has no DNS hostnames",
    ),
    "a subnet of another VPC": (
        lambda it: it.choices(vpc_subnets=f"{it.subnets[0]} subnet-0123456789abcdef0"),
        "vpc_subnets", "There is no subnet subnet-0123456789abcdef0",
    ),
    "two in one zone": (
        lambda it: it.choices(vpc_subnets=f"{it.subnets[0]} {it.subnet('10.50.7.0/24', 'a')}"),
        "vpc_subnets", "are in one zone, us-east-2a. Name one subnet a zone",
    ),
    "hardly any addresses": (
        lambda it: it.choices(vpc_subnets=f"{it.subnets[0]} {it.subnet('10.50.8.0/28', 'c')}"),
        "vpc_subnets", "free addresses; 16 are needed at least",
    ),
    "no way out": (
        lambda it: it.ec2.delete_route(**it.route), "vpc_subnets", "has no route to the Internet",
    ),
    "no group of that VPC": (
        lambda it: it.choices(vpc_groups="sg-0123456789abcdef0"), "vpc_groups", "There is no security group sg-0123",
    ),
    "nodes shut out each other": (
        lambda it: it.choices(vpc_groups=it.new_group("alone")), "vpc_groups", "do not let nodes reach each other",
    ),
    "the portal shut out": (
        lambda it: it.ec2.revoke_security_group_ingress(GroupId=it.group, IpPermissions=[it.ssh("127.0.0.1/32")]),
        "vpc_groups", "do not admit SSH from the portal: add a rule for TCP 22 from 127.0.0.1/32",
    ),
    "no way out for nodes": (
        lambda it: it.ec2.revoke_security_group_egress(
            GroupId=it.group, IpPermissions=[ALL | {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        ),
        "vpc_groups", "do not let nodes out to the Internet: add a rule for TCP 443",
    ),
}  # fmt: skip


def test_what_stands_against_it_is_said_before_anything_is_made(at, owner):
    for bad, (spoil, field, said) in BAD.items():
        theirs = Theirs(owner)
        changed = spoil(theirs)
        what = WorkspaceSpec(hands.tags(), (), changed if isinstance(changed, tuple) else theirs.choices())
        with pytest.raises(Refused) as caught:
            network.ensure(at, what)
        assert (caught.value.code, caught.value.field) == ("wrong_network", field), bad
        assert said in f"{caught.value.message} {caught.value.evidence}", bad
        assert firewall.listed(at, firewall.GROUP, tagging.filters(what.tags)) == [], bad


def test_private_subnets_are_no_use_to_a_portal_that_reaches_nodes_at_public_addresses(at, owner, theirs):
    address = owner.allocate_address(Domain="vpc")["AllocationId"]
    gateway = owner.create_nat_gateway(SubnetId=theirs.subnets[0], AllocationId=address)["NatGateway"]["NatGatewayId"]
    table = owner.create_route_table(VpcId=theirs.vpc)["RouteTable"]["RouteTableId"]
    owner.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway)
    inner = [theirs.subnet("10.50.11.0/24", "a"), theirs.subnet("10.50.12.0/24", "b")]
    owner.associate_route_table(RouteTableId=table, SubnetId=inner[0])
    chosen = theirs.choices(vpc_subnets=" ".join(inner))
    with pytest.raises(Refused, match="Some of the subnets are public, and others are private"):
        existing.check(at, Choices.of(chosen, at.options))
    owner.associate_route_table(RouteTableId=table, SubnetId=inner[1])
    with pytest.raises(Refused, match="this portal reaches nodes at public addresses"):
        existing.check(at, Choices.of(chosen, at.options))


def test_a_kms_key_is_looked_at_first_and_encrypts_files_and_disks(at, theirs, as_owner):
    kms = as_owner("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    what = workspace(theirs, kms_key=key)
    for spoil, mend, said in (
        (kms.disable_key, kms.enable_key, "Its state is Disabled"),
        (
            partial(kms.schedule_key_deletion, PendingWindowInDays=7),
            lambda **one: (kms.cancel_key_deletion(**one), kms.enable_key(**one)),
            "Its state is PendingDeletion",
        ),
    ):
        spoil(KeyId=key.rpartition("/")[2])  # of these, moto knows the id alone
        with pytest.raises(Refused, match=said) as caught:
            network.ensure(at, what)
        assert (caught.value.code, caught.value.field) == ("wrong_key", "kms_key")
        mend(KeyId=key.rpartition("/")[2])
    other = f"{key.rpartition('/')[0]}/01234567-89ab-cdef-0123-456789abcdef"
    with pytest.raises(Refused, match="There is no such key"):
        network.ensure(at, workspace(theirs, kms_key=other))
    made(at, what)
    assert filesystem.of(at, what.tags)["KmsKeyId"] == key
    assert network.found(at, what.tags).key == key
    cluster = with_role(at, what.tags)
    ensure(at, spec(cluster, 1))
    template = nodes.templates.find(at, cluster)
    versions = at.ec2.describe_launch_template_versions(LaunchTemplateId=template.id)["LaunchTemplateVersions"]
    (disk,) = versions[0]["LaunchTemplateData"]["BlockDeviceMappings"]
    assert disk["Ebs"]["KmsKeyId"] == key
    delete(at, cluster)
    deleted(at, what.tags)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


def test_a_firewall_that_somebody_changed_is_told_and_mended_by_an_update(at):
    what = WorkspaceSpec(hands.tags())
    made(at, what)
    (group,) = network.found(at, what.tags).groups
    right = firewall.Rule.of(_group(at, group)["IpPermissions"])
    assert network.why_not_reached(at, what.tags) == ""
    ours = firewall.Rule("tcp", 22, 22, "127.0.0.1/32")
    at.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[ours.permission])
    everybody = firewall.Rule("tcp", 22, 22, "0.0.0.0/0")
    at.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[everybody.permission])
    made(at, what)
    assert firewall.Rule.of(_group(at, group)["IpPermissions"]) == right, "ours again, and nobody else's"
    at.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[ours.permission])
    said = network.why_not_reached(at, what.tags)
    assert said.startswith("The firewall of the nodes does not admit the portal: SSH from 127.0.0.1/32 is missing in")
    made(at, what)
    assert network.why_not_reached(at, what.tags) == ""


def test_a_portal_that_has_moved_is_told_where_aws_sees_it_and_let_in_by_an_update(at, monkeypatch):
    what = WorkspaceSpec(hands.tags())
    made(at, what)
    monkeypatch.setattr(network, "_seen", lambda: "198.51.100.7")
    at.session.options = replace(at.session.options, endpoint="")  # its clients are made by now
    said = network.why_not_reached(at, what.tags)
    assert said.startswith("AWS sees the portal at 198.51.100.7, and nodes admit 127.0.0.1/32.")
    assert "PORTAL_AWS_ADDRESSES" in said
    at.session.options = replace(at.session.options, addresses=("198.51.100.0/24",))
    assert network.why_not_reached(at, what.tags).startswith("The firewall of the nodes does not admit the portal")
    made(at, what)
    assert network.why_not_reached(at, what.tags) == ""
    (group,) = network.found(at, what.tags).groups
    admitted = {rule.source for rule in firewall.Rule.of(_group(at, group)["IpPermissions"]) if rule.first == 22}
    assert admitted == {"198.51.100.0/24"}, "where it was before is another's now"


def _group(at, group):
    return at.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
