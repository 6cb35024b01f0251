"""The people of an organization and of a workspace: who sees them, and who changes what."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from accounts.actions import invite_people
from accounts.models import AuditEvent, Membership, User
from tests.web import words
from workspaces.models import WorkspaceMember


def quiet_for(user, days):
    at = now() - timedelta(days=days)
    User.objects.filter(pk=user.pk).update(last_login=at, date_joined=at)


def test_states_are_told(client, lab, alice, bob, vera):
    quiet_for(bob, 103)
    quiet_for(vera, 82)
    client.force_login(alice)
    page = words(client.get("/people/"))
    rows = {name: page.split(f"{name}@example.org</a>")[1].split("</tr>")[0] for name in ("alice", "bob", "vera")}
    assert "LOCKED" in rows["bob"]
    assert "Unlock" in rows["bob"]
    assert "GOING DORMANT" in rows["vera"]
    assert "locks in 7 days" in rows["vera"] or "locks in 8 days" in rows["vera"]
    assert "LOCKED" not in rows["alice"]
    assert "DORMANT" not in rows["alice"]


def test_finding(client, lab, alice, bob):
    client.force_login(alice)
    for query, found in (
        ("q=BOB", {"bob"}),
        ("role=admin", {"alice"}),
        ("q=zzz", set()),
        ("", {"alice", "bob", "vera"}),
    ):
        page = client.get(f"/people/?{query}").content.decode()
        names = {name for name in ("alice", "bob", "vera") if f">{name}@example.org</a>" in page}
        assert names == found, query
    assert "Nobody is found" in client.get("/people/?q=zzz").content.decode()


def listed(page):
    """The people in the table of a page."""
    table = page.content.decode().partition("<tbody")[2].partition("</tbody>")[0]
    return set(re.findall(r"(\w+)@example.org<", table))


def test_finding_who_is_locked_and_who_will_be(client, lab, alice, bob, vera):
    quiet_for(bob, 103)
    quiet_for(vera, 82)
    client.force_login(alice)
    for path in ("/people/", reverse("workspace-people", args=[lab.uuid])):
        assert listed(client.get(path, {"state": "locked"})) == {"bob"}
        assert listed(client.get(path, {"state": "dormant"})) == {"vera"}
    client.force_login(User.objects.get(pk=vera.pk))
    page = client.get(reverse("workspace-people", args=[lab.uuid]), {"state": "locked"})
    assert 'name="state"' not in page.content.decode()
    assert listed(page) == {"alice", "bob", "vera"}, "who only looks is not told who is locked"


def test_finding_in_a_workspace(client, lab, alice, bob, vera):
    client.force_login(vera)
    path = reverse("workspace-people", args=[lab.uuid])
    for query, found in (("q=BO", {"bob"}), ("role=viewer", {"vera"}), ("q=nobody", set())):
        page = client.get(f"{path}?{query}")
        assert listed(page) == found, query
    assert "Nobody is found by that" in page.content.decode()


def test_how_people_sign_in_is_told(client, harbor, alice, bob):
    Authenticator.objects.create(user=bob, type="totp", data={})
    SocialAccount.objects.create(user=bob, provider="sso", uid="1")
    client.force_login(alice)
    page = words(client.get("/people/"))
    rows = {name: page.split(f"{name}@example.org</a>")[1].split("</tr>")[0] for name in ("alice", "bob")}
    assert "password only" in rows["alice"]
    assert "authenticator app" in rows["bob"]
    assert "single sign-on" in rows["bob"]
    assert "password only" not in rows["bob"]


def test_many_people_come_in_pages_with_as_many_queries_as_few(
    client, harbor, lab, alice, django_assert_max_num_queries
):
    client.force_login(alice)
    client.get("/people/")
    with django_assert_max_num_queries(8) as few:
        client.get("/people/")
    for n in range(120):
        user = User.objects.create_user(f"p{n:03}@example.org", name=f"P{n}")
        quiet_for(user, n)  # some are near the day on which they are locked
        Membership.objects.create(organization=harbor, user=user)
        WorkspaceMember.objects.create(workspace=lab, user=user, role="viewer")
    invite_people(harbor, [f"i{n}@example.org" for n in range(20)], by=alice)
    invite_people(harbor, [f"w{n}@example.org" for n in range(20)], by=alice, workspace=lab, workspace_role="user")
    with django_assert_max_num_queries(8) as many:
        page = client.get("/people/?q=p&page=2").content.decode()
    assert len(many) == len(few)
    assert "Page 2</span>" in page
    assert "q=p&amp;page=3" in page
    place = reverse("workspace-people", args=[lab.uuid])
    with django_assert_max_num_queries(13):
        assert "Page 1</span>" in client.get(place).content.decode()
    number = harbor.memberships.count()
    pages = -(-number // 15)
    last = client.get(f"/people/?page={pages}").content.decode()
    assert f"Page {pages}, the last" in last
    assert f"{number} people" in last
    for asked in (f"{pages + 1}", "0", "-1", "x", "9" * 5000, "²", ""):
        page = client.get("/people/", {"page": asked})
        assert page.status_code == 200
        assert ("To the first" in page.content.decode()) == (asked[:2] in {f"{pages + 1}", "99"})


def test_the_table_of_roles_says_what_the_access_table_says(client, alice):
    client.force_login(alice)
    page = words(client.get("/people/"))
    row = page.split("Run jobs, cancel runs")[1].split("</tr>")[0]
    assert [">no<" in cell for cell in row.split("</td>")[:4]] == [True, False, False, True]


def test_a_role_is_changed_and_audited(client, harbor, alice, bob):
    client.force_login(alice)
    client.post(reverse("person", args=[bob.uuid]), {"role": "admin"})
    assert harbor.memberships.get(user=bob).role == "admin"
    event = AuditEvent.objects.get()
    assert (event.verb, event.subject, event.before, event.after) == (
        "role changed", bob.uuid, {"role": "member"}, {"role": "admin"},
    )  # fmt: skip
    assert client.post(reverse("person", args=[bob.uuid]), {"role": "king"}).context["form"].errors


def test_an_admin_unlocks_and_says_why(client, harbor, alice, bob):
    quiet_for(bob, 103)
    client.force_login(alice)
    path = reverse("unlock-person", args=[bob.uuid])
    assert client.post(path, {"reason": " "}).context["reason"].errors
    assert User.objects.get(pk=bob.pk).is_locked
    client.post(path, {"reason": "back from leave"})
    assert not User.objects.get(pk=bob.pk).is_locked
    event = AuditEvent.objects.get()
    assert (event.verb, event.subject, event.after) == ("unlocked", bob.uuid, {"reason": "back from leave"})
    assert str(event.chain.organization) == str(harbor.uuid)
    client.post(path, {"reason": "again"})
    assert AuditEvent.objects.count() == 1


def test_a_stolen_session_unlocks_nobody(harbor, alice, bob):
    """Signed in long ago, the admin types the password; then what was asked for is done."""
    quiet_for(bob, 103)
    client = Client()
    client.force_login(alice)
    answer = client.post(reverse("unlock-person", args=[bob.uuid]), {"reason": "back from leave"})
    assert answer.url.startswith(reverse("account_reauthenticate"))
    assert User.objects.get(pk=bob.pk).is_locked
    answer = client.post(answer.url, {"password": "not this one"})
    assert User.objects.get(pk=bob.pk).is_locked
    answer = client.post(answer.wsgi_request.get_full_path(), {"password": "correct horse battery"}, follow=True)
    assert "is unlocked" in answer.content.decode()
    assert not User.objects.get(pk=bob.pk).is_locked


def test_people_of_other_organizations_do_not_exist(client, alice, charlie):
    client.force_login(alice)
    for name in ("person", "remove-person"):
        assert client.get(reverse(name, args=[charlie.uuid])).status_code == 404
    assert client.post(reverse("unlock-person", args=[charlie.uuid]), {"reason": "x"}).status_code == 404


def test_people_of_a_workspace_are_seen_by_all_in_it_and_changed_by_its_admins(client, lab, alice, bob, vera):
    page = reverse("workspace-people", args=[lab.uuid])
    role = reverse("change-workspace-person", args=[lab.uuid, vera.uuid])
    client.force_login(vera)
    text = client.get(page).content.decode()
    assert "bob@example.org" in text
    assert "Send invitations" not in text
    assert "Last seen" not in text
    assert client.post(role, {"role": "admin"}).status_code == 403
    client.force_login(alice)
    client.post(role, {"role": "user"})
    assert lab.members.get(user=vera).role == "user"
    client.post(role, {"role": "king"})
    assert lab.members.get(user=vera).role == "user"
    event = AuditEvent.objects.get()
    assert (event.workspace, event.before, event.after) == (lab.uuid, {"role": "viewer"}, {"role": "user"})


def test_removing_somebody_from_a_workspace_leaves_them_in_the_organization(client, lab, harbor, alice, vera):
    client.force_login(alice)
    path = reverse("remove-workspace-person", args=[lab.uuid, vera.uuid])
    assert client.get(path).status_code == 200
    assert lab.members.filter(user=vera).exists()
    assert client.post(path).url == reverse("workspace-people", args=[lab.uuid])
    assert not lab.members.filter(user=vera).exists()
    assert harbor.memberships.filter(user=vera).exists()
    client.force_login(vera)
    assert client.get(reverse("workspace-people", args=[lab.uuid])).status_code == 404


@pytest.mark.parametrize("name", ["change-workspace-person", "remove-workspace-person"])
def test_somebody_who_is_not_in_the_workspace_cannot_be_changed_there(client, lab, alice, charlie, name):
    client.force_login(alice)
    assert client.post(reverse(name, args=[lab.uuid, charlie.uuid]), {"role": "user"}).status_code == 404


def test_whoever_gets_another_role_is_told_unless_they_do_not_want_to_know(
    client, lab, alice, bob, vera, django_capture_on_commit_callbacks
):
    User.objects.filter(pk=vera.pk).update(notify_membership=False)
    client.force_login(alice)
    with django_capture_on_commit_callbacks(execute=True):
        for user in (bob, vera):
            client.post(reverse("change-workspace-person", args=[lab.uuid, user.uuid]), {"role": "admin"})
            client.post(reverse("person", args=[user.uuid]), {"role": "admin"})
            client.post(reverse("remove-workspace-person", args=[lab.uuid, user.uuid]))
    assert {letter.to[0] for letter in mail.outbox} == {"bob@example.org"}
    assert [letter.body.split("\n")[0] for letter in mail.outbox] == [
        "You are admin of the workspace lab now, and were user.",
        "You are admin of Harbor Analytics now, and were member.",
        "You are no longer in the workspace lab.",
    ]


def test_invitations_beyond_the_first_have_pages_and_are_found_by_address(client, harbor, alice):
    invite_people(harbor, [f"guest{n:02}@example.org" for n in range(60)], by=alice)
    client.force_login(alice)
    page = words(client.get("/people/"))
    assert "5 and more" in page
    assert "guest04@" in page
    assert "guest05@" not in page
    assert 'href="?state=invited"' in page
    seen = [client.get("/people/", {"state": "invited", "page": n}).content.decode() for n in (1, 2, 4)]
    assert [sorted(set(re.findall(r"guest(\d\d)@", page)))[0] for page in seen] == ["00", "15", "45"]
    assert "Page 4, the last" in seen[2]
    assert "guest59@" in seen[2]
    assert "alice@example.org" not in seen[0].split("<main")[1], "she is not invited, she is in"
    page = client.get("/people/", {"q": "GUEST59"}).content.decode()
    assert "guest59@" in page
    assert "and more" not in page
