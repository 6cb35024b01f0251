"""Which organization one is in, and what can be done with it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.timezone import now

from accounts.access import OrganizationRole
from accounts.actions import LAST_ADMIN, change_role, delete_organization, invite_people, remove_member
from accounts.models import ApiToken, AuditEvent, Membership, Organization, User
from clusters.models import Cluster, EngineVersion
from jobs.actions import create_job
from portal.errors import PortalError
from tests.pages.test_pages import Page
from workspaces.models import CloudConfig, Workspace


@pytest.fixture
def both(harbor, alice, elsewhere):
    """alice is an admin of two organizations, and in Harbor Analytics first."""
    Membership.objects.create(organization=elsewhere, user=alice, role=OrganizationRole.ADMIN)
    return alice


def switch(client, organization):
    return client.post("/organizations/switch/", {"organization": str(organization.uuid)})


def test_one_is_in_the_first_organization_until_one_switches(client, both, elsewhere):
    client.force_login(both)
    assert "Harbor Analytics" in client.get("/").content.decode().split("</summary>")[0]
    assert switch(client, elsewhere).url == "/"
    for path in ("/", "/workspaces/", "/organization/", "/people/"):
        assert "Elsewhere" in client.get(path).content.decode().split("</summary>")[0]


def test_the_bar_lists_the_others(client, both, harbor, elsewhere):
    client.force_login(both)
    page = client.get("/").content.decode()
    assert f'value="{elsewhere.uuid}"' in page
    assert f'value="{harbor.uuid}"' not in page


def test_one_cannot_switch_to_where_one_is_not(client, alice, elsewhere):
    client.force_login(alice)
    for wrong in (str(elsewhere.uuid), "", "nonsense"):
        assert client.post("/organizations/switch/", {"organization": wrong}).url == "/organizations/"
    assert "Elsewhere" not in client.get("/").content.decode()


def test_forms_of_a_tab_that_is_left_behind_do_nothing_and_say_so(client, both, harbor, elsewhere, bob):
    """Walks every form of every page of the organization, as alice sees them, after she has switched away."""
    CloudConfig.objects.create(organization=harbor, name="here", kind="local")
    CloudConfig.objects.create(organization=elsewhere, name="there", kind="local")
    invite_people(harbor, ["nina@example.org"], by=both)
    User.objects.filter(pk=bob.pk).update(date_joined=now() - timedelta(days=100))  # locked: there is a form to unlock
    Membership.objects.filter(user=bob).update(role=OrganizationRole.ADMIN)  # else the last one is not asked to leave
    client.force_login(both)
    pages = [
        "/cloud-configurations/new/", "/workspaces/new/", "/organization/settings/", "/organization/leave/", "/people/",
        reverse("person", args=[bob.uuid]), reverse("remove-person", args=[bob.uuid]), "/",
        "/organization/", "/workspaces/", "/cloud-configurations/", "/organizations/",
    ]  # fmt: skip
    walked = set()
    rows = {"verb": AuditEvent.objects.count(), "people": Membership.objects.count()}
    for path in pages:
        switch(client, harbor)
        body = client.get(path).content.decode()
        switch(client, elsewhere)
        for tag, inside in re.findall(r"(<form[^>]*>)(.*?)</form>", body, re.DOTALL):
            action = (re.search(r'action="([^"]+)"', tag) or ["", path])[1]
            if 'method="post"' not in tag or action in ("/accounts/logout/", "/organizations/switch/"):
                continue
            hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', inside))
            assert hidden.get("in_organization") == str(harbor.uuid), (path, action)
            filled = {"name": "New name", "kind": "local", "emails": "x@example.org", "role": "admin", "reason": "x"}
            for to in re.findall(r'formaction="([^"]+)"', inside) or [action]:
                answer = client.post(to, {**filled, **hidden})
                assert answer.status_code == 409, (path, to)
                text = answer.content.decode()
                assert "You have switched to Elsewhere in another tab" in text
                assert "Switch back to Harbor Analytics" in text
                walked.add(to)
    assert len(walked) == 10
    assert rows == {"verb": AuditEvent.objects.count(), "people": Membership.objects.count()}
    assert not Organization.objects.filter(name="New name").exists()


def test_every_page_of_an_organization_with_a_form_is_walked_above():
    """An address without a workspace that takes a POST is in the list, or says here why not."""
    from tests.doors import ROWS
    from tests.test_doors import ADDRESSES

    free = {
        "healthz", "readyz", "profile", "delete-profile",
        "new-organization", "switch-organization",  # act on no organization that one is in
        "delete-organization",  # its form shows only in an empty one; its own test
    }  # fmt: skip
    org_level = {name for name, row in ROWS.items() if row.post and row.about in (None, "person", "invitation")} - free
    assert org_level == {
        "new-cloud-config", "new-workspace", "new-token", "organization-settings", "leave-organization", "people",
        "person",
        "unlock-person", "remove-person", "resend-invitation", "withdraw-invitation",
    }  # fmt: skip
    assert all(name in ADDRESSES for name in org_level)


def test_deleting_from_a_tab_that_is_left_behind(client, both, harbor, elsewhere):
    client.force_login(both)
    stale = Page(client.get("/organization/delete/"))
    assert ("post", "") in stale.forms
    assert f'name="in_organization" value="{harbor.uuid}"' in client.get("/organization/delete/").content.decode()
    switch(client, elsewhere)
    answer = client.post("/organization/delete/", {"in_organization": str(harbor.uuid), "name": "Elsewhere"})
    assert answer.status_code == 409
    elsewhere.refresh_from_db()
    assert not elsewhere.deleted


def test_whoever_is_in_no_organization_is_told_what_to_do(client, db, settings):
    client.force_login(User.objects.create_user("nina@example.org", "x"))
    page = client.get("/", follow=True).content.decode()
    assert "You are in no organization" in page
    assert "/organizations/new/" in page
    settings.OPEN_ORGANIZATIONS = False
    page = client.get("/workspaces/", follow=True).content.decode()
    assert "invitation" in page
    assert "/organizations/new/" not in page.split("<main")[1]
    assert client.get("/organizations/new/").status_code == 403


def test_whoever_makes_an_organization_is_its_admin_and_in_it(client, alice, bob):
    client.force_login(bob)
    assert client.post("/organizations/new/", {"name": "Bob's"}).url == "/"
    made = Organization.objects.get(name="Bob's")
    assert made.memberships.get().user == bob
    assert "Bob&#x27;s" in client.get("/organization/").content.decode()
    assert AuditEvent.objects.get(chain__organization=made.uuid).verb == "created"


def test_renaming(client, harbor, alice):
    client.force_login(alice)
    answer = client.post("/organization/settings/", {"name": ""})
    assert answer.context["form"].errors
    client.post("/organization/settings/", {"name": "Harbour"})
    harbor.refresh_from_db()
    assert harbor.name == "Harbour"
    event = AuditEvent.objects.get()
    assert (event.before, event.after) == ({"name": "Harbor Analytics"}, {"name": "Harbour"})


def test_a_member_sees_that_the_organization_exists_and_no_people(client, lab, alice, bob):
    lab.members.filter(user=bob).delete()
    client.force_login(bob)
    page = client.get("/organization/").content.decode()
    assert "Harbor Analytics" in page
    assert "alice" not in page
    assert "lab" not in page.split("<main")[1].replace("aria-label", "")
    assert client.get("/people/").status_code == 403


def test_the_last_admin_stays_whatever_is_tried(client, harbor, alice, bob):
    client.force_login(alice)
    mine = harbor.memberships.get(user=alice)
    answer = client.post(reverse("person", args=[alice.uuid]), {"role": "member"})
    assert LAST_ADMIN in answer.context["form"].errors["role"]
    for path in ("/organization/leave/", reverse("remove-person", args=[alice.uuid])):
        body = client.post(path).content.decode()
        assert LAST_ADMIN in body
        assert f'href="{reverse("people")}"' in body.split('class="note note-warn', 1)[1], "it leads to what it says"
    assert harbor.memberships.get(user=alice).role == OrganizationRole.ADMIN
    change_role(harbor.memberships.get(user=bob), OrganizationRole.ADMIN, by=alice)
    # Both pages were open while there were two; what was read then does not count.
    his = harbor.memberships.get(user=bob)
    change_role(mine, OrganizationRole.MEMBER, by=bob)
    for act in (lambda: change_role(his, OrganizationRole.MEMBER, by=alice), lambda: remove_member(his, by=alice)):
        with pytest.raises(PortalError, match="last admin"):
            act()


@pytest.fixture
def busy(lab, harbor, bob, monkeypatch, rings):
    """bob has a run going on and a token."""
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1,
        engine_version=EngineVersion.objects.get(kind="mpi"), status="running",
    )  # fmt: skip
    place = {"cluster": cluster, "git_url": "https://e.org/x", "reference": "", "command": "a.py"}
    _, run = create_job(lab, name="climate", by=bob, **place)
    token = ApiToken.objects.create(
        name="ci", organization=harbor, workspace=lab, role="user", owner=bob, secret_hash="x"
    )
    return run, token


def test_removing_somebody_shows_what_goes_and_takes_it(client, lab, harbor, alice, bob, vera, busy):
    run, token = busy
    invite_people(harbor, ["bob@example.org"], by=alice)
    client.force_login(alice)
    path = reverse("remove-person", args=[bob.uuid])
    page = client.get(path).content.decode()
    for said in ("workspace lab", "API token ci", str(run)):
        assert said in page
    assert not run.last_task.cancel_asked
    assert client.post(path).url == "/people/"
    token.refresh_from_db()
    assert run.last_task.cancel_asked
    assert token.revoked
    assert not harbor.memberships.filter(user=bob).exists()
    assert not lab.members.filter(user=bob).exists()
    assert lab.members.filter(user=vera).exists()
    event = AuditEvent.objects.get(verb="removed")
    assert event.before == {"role": "member", "workspaces": {"lab": "user"}}
    assert event.after == {"tokens revoked": 1, "cancelled": [str(run)]}
    client.force_login(bob)
    assert "You are in no organization" in client.get("/", follow=True).content.decode()
    assert client.get(reverse("clusters", args=[lab.uuid])).status_code == 404


def test_leaving(client, harbor, lab, alice, bob, busy):
    client.force_login(bob)
    assert "climate" in client.get("/organization/leave/").content.decode()
    assert client.post("/organization/leave/").url == "/organizations/"
    assert not harbor.memberships.filter(user=bob).exists()
    assert AuditEvent.objects.filter(verb="left").count() == 1


def test_deleting_ones_account_ends_what_one_has_running(client, harbor, lab, bob, busy):
    run, _ = busy
    client.force_login(bob)
    page = client.get("/profile/delete/").content.decode()
    assert str(run) in page
    assert "API token ci" in page
    client.post("/profile/delete/", {"password": "correct horse battery"})
    assert not User.objects.filter(pk=bob.pk).exists()
    assert run.last_task.cancel_asked
    cancelled = AuditEvent.objects.get(verb="cancelled")
    assert (cancelled.actor_name, cancelled.subject_name) == ("bob@example.org", str(run))


def test_the_overview_shows_what_goes_on_to_those_who_may_see_it(client, lab, alice, bob, busy):
    run, _ = busy
    client.force_login(alice)
    page = client.get("/organization/").content.decode()
    assert str(run) in page
    assert "tide" in page
    lab.members.filter(user=alice).delete()  # still an admin of the organization
    page = client.get("/organization/").content.decode()
    assert str(run) not in page
    assert "lab" in page


def test_only_an_empty_organization_is_deleted_and_then_nobody_is_in_it(client, lab, harbor, alice, bob, vera):
    client.force_login(alice)
    page = client.get("/organization/delete/").content.decode()
    for reason in (
        "Workspace lab is still there", "Cloud configuration This computer is in use", "2 other people are in it",
    ):  # fmt: skip
        assert reason in page
    with pytest.raises(PortalError, match="lab"):
        delete_organization(harbor, by=alice)
    Workspace.objects.update(status="terminated")
    for user in (bob, vera):
        remove_member(harbor.memberships.get(user=user), by=alice)
    assert client.post("/organization/delete/", {"name": "harbor"}).context["form"].errors
    assert client.post("/organization/delete/", {"name": "Harbor Analytics"}).url == "/organizations/"
    harbor.refresh_from_db()
    assert harbor.deleted
    assert not harbor.memberships.exists()
    assert client.get(reverse("workspace-people", args=[lab.uuid])).status_code == 404
    assert "You are in no organization" in client.get("/", follow=True).content.decode()
    assert AuditEvent.objects.get(verb="deleted").actor == alice.uuid


def test_pages_of_a_workspace_of_another_organization_lead_back_to_that_one(client, both, lab, elsewhere, harbor):
    client.force_login(both)
    switch(client, elsewhere)
    page = Page(client.get(reverse("workspace-people", args=[lab.uuid])))
    assert ("post", "/organizations/switch/") in page.forms


def test_an_admin_asks_everybody_for_a_second_factor(client, harbor, alice, bob):
    client.force_login(alice)
    client.post("/organization/settings/", {"name": harbor.name, "second_factor_required": "on"})
    harbor.refresh_from_db()
    assert harbor.second_factor_required
    entry = AuditEvent.objects.latest("pk")
    assert (entry.verb, entry.before, entry.after) == (
        "changed", {"second_factor_required": False}, {"second_factor_required": True},
    )  # fmt: skip
    client.force_login(bob)
    assert client.get("/workspaces/").url == "/accounts/security/"
