"""What the owner of an account makes by hand, as the pages say, for tests that begin where that is done."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from portal import secrets
from portal.clouds.aws import policy
from tests.aws.box import REGION
from workspaces import aws
from workspaces.models import CloudConfig, Workspace, WorkspaceMember

EC2 = policy.trust_of_nodes()


def everything(owner: Any, config: CloudConfig, leave_out: Collection[str] = ()) -> dict[str, str]:
    """Role, policies, bucket and table; `owner` makes clients. Answers what the configuration is finished with."""
    wanted = aws.setup(config)
    owner("s3").create_bucket(Bucket=wanted.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    owner("s3").put_public_access_block(
        Bucket=wanted.bucket,
        PublicAccessBlockConfiguration=dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
        ),
    )
    owner("s3").put_bucket_versioning(Bucket=wanted.bucket, VersioningConfiguration={"Status": "Enabled"})
    owner("dynamodb").create_table(
        TableName=wanted.table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "LockID", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "LockID", "KeyType": "HASH"}],
    )
    owner("iam").create_role(RoleName=wanted.role, AssumeRolePolicyDocument=json.dumps(wanted.trust))
    for name, document in wanted.policies.items():
        for statement in document["Statement"]:
            if isinstance(statement["Action"], list):
                statement["Action"] = [one for one in statement["Action"] if one not in leave_out]
        arn = owner("iam").create_policy(PolicyName=name, PolicyDocument=json.dumps(document))["Policy"]["Arn"]
        owner("iam").attach_role_policy(RoleName=wanted.role, PolicyArn=arn)
    node_policy(owner("iam"))
    return aws.derived(config)


def node_policy(iam: Any) -> None:
    """One an account: another configuration of it may have it made already."""
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_policy(PolicyName=policy.NODE_POLICY, Path=policy.NODE_PATH, PolicyDocument=json.dumps(policy.NODES))


def finished(lab: Workspace, owner: Any, account: str, name: str = "Ours", *, whole: bool = False) -> Workspace:
    """A workspace that is READY in a configuration of this account, with the people of `lab`. Not `whole`: there is
    nothing of the configuration but the policy of nodes, which is enough where nobody judges or stores.
    """
    draft = {"draft": {"account": account, "region": REGION}}
    config = CloudConfig(organization=lab.organization, name=name, kind="aws", options=draft)
    secrets.seal(config, "credentials", str(uuid.uuid4()))
    config.save()
    if whole:
        config.options = everything(owner, config)
    else:
        node_policy(owner("iam"))
        config.options = aws.derived(config)
    config.save()
    made = Workspace.objects.create(
        organization=lab.organization, cloud_config=config, name=f"{name} lab", region=REGION, status="ready"
    )
    people = [WorkspaceMember(workspace=made, user=one.user, role=one.role) for one in lab.members.all()]
    WorkspaceMember.objects.bulk_create(people)
    return made


def role(iam: Any, *, name: str = "", trust: dict[str, Any] = EC2) -> str:
    """The ARN of a role for nodes, or for whom `trust` says."""
    name = name or f"coxswain-data-{uuid.uuid4().hex[:8]}"
    arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    return arn


def attached(iam: Any, arn: str) -> list[str]:
    found = iam.list_attached_role_policies(RoleName=arn.rpartition("/")[2])["AttachedPolicies"]
    return [one["PolicyName"] for one in found]
