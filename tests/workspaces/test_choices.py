"""What may be chosen of a workspace on AWS: asked where its configuration is one of AWS, kept, and shown."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse

from portal.clouds.aws.choices import Choices
from portal.clouds.aws.options import AwsOptions
from portal.errors import Refused
from tests.web import words
from workspaces.models import CloudConfig, Workspace

KEY = "arn:aws:kms:us-east-2:222233334444:key/1234abcd-12ab-34cd-56ef-1234567890ab"
VPC, SUBNETS = "vpc-0123456789abcdef0", "subnet-00000001, subnet-00000002"


@pytest.fixture
def account(harbor):
    return CloudConfig.objects.create(
        organization=harbor,
        name="Pier",
        kind=CloudConfig.Kind.AWS,
        findings={"regions": [{"name": "us-east-2", "title": "Ohio"}]},
    )


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return reverse("new-workspace")


def sent(account, **more):
    asked = {"name": "Tide", "cloud_config": account.uuid, "region": "us-east-2", "range": "10.70.0.0/16"}
    empty = dict.fromkeys(("vpc", "vpc_subnets", "vpc_groups", "kms_key", "tags"), "")
    return asked | empty | {"subnets": "public"} | more


def test_a_workspace_on_aws_keeps_what_was_chosen_and_shows_it(client, page, account):
    client.post(page, sent(account, subnets="private", kms_key=KEY, tags="team = rowing\ncost-center=42\n"))
    made = Workspace.objects.get(name="Tide")
    assert dict(made.spec.choices) == {"range": "10.70.0.0/16", "subnets": "private", "kms_key": KEY}
    assert dict(made.spec.extra_tags) == {"team": "rowing", "cost-center": "42"}
    shown = words(client.get(reverse("workspace-settings", args=[made.uuid])))
    assert "10.70.0.0/16" in shown
    assert "private, with a NAT gateway" in shown
    assert KEY in shown
    assert "cost-center=42, team=rowing" in shown


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"range": "10.0.0.0/8"}, "A range is between /16 and /22."),
        ({"range": "10.70.0.1/16"}, "This is no range of IPv4 addresses"),
        ({"range": "8.8.0.0/16"}, "Take private addresses"),
        ({"range": "127.80.0.0/16"}, "Take private addresses"),
        ({"vpc": "vpc-x"}, "This is no id of a VPC"),
        ({"vpc": VPC, "vpc_subnets": "subnet-00000001"}, "Name two subnets or more"),
        ({"vpc": VPC, "vpc_subnets": SUBNETS, "vpc_groups": "subnet-00000001"}, "is no id of a security group"),
        ({"vpc_subnets": SUBNETS}, "These are for a VPC that is there already."),
        ({"kms_key": "alias/mine"}, "This is no ARN of a KMS key"),
        ({"tags": "team"}, "This is no tag"),
        ({"tags": "coxswain:portal=me"}, "is not free"),
        ({"tags": "team=<b>"}, "AWS does not take this tag"),
    ],
)
def test_what_cannot_be_is_said_at_its_field(client, page, account, more, said):
    answer = client.post(page, sent(account, **more))
    assert said in words(answer)
    (field,) = answer.context["form"].errors
    assert field in more
    assert not Workspace.objects.filter(name="Tide").exists()


def test_networks_of_two_workspaces_have_no_address_in_common(client, page, account):
    client.post(page, sent(account))
    assert client.get(page).context["form"]["range"].value() != "10.70.0.0/16"
    answer = client.post(page, sent(account, name="Ebb", range="10.70.16.0/20"))
    assert "Another workspace of this portal has some of these addresses." in words(answer)


def test_a_network_that_is_there_is_taken_with_its_subnets(client, page, account):
    client.post(page, sent(account, vpc=VPC, vpc_subnets=SUBNETS))
    made = Workspace.objects.get(name="Tide")
    assert dict(made.spec.choices) == {"vpc": VPC, "vpc_subnets": "subnet-00000001 subnet-00000002"}


def test_only_a_configuration_of_aws_asks_for_a_network(client, page, account, harbor):
    local = CloudConfig.objects.create(organization=harbor, name="Quay", kind=CloudConfig.Kind.LOCAL)
    assert "VPC that is there already" in words(client.get(page, {"cloud_config": account.uuid}))
    assert "VPC that is there already" not in words(client.get(page, {"cloud_config": local.uuid}))
    typed = {"name": "Tide", "cloud_config": account.uuid, "region": "us-east-2"}
    answer = client.post(page, typed)  # from the page of the other one, without JavaScript
    assert "Look through it, then create the workspace." in words(answer)
    assert answer.context["form"]["name"].value() == "Tide"
    assert not Workspace.objects.filter(name="Tide").exists()


def test_enter_creates_the_workspace_where_the_choices_come_by_themselves(client, page, account, harbor):
    CloudConfig.objects.create(organization=harbor, name="Desk", kind=CloudConfig.Kind.LOCAL)
    html = client.get(page).content.decode()
    form = html[html.index("<main") :]
    assert "Show what this cloud configuration asks for" in form  # of two kinds; by a button where nothing runs
    with_scripts = re.sub(r"<noscript>.*?</noscript>", "", form, flags=re.DOTALL)
    first = re.search(r"<button[^>]*type=\"submit\"[^>]*>(.*?)</button>", with_scripts, re.DOTALL)
    assert first[1].strip() == "Create workspace"


def test_an_emulator_has_networks_where_this_computer_has_addresses():
    here = AwsOptions(endpoint="http://127.0.0.1:5000")
    assert Choices.of([("range", "127.80.0.0/16")], here).range == "127.80.0.0/16"


def test_a_word_that_nobody_knows_is_refused():
    with pytest.raises(Refused, match="zone"):
        Choices.of([("zone", "us-east-2a")], AwsOptions())
