"""A cloud configuration of AWS, from its name to ACTIVE, against moto; and what is seen of its secrets."""

from __future__ import annotations

import io
import json
import logging

import pytest
from django.core.management import call_command
from django.urls import reverse

from portal.clouds import Refused, connect
from portal.clouds.aws import keyed, policy, session
from portal.errors import Conflict
from tests.aws import owner
from tests.aws.box import CUSTOMER, PORTAL, REGION, Emulator
from tests.clouds import hands
from tests.clouds import test_contract as contract
from workspaces import aws, checks
from workspaces.models import CloudConfig

KEY, SECRET = "AKIACANARYCANARYCANA", "canary/of/the/secret/access/key/0123456789"


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    emulator = Emulator(tmp_path_factory.mktemp("moto"))
    yield emulator
    emulator.close()


@pytest.fixture
def portal(moto, settings, monkeypatch):
    """It asks moto, in the name of a user of its own account."""
    for name, value in {"ACCESS_KEY_ID": "portal", "SECRET_ACCESS_KEY": "portal"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    settings.AWS = {**settings.AWS, "endpoint": moto.endpoint, "principal": f"arn:aws:iam::{PORTAL}:role/portal"}
    session.portal_session.cache_clear()
    connect.cache_clear()
    yield settings
    session.portal_session.cache_clear()
    connect.cache_clear()


@pytest.fixture
def begun(portal, client, alice):
    """The page to go on with a configuration of which only the account is known."""
    client.force_login(alice)
    said = client.post(
        reverse("new-cloud-config"), {"kind": "aws", "name": "Ours", "account": CUSTOMER, "region": REGION}
    )
    assert said.status_code == 302, said.content.decode()
    config = CloudConfig.objects.get(name="Ours")
    assert said.url == reverse("connect-aws", args=[config.uuid])
    assert (config.badge.word, said.url) == ("INCOMPLETE", reverse("connect-aws", args=[config.uuid]))
    return config


def made_by_its_owner(moto, config, leave_out=()):
    """By hand, as its page says."""
    return owner.everything(moto.client, config, leave_out)


def validate(client, config, options, **more):
    return client.post(reverse("connect-aws", args=[config.uuid]), {"way": "manual", **options, **more})


def watch(config):
    """As the watch process does it when it is due."""
    config.refresh_from_db()
    account = aws.awaited_account(config) or config.account
    found = checks.ask(account)
    if aws.awaits(config):
        aws.tried(config, found)
    else:
        checks.write_down(config, found)
    config.refresh_from_db()
    return config


def test_by_hand_it_is_active_once_everything_is_there(moto, begun, client):
    page = client.get(reverse("connect-aws", args=[begun.uuid]), {"way": "manual"}).content.decode()
    assert aws.external_id(begun) in page
    options = aws.derived(begun)
    nothing = validate(client, begun, options, finish="1").content.decode()
    assert "There is no such bucket in the account." in nothing
    assert "There is no such table in us-east-2" in nothing
    begun.refresh_from_db()
    assert not begun.is_finished
    made_by_its_owner(moto, begun)
    assert "Everything is there. Finish it." in validate(client, begun, options).content.decode()
    assert validate(client, begun, options, finish="1").status_code == 302
    begun.refresh_from_db()
    assert begun.badge.word == "ACTIVE", begun.findings
    assert {name: begun.options[name] for name in options} == options
    assert f"AWS account {CUSTOMER}" in client.get(begun.get_absolute_url()).content.decode()


def test_what_is_missing_is_named_with_the_statement_to_paste(moto, begun, client):
    options = made_by_its_owner(moto, begun, leave_out=("ec2:DeleteSubnet",))
    said = validate(client, begun, options)
    (missing,) = (one for one in said.context["found"]["permissions"] if one["granted"] is False)
    assert missing["name"] == "ec2:DeleteSubnet"
    pasted = json.loads(missing["statement"])
    assert pasted["Action"] == "ec2:DeleteSubnet"
    assert pasted["Resource"] == f"arn:aws:ec2:*:{CUSTOMER}:subnet/*"
    assert list(pasted["Condition"]["StringEquals"]) == ["aws:ResourceTag/coxswain:portal"]
    assert validate(client, begun, options, finish="1").status_code == 200
    begun.refresh_from_db()
    assert not begun.is_finished


def test_a_table_with_another_key_and_a_bucket_elsewhere_are_told(moto, begun, client):
    options = made_by_its_owner(moto, begun)
    moto.client("dynamodb").create_table(
        TableName="other-key",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    page = validate(client, begun, {**options, "table": "other-key"}).content.decode()
    assert "Its key is id of type N, and has to be LockID" in page
    page = validate(client, begun, {**options, "region": "us-west-2"}).content.decode()
    assert "It is in us-east-2. Bucket and table have to be in one region, us-west-2." in page


def test_with_an_access_key_everything_is_made_and_the_key_is_nowhere(moto, begun, client, caplog):
    caplog.set_level(logging.DEBUG, "portal")
    at = reverse("connect-aws", args=[begun.uuid])
    said = client.post(at, {"way": "key", "key": KEY, "secret": SECRET})
    # That key is of moto's own account.
    assert "the configuration is for 222233334444" in said.content.decode()
    seen = [said.content.decode()]
    begun.options = {"draft": {"account": PORTAL, "region": REGION}}
    begun.save()
    assert client.post(at, {"way": "key", "key": KEY, "secret": SECRET}).url == begun.get_absolute_url()
    begun.refresh_from_db()
    assert begun.badge.word == "INCOMPLETE"
    config = watch(begun)
    assert config.badge.word == "ACTIVE", config.findings
    dump = io.StringIO()
    call_command("dumpdata", "accounts", "workspaces", "portal", "tasks", "sessions", stdout=dump)
    seen += [dump.getvalue(), caplog.text]
    pages = ("cloud-configs", "audit", "dashboard", "workspaces")
    seen += [client.get(reverse(page)).content.decode() for page in pages]
    assert aws.external_id(config) in client.get(at).content.decode()
    for text in seen:
        assert KEY not in text
        assert SECRET not in text
    for text in seen[1:]:
        assert aws.external_id(config) not in text


def test_what_broke_off_is_gone_on_with(moto, begun, monkeypatch, client):
    begun.options = {"draft": {"account": PORTAL, "region": REGION}}
    begun.save()
    role = keyed._role

    def breaks(*_):
        raise Refused("The line was cut.", evidence=f"{SECRET} was in it")

    monkeypatch.setattr(keyed, "_role", breaks)
    at = reverse("connect-aws", args=[begun.uuid])
    page = client.post(at, {"way": "key", "key": KEY, "secret": SECRET}).content.decode()
    assert "The line was cut." in page
    assert SECRET not in page
    monkeypatch.setattr(keyed, "_role", role)
    assert client.post(at, {"way": "key", "key": KEY, "secret": SECRET}).status_code == 302
    assert watch(begun).badge.word == "ACTIVE"


def test_a_stack_that_is_launched_finishes_the_configuration(moto, begun, client):
    at = reverse("connect-aws", args=[begun.uuid])
    template = json.loads(client.get(reverse("aws-template", args=[begun.uuid])).content)
    assert template["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"] == aws.setup(begun).trust
    assert begun.pk not in checks.due()
    assert client.post(at, {"way": "stack"}).url == at
    assert begun.pk in checks.due()
    watch(begun)
    assert begun.badge.word == "INCOMPLETE"
    stacks = moto.client("cloudformation")
    more = {"Capabilities": ["CAPABILITY_NAMED_IAM"]}
    policies = moto.client("iam").list_policies(Scope="Local")["Policies"]
    has = "is there" if any(one["PolicyName"] == policy.NODE_POLICY for one in policies) else "make"
    more["Parameters"] = [{"ParameterKey": "NodePolicy", "ParameterValue": has}]
    stacks.create_stack(StackName=aws.setup(begun).role, TemplateBody=json.dumps(template), **more)
    assert watch(begun).badge.word == "ACTIVE", begun.findings


def test_in_a_template_no_two_things_have_one_name(begun):
    template = json.loads(aws.setup(begun).template)
    assert template["Parameters"].keys() & template["Resources"].keys() == set(), "CloudFormation takes none that has"


def test_an_external_id_is_of_one_configuration_and_stays(begun, client):
    mine = aws.external_id(begun)
    client.post(begun.get_absolute_url(), {"name": "Renamed", "account": CUSTOMER, "region": "us-west-2"})
    client.post(reverse("new-cloud-config"), {"kind": "aws", "name": "Other", "account": CUSTOMER, "region": REGION})
    begun.refresh_from_db()
    assert (begun.name, begun.options["draft"]["region"]) == ("Renamed", "us-west-2")
    assert aws.external_id(begun) == mine != aws.external_id(CloudConfig.objects.get(name="Other"))


def test_a_template_has_everything_that_the_page_asks_for(begun):
    wanted = aws.setup(begun)
    made = json.loads(wanted.template)["Resources"]
    assert made["Bucket"]["Properties"]["PublicAccessBlockConfiguration"]["BlockPublicPolicy"] is True
    assert made["Locks"]["Properties"]["KeySchema"] == [{"AttributeName": "LockID", "KeyType": "HASH"}]
    said = json.dumps([made[f"Policy{n}"]["Properties"]["PolicyDocument"] for n, _ in enumerate(wanted.policies, 1)])
    for document in wanted.policies.values():
        for statement in document["Statement"]:
            for action in [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]:
                assert f'"{action}"' in said
        assert policy.length(document) <= policy.LIMIT
    assert {"Ref": "Policy1"} in made["Role"]["Properties"]["ManagedPolicyArns"]


def test_a_bucket_and_a_table_keep_what_every_store_promises(moto, begun, client):
    options = made_by_its_owner(moto, begun)
    validate(client, begun, options, finish="1")
    begun.refresh_from_db()
    store = begun.account.store

    def fresh():
        for name in store.list():
            store.delete(name)
        locks = moto.client("dynamodb")
        for item in locks.scan(TableName=options["table"])["Items"]:
            locks.delete_item(TableName=options["table"], Key={"LockID": item["LockID"]})
        return store

    contract.test_a_store_gives_back_what_it_was_given_and_names_it(fresh())
    contract.test_whose_lock_ran_out_has_the_same_again_if_nobody_had_it_meanwhile(fresh())
    contract.test_the_lock_of_an_object_is_gone_with_it(None, fresh())
    contract.test_of_two_owners_one_has_the_lock_and_who_lost_it_writes_nothing(fresh())
    for name in ("", "../up", "a//b", "a b", "x" * 501):
        contract.test_a_store_has_no_name_that_leads_elsewhere(store, name)
    contract.test_a_store_takes_an_object_in_pieces_whole_or_not_at_all(fresh())
    large = (bytes([n % 251]) * 1_000_000 for n in range(20))
    store.put("outputs/large", large)
    assert (store.size("outputs/large"), store.get("outputs/large", 17_500_000, 2)) == (20_000_000, bytes([17, 17]))

    def breaks_off():
        yield b"x" * 10_000_000
        yield b"x" * 10_000_000
        raise KeyError("of whoever makes the pieces")

    with pytest.raises(KeyError):
        store.put("outputs/none", breaks_off())
    assert store.size("outputs/none") is None
    assert moto.client("s3").list_multipart_uploads(Bucket=options["bucket"]).get("Uploads", []) == []


def test_nobody_takes_a_lock_over_while_something_is_written_under_it(moto, begun, client):
    options = made_by_its_owner(moto, begun)
    validate(client, begun, options, finish="1")
    begun.refresh_from_db()
    store = begun.account.store
    mine = store.lock("deployments/a", owner="one", seconds=0)

    def pieces():
        yield b"mine"

    with store._held_for_a_write(mine):
        assert store.lock("deployments/a", owner="two", seconds=60) is None
    assert hands.until(lambda: store.lock("deployments/a", owner="two", seconds=60)).fence == mine.fence + 1
    with pytest.raises(Conflict):
        store.put("deployments/a", pieces(), lock=mine)
    assert store.get("deployments/a") is None
