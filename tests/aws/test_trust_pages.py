"""Who may take on a configuration's role, and what it may do, on our pages; judged by ministack, which others wrote."""

from __future__ import annotations

import html
import json
import re
import uuid

import boto3
import pytest
from botocore.config import Config
from django.urls import reverse

from portal.clouds import connect
from portal.clouds.aws import permissions, policy, session
from portal.clouds.aws.options import AwsOptions
from tests.aws import owner
from tests.aws.box import REGION
from workspaces import aws
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(240)]
ACCOUNT = "000000000000"  # ministack's own


def client(endpoint, service):
    """As the owner of the account."""
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.Session("test", "test", region_name=REGION).client(service, endpoint_url=endpoint, config=config)


@pytest.fixture
def portal(stack, settings, monkeypatch):
    """It asks ministack, as a user who may take on roles and nothing else. Its owner's clients are the answer."""
    iam = client(stack, "iam")
    name = f"portal-{uuid.uuid4().hex[:8]}"
    arn = iam.create_user(UserName=name)["User"]["Arn"]
    allowed = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy._policy([allowed])))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    settings.AWS = {**settings.AWS, "endpoint": stack, "principal": arn}
    session.portal_session.cache_clear()
    connect.cache_clear()
    yield lambda service: client(stack, service)
    session.portal_session.cache_clear()
    connect.cache_clear()


def begun(web, person, name="Ours"):
    """A configuration of this person's organization, of which only the account is known."""
    web.force_login(person)
    sent = {"kind": "aws", "name": name, "account": ACCOUNT, "region": REGION}
    assert web.post(reverse("new-cloud-config"), sent).status_code == 302
    return CloudConfig.objects.get(name=name)


def judged(statement):
    """As ministack can judge it: a condition never holds there, and IAM's own actions are always on everything."""
    plain = {word: one for word, one in statement.items() if word != "Condition"}
    return plain | ({"Resource": "*"} if statement["Sid"] == policy.MYSELF else {})


def everything(portal, config, monkeypatch):
    """As the configuration's page says; see `judged`."""
    real = policy.policies
    with monkeypatch.context() as patch:
        patch.setattr(
            policy, "policies", lambda at: [policy._policy([*map(judged, one["Statement"])]) for one in real(at)]
        )
        return owner.everything(portal, config)


def words(response):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


def validated(web, config, options):
    connect.cache_clear()
    said = web.post(reverse("connect-aws", args=[config.uuid]), {"way": "manual", **options})
    return said.context.get("found"), words(said)


def test_only_with_its_external_id_a_role_is_the_portals(portal, alice, charlie, client, monkeypatch):
    config = begun(client, alice)
    options = everything(portal, config, monkeypatch)
    iam, role = portal("iam"), options["role"].rpartition("/")[2]

    def trusts(condition):
        document = aws.setup(config).trust
        document["Statement"][0]["Condition"] = condition
        iam.update_assume_role_policy(RoleName=role, PolicyDocument=policy.as_text(document))

    found, page = validated(client, config, options)
    assert [one for one in found["permissions"] if one["granted"] is False] == []
    assert "So no other organization can use the role through this portal." in page
    assert "Everything is there. Finish it." in page

    theirs = begun(client, charlie, "Theirs")
    found, page = validated(client, theirs, options)
    assert "AWS does not let the portal take on its role in the account." in page
    assert "each has an external id of its own, and AWS refuses the others" in page
    assert "AccessDenied" in found["trouble"]["evidence"]
    assert aws.external_id(config) not in page
    assert (
        client.post(reverse("connect-aws", args=[theirs.uuid]), {"way": "manual", "finish": "1", **options}).status_code
        == 200
    )
    theirs.refresh_from_db()
    assert not theirs.is_finished

    client.force_login(alice)
    trusts({"StringEquals": {"sts:ExternalId": aws.external_id(theirs)}})
    found, page = validated(client, config, options)
    assert "AWS does not let the portal take on its role in the account." in page

    trusts({})
    found, page = validated(client, config, options)
    (danger,) = (one for one in found["permissions"] if one["granted"] is False)
    assert danger["why"].startswith("Danger: the role can be taken on without the external id.")
    assert json.loads(danger["statement"]) == aws.setup(config).trust, "with its own id, on its own page"
    assert "Something is missing." in page


def test_each_permission_that_is_taken_away_is_named_with_the_statement_that_gives_it_back(
    portal, alice, client, monkeypatch
):
    config = begun(client, alice)
    options = everything(portal, config, monkeypatch)
    iam, role = portal("iam"), options["role"].rpartition("/")[2]
    for one in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=role, PolicyArn=one["PolicyArn"])
    place = aws.setup(config).place

    def grant(statement, without=()):
        whole = judged(statement.rendered(place))
        left = [one.name for one in statement.actions if one.name not in without]
        if left:
            document = policy.as_text(policy._policy([whole | {"Action": left}]))
            iam.put_role_policy(RoleName=role, PolicyName=statement.sid, PolicyDocument=document)
        else:
            iam.delete_role_policy(RoleName=role, PolicyName=statement.sid)

    for statement in policy.STATEMENTS:
        grant(statement)
    at = session.Session(
        AwsOptions(**options, endpoint=portal("iam").meta.endpoint_url, portal=place.portal), aws.external_id(config)
    )
    named = set()
    for statement in policy.STATEMENTS:
        if statement.sid == policy.MYSELF:
            continue
        for number, action in enumerate(dict.fromkeys(one.name for one in statement.actions)):
            # Without conditions, statements grant what others do too.
            touched = [one for one in policy.STATEMENTS if any(each.name == action for each in one.actions)]
            for one in touched:
                grant(one, without=[action])
            (said,) = permissions._simulated(at, statement, place)
            assert (said.name, said.granted) == (action, None if statement.only_for else False)
            pasted = json.loads(said.statement)
            assert (pasted["Sid"], pasted["Action"]) == (statement.sid, action)
            assert said.why.startswith("It is for: ")
            if number == 0:
                document = policy.as_text(policy._policy([judged(pasted)]))
                iam.put_role_policy(RoleName=role, PolicyName="pasted", PolicyDocument=document)
                assert [one.granted for one in permissions._simulated(at, statement, place)] == [True]
                iam.delete_role_policy(RoleName=role, PolicyName="pasted")
            for one in touched:
                grant(one)
            named.add(action)
    assert named == policy.ACTIONS - {"iam:SimulatePrincipalPolicy"}

    for statement in policy.STATEMENTS:
        if statement.sid != policy.MYSELF:
            grant(statement, without=[statement.actions[-1].name])
    found, page = validated(client, config, options)
    missing = {one["name"] for one in found["permissions"] if one["granted"] is False and one["statement"]}
    assert missing >= {s.actions[-1].name for s in policy.STATEMENTS if s.sid != policy.MYSELF and not s.only_for} - {
        "ec2:CreateTags"
    }
    for name in missing:
        assert f"{name} , missing" in page
    iam.delete_role_policy(RoleName=role, PolicyName=policy.MYSELF)
    found, page = validated(client, config, options)
    assert "iam:SimulatePrincipalPolicy , missing" in page
    assert "ec2:CreateVpc and 8 more , not confirmed" in page
