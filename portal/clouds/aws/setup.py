"""What an account's owner makes so that a configuration can be finished: a role, a bucket, a table of locks.

Here it is in words: as `aws` commands, and as a template for CloudFormation. `keyed` makes the same with an access key.
Nothing here asks AWS.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from portal.clouds.aws import policy
from portal.clouds.aws.tags import PORTAL

BLOCKED = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
OLD_DAYS = 30  # that an object which was overwritten or deleted is kept
PARTS_DAYS = 1  # that parts of an object are kept which was never finished
LIFECYCLE = {
    "Rules": [
        {
            "ID": "coxswain",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "NoncurrentVersionExpiration": {"NoncurrentDays": OLD_DAYS},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": PARTS_DAYS},
        }
    ]
}
ENCRYPTION = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
KEY = "AttributeName=LockID"


def name_of(config: UUID) -> str:
    """What everything of a configuration is called that is made for it."""
    return f"coxswain-{config.hex[-12:]}"


@dataclass(frozen=True)
class Setup:
    """All that is filled in. `role`, `bucket` and `table` are names."""

    account: str
    region: str
    principal: str
    portal: str
    role: str
    bucket: str
    table: str
    external_id: str = field(repr=False)

    @property
    def partition(self) -> str:
        return self.principal.split(":")[1]

    @property
    def role_arn(self) -> str:
        return f"arn:{self.partition}:iam::{self.account}:role/{self.role}"

    @property
    def place(self) -> policy.Place:
        return policy.Place(self.account, self.portal, self.role, self.bucket, self.table, self.partition)

    @property
    def trust(self) -> dict[str, Any]:
        return policy.trust(self.principal, self.external_id)

    @property
    def policies(self) -> dict[str, dict[str, Any]]:
        """By the name of each."""
        return {f"{self.role}-{number}": one for number, one in enumerate(policy.policies(self.place), 1)}

    @property
    def commands(self) -> list[str]:
        """For a shell with an `aws` that may make all that, in their order. Asked twice, they refuse what is there."""
        trusted = shlex.quote(json.dumps(self.trust))
        return [
            *bucket_commands(self.bucket, self.region),
            table_command(self.table, self.region),
            f"aws iam create-role --role-name {self.role} --assume-role-policy-document {trusted}",
            *(line for name, document in self.policies.items() for line in self._policy_commands(name, document)),
            self.node_policy_command,
        ]

    @property
    def node_policy_command(self) -> str:
        text = shlex.quote(json.dumps(policy.NODES, separators=(",", ":")))
        name = f"--path {policy.NODE_PATH} --policy-name {policy.NODE_POLICY}"
        return f"aws iam create-policy {name} --policy-document {text}"

    def _policy_commands(self, name: str, document: dict[str, Any]) -> tuple[str, str]:
        text = shlex.quote(json.dumps(document, separators=(",", ":")))
        arn = f"arn:{self.partition}:iam::{self.account}:policy/{name}"
        return (
            f"aws iam create-policy --policy-name {name} --policy-document {text}",
            f"aws iam attach-role-policy --role-name {self.role} --policy-arn {arn}",
        )

    @property
    def template(self) -> str:
        """For CloudFormation. What it makes to keep things in stays when its stack is deleted."""
        place = policy.Place(
            "${AWS::AccountId}", self.portal, self.role, self.bucket, self.table, partition="${AWS::Partition}"
        )
        tags = [{"Key": PORTAL, "Value": self.portal}]
        resources: dict[str, Any] = {
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    "BucketName": self.bucket,
                    "PublicAccessBlockConfiguration": dict.fromkeys(BLOCKED, True),
                    "BucketEncryption": {
                        "ServerSideEncryptionConfiguration": [
                            {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                        ]
                    },
                    "VersioningConfiguration": {"Status": "Enabled"},
                    "LifecycleConfiguration": {
                        "Rules": [
                            {
                                "Id": "coxswain",
                                "Status": "Enabled",
                                "NoncurrentVersionExpiration": {"NoncurrentDays": OLD_DAYS},
                                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": PARTS_DAYS},
                            }
                        ]
                    },
                    "Tags": tags,
                },
            },
            "Locks": {
                "Type": "AWS::DynamoDB::Table",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    "TableName": self.table,
                    "BillingMode": "PAY_PER_REQUEST",
                    "AttributeDefinitions": [{"AttributeName": "LockID", "AttributeType": "S"}],
                    "KeySchema": [{"AttributeName": "LockID", "KeyType": "HASH"}],
                    "Tags": tags,
                },
            },
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": self.role,
                    "AssumeRolePolicyDocument": policy.trust(self.principal, self.external_id),
                    "ManagedPolicyArns": [],
                    "Tags": tags,
                },
            },
        }
        for number, document in enumerate(policy.policies(place), 1):
            resources[f"Policy{number}"] = {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {
                    "ManagedPolicyName": f"{self.role}-{number}",
                    "PolicyDocument": _substituted(document),
                },
            }
            resources["Role"]["Properties"]["ManagedPolicyArns"].append({"Ref": f"Policy{number}"})
        # One an account: the second stack in an account leaves it out.
        resources["PolicyOfNodes"] = {  # a parameter and a resource may not have one name
            "Type": "AWS::IAM::ManagedPolicy",
            "Condition": "MakesNodePolicy",
            "DeletionPolicy": "Retain",
            "Properties": {
                "ManagedPolicyName": policy.NODE_POLICY,
                "Path": policy.NODE_PATH,
                "PolicyDocument": policy.NODES,
            },
        }
        outputs = {"Role": {"Fn::GetAtt": ["Role", "Arn"]}, "Bucket": {"Ref": "Bucket"}, "Table": {"Ref": "Locks"}}
        document = {
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": "What a Coxswain portal needs of this account: a role that it may take on, and where it "
            "keeps what it makes.",
            "Parameters": {
                "NodePolicy": {
                    "Type": "String",
                    "Default": "make",
                    "AllowedValues": ["make", "is there"],
                    "Description": f"Whether the account has the policy {policy.NODE_POLICY} of another stack.",
                }
            },
            "Conditions": {"MakesNodePolicy": {"Fn::Equals": [{"Ref": "NodePolicy"}, "make"]}},
            "Resources": resources,
            "Outputs": {name: {"Value": value} for name, value in outputs.items()},
        }
        return json.dumps(document, indent=1)

    @property
    def launch(self) -> str:
        """Where a template is given to CloudFormation, in AWS's console."""
        host = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}.get(
            self.partition, "console.aws.amazon.com"
        )
        return f"https://{self.region}.{host}/cloudformation/home?{urlencode({'region': self.region})}#/stacks/create"

    @property
    def launch_command(self) -> str:
        return (
            f"aws cloudformation create-stack --region {self.region} --stack-name {self.role}"
            f" --template-body file://{self.role}.json --capabilities CAPABILITY_NAMED_IAM"
        )


def _substituted(value: Any) -> Any:
    """With what CloudFormation fills in said in its own way."""
    match value:
        case str() if "${AWS::" in value:
            return {"Fn::Sub": value}
        case dict():
            return {key: _substituted(one) for key, one in value.items()}
        case list():
            return [_substituted(one) for one in value]
    return value


def bucket_commands(bucket: str, region: str) -> list[str]:
    # The oldest region is the one that may not be named.
    where = "" if region == "us-east-1" else f" --create-bucket-configuration LocationConstraint={region}"
    encryption, lifecycle = (shlex.quote(json.dumps(one)) for one in (ENCRYPTION, LIFECYCLE))
    return [
        f"aws s3api create-bucket --region {region} --bucket {bucket}{where}",
        block_command(bucket, region),
        f"aws s3api put-bucket-encryption --region {region} --bucket {bucket}"
        f" --server-side-encryption-configuration {encryption}",
        versioning_command(bucket, region),
        f"aws s3api put-bucket-lifecycle-configuration --region {region} --bucket {bucket}"
        f" --lifecycle-configuration {lifecycle}",
    ]


def block_command(bucket: str, region: str) -> str:
    blocked = ",".join(f"{word}=true" for word in BLOCKED)
    return (
        f"aws s3api put-public-access-block --region {region} --bucket {bucket}"
        f" --public-access-block-configuration {blocked}"
    )


def versioning_command(bucket: str, region: str) -> str:
    return (
        f"aws s3api put-bucket-versioning --region {region} --bucket {bucket} --versioning-configuration Status=Enabled"
    )


def table_command(table: str, region: str) -> str:
    return (
        f"aws dynamodb create-table --region {region} --table-name {table} --billing-mode PAY_PER_REQUEST"
        f" --attribute-definitions {KEY},AttributeType=S --key-schema {KEY},KeyType=HASH"
    )
