"""Instance roles on the pages of the portal: registered, given to a cluster, and removed; against moto's IAM."""

from __future__ import annotations

import html
import re
import uuid

import pytest
from django.urls import reverse

from accounts.models import AuditEvent
from clusters import actions, roles
from clusters.models import Cluster, EngineVersion, InstanceRole
from portal.clouds import InstanceType, connect
from portal.clouds.aws import policy, session
from portal.errors import Refused
from portal.tasks.models import Task
from tests.aws import owner
from tests.aws.box import PORTAL
from tests.clusters.test_bad_clouds import go_on
from workspaces import actions as places

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings"), pytest.mark.timeout(120)]


def asks(settings, monkeypatch, endpoint):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "portal")
    settings.AWS = {**settings.AWS, "endpoint": endpoint, "principal": f"arn:aws:iam::{PORTAL}:role/portal"}
    session.portal_session.cache_clear()
    connect.cache_clear()


@pytest.fixture
def account():
    return str(uuid.uuid4().int)[:12]


@pytest.fixture
def place(moto, account, lab, settings, monkeypatch):
    """A workspace in an account of its own."""
    asks(settings, monkeypatch, moto.endpoint)
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    yield owner.finished(lab, lambda service: moto.client(service, account), account)
    session.portal_session.cache_clear()
    connect.cache_clear()


@pytest.fixture
def iam(moto, account):
    return moto.client("iam", account)


def words(response):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


def registered(client, place, arn, name="reader"):
    """As the form makes it, and what the task makes of it; the page of it then."""
    said = client.post(reverse("new-instance-role", args=[place.uuid]), {"name": name, "arn": arn, "description": "d"})
    assert said.status_code == 302, words(said)
    role = InstanceRole.objects.get(name=name, workspace=place)
    assert said.url == role.get_absolute_url()
    go_on(role)
    return role, words(client.get(role.get_absolute_url()))


def cluster(place, by, arn, name="tide"):
    return actions.create_cluster(
        place, name=name, instance_type=InstanceType("m5.large", "m5", 1, 2, 8.0), node_count=1, role=arn, by=by,
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip


def test_a_role_is_registered_given_to_a_cluster_and_removed_when_no_cluster_has_it(
    place, iam, client, alice, bob, vera, charlie
):
    arn = owner.role(iam)
    client.force_login(alice)
    page = words(client.get(reverse("new-instance-role", args=[place.uuid])))
    assert f"How to make one in account {place.cloud_config.connection.account}" in page
    assert '"Service": "ec2.amazonaws.com"' in page
    assert '"s3:GetObject"' in page
    role, page = registered(client, place, arn)
    assert role.status == "active", page
    assert owner.attached(iam, arn) == [policy.NODE_POLICY]
    assert len(iam.list_instance_profiles_for_role(RoleName=arn.rpartition("/")[2])["InstanceProfiles"]) == 1
    assert "reader d ACTIVE" in words(client.get(reverse("instance-roles", args=[place.uuid])))

    form = client.get(reverse("new-cluster", args=[place.uuid])).context["form"]
    assert form.fields["role"].choices == [("", "Default: one for this cluster alone"), (arn, "reader")]
    made = cluster(place, alice, arn)
    assert "reader" in words(client.get(made.get_absolute_url()))
    assert "Delete these clusters first: tide" in words(client.get(reverse("remove-instance-role", args=[role.uuid])))
    said = client.post(reverse("remove-instance-role", args=[role.uuid]), follow=True)
    assert "reader is in use by the cluster tide" in words(said)
    assert go_on(role).kind == "roles.attach"
    assert owner.attached(iam, arn) == [policy.NODE_POLICY]

    for who, seen, changed in ((vera, 200, 403), (bob, 200, 403), (charlie, 404, 404)):
        client.force_login(who)
        assert client.get(role.get_absolute_url()).status_code == seen
        for name in ("validate-instance-role", "remove-instance-role", "forget-instance-role"):
            assert client.post(reverse(name, args=[role.uuid])).status_code == changed
    client.force_login(alice)

    iam.detach_role_policy(
        RoleName=arn.rpartition("/")[2], PolicyArn=iam.list_attached_role_policies(
            RoleName=arn.rpartition("/")[2])["AttachedPolicies"][0]["PolicyArn"],
    )  # fmt: skip
    client.post(reverse("validate-instance-role", args=[role.uuid]))
    assert go_on(role).status == "finished"
    assert owner.attached(iam, arn) == [policy.NODE_POLICY], "what somebody took away is given again"

    Cluster.objects.update(status="terminated")
    said = client.post(reverse("remove-instance-role", args=[role.uuid]))
    assert said.url == reverse("task", args=[role.last_task.uuid])
    assert go_on(role).status == "finished"
    assert role.status == "terminated"
    assert owner.attached(iam, arn) == []
    assert iam.list_instance_profiles()["InstanceProfiles"] == []
    assert iam.get_role(RoleName=arn.rpartition("/")[2])["Role"]["Arn"] == arn
    with pytest.raises(Refused, match="No instance role of Ours lab"):
        cluster(place, alice, arn, "ebb")
    said = AuditEvent.objects.filter(kind="instance role").order_by("pk").values_list("verb", "subject_name")
    assert list(said) == [("registered", "reader"), ("validated", "reader"), ("removed", "reader")]


def test_each_reason_why_nodes_cannot_have_a_role_is_told_with_what_to_do(place, iam, account, client, alice):
    own = place.cloud_config.options["role"]
    lambdas = policy.trust_of_nodes() | {
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    }
    wrong = {
        f"arn:aws:iam::{account}:role/coxswain-none": (
            "There is no role coxswain-none in the account.", "Copy the ARN from the role's page in IAM."),
        "arn:aws:iam::999988887777:role/coxswain-x": (
            "This role is in the account 999988887777", "nodes cannot have one of another account"),
        owner.role(iam, trust=lambdas): ("EC2 is not trusted by the role", "Make this its trust policy"),
        f"arn:aws:iam::{account}:role/coxswain/coxswain-1": (
            "is one that the portal has made for a cluster", "Make one of your own"),
        own: ("is the portal's own", "Make one of your own"),
    }  # fmt: skip
    client.force_login(alice)
    for number, (arn, says) in enumerate(wrong.items()):
        role, page = registered(client, place, arn, f"r{number}")
        assert role.status == "failed"
        for words_ in says:
            assert words_ in page
        with pytest.raises(Refused, match="is FAILED"):
            cluster(place, alice, arn)
    form = client.get(reverse("new-cluster", args=[place.uuid])).context["form"]
    assert len(form.fields["role"].choices) == 1
    assert not Cluster.objects.exists()
    mended = InstanceRole.objects.get(name="r2")
    iam.update_assume_role_policy(
        RoleName=mended.arn.rpartition("/")[2], PolicyDocument=policy.as_text(policy.trust_of_nodes())
    )
    client.post(reverse("validate-instance-role", args=[mended.uuid]))
    assert go_on(mended).status == "finished"
    assert mended.status == "active"


def test_what_aws_refuses_is_told_in_words_and_what_cannot_be_detached_may_be_forgotten(
    place, iam, client, alice, faults, settings, monkeypatch
):
    asks(settings, monkeypatch, faults.endpoint)
    client.force_login(alice)
    for number, (code, says) in enumerate({
        "LimitExceeded": "The role has as many policies as AWS allows",
        "AccessDenied": "The portal may not give this role the policy that nodes need.",
    }.items()):  # fmt: skip
        faults.refuse("AttachRolePolicy", code, times=1)
        role, page = registered(client, place, owner.role(iam), f"r{number}")
        assert (role.status, says in page) == ("failed", True), page
    client.post(reverse("validate-instance-role", args=[role.uuid]))
    go_on(role)
    assert role.status == "active"
    client.post(reverse("forget-instance-role", args=[role.uuid]))
    role.refresh_from_db()
    assert role.status == "active", "it could be removed"
    faults.refuse("DetachRolePolicy", "AccessDenied")
    client.post(reverse("remove-instance-role", args=[role.uuid]))
    go_on(role)
    assert role.status == "failed"
    assert "forget it: it is gone from here" in words(client.get(role.get_absolute_url()))
    client.post(reverse("forget-instance-role", args=[role.uuid]))
    role.refresh_from_db()
    assert role.status == "terminated"
    assert owner.attached(iam, role.arn) == [policy.NODE_POLICY]


def test_a_role_of_two_workspaces_is_left_attached_until_the_last_of_them_is_done_with_it(
    place, lab, moto, account, iam, client, alice
):
    arn = owner.role(iam)
    client.force_login(alice)
    other = owner.finished(lab, lambda service: moto.client(service, account), account, "Other", whole=True)
    here, _ = registered(client, place, arn)
    there, _ = registered(client, other, arn)
    roles.remove(here, by=alice)
    assert go_on(here).status == "finished"
    assert (here.status, owner.attached(iam, arn)) == ("terminated", [policy.NODE_POLICY])
    places.delete_workspace(other, by=alice)
    assert go_on(other).status == "finished", other.last_task.cause
    there.refresh_from_db()
    assert (other.status, there.status, owner.attached(iam, arn)) == ("terminated", "terminated", [])


def test_a_cloud_that_gives_nodes_no_rights_has_no_page_of_them(lab, client, alice):
    client.force_login(alice)
    for name in ("instance-roles", "new-instance-role"):
        assert client.get(reverse(name, args=[lab.uuid])).status_code == 404
    assert "Instance roles" not in words(client.get(reverse("workspace-settings", args=[lab.uuid])))


def test_a_form_sent_twice_registers_one_role_and_a_name_or_a_role_is_there_once(place, iam, client, alice):
    client.force_login(alice)
    at, arn = reverse("new-instance-role", args=[place.uuid]), owner.role(iam)
    sent = {"name": "reader", "arn": arn, "key": str(uuid.uuid4())}
    assert client.post(at, sent).url == client.post(at, sent).url
    assert InstanceRole.objects.count() == Task.objects.count() == 1
    again = client.post(at, sent | {"key": str(uuid.uuid4()), "name": "READER"})
    assert "There is an instance role of this name" in words(again)
    assert "reader is this role already." in words(again)
