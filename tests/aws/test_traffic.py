"""What the portal really asks AWS for, against its policy; `Emulator.close` looks at the other direction.

`tests.aws.test_whole` uses most of it. What it does not is here, or has its place or its reason in `ELSEWHERE`.
"""

from __future__ import annotations

import uuid

import pytest

from portal.clouds import Refused
from portal.clouds.aws import filesystem, leftovers, network, nodes, offers, policy, roles
from portal.clouds.aws.making import EVERYWHERE
from portal.clouds.types import WorkspaceSpec
from tests.aws import owner
from tests.aws.test_network import deleted, made, region
from tests.aws.test_nodes import IMAGE, ask, with_role
from tests.aws.test_policy import IMPLIED
from tests.clouds import hands

pytestmark = pytest.mark.timeout(120)

HERE = {
    *("ec2:ReplaceRoute", "ec2:ModifyVpcEndpoint", "elasticfilesystem:ModifyMountTargetSecurityGroups"),
    *("elasticfilesystem:DescribeMountTargetSecurityGroups", "ec2:DescribeVpcPeeringConnections"),
    *("ec2:DescribeVpnGateways", "ec2:DescribeNetworkAcls", "ec2:GetConsoleOutput", "ec2:CreatePlacementGroup"),
    *("ec2:DeletePlacementGroup", "ec2:DescribeSpotPriceHistory", "servicequotas:GetServiceQuota"),
    "iam:ListInstanceProfilesForRole",
}
ELSEWHERE = IMPLIED | {
    "ec2:AllocateAddress": "private subnets, in test_network",
    "ec2:CreateNatGateway": "private subnets, in test_network",
    "ec2:DeleteNatGateway": "private subnets, in test_network",
    "ec2:ReleaseAddress": "private subnets, in test_network",
    "kms:DescribeKey": "a key of the account, in test_existing",
    "pricing:GetProducts": "of which moto knows nothing, and keeps no record: test_offers",
    "s3:AbortMultipartUpload": "an upload that breaks off, in test_account",
    "s3:DeleteObject": "the store, in test_account",
    "s3:GetObject": "the store, in test_account",
    "s3:ListBucket": "the store, in test_account",
}


def test_what_somebody_changed_is_put_right_and_what_is_theirs_is_named_and_left(moto, monkeypatch):
    account = str(uuid.uuid4().int)[:12]
    at, ec2 = region(moto, account, monkeypatch, image=IMAGE), moto.client("ec2", account)
    workspace = hands.tags()
    what = WorkspaceSpec(workspace)
    made(at, what)
    vpc = network.found(at, workspace).vpc
    mine = [{"Name": "vpc-id", "Values": [vpc]}]

    tagged = [*mine, {"Name": "tag-key", "Values": ["coxswain:portal"]}]
    (table,) = ec2.describe_route_tables(Filters=tagged)["RouteTables"]
    (way,) = (one for one in table["Routes"] if one.get("DestinationCidrBlock") == EVERYWHERE)
    other = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.replace_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock=EVERYWHERE, GatewayId=other)
    (endpoint,) = ec2.describe_vpc_endpoints(Filters=mine)["VpcEndpoints"]
    ec2.modify_vpc_endpoint(VpcEndpointId=endpoint["VpcEndpointId"], RemoveRouteTableIds=endpoint["RouteTableIds"])
    efs = moto.client("efs", account)
    (files,) = efs.describe_file_systems()["FileSystems"]
    target = efs.describe_mount_targets(FileSystemId=files["FileSystemId"])["MountTargets"][0]["MountTargetId"]
    admits = efs.describe_mount_target_security_groups(MountTargetId=target)["SecurityGroups"]
    everybody = ec2.create_security_group(GroupName="everybody", Description="theirs", VpcId=vpc)["GroupId"]
    efs.modify_mount_target_security_groups(MountTargetId=target, SecurityGroups=[everybody])
    made(at, what)
    (table,) = ec2.describe_route_tables(RouteTableIds=[table["RouteTableId"]])["RouteTables"]
    assert way in table["Routes"]
    assert ec2.describe_vpc_endpoints(Filters=mine)["VpcEndpoints"][0]["RouteTableIds"] == endpoint["RouteTableIds"]
    assert efs.describe_mount_target_security_groups(MountTargetId=target)["SecurityGroups"] == admits

    where = with_role(at, workspace)
    spec = hands.spec(where, 1, kind="c5n.18xlarge")
    ask(lambda token: nodes.ensure(at, spec, token))
    assert nodes.console(at, where, 0) == "", "there is no real node behind it"
    assert offers.offer(at, "c5n.18xlarge", 1, zone="", spot=True).quotas
    offers.offer(at, "c5n.18xlarge", 1, zone="", spot=False)
    ask(lambda _: nodes.delete(at, where, None))
    roles.delete(at.session, where)
    registered = owner.role(moto.client("iam", account))
    roles.attach(at.session, registered)
    roles.detach(at.session, registered)
    assert leftovers.of(at, where) == []

    theirs = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ask(lambda _: filesystem.delete(at, workspace))
    with pytest.raises(Refused) as caught:
        ask(lambda _: network.delete(at, workspace))
    assert theirs in caught.value.evidence
    assert everybody in caught.value.evidence
    ec2.delete_security_group(GroupId=everybody)
    ec2.delete_route_table(RouteTableId=theirs)
    deleted(at, workspace)
    assert ec2.describe_internet_gateways()["InternetGateways"][0]["InternetGatewayId"] == other
    assert HERE - moto.asked() == set()


def test_each_of_them_is_in_the_policy():
    assert (HERE | ELSEWHERE.keys()) - policy.ACTIONS == set()
