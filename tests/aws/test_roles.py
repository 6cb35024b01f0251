"""Roles of nodes, as moto's IAM has them: a cluster's own, and those that an account's owner registers."""

from __future__ import annotations

import json
import uuid

import pytest

from portal.clouds import Refused
from portal.clouds.aws import leftovers, policy, roles
from portal.clouds.types import HostKey, NodesSpec, RoleSpec
from tests.aws import owner
from tests.aws.test_network import account, at, emulator  # noqa: F401 (fixtures)
from tests.clouds import hands

EC2 = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}


@pytest.fixture
def iam(emulator, account):  # noqa: F811
    """As the account's owner has it."""
    client = emulator.client("iam", account)
    owner.node_policy(client)
    return client


def theirs(iam, *statements, name=""):
    name = name or f"coxswain-data-{uuid.uuid4().hex[:6]}"
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements or (EC2,))})
    return iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]


def policies(iam, role):
    found = iam.list_attached_role_policies(RoleName=role.rpartition("/")[2])["AttachedPolicies"]
    return [one["PolicyName"] for one in found]


def nodes_of(tags, role=""):
    return NodesSpec(tags, "tide", "m5.large", (HostKey("", ""),), ("key",), role=role)


def test_a_cluster_has_a_role_of_its_own_until_it_is_gone(at, iam):  # noqa: F811
    where = hands.tags()
    other = hands.tags()
    assert roles.ensure(at.session, RoleSpec(where)) is None
    assert roles.ensure(at.session, RoleSpec(where, (("team", "rowing"),))) is None  # again, as after a crash
    roles.ensure(at.session, RoleSpec(other))
    name = roles.profile(at.session, nodes_of(where))
    (inside,) = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
    assert policies(iam, inside["RoleName"]) == [policy.NODE_POLICY]
    assert [str(one) for one in leftovers.of(at, where)] == [f"role {name}"]
    assert leftovers.owners(at, where.portal) == {where, other}
    roles.delete(at.session, where)
    roles.delete(at.session, where)
    assert leftovers.of(at, where) == []
    assert leftovers.owners(at, where.portal) == {other}
    assert len(iam.list_instance_profiles()["InstanceProfiles"]) == 1


def test_a_role_of_theirs_gets_one_policy_and_a_profile_and_loses_no_more(at, iam):  # noqa: F811
    role = theirs(iam)
    own = iam.create_policy(PolicyName=f"own-{uuid.uuid4().hex[:6]}", PolicyDocument=json.dumps(policy.NODES))
    iam.attach_role_policy(RoleName=role.rpartition("/")[2], PolicyArn=own["Policy"]["Arn"])
    assert roles.check(at.session, role).detail == role
    roles.attach(at.session, role)
    roles.attach(at.session, role)
    assert sorted(policies(iam, role)) == sorted([policy.NODE_POLICY, own["Policy"]["PolicyName"]])
    assert roles.profile(at.session, nodes_of(hands.tags(), role)) == f"coxswain-for-{role.rpartition('/')[2]}"
    roles.detach(at.session, role)
    roles.detach(at.session, role)
    assert policies(iam, role) == [own["Policy"]["PolicyName"]]
    assert iam.list_instance_profiles()["InstanceProfiles"] == []


def test_a_profile_that_the_role_has_already_is_used_and_left(at, iam):  # noqa: F811
    role = theirs(iam).rpartition("/")[2]
    iam.create_instance_profile(InstanceProfileName=f"own-{role}")
    iam.add_role_to_instance_profile(InstanceProfileName=f"own-{role}", RoleName=role)
    roles.attach(at.session, role)
    assert roles.profile(at.session, nodes_of(hands.tags(), role)) == f"own-{role}"
    roles.detach(at.session, role)
    assert len(iam.list_instance_profiles()["InstanceProfiles"]) == 1


def why_not(act, *arguments):
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.code


def test_why_nodes_cannot_have_a_role_is_told_apart(at, iam, account):  # noqa: F811
    lambdas = EC2 | {"Principal": {"Service": "lambda.amazonaws.com"}}
    anybody = EC2 | {"Principal": "*"}
    role = theirs(iam)
    assert why_not(roles.check, at.session, f"arn:aws:iam::{account}:role/coxswain-none") == "not_found"
    assert why_not(roles.check, at.session, role.replace(":role/", ":role/elsewhere/")) == "not_found"
    assert why_not(roles.check, at.session, "arn:aws:iam::999988887777:role/coxswain-x") == "other_account"
    assert why_not(roles.check, at.session, theirs(iam, lambdas)) == "not_trusted"
    assert why_not(roles.check, at.session, theirs(iam, anybody)) == "not_trusted"
    iam.delete_policy(PolicyArn=roles.node_policy(at.session))
    assert why_not(roles.attach, at.session, role) == "not_allowed"
