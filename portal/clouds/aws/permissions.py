"""Who the portal is in an account, and what it is allowed there. Nothing is made or changed in order to find out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from secrets import token_hex
from typing import Any

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError

from portal.clouds.aws import policy, setup
from portal.clouds.aws.options import AwsOptions
from portal.clouds.aws.session import NAME, Session, portal_client
from portal.clouds.aws.trouble import NOT_ALLOWED, THROTTLED, code_of, in_words, is_missing
from portal.clouds.types import Identity, Permission, Region

WITHOUT = "sts:AssumeRole, with the external id only"


def identity(session: Session) -> Identity:
    said = session.client("sts", session.options.region).get_caller_identity()
    return Identity(f"AWS account {said['Account']}", said["Arn"])


@in_words
def principal(options: AwsOptions) -> str:
    """The ARN that roles in accounts trust: as whoever runs the portal has said, or whoever its credentials are."""
    return options.principal or _own_arn(options.endpoint)


@lru_cache(maxsize=4)
def _own_arn(endpoint: str) -> str:
    arn: str = portal_client("sts", "us-east-1", AwsOptions(endpoint=endpoint)).get_caller_identity()["Arn"]
    begin, _, session = arn.partition(":assumed-role/")
    # A session comes and goes; what is trusted is its role. Of that, the session does not tell the path.
    return f"{begin.replace(':sts:', ':iam:')}:role/{session.split('/')[0]}" if session else arn


def ask(session: Session) -> list[Permission]:
    return [_needs_external_id(session), *_store(session), *_allowed(session)]


def regions(session: Session) -> list[Region]:
    found = session.client("ec2", session.options.region).describe_regions()["Regions"]
    titles = _titles()
    names = sorted(one["RegionName"] for one in found)
    return [Region(name, titles.get(name, name)) for name in names]


@lru_cache(maxsize=1)
def _titles() -> dict[str, str]:
    """As the SDK calls them: US East (Ohio)."""
    data = botocore.session.get_session().get_component("data_loader").load_data("partitions")
    return {name: one["description"] for part in data["partitions"] for name, one in part["regions"].items()}


# Trust


def _needs_external_id(session: Session) -> Permission:
    """Whoever may take the role on without it could have this portal act for another organization in this account."""
    options = session.options
    statement = policy.as_text(policy.trust(principal(options), policy.EXTERNAL_ID))
    if options.endpoint and _assumes(options, f"{options.role}-{token_hex(4)}") is not False:
        return Permission(WITHOUT, None, "The emulator does not look who may take on which role.", statement)
    match _assumes(options, options.role):
        case True:
            why = (
                "Danger: the role can be taken on without the external id. Another organization that knows its name "
                "could use it through this portal. Let its trust policy be this one, and nothing else."
            )
            return Permission(WITHOUT, False, why, statement)
        case False:
            return Permission(WITHOUT, True, "So no other organization can use the role through this portal.")
    return Permission(WITHOUT, None, "AWS did not say whether the role can be taken on without it.", statement)


def _assumes(options: AwsOptions, role: str) -> bool | None:
    """Without an external id. None: AWS did not say. What it hands out is thrown away at once."""
    sts = portal_client("sts", options.region, options)
    try:
        sts.assume_role(RoleArn=role, RoleSessionName=NAME, DurationSeconds=900)
    except ClientError as error:
        return False if code_of(error) in NOT_ALLOWED or is_missing(code_of(error)) else None
    except BotoCoreError:
        return None
    return True


# The store


def _store(session: Session) -> Iterator[Permission]:
    yield _judged(f"Bucket {session.options.bucket}", lambda: _bucket(session))
    yield _judged(f"Bucket {session.options.bucket}, kept from the public", lambda: _public_access(session))
    yield _judged(f"Bucket {session.options.bucket}, keeps what is overwritten", lambda: _versioned(session))
    yield _judged(f"Table {session.options.table}", lambda: _table(session))


def _judged(name: str, look: Callable[[], Permission]) -> Permission:
    try:
        found = look()
    except ClientError as error:
        code = code_of(error)
        said = f"AWS says: {code}: {error.response['Error'].get('Message', '')}"
        return Permission(name, False if code in NOT_ALLOWED | {"403"} else None, said)
    return replace(found, name=name)


def _bucket(session: Session) -> Permission:
    options = session.options
    command = "\n".join(setup.bucket_commands(options.bucket, options.region))
    try:
        said = session.client("s3", options.region).get_bucket_location(
            Bucket=options.bucket, ExpectedBucketOwner=options.account
        )
    except ClientError as error:
        if is_missing(code_of(error)):
            return Permission("", False, "There is no such bucket in the account.", command)
        raise
    found = {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(said["LocationConstraint"])
    region = found or said["LocationConstraint"]
    if region != options.region:
        return Permission("", False, f"It is in {region}. Bucket and table have to be in one region, {options.region}.")
    return Permission("", True, f"It is in {region}.")


def _public_access(session: Session) -> Permission:
    options = session.options
    try:
        said = session.client("s3", options.region).get_public_access_block(
            Bucket=options.bucket, ExpectedBucketOwner=options.account
        )
        blocked = said["PublicAccessBlockConfiguration"]
    except ClientError as error:
        if code_of(error) != "NoSuchPublicAccessBlockConfiguration":
            raise
        blocked = {}
    if all(blocked.get(word) for word in setup.BLOCKED):
        return Permission("", True, "Nobody can make what is in it public by mistake.")
    why = "Public access to it is not blocked: by a mistake, everybody could read what runs have printed."
    return Permission("", False, why, setup.block_command(options.bucket, options.region))


def _versioned(session: Session) -> Permission:
    options = session.options
    said = session.client("s3", options.region).get_bucket_versioning(
        Bucket=options.bucket, ExpectedBucketOwner=options.account
    )
    if said.get("Status") == "Enabled":
        return Permission("", True, "What was overwritten or deleted by mistake can be had again.")
    why = "It does not. The portal works all the same; what is overwritten by mistake is lost."
    return Permission("", None, why, setup.versioning_command(options.bucket, options.region))


def _table(session: Session) -> Permission:
    options = session.options
    command = setup.table_command(options.table, options.region)
    try:
        table = session.client("dynamodb", options.region).describe_table(TableName=options.table)["Table"]
    except ClientError as error:
        if is_missing(code_of(error)):
            why = f"There is no such table in {options.region}, where the bucket is to be too."
            return Permission("", False, why, command)
        raise
    keys = [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
    kinds = {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}
    if keys != [("LockID", "HASH")] or kinds.get("LockID") != "S":
        has = ", ".join(f"{name} of type {kinds.get(name)}" for name, _ in keys)
        return Permission("", False, f"Its key is {has}, and has to be LockID of type S alone. Make another.", command)
    return Permission("", True, "Its key is LockID.")


# What the role may do


def _allowed(session: Session) -> list[Permission]:
    options = session.options
    place = policy.Place(
        account=options.account,
        partition=options.partition,
        portal=options.portal,
        role=options.role.partition(":role/")[2],
        bucket=options.bucket,
        table=options.table,
    )
    found: list[Permission] = []
    silence = ""  # why AWS has not said, once it does not
    for statement in policy.STATEMENTS:
        if not silence:
            try:
                found += _simulated(session, statement, place)
                continue
            except ClientError as error:
                if code_of(error) in NOT_ALLOWED:
                    silence = "AWS does not say: this role may not ask for it, see iam:SimulatePrincipalPolicy."
                elif code_of(error) in THROTTLED:
                    silence = "AWS does not say: it is asked too often just now."
                else:
                    silence = f"AWS does not say: {code_of(error)}."
            except BotoCoreError:
                if not options.endpoint:
                    raise
                silence = "The emulator does not know how to simulate policies."
        is_missing_itself = statement.sid == policy.MYSELF and "may not ask" in silence
        why = statement.why if is_missing_itself else f"{statement.why} {silence}"
        found.append(
            Permission(_named(statement), False if is_missing_itself else None, why, _text(statement.rendered(place)))
        )
    return found


def _named(statement: policy.Statement) -> str:
    first, *more = dict.fromkeys(action.name for action in statement.actions)
    return f"{first} and {len(more)} more" if more else first


def _simulated(session: Session, statement: policy.Statement, place: policy.Place) -> list[Permission]:
    """Of a statement that is granted whole one line, or else one of each action that is missing."""
    iam = session.client("iam", session.options.region)
    refused: dict[str, str] = {}
    names = list(context := statement.context(place))
    for kind, values in product(statement.on, list(product(*context.values()))):
        actions = list(dict.fromkeys(action.name for action in statement.actions if kind in action.on))
        said = iam.simulate_principal_policy(
            PolicySourceArn=session.options.role,
            ActionNames=actions,
            ResourceArns=[_sample(policy.RESOURCES[kind], place, session.options.region)],
            ContextEntries=[
                {"ContextKeyName": name, "ContextKeyValues": [value], "ContextKeyType": _kind(name)}
                for name, value in zip(names, values, strict=True)
            ],
            MaxItems=1000,
        )
        for result in said["EvaluationResults"]:
            if result["EvalDecision"] != "allowed":
                refused.setdefault(result["EvalActionName"], _reason(result))
    if not refused:
        return [Permission(_named(statement), True, statement.why)]
    whys = {action.name: action.why for action in statement.actions}
    for_some = f" Only for {statement.only_for}." if statement.only_for else ""
    return [
        Permission(
            name,
            None if statement.only_for else False,
            f"It is for: {whys[name]}.{for_some}{reason}",
            _text(statement.rendered(place, name)),
        )
        for name, reason in refused.items()
    ]


def _kind(key: str) -> str:
    if key == policy.FOR_AWS:
        return "boolean"
    return "stringList" if key == policy.TAG_KEYS else "string"


def _reason(result: dict[str, Any]) -> str:
    """Where pasting the statement would not help, why."""
    if result.get("OrganizationsDecisionDetail", {}).get("AllowedByOrganizations") is False:
        return " A policy of the account's AWS organization forbids it: whoever manages that has to allow it."
    if result.get("PermissionsBoundaryDecisionDetail", {}).get("AllowedByPermissionsBoundary") is False:
        return " The role's permissions boundary forbids it: it has to be allowed there too."
    if result["EvalDecision"] == "explicitDeny":
        return " A policy of the role denies it by name, which no other statement can change."
    return ""


def _sample(resource: str, place: policy.Place, region: str) -> str:
    """One thing that the pattern fits. In an ARN, the region is the fourth part and the account the fifth."""
    if resource == "*":
        return resource
    parts = policy.filled(resource, place).split(":", 5)
    parts[3] = parts[3].replace("*", region)
    parts[4] = parts[4].replace("*", place.account)
    parts[5] = parts[5].replace("*", "sample")
    return ":".join(parts)


def _text(statement: dict[str, Any]) -> str:
    return json.dumps(statement, indent=1)
