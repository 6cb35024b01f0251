"""Cloud configurations and workspaces are renamed, deleted, and keep an admin."""

from __future__ import annotations

import pytest
from django.forms import CharField
from django.urls import reverse

from accounts.access import WorkspaceRole
from accounts.models import AuditEvent
from portal.errors import Conflict, Passing, PortalError, Taken
from portal.secrets import unseal
from tests.clouds.bad import AccountOf, MemoryCloud
from tests.conftest import person
from tests.web import words
from workspaces import forms
from workspaces.actions import (
    change_cloud_config,
    create_cloud_config,
    create_workspace,
    delete_cloud_config,
    rename,
)
from workspaces.models import CloudConfig, Workspace, WorkspaceMember


@pytest.fixture
def wanda(harbor, lab):
    """Admin of the workspace, beside alice, but not of the organization."""
    wanda = person("wanda", harbor)
    WorkspaceMember.objects.create(workspace=lab, user=wanda, role=WorkspaceRole.ADMIN)
    return wanda


@pytest.fixture
def alone(lab, wanda, alice):
    """Wanda, the only admin that the workspace has."""
    lab.members.filter(user=alice).delete()
    return wanda


def test_a_workspace_gets_another_name_and_the_audit_keeps_the_first(client, lab, wanda):
    client.force_login(wanda)
    page = client.post(reverse("workspace-settings", args=[lab.uuid]), {"name": "Ocean"}, follow=True)
    assert "It is called Ocean now." in words(page)
    lab.refresh_from_db()
    assert lab.name == "Ocean"
    entry = AuditEvent.objects.get(verb="renamed")
    assert (entry.before, entry.after, entry.workspace) == ({"name": "lab"}, {"name": "Ocean"}, lab.uuid)


def test_whoever_administers_nothing_sees_no_field_and_changes_no_name(client, lab, bob):
    client.force_login(bob)
    address = reverse("workspace-settings", args=[lab.uuid])
    assert "Rename" not in words(client.get(address))
    assert client.post(address, {"name": "Mine"}).status_code == 403
    lab.refresh_from_db()
    assert lab.name == "lab"


@pytest.mark.parametrize("name", ["Other", "other", "OTHER"])
def test_a_name_that_differs_only_in_how_it_is_written_is_taken(client, harbor, lab, this_computer, alice, name):
    client.force_login(alice)
    create_cloud_config(harbor, name="Other", kind="local", by=alice)
    Workspace.objects.create(organization=harbor, cloud_config=this_computer, name="Other", region="x", status="ready")
    address = reverse("workspace-settings", args=[lab.uuid])
    assert "Another one has this name." in words(client.post(address, {"name": name}))
    page = words(client.post(reverse("cloud-config", args=[this_computer.uuid]), {"name": name}))
    assert "There is a cloud configuration of this name." in page
    page = words(client.post(reverse("new-cloud-config"), {"name": name, "kind": "local"}))
    assert "There is a cloud configuration of this name." in page


def test_of_two_who_take_one_name_at_once_the_second_reads_a_sentence(harbor, lab, this_computer, alice):
    """The form has looked before either was saved."""
    Workspace.objects.create(organization=harbor, cloud_config=this_computer, name="Taken", region="x", status="ready")
    with pytest.raises(Taken, match="There is one of this name already"):
        rename(lab, "taken", by=alice)
    lab.refresh_from_db()
    assert lab.name == "lab"


def test_a_row_may_change_how_its_own_name_is_written(client, lab, alice):
    client.force_login(alice)
    client.post(reverse("workspace-settings", args=[lab.uuid]), {"name": "LAB"})
    lab.refresh_from_db()
    assert lab.name == "LAB"


def test_of_this_computer_the_name_is_all_that_can_be_changed(client, this_computer, alice):
    client.force_login(alice)
    address = reverse("cloud-config", args=[this_computer.uuid])
    page = words(client.get(address))
    assert "is decided by whoever runs the portal" in page
    assert "is changed: name." in words(client.post(address, {"name": "Here", "root": "/etc"}, follow=True))
    this_computer.refresh_from_db()
    assert (this_computer.name, this_computer.options, this_computer.check_asked) == ("Here", {}, None)
    entry = AuditEvent.objects.get(verb="changed")
    assert (entry.before, entry.after) == ({"name": "This computer"}, {"name": "Here"})
    client.post(address, {"name": "Here"})
    assert AuditEvent.objects.filter(verb="changed").count() == 1, "nothing was different"


class OtherForm(forms.CloudConfigForm):
    kind = CloudConfig.Kind.LOCAL
    about = "workspaces/_about_local.html"
    sealed = ("secret",)
    tenant_id = CharField()
    secret = CharField()

    @property
    def options(self):
        return {"tenant_id": self.cleaned_data["tenant_id"]}

    @property
    def credentials(self):
        return self.cleaned_data["secret"]


@pytest.fixture
def theirs(harbor, alice, monkeypatch):
    monkeypatch.setattr(forms, "CONFIG_FORMS", [OtherForm])
    options = {"tenant_id": "t-1", "kept": True}
    return create_cloud_config(harbor, name="Ours", kind="local", by=alice, options=options, credentials="s3cret")


def test_options_of_a_kind_are_changed_on_its_page_and_compared_by_value(client, theirs, alice):
    client.force_login(alice)
    address = reverse("cloud-config", args=[theirs.uuid])
    page = words(client.get(address))
    assert 'value="t-1"' in page
    assert "s3cret" not in page
    client.post(address, {"name": "Ours", "tenant_id": "t-2", "secret": ""})
    theirs.refresh_from_db()
    assert theirs.options == {"tenant_id": "t-2", "kept": True}
    assert unseal(theirs, "credentials") == "s3cret", "an empty field leaves them"
    assert theirs.check_asked, "its account is asked anew"
    entry = AuditEvent.objects.get(verb="changed")
    assert (entry.before, entry.after) == ({"tenant id": "t-1"}, {"tenant id": "t-2"})
    client.post(address, {"name": "Ours", "tenant_id": "t-2", "secret": "s3cret"})
    assert AuditEvent.objects.filter(verb="changed").count() == 1, "nothing was different"


def test_credentials_are_replaced_and_shown_nowhere(client, theirs, alice):
    client.force_login(alice)
    address = reverse("cloud-config", args=[theirs.uuid])
    said = words(client.post(address, {"name": "Ours", "tenant_id": "t-1", "secret": "n3w"}, follow=True))
    assert "Ours is changed: credentials." in said
    assert "n3w" not in said
    theirs.refresh_from_db()
    assert unseal(theirs, "credentials") == "n3w"
    entry = AuditEvent.objects.get(verb="changed")
    assert (entry.before, entry.after) == ({}, {"credentials": "others"})
    assert "n3w" not in words(client.post(address, {"name": "", "tenant_id": "t-1", "secret": "n3w"}))


def test_credentials_that_no_key_opens_any_more_can_be_given_again(client, theirs, alice):
    CloudConfig.objects.filter(pk=theirs.pk).update(credentials="v1:of another key:AAAA")
    client.force_login(alice)
    client.post(reverse("cloud-config", args=[theirs.uuid]), {"name": "Ours", "tenant_id": "t-1", "secret": "s3cret"})
    theirs.refresh_from_db()
    assert unseal(theirs, "credentials") == "s3cret"


def test_a_configuration_that_was_deleted_meanwhile_is_not_changed(theirs, alice):
    delete_cloud_config(theirs, by=alice)
    with pytest.raises(Conflict, match="was deleted"):
        change_cloud_config(theirs, name="Ours", credentials="n3w", by=alice)


def test_a_cloud_configuration_is_deleted_when_no_workspace_uses_it(client, harbor, lab, this_computer, alice):
    client.force_login(alice)
    address = reverse("delete-cloud-config", args=[this_computer.uuid])
    page = words(client.get(address))
    assert "Delete the workspaces that use it first." in page
    assert reverse("delete-workspace", args=[lab.uuid]) in page
    assert client.post(address, {"name": "This computer"}).status_code == 200
    Workspace.objects.filter(pk=lab.pk).update(status="terminated")
    assert "Delete cloud configuration" in words(client.get(address))
    assert "is deleted" in words(client.post(address, {"name": "This computer"}, follow=True))
    assert not CloudConfig.objects.live().exists()
    assert client.get(reverse("cloud-config", args=[this_computer.uuid])).status_code == 404
    assert create_cloud_config(harbor, name="This Computer", kind="local", by=alice)  # the name is free


def test_no_workspace_is_made_by_a_cloud_configuration_that_goes(harbor, lab, this_computer, alice, rings):
    with pytest.raises(PortalError, match="Delete the workspaces"):
        delete_cloud_config(this_computer, by=alice)
    Workspace.objects.filter(pk=lab.pk).update(status="terminated")
    delete_cloud_config(this_computer, by=alice)
    delete_cloud_config(this_computer, by=alice)  # somebody else did it first
    with pytest.raises(Conflict, match="was deleted"):
        create_workspace(harbor, name="late", cloud_config=this_computer, region="x", by=alice)
    assert AuditEvent.objects.filter(verb="deleted", kind="cloud config").count() == 1


def test_the_last_admin_of_a_workspace_cannot_step_down_or_go(client, lab, alone, bob):
    client.force_login(alone)
    role = reverse("change-workspace-person", args=[lab.uuid, alone.uuid])
    gone = reverse("remove-workspace-person", args=[lab.uuid, alone.uuid])
    page = words(client.post(role, {"role": "viewer", "sure": "yes"}, follow=True))
    assert "The workspace would have no admin left." in page
    assert "The last admin of a workspace stays." in words(client.get(gone))
    assert "The workspace would have no admin left." in words(client.post(gone, follow=True))
    assert lab.members.get(user=alone).role == "admin"
    bobs = reverse("change-workspace-person", args=[lab.uuid, bob.uuid])
    client.post(bobs, {"role": "admin"})
    client.post(role, {"role": "viewer", "sure": "yes"})
    assert lab.members.get(user=alone).role == "viewer"


def test_an_admin_of_the_organization_may_take_the_last_admin_away(client, lab, alone, alice):
    client.force_login(alice)
    client.post(reverse("remove-workspace-person", args=[lab.uuid, alone.uuid]))
    assert not lab.members.filter(user=alone).exists()


def test_whoever_lowers_themselves_is_asked_first(client, lab, wanda, bob):
    client.force_login(wanda)
    own = reverse("change-workspace-person", args=[lab.uuid, wanda.uuid])
    asked = words(client.post(own, {"role": "viewer"}))
    assert "Give up being admin of lab?" in asked
    assert lab.members.get(user=wanda).role == "admin"
    client.post(own, {"role": "viewer", "sure": "yes"})
    assert lab.members.get(user=wanda).role == "viewer"


def test_others_are_lowered_without_a_question(client, lab, alice, bob):
    client.force_login(alice)
    client.post(reverse("change-workspace-person", args=[lab.uuid, bob.uuid]), {"role": "viewer"})
    assert lab.members.get(user=bob).role == "viewer"


def test_a_cloud_that_does_not_answer_is_said_at_its_field(client, harbor, this_computer, alice, monkeypatch):
    """It answered when the form was made, and does not when it is sent."""
    client.force_login(alice)
    account = this_computer.account
    asked = []

    class Silent(AccountOf):
        def regions(self):
            asked.append(1)
            if len(asked) > 1:
                raise Passing("The cloud does not answer.", advice="Try again in a minute.")
            return account.regions()

    monkeypatch.setattr(CloudConfig, "account", Silent(MemoryCloud()))
    region = account.regions()[0].name
    fields = {"name": "bay", "cloud_config": this_computer.uuid, "region": region}
    answer = client.post(reverse("new-workspace"), fields)
    assert answer.status_code == 200
    assert "The cloud does not answer. Try again in a minute." in words(answer)
    assert not Workspace.objects.filter(name="bay").exists()
