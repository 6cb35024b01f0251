"""What `setup` describes, made with an access key of the account's owner. The key is kept nowhere.

Each thing is made where it is not there yet: what broke off is gone on with by doing it again, under the same names.
"""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import ClientError

from portal.clouds.aws import policy, setup
from portal.clouds.aws.options import AwsOptions
from portal.clouds.aws.session import keyed_client
from portal.clouds.aws.setup import Setup
from portal.clouds.aws.tags import PORTAL
from portal.clouds.aws.trouble import code_of, in_words, passed_over
from portal.errors import Refused

_IS_THERE = "EntityAlreadyExists"


@in_words
def make(wanted: Setup, options: AwsOptions, *, key: str, secret: str, token: str = "") -> None:
    """Role, policies, bucket and table. Raises `Refused` where the key is of another account, or may not make them."""

    def client(service: str) -> Any:
        return keyed_client(service, wanted.region, options, key=key, secret=secret, token=token)

    account = client("sts").get_caller_identity()["Account"]
    if account != wanted.account:
        raise Refused(
            f"This access key is of the account {account}, and the configuration is for {wanted.account}.",
            advice="Nothing was made. Take a key of that account, or correct the account.",
            code="other_account",
        )
    tags = [{"Key": PORTAL, "Value": wanted.portal}]
    _bucket(client("s3"), wanted, tags)
    with passed_over("ResourceInUseException"):
        client("dynamodb").create_table(
            TableName=wanted.table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "LockID", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "LockID", "KeyType": "HASH"}],
            Tags=tags,
        )
    _role(client("iam"), wanted, tags)


def _bucket(s3: Any, wanted: Setup, tags: list[dict[str, str]]) -> None:
    elsewhere = {} if wanted.region == "us-east-1" else {"LocationConstraint": wanted.region}
    try:
        s3.create_bucket(Bucket=wanted.bucket, **({"CreateBucketConfiguration": elsewhere} if elsewhere else {}))
    except ClientError as error:
        if code_of(error) == "BucketAlreadyExists":
            raise Refused(
                f"Somebody else has a bucket that is called {wanted.bucket}.",
                advice="Make the configuration manually, with a bucket of another name.",
                code="taken",
            ) from error
        if code_of(error) != "BucketAlreadyOwnedByYou":
            raise
    at = {"Bucket": wanted.bucket, "ExpectedBucketOwner": wanted.account}
    s3.put_public_access_block(**at, PublicAccessBlockConfiguration=dict.fromkeys(setup.BLOCKED, True))
    s3.put_bucket_encryption(**at, ServerSideEncryptionConfiguration=setup.ENCRYPTION)
    s3.put_bucket_versioning(**at, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_lifecycle_configuration(**at, LifecycleConfiguration=setup.LIFECYCLE)
    s3.put_bucket_tagging(**at, Tagging={"TagSet": tags})


def _role(iam: Any, wanted: Setup, tags: list[dict[str, str]]) -> None:
    trust = json.dumps(wanted.trust)
    try:
        iam.create_role(RoleName=wanted.role, AssumeRolePolicyDocument=trust, Tags=tags)
    except ClientError as error:
        if code_of(error) != _IS_THERE:
            raise
        iam.update_assume_role_policy(RoleName=wanted.role, PolicyDocument=trust)
    for name, document in wanted.policies.items():
        with passed_over(_IS_THERE):
            iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(document), Tags=tags)
        arn = f"arn:{wanted.partition}:iam::{wanted.account}:policy/{name}"
        iam.attach_role_policy(RoleName=wanted.role, PolicyArn=arn)
    with passed_over(_IS_THERE):  # of another configuration in this account: it is the same for all
        iam.create_policy(PolicyName=policy.NODE_POLICY, Path=policy.NODE_PATH, PolicyDocument=json.dumps(policy.NODES))
