"""What stands in for AWS refuses what AWS refuses, and fails as AWS fails, where the portal's tests count on it."""

from __future__ import annotations

import json
import uuid

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from tests.aws.box import CUSTOMER, OTHER, REGION

pytestmark = pytest.mark.timeout(180)


def client(endpoint, service, *keys):
    key, secret, *token = keys or ("test", "test")
    config = Config(retries={"total_max_attempts": 1})
    session = boto3.Session(key, secret, token[0] if token else None, region_name=REGION)
    return session.client(service, endpoint_url=endpoint, config=config)


class Trust:
    """A role that trusts a user, with an external id, and may do one thing."""

    def __init__(self, stack):
        self.stack, self.external = stack, uuid.uuid4().hex
        self.iam = iam = client(stack, "iam")
        name = f"coxswain-{self.external[:8]}"
        account = client(stack, "sts").get_caller_identity()["Account"]
        trust = {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": self.external}},
        }
        self.name = name
        self.role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
        self.may("ec2:DescribeVpcs")
        iam.create_user(UserName=name)
        allowed = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": self.role}
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(allowed))
        self.key = iam.create_access_key(UserName=name)["AccessKey"]

    def may(self, *actions):
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        self.iam.put_role_policy(RoleName=self.name, PolicyName="p", PolicyDocument=policy(statement))

    def assume(self, **more):
        sts = client(self.stack, "sts", self.key["AccessKeyId"], self.key["SecretAccessKey"])
        keys = sts.assume_role(RoleArn=self.role, RoleSessionName="portal", **more)["Credentials"]
        return keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.fixture
def trust(stack):
    return Trust(stack)


@pytest.mark.parametrize("given", [{}, {"ExternalId": "another"}])
def test_a_role_is_not_taken_on_without_its_external_id(trust, given):
    with pytest.raises(ClientError, match="AccessDenied"):
        trust.assume(**given)
    assert trust.assume(ExternalId=trust.external)


def test_what_a_role_may_not_do_is_refused_and_simulated_so(trust):
    ec2 = client(trust.stack, "ec2", *trust.assume(ExternalId=trust.external))
    assert ec2.describe_vpcs()["Vpcs"]
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.create_vpc(CidrBlock="10.9.0.0/16")
    asked = trust.iam.simulate_principal_policy(
        PolicySourceArn=trust.role, ActionNames=["ec2:DescribeVpcs", "ec2:CreateVpc"]
    )
    decisions = {one["EvalActionName"]: one["EvalDecision"] for one in asked["EvaluationResults"]}
    assert decisions == {"ec2:DescribeVpcs": "allowed", "ec2:CreateVpc": "implicitDeny"}


def test_a_fault_is_what_was_told_as_often_as_was_told_and_is_seen_to_have_fired(moto, faults):
    ec2 = client(faults.endpoint, "ec2")
    faults.refuse("DescribeVpcs", "RequestLimitExceeded", status=503, times=2)
    for _ in range(2):
        with pytest.raises(ClientError, match="RequestLimitExceeded"):
            ec2.describe_vpcs()
    assert ec2.describe_vpcs()["Vpcs"]
    assert faults.fired() == ["DescribeVpcs"] * 2


def test_a_lost_reply_leaves_one_thing_behind(moto, faults):
    ec2 = client(faults.endpoint, "ec2")
    before = len(ec2.describe_vpcs()["Vpcs"])
    faults.lose_reply("CreateVpc", times=1)
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        ec2.create_vpc(CidrBlock="10.8.0.0/16")
    assert faults.fired() == ["CreateVpc"]
    assert len(ec2.describe_vpcs()["Vpcs"]) == before + 1


def test_accounts_do_not_see_each_other_and_what_was_asked_is_told_as_policies_call_it(moto):
    moto.client("s3").create_bucket(Bucket="a-b", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3 = moto.client("s3", OTHER)
    assert s3.list_buckets()["Buckets"] == []
    mine = moto.client("s3")
    mine.put_bucket_encryption(Bucket="a-b", ServerSideEncryptionConfiguration={
        "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]})  # fmt: skip
    mine.put_object(Bucket="a-b", Key="d/e f", Body=b"1")
    mine.list_objects_v2(Bucket="a-b")
    mine.get_object(Bucket="a-b", Key="d/e f")
    efs = moto.client("efs", CUSTOMER)
    system = efs.create_file_system(CreationToken="t")["FileSystemId"]
    efs.describe_mount_targets(FileSystemId=system)
    moto.client("ssm").get_parameter(Name="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64")
    moto.client("sts").get_caller_identity()
    asked = [call.action for call in moto.recording()]
    for action in ("s3:CreateBucket", "s3:PutEncryptionConfiguration", "s3:PutObject", "s3:ListBucket", "s3:GetObject",
                   "elasticfilesystem:CreateFileSystem", "elasticfilesystem:DescribeMountTargets", "ssm:GetParameter",
                   "sts:GetCallerIdentity"):  # fmt: skip
        assert action in asked, asked


def test_what_moto_lacks_and_is_added_is_found_by_tag_and_deleted_once(moto):
    ec2 = moto.client("ec2")
    tags = [{"ResourceType": "placement-group", "Tags": [{"Key": "a", "Value": "b"}]}]
    ec2.create_placement_group(GroupName="tide", Strategy="cluster", TagSpecifications=tags)
    with pytest.raises(ClientError, match="Duplicate"):
        ec2.create_placement_group(GroupName="tide", Strategy="cluster")
    by_tag = [{"Name": "tag:a", "Values": ["b"]}]
    assert [one["GroupName"] for one in ec2.describe_placement_groups(Filters=by_tag)["PlacementGroups"]] == ["tide"]
    ec2.delete_placement_group(GroupName="tide")
    with pytest.raises(ClientError, match=r"InvalidPlacementGroup\.Unknown"):
        ec2.delete_placement_group(GroupName="tide")
    iam = moto.client("iam")
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=policy())["Role"]["Arn"]
    ours = {"StringEquals": {"aws:ResourceTag/a": "b"}}
    allowed = {"Effect": "Allow", "Action": ["ec2:Describe*"], "Resource": "*"}
    tagged = {"Effect": "Allow", "Action": "ec2:DeleteVpc", "Resource": "*", "Condition": ours}
    iam.put_role_policy(RoleName="r", PolicyName="p", PolicyDocument=policy(allowed, tagged))

    def decisions(**more):
        asked = iam.simulate_principal_policy(
            PolicySourceArn=role, ActionNames=["ec2:DescribeVpcs", "ec2:DeleteVpc", "ec2:CreateVpc"], **more
        )
        return [one["EvalDecision"] for one in asked["EvaluationResults"]]

    assert decisions() == ["allowed", "implicitDeny", "implicitDeny"]
    entry = {"ContextKeyName": "aws:ResourceTag/a", "ContextKeyValues": ["b"], "ContextKeyType": "string"}
    assert decisions(ContextEntries=[entry]) == ["allowed", "allowed", "implicitDeny"]
