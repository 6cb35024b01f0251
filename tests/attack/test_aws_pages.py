"""Somebody hostile at the pages of AWS: what is typed leads nowhere, and is nothing but text wherever it is shown."""

from __future__ import annotations

import json
import uuid

import pytest
from django.urls import reverse

from accounts.models import AuditEvent
from clusters.models import Cluster, EngineVersion, InstanceRole
from portal import secrets
from portal.clouds import Refused, connect
from portal.clouds.aws import policy, session
from portal.tasks.models import Task
from tests.aws.box import CUSTOMER, PORTAL, REGION
from tests.clusters.test_bad_clouds import go_on
from workspaces.awsforms import ManualForm
from workspaces.models import CloudConfig, Workspace, WorkspaceMember

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]

SCRIPT = "<script>alert(1)</script>"
ROLE = f"arn:aws:iam::{CUSTOMER}:role/coxswain-reader"
ARNS = [
    "", "arn", ROLE + "\r\nX-Evil: 1", ROLE + '","Action":"*', ROLE + "{external_id}", ROLE + "${AWS::AccountId}",
    ROLE + SCRIPT, ROLE + "\x00", ROLE + "\u202e", ROLE.replace("2222", "\uff12" * 4), ROLE.replace("o", "\u043e"),
    ROLE.replace("iam", "sts"), ROLE.replace("arn:aws", "arn:evil"), ROLE.replace("arn:aws", "arn:aws@evil.example"),
    ROLE.replace("iam::", "iam:us-east-1:"), "http://169.254.169.254/latest/meta-data/", ROLE + "*", ROLE + "?",
    ROLE + " x", ROLE + "';id;'", ROLE + "x" * 600, "x" * 900_000,
]  # fmt: skip
REGIONS = [
    "", "moon", "us-east-1.evil.example", "us-east-1@evil.example", "us-east-1/../..", "us-east-1#", "us-east-1:80",
    "http://127.0.0.1", "169.254.169.254", "us-east-\uff11", "us-e\u0430st-1", "us-east-1\nx", "us-east-1\r\nHost: x",
    "us-east-1\x00", "us-east-1?x", "{region}", SCRIPT, "us-" + "a" * 200 + "-1", "localhost",
]  # fmt: skip
BUCKETS = [
    "", "A", "a..b", "a/b", "../x", "a b", "a?x", "a\nb", "b\u00fcckets", "x" * 64, "{portal}", '"},{"', "a@evil",
    SCRIPT,
]  # fmt: skip
TABLES = ["", "t", "t/b", "a b", '"},{"', "t\u0430ble", "x" * 256, "{account}", "a\nb", SCRIPT]
ACCOUNTS = ["", "12", "\uff12" * 12, "222233334444\n1", "2222 3333 444x", "-" * 12, "2" * 13, SCRIPT]


@pytest.fixture
def asked(settings, monkeypatch):
    """Nobody is: each client that is made is written down, and refused."""
    made = []

    def refuse(*words):
        made.append(words[1:3])
        raise Refused("Nobody is asked.", evidence=SCRIPT + "\x1b[2J" + "x" * 100_000, code="not_found")

    monkeypatch.setattr(session, "_client", refuse)
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    settings.AWS = {**settings.AWS, "endpoint": "", "principal": f"arn:aws:iam::{PORTAL}:role/portal"}
    connect.cache_clear()
    yield made
    connect.cache_clear()


def config_of(organization, **options):
    found = CloudConfig(organization=organization, name="Ours", kind="aws", options=options)
    secrets.seal(found, "credentials", str(uuid.uuid4()))
    found.save()
    return found


def place_of(config, *people):
    made = Workspace.objects.create(
        organization=config.organization, cloud_config=config, name="in AWS", region=REGION, status="ready"
    )
    for person in people:
        WorkspaceMember.objects.create(workspace=made, user=person, role="admin")
    return made


FINISHED = {"role": f"arn:aws:iam::{CUSTOMER}:role/portal", "bucket": "ours", "table": "ours", "region": REGION}


def refused(client, path, good, name, values):
    for value in values:
        said = client.post(path, {**good, name: value})
        assert said.status_code == 200, (name, value)
        assert name in said.context["form"].errors, (name, value[:80])
        assert SCRIPT.encode() not in said.content


def test_what_leads_elsewhere_is_refused_at_its_field_and_nobody_is_asked(asked, client, alice, harbor):
    client.force_login(alice)
    good = {"kind": "aws", "name": "Evil", "account": CUSTOMER, "region": REGION}
    new = reverse("new-cloud-config")
    refused(client, new, good, "account", ACCOUNTS)
    refused(client, new, good, "region", REGIONS)
    refused(client, new, good, "name", ["a\nb", "a\u202eb", "x" * 81])
    assert not CloudConfig.objects.exists()
    config = config_of(harbor, draft={"account": CUSTOMER, "region": REGION})
    by_hand = reverse("connect-aws", args=[config.uuid])
    good = {"way": "manual", **FINISHED}
    for name, values in {"role": ARNS, "bucket": BUCKETS, "table": TABLES, "region": REGIONS}.items():
        for value in values:  # the page shows all that is to be made, which takes a while
            assert name in ManualForm({**good, name: value}).errors, (name, value[:80])
        refused(client, by_hand, good, name, values[-1:])
    place = place_of(config_of_finished(harbor), alice)
    refused(client, reverse("new-instance-role", args=[place.uuid]), {"name": "x", "arn": ROLE}, "arn", ARNS)
    assert asked == []
    assert not InstanceRole.objects.exists()
    assert client.post(by_hand, {"way": "manual", "finish": "1", **FINISHED}).status_code == 200
    assert {(service, region) for service, region in asked} == {("sts", REGION)}
    config.refresh_from_db()
    assert not config.is_finished


def config_of_finished(organization):
    CloudConfig.objects.update(name="Other")
    return config_of(organization, **FINISHED)


def test_what_is_chosen_of_a_workspace_is_an_id_or_nothing(asked, client, alice, harbor):
    config = config_of_finished(harbor)
    CloudConfig.objects.update(findings={"regions": [{"name": REGION, "title": REGION}]})
    client.force_login(alice)
    good = {
        "name": "w",
        "cloud_config": str(config.uuid),
        "region": REGION,
        "range": "10.80.0.0/16",
        "subnets": "public",
        **dict.fromkeys(("vpc", "vpc_subnets", "vpc_groups", "kms_key", "tags"), ""),
    }
    wrong = {
        "range": ["1.2.3.4/8", "127.0.0.0/16", "169.254.0.0/16", "10.0.0.0/8", "::/0", "10.80.0.0/16\n", SCRIPT],
        "subnets": ["evil", SCRIPT],
        "vpc": ["vpc-../x", "vpc-" + "\uff11" * 8, SCRIPT],
        "vpc_subnets": ["subnet-12345678", SCRIPT],
        "kms_key": ["alias/x", f"arn:aws:kms:{REGION}:{CUSTOMER}:key/a\r\nb", SCRIPT, "arn:aws:kms:*:*:key/*"],
        "tags": ["coxswain:portal=x", "Coxswain:portal=x", "aws:x=1", "Name=x", f"a={SCRIPT}", "a=b\x1fc", "a=\u202e",
                 "a=1\na=2",
                 "x", "=", "x" * 129 + "=1"],
        "region": ["us-east-1.evil.example", SCRIPT],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            said = client.post(reverse("new-workspace"), {**good, name: value})
            if said.status_code == 302:  # it was stripped
                assert value.strip() == good.get(name)
                Workspace.objects.all().delete()
                continue
            assert name in said.context["form"].errors, (name, value)
            assert SCRIPT.encode() not in said.content
    assert not Workspace.objects.exists()


def test_documents_that_are_filled_in_say_what_they_are_to_say_whatever_a_name_may_be():
    wild = policy.Place(CUSTOMER, "p", "a+=,.@b/c-d", "a.b-c", "t_._-", "aws-us-gov")
    for document in policy.policies(wild):
        again = json.loads(policy.as_text(document))
        assert again == document
        assert "{" not in json.dumps([one["Resource"] for one in again["Statement"]])
    assert json.loads(policy.as_text(policy.trust('a","b', "${x}{portal}")))["Statement"][0]["Principal"] == {
        "AWS": 'a","b'
    }


def test_a_role_of_others_is_neither_found_nor_given_nor_taken_over(
    asked, client, alice, charlie, bob, harbor, elsewhere
):
    ours = place_of(config_of(harbor, **FINISHED), alice)
    theirs = place_of(config_of(elsewhere, **FINISHED), charlie)
    role = InstanceRole.objects.create(workspace=ours, name="reader", arn=ROLE, status="active")
    client.force_login(charlie)
    for name in ("instance-role", "validate-instance-role", "remove-instance-role", "forget-instance-role"):
        assert client.post(reverse(name, args=[role.uuid])).status_code in (404, 405)
    assert client.get(role.get_absolute_url()).status_code == 404
    assert client.post(reverse("new-instance-role", args=[ours.uuid]), {"name": "x", "arn": ROLE}).status_code == 404
    new = reverse("new-cluster", args=[theirs.uuid])
    assert f'value="{ROLE}"' not in client.get(new, {"role": ROLE}).content.decode()
    engine = EngineVersion.objects.get(kind="mpi")
    sent = {"name": "tide", "role": ROLE, "node_count": "1", "engine_version": str(engine.pk)}
    assert "role" in client.post(new, sent).context["form"].errors
    # With the key of a form that made ours.
    said = client.post(
        reverse("new-instance-role", args=[theirs.uuid]), {"name": "mine", "arn": ROLE, "key": str(role.uuid)}
    )
    mine = InstanceRole.objects.get(name="mine")
    assert said.url == mine.get_absolute_url() != role.get_absolute_url()
    assert (mine.workspace, Task.objects.get().subject) == (theirs, mine)
    assert not AuditEvent.objects.filter(workspace=ours.uuid).exists()
    client.force_login(bob)
    assert client.post(reverse("new-instance-role", args=[ours.uuid]), {"name": "x", "arn": ROLE}).status_code == 404
    assert not Cluster.objects.exists()


def test_what_aws_or_a_person_says_of_a_role_is_text_on_every_page(asked, client, alice, harbor):
    place = place_of(config_of(harbor, **FINISHED), alice)
    client.force_login(alice)
    sent = {"name": SCRIPT, "description": SCRIPT, "arn": ROLE}
    assert client.post(reverse("new-instance-role", args=[place.uuid]), sent).status_code == 302
    role = InstanceRole.objects.get()
    assert go_on(role).status == "failed"
    pages = {"instance-role": role, "remove-instance-role": role, "task": role.last_task, "instance-roles": place}
    for path in (reverse("audit"), *(reverse(name, args=[of.uuid]) for name, of in pages.items())):
        page = client.get(path).content.decode()
        assert SCRIPT not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "\x1b" not in page
        assert len(page) < 400_000, path
    InstanceRole.objects.update(status="active")
    assert SCRIPT not in client.get(reverse("new-cluster", args=[place.uuid])).content.decode()
