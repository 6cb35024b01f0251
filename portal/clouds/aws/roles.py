"""What nodes may do in the account: by a role of the cluster's own, or by one that its owner has registered.

A node gets a role by an instance profile. The portal makes roles below `policy.NODE_PATH` alone, and gives roles one
policy alone, which the account's owner has made: see `policy`. IAM is the same in all regions, and slow to tell all of
AWS's computers what is new.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import ClientError

from portal.clouds.aws import policy, tags
from portal.clouds.aws.options import ROLE
from portal.clouds.aws.session import Session
from portal.clouds.aws.trouble import code_of, is_missing, passed_over, told
from portal.clouds.types import Identity, NodesSpec, RoleSpec, Tags
from portal.errors import Passing, Pending, PortalError, Refused

_FORBIDDEN = {"AccessDenied", "AccessDeniedException"}
_HOME = "us-east-1"  # where IAM is asked, if nothing else is said


def check(session: Session, name: str) -> Identity:
    role = _role(session, name)
    return Identity(role["RoleName"], role["Arn"])


def attach(session: Session, name: str) -> None:
    role = _role(session, name)
    iam = _iam(session)
    try:
        iam.attach_role_policy(RoleName=role["RoleName"], PolicyArn=node_policy(session))
    except ClientError as error:
        raise _not_attached(session, role["Arn"], error) from error
    if not _profiles(session, role["RoleName"]):
        _ensure_profile(session, role["RoleName"], _profile_for(role["RoleName"]), [])


def detach(session: Session, name: str) -> None:
    try:
        role = _short(session, name)
    except Refused:
        return  # of another account, or no role at all: nothing was ever given to it
    iam = _iam(session)
    with passed_over(missing=True):
        iam.detach_role_policy(RoleName=role, PolicyArn=node_policy(session))
    ours = _profile_for(role)
    if ours in _profiles(session, role):
        _drop_profile(session, ours)


def ensure(session: Session, spec: RoleSpec) -> Pending | None:
    name, keys = _name(spec.tags), tags.written(spec.tags, spec.extra_tags)
    iam = _iam(session)
    with passed_over("EntityAlreadyExists"):
        iam.create_role(
            RoleName=name,
            Path=policy.NODE_PATH,
            AssumeRolePolicyDocument=json.dumps(policy.trust_of_nodes(session.options.partition)),
            Description="Nodes of a cluster of Coxswain",
            Tags=keys,
        )
    found = iam.get_role(RoleName=name)["Role"]
    if tags.owner(tags.read(found.get("Tags"))) != spec.tags:
        raise Refused(f"There is a role {name} that is not this cluster's.", evidence=found["Arn"], code="not_ours")
    try:
        iam.attach_role_policy(RoleName=name, PolicyArn=node_policy(session))
    except ClientError as error:
        raise _not_attached(session, found["Arn"], error) from error
    _ensure_profile(session, name, name, keys)
    return None


def delete(session: Session, of: Tags) -> Pending | None:
    name, iam = _name(of), _iam(session)
    try:
        found = iam.get_role(RoleName=name)["Role"]
    except ClientError as error:
        if not is_missing(code_of(error)):
            raise
        _drop_profile(session, name)  # what a call before this one did not come to
        return None
    if tags.owner(tags.read(found.get("Tags"))) != of:
        return None
    _drop_profile(session, name)
    with passed_over(missing=True):
        iam.detach_role_policy(RoleName=name, PolicyArn=node_policy(session))
    with passed_over(missing=True):
        iam.delete_role(RoleName=name)
    return None


def profile(session: Session, spec: NodesSpec) -> str:
    """The name of the instance profile by which nodes get their role."""
    if not spec.role:
        return _name(spec.tags)
    role = _short(session, spec.role)
    found = _profiles(session, role)
    if not found:
        raise Refused(
            f"The role {role} has no instance profile.",
            advice="AWS's console makes one with each role for EC2. By hand: aws iam create-instance-profile, and "
            "aws iam add-role-to-instance-profile.",
            code="not_allowed",
        )
    return found[0]


def owned(session: Session) -> list[tuple[str, dict[str, str]]]:
    """The names of all roles below our path, with their tags; whoever has made them."""
    iam = _iam(session)
    pages = iam.get_paginator("list_roles").paginate(PathPrefix=policy.NODE_PATH)
    names = [one["RoleName"] for page in pages for one in page["Roles"]]
    found = []
    for name in names:  # a list of them has no tags
        with passed_over(missing=True):
            found.append((name, tags.read(iam.get_role(RoleName=name)["Role"].get("Tags"))))
    return found


def node_policy(session: Session) -> str:
    options = session.options
    return f"arn:{options.partition}:iam::{options.account}:policy{policy.NODE_PATH}{policy.NODE_POLICY}"


def _iam(session: Session) -> Any:
    return session.client("iam", session.options.region or _HOME)


def _name(of: Tags) -> str:
    return f"coxswain-{of.subject}"  # at most 64 characters: these are 45


def _profile_for(role: str) -> str:
    return f"coxswain-for-{role}"[:128]


def _short(session: Session, name: str) -> str:
    """The name of a role, of which people give the name or the ARN."""
    found = ROLE.fullmatch(name)
    if not found:
        if name.startswith("arn:"):
            raise Refused(f"{name} is no ARN of a role.", code="not_found")
        return name
    if found[2] != session.options.account:
        raise Refused(
            f"This role is in the account {found[2]}, and the cloud configuration is of {session.options.account}.",
            advice=f"Use a role of {session.options.account}: nodes cannot have one of another account.",
            code="other_account",
        )
    return found[3].rpartition("/")[2]


def _role(session: Session, name: str) -> dict[str, Any]:
    """Raises `Refused` where there is none that nodes could have."""
    short = _short(session, name)
    if name == session.options.role or f":role{policy.NODE_PATH}" in name:
        whose = "the portal's own" if name == session.options.role else "one that the portal has made for a cluster"
        raise Refused(f"The role {short} is {whose}.", advice="Make one of your own for nodes.", code="not_allowed")
    try:
        role: dict[str, Any] = _iam(session).get_role(RoleName=short)["Role"]
    except ClientError as error:
        if is_missing(code_of(error)) or code_of(error) == "ValidationError":
            raise Refused(
                f"There is no role {short} in the account.",
                evidence=str(error),
                advice="Copy the ARN from the role's page in IAM.",
                code="not_found",
            ) from error
        if code_of(error) in _FORBIDDEN:
            raise _not_ours_to_give(name, error) from error
        raise
    if name.startswith("arn:") and role["Arn"] != name:
        raise Refused(f"There is no role {name} in the account.", evidence=f"There is {role['Arn']}.", code="not_found")
    if not _is_for_nodes(role["AssumeRolePolicyDocument"]):
        raise Refused(
            f"EC2 is not trusted by the role {short}, so that nodes cannot have it.",
            evidence=json.dumps(_document(role["AssumeRolePolicyDocument"])),
            advice=f"Make this its trust policy: {json.dumps(policy.trust_of_nodes(session.options.partition))}",
            code="not_trusted",
        )
    return role


def _document(found: Any) -> Any:
    """boto3 reads a policy for us, and an emulator leaves it as IAM sends it."""
    return json.loads(unquote(found)) if isinstance(found, str) else found


def _is_for_nodes(found: Any) -> bool:
    statements = _document(found).get("Statement", [])
    return any(
        one.get("Effect") == "Allow"
        and "sts:AssumeRole" in _several(one.get("Action"))
        and any(service.startswith("ec2.amazonaws.com") for service in _services(one))
        for one in ([statements] if isinstance(statements, dict) else statements)
    )


def _services(statement: dict[str, Any]) -> list[str]:
    principal = statement.get("Principal")
    return _several(principal.get("Service")) if isinstance(principal, dict) else []


def _several(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _not_attached(session: Session, role: str, error: ClientError) -> PortalError:
    code = code_of(error)
    if code == "LimitExceeded":
        return Refused(
            "The role has as many policies as AWS allows, so that it cannot get the one that nodes need.",
            evidence=str(error),
            advice="Detach a policy from it, or ask AWS for a higher quota of policies of a role.",
            code="limit_reached",
        )
    if is_missing(code):
        return Refused(
            f"The policy of nodes, {policy.NODE_POLICY}, is not in the account.",
            evidence=str(error),
            advice="The page of the cloud configuration has the command that makes it.",
            code="not_allowed",
        )
    if code in {*_FORBIDDEN, "UnmodifiableEntity"}:
        return _not_ours_to_give(role, error)
    return told(error)


def _not_ours_to_give(role: str, error: ClientError) -> Refused:
    return Refused(
        "The portal may not give this role the policy that nodes need.",
        evidence=str(error),
        advice="Call the role coxswain-…, which the portal's role may give to nodes; or let that one do iam:GetRole, "
        "iam:ListInstanceProfilesForRole, iam:AttachRolePolicy, iam:DetachRolePolicy and iam:PassRole on "
        f"{role} too.",
        code="not_allowed",
    )


def _profiles(session: Session, role: str) -> list[str]:
    try:
        found = _iam(session).list_instance_profiles_for_role(RoleName=role)["InstanceProfiles"]
    except ClientError as error:
        if is_missing(code_of(error)):
            return []
        raise
    return [one["InstanceProfileName"] for one in found]


def _ensure_profile(session: Session, role: str, name: str, keys: tags.Written) -> None:
    iam = _iam(session)
    with passed_over("EntityAlreadyExists"):
        iam.create_instance_profile(InstanceProfileName=name, Path=policy.NODE_PATH, Tags=keys)
    has = [one["RoleName"] for one in iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]]
    if has == [role]:
        return
    if has:
        raise Refused(f"The instance profile {name} gives another role, {has[0]}.", code="not_ours")
    try:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=role)
    except ClientError as error:
        if code_of(error) == "LimitExceeded":  # it has one since: a call whose answer was lost
            raise Passing("AWS does not say yet what the instance profile gives.", evidence=str(error)) from error
        raise


def _drop_profile(session: Session, name: str) -> None:
    iam = _iam(session)
    with passed_over(missing=True):
        for one in iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
            iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=one["RoleName"])
        iam.delete_instance_profile(InstanceProfileName=name)
