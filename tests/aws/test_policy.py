"""The policy of the portal's role has what the code asks AWS for, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import botocore.session

from portal.clouds.aws import policy
from tests.aws import policies

FOLDER = Path(policy.__file__).parent
SERVICES = {
    "ec2": "ec2", "efs": "elasticfilesystem", "ssm": "ssm", "iam": "iam", "dynamodb": "dynamodb", "kms": "kms",
}  # fmt: skip
# Asked by nobody's name, with which AWS sees to something itself in the call of another action.
IMPLIED = {
    "ec2:CreateNetworkInterface": "by EFS, for a mount target",
    "ec2:DeleteNetworkInterface": "by EFS",
    "ec2:DescribeTags": "to look for what carries the tag, by hand",
    "elasticfilesystem:TagResource": "in CreateFileSystem",
    "iam:PassRole": "in RunInstances",
    "kms:CreateGrant": "by EFS and EBS, with a key of the owner's",
    "kms:Decrypt": "the same",
    "kms:GenerateDataKeyWithoutPlaintext": "the same",
    "kms:ReEncryptFrom": "the same",
    "kms:ReEncryptTo": "the same",
    "iam:TagRole": "in CreateRole",
    "iam:TagInstanceProfile": "in CreateInstanceProfile",
    "iam:CreateServiceLinkedRole": "by EFS and EC2, once in an account",
}


def asked():
    """Each method of a client of EC2, EFS, SSM and IAM that is named in the folder, as an action, and where."""
    session = botocore.session.get_session()
    methods = {}
    for service, prefix in SERVICES.items():
        client = session.create_client(service, "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        for method, operation in client.meta.method_to_api_mapping.items():
            methods.setdefault(method, set()).add(f"{prefix}:{operation}")
    found = {}
    for path in FOLDER.glob("*.py"):
        if path.name in ("keyed.py", "setup.py", "policy.py"):  # in the name of the account's owner
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.Constant) and isinstance(node.value, str):  # of a paginator
                names = [node.value]
            for name in names:
                for action in methods.get(name, set()) - {"elasticfilesystem:CreateTags"}:  # EC2 has one of this name
                    found.setdefault(action, path.name)
    return found


def test_each_call_is_in_the_policy():
    assert {action: where for action, where in asked().items() if action not in policy.ACTIONS} == {}


def test_each_action_of_the_policy_is_asked_for_or_has_its_reason():
    theirs = {one for one in policy.ACTIONS if one.startswith(tuple(f"{name}:" for name in SERVICES.values()))}
    assert theirs - set(asked()) - set(IMPLIED) == set()


def test_what_few_need_is_in_no_policy_that_is_made_and_on_the_page_about_it():
    made = [statement["Sid"] for document in policy.policies(policies.PLACE) for statement in document["Statement"]]
    extra = [statement.sid for statement in policy.STATEMENTS if statement.is_extra]
    assert extra == ["InYourNetwork", "WithYourKey", "GrantYourKey"]
    assert not {*made} & {*extra}
    assert all(f"## {sid}\n" in policies.as_page() for sid in extra)


def test_the_page_about_it_is_current():
    """`bin/python --test -m tests.aws.policies > docs/aws-policy.md` writes it anew."""
    page = Path(__file__).resolve().parents[2] / "docs" / "aws-policy.md"
    assert page.read_text() == policies.as_page()
