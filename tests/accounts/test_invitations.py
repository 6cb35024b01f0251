"""From an address to a role: who is invited, what a link is good for, and for how long."""

from __future__ import annotations

import logging
import re

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from accounts.access import OrganizationRole, WorkspaceRole
from accounts.actions import accept_invitation, invite_people, resend_invitation, withdraw_invitation
from accounts.models import AuditEvent, Invitation, Membership, User, digest
from portal.errors import PortalError
from portal.logs import ContextFilter
from workspaces.models import Workspace

PASSWORD = "correct horse battery"


@pytest.fixture
def no_mail(settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"


def link_in(text):
    return re.search(r"http://testserver(/invitations/\S+?/)[\s<]", text)[1]


def invite(client, alice, emails, **fields):
    client.force_login(alice)
    answer = client.post("/people/", {"emails": emails, "organization_role": "member", **fields})
    client.logout()
    return answer


def invited(organization, email, by, **fields):
    (one,) = invite_people(organization, [email], by=by, **fields)
    return one


def test_an_invitation_is_mailed_and_its_token_is_kept_nowhere(client, harbor, alice):
    answer = invite(client, alice, "nina@example.org")
    (letter,) = mail.outbox
    assert letter.to == ["nina@example.org"]
    assert "Harbor Analytics" in letter.subject
    link = link_in(letter.body)
    assert link not in answer.content.decode()
    token = link.split("/")[2]
    assert len(token) >= 43
    row = Invitation.objects.get()
    assert row.token_hash == digest(token)
    assert token not in str(list(AuditEvent.objects.values()))


def test_without_a_mail_server_the_link_is_shown_to_whoever_invites_and_nothing_is_printed(
    client, harbor, alice, no_mail, capfd
):
    shown = invite(client, alice, "nina@example.org").content.decode()
    link = link_in(shown)
    assert "data-copy" in shown
    assert link.split("/")[2] not in "".join(capfd.readouterr())
    client.force_login(alice)
    assert link not in client.get("/people/").content.decode()
    client.logout()
    assert client.get(link, follow=True).status_code == 200


def test_a_mail_server_that_refuses_leaves_the_link(client, harbor, alice, monkeypatch):
    def refuse(*args):
        raise ConnectionRefusedError

    monkeypatch.setattr("accounts.actions.send_mail", refuse)
    assert link_in(invite(client, alice, "nina@example.org").content.decode())


def test_somebody_new_makes_an_account_and_lands_in_the_workspace(client, lab, alice):
    invite(client, alice, "Nina@Example.org", workspace=str(lab.uuid), role="user")
    page = client.get(link_in(mail.outbox[0].body), follow=True)
    text = page.content.decode()
    assert "lab" in text
    assert "Harbor Analytics" in text
    assert "alice@example.org" in text
    assert page["Cache-Control"] == "no-store"
    answer = client.post("/invitation/", {"name": "Nina", "password": "short"})
    assert answer.context["form"].errors["password"]
    assert 'value="Nina"' in answer.content.decode()
    assert not User.objects.filter(email="nina@example.org").exists()
    answer = client.post("/invitation/", {"name": "Nina", "password": "blue tractor sings"})
    assert answer.url == reverse("workspace", args=[lab.uuid])
    nina = User.objects.get(email="nina@example.org")
    assert nina.emailaddress_set.get().verified
    assert Membership.objects.get(user=nina).role == OrganizationRole.MEMBER
    assert lab.members.get(user=nina).role == WorkspaceRole.USER
    assert client.get(answer.url).status_code == 302
    assert client.get(reverse("clusters", args=[lab.uuid])).status_code == 200
    client.logout()
    assert client.post("/accounts/login/", {"login": nina.email, "password": "blue tractor sings"}).status_code == 302


@pytest.mark.parametrize(
    ("said", "kept"),
    [("Asia/Tokyo", "Asia/Tokyo"), ("Mars/Base", "UTC"), ("../../etc/passwd", "UTC"), ("\0", "UTC"), ("", "UTC")],
)
def test_the_time_zone_of_the_browser_is_the_new_persons_where_there_is_such_a_one(client, harbor, alice, said, kept):
    invite(client, alice, "nina@example.org")
    client.get(link_in(mail.outbox[0].body))
    client.post("/invitation/", {"name": "Nina", "password": "blue tractor sings", "time_zone": said})
    assert User.objects.get(email="nina@example.org").time_zone == kept


def test_somebody_with_an_account_signs_in_and_then_accepts(client, harbor, alice, charlie):
    charlie.emailaddress_set.create(email=charlie.email, verified=True, primary=True)
    invite(client, alice, "charlie@example.org")
    page = client.get(link_in(mail.outbox[0].body), follow=True).content.decode()
    assert 'name="password"' not in page
    client.post("/invitation/", {"name": "C", "password": "blue tractor sings"})
    assert not harbor.memberships.filter(user=charlie).exists()
    sign_in = re.search(r'href="(/accounts/login/[^"]+)"', page)[1]
    assert "invitations" not in sign_in
    answer = client.post(sign_in, {"login": charlie.email, "password": PASSWORD, "next": "/invitation/"})
    assert answer.url == "/invitation/"
    assert "Accept" in client.get(answer.url).content.decode()
    assert not harbor.memberships.filter(user=charlie).exists()
    assert client.post("/invitation/").url == "/"
    assert harbor.memberships.get(user=charlie).role == OrganizationRole.MEMBER
    assert "Harbor Analytics" in client.get("/").content.decode()


def test_whoever_is_signed_in_with_another_address_is_told_and_can_sign_out(client, harbor, alice, bob, charlie):
    invite(client, alice, "charlie@example.org")
    client.force_login(bob)
    page = client.get(link_in(mail.outbox[0].body), follow=True).content.decode()
    assert "You are signed in as <strong>bob@example.org</strong>" in page
    client.post("/invitation/")
    assert not Invitation.objects.exclude(accepted=None).exists()
    page = client.post("/invitation/", {"sign-out": "yes"}, follow=True).content.decode()
    assert "Sign in with it" in page
    assert "_auth_user_id" not in client.session


def test_who_is_in_already_and_who_is_invited_already_get_a_sentence_and_no_second_invitation(client, lab, alice, bob):
    text = invite(client, alice, "BOB@example.org\nnina@example.org, NINA@example.org").content.decode()
    assert "is in Harbor Analytics already, as member" in text
    assert Invitation.objects.count() == len(mail.outbox) == 1
    assert "has an invitation already" in invite(client, alice, "Nina@Example.ORG").content.decode()
    text = invite(client, alice, "bob@example.org", workspace=str(lab.uuid), role="viewer").content.decode()
    assert "is in lab already, as user" in text
    assert Invitation.objects.count() == 1


def test_a_second_verified_address_is_the_same_person(harbor, alice, bob):
    bob.emailaddress_set.create(email="Bob@Home.example", verified=True)
    assert invited(harbor, "bob@home.example", alice).invitation is None


def test_wrong_addresses_are_named_and_nothing_is_lost_or_sent(client, harbor, alice):
    answer = invite(client, alice, "nina@example.org\nnot-an-address")
    text = answer.content.decode()
    assert "This is no e-mail address: not-an-address." in text
    assert "nina@example.org\nnot-an-address</textarea>" in text
    assert not Invitation.objects.exists()
    assert not mail.outbox


def dead(client, link):
    answer = client.get(link)
    return answer.status_code == 410


@pytest.mark.parametrize(
    "how", ["unknown", "withdrawn", "sent again", "expired", "workspace deleted", "workspace going",
            "inviter demoted", "inviter removed", "inviter deleted", "inviter switched off"],
)  # fmt: skip
def test_what_ends_an_invitation(client, lab, harbor, alice, bob, how):
    lab.members.filter(user=bob).update(role="admin")
    one = invited(harbor, "nina@example.org", bob, workspace=lab, workspace_role="user")
    link = reverse("invitation-link", args=[one.token])
    assert not dead(client, link)
    match how:
        case "unknown":
            link = reverse("invitation-link", args=[one.token[:-1]])
        case "withdrawn":
            withdraw_invitation(one.invitation, by=alice)
        case "sent again":
            again = resend_invitation(one.invitation, by=alice)
            assert not dead(client, reverse("invitation-link", args=[again.token]))
        case "expired":
            Invitation.objects.update(expires=now())
        case "workspace deleted":
            Workspace.objects.update(status="terminated")
        case "workspace going":
            Workspace.objects.update(status="terminating")
        case "inviter demoted":
            lab.members.filter(user=bob).update(role="user")
        case "inviter removed":
            lab.members.filter(user=bob).delete()
        case "inviter deleted":
            bob.delete()
        case "inviter switched off":
            User.objects.filter(pk=bob.pk).update(is_active=False)
    assert dead(client, link)
    # A page that was open before has nothing to say any more either.
    if how not in ("unknown", "sent again"):
        assert client.post("/invitation/", {"name": "N", "password": "blue tractor sings"}).status_code == 410
        assert not User.objects.filter(email="nina@example.org").exists()
    unknown = client.get(reverse("invitation-link", args=["x"]))
    assert client.get(link).content == unknown.content


def test_an_invitation_works_once(harbor, alice, charlie):
    one = invited(harbor, charlie.email, alice)
    accept_invitation(digest(one.token), by=charlie)
    harbor.memberships.filter(user=charlie).delete()
    with pytest.raises(PortalError, match="used"):
        accept_invitation(digest(one.token), by=charlie)
    assert not harbor.memberships.filter(user=charlie).exists()


def test_an_invitation_is_for_its_address_alone(harbor, alice, charlie):
    one = invited(harbor, "nina@example.org", alice)
    with pytest.raises(PortalError, match=r"for nina@example\.org"):
        accept_invitation(digest(one.token), by=charlie)


def test_to_make_somebody_an_admin_the_inviter_must_still_be_one(harbor, lab, alice, bob):
    Membership.objects.filter(user=bob).update(role="admin")
    lab.members.filter(user=bob).update(role="admin")
    one = invited(harbor, "charlie@example.org", bob, role=OrganizationRole.ADMIN, workspace=lab, workspace_role="user")
    charlie = User.objects.create_user("charlie@example.org", PASSWORD)
    Membership.objects.filter(user=bob).update(role="member")  # still an admin of the workspace
    with pytest.raises(PortalError):
        accept_invitation(digest(one.token), by=charlie)


def test_accepting_raises_roles_and_never_lowers_them(harbor, lab, alice, bob):
    for asked, has in (("viewer", "user"), ("admin", "admin"), ("user", "admin")):
        role = lab.members.get(user=bob)
        lab.members.filter(user=bob).delete()
        one = invited(harbor, bob.email, alice, workspace=lab, workspace_role=asked)
        role.save(force_insert=True)  # somebody gave them a role in the meantime
        accept_invitation(digest(one.token), by=bob)
        assert lab.members.get(user=bob).role == has
    assert harbor.memberships.get(user=bob).role == OrganizationRole.MEMBER


def test_an_expired_invitation_is_made_new_by_inviting_again(harbor, alice):
    first = invited(harbor, "nina@example.org", alice)
    Invitation.objects.update(expires=now())
    second = invited(harbor, "nina@example.org", alice)
    assert second.invitation.pk == first.invitation.pk
    assert second.token != first.token
    assert not second.invitation.has_expired


def test_sending_again_and_withdrawing_from_the_list(client, harbor, alice, settings):
    one = invited(harbor, "nina@example.org", alice)
    client.force_login(alice)
    page = client.get("/people/").content.decode()
    assert "nina@example.org" in page
    client.post(reverse("resend-invitation", args=[one.invitation.uuid]))
    assert dead(client, reverse("invitation-link", args=[one.token]))
    link = link_in(mail.outbox[0].body)
    assert client.get(link).status_code == 302
    client.post(reverse("withdraw-invitation", args=[one.invitation.uuid]))
    assert "nina@example.org is withdrawn" in client.get("/people/").content.decode()
    assert dead(client, link)
    assert list(AuditEvent.objects.values_list("verb", flat=True)) == ["sent", "sent again", "withdrew"]


def test_a_workspace_admin_invites_to_the_workspace_and_not_to_others(client, lab, bob):
    lab.members.filter(user=bob).update(role="admin")
    client.force_login(bob)
    page = reverse("workspace-people", args=[lab.uuid])
    client.post(page, {"emails": "nina@example.org", "role": "viewer"})
    row = Invitation.objects.get()
    assert (row.workspace, row.workspace_role, row.organization_role) == (lab, "viewer", "member")
    assert "nina@example.org" in client.get(page).content.decode()
    assert client.get("/people/").status_code == 403


def test_nobody_signs_up_without_an_invitation_unless_the_portal_is_open(client, db, settings):
    assert b"<form" not in client.get("/accounts/signup/").content
    settings.OPEN_SIGNUP = True
    assert b"password1" in client.get("/accounts/signup/").content


def test_an_invitation_to_a_workspace_that_is_being_deleted_is_no_longer_in_the_list(client, lab, harbor, alice):
    invited(harbor, "nina@example.org", alice, workspace=lab, workspace_role="user")
    client.force_login(alice)
    assert "nina@example.org" in client.get("/people/").content.decode()
    Workspace.objects.update(status="terminating")
    assert "nina@example.org" not in client.get("/people/").content.decode()


def test_what_is_logged_of_a_failure_has_no_token_in_it(harbor, alice):
    one = invited(harbor, "nina@example.org", alice)
    said = "Internal Server Error: %s"
    record = logging.LogRecord("django.request", logging.ERROR, "", 0, said, (f"/invitations/{one.token}/",), None)
    ContextFilter().filter(record)
    assert record.getMessage() == "Internal Server Error: /invitations/…/"
    uuid = f"/invitations/{one.invitation.uuid}/resend/"
    record = logging.LogRecord("django.request", logging.ERROR, "", 0, said, (uuid,), None)
    ContextFilter().filter(record)
    assert uuid in record.getMessage()


# What an old session, and a smaller role, are not enough for


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/people/", {"emails": "nina@example.org", "organization_role": "admin"}),
        ("/people/{bob}/", {"role": "admin"}),
        ("/invitations/{waiting}/resend/", {}),
    ],
)
def test_making_an_admin_of_the_organization_asks_again_who_it_is(harbor, alice, bob, path, fields):
    waiting = invited(harbor, "ada@example.org", alice, role=OrganizationRole.ADMIN).invitation
    address = path.format(bob=bob.uuid, waiting=waiting.uuid)
    before = list(Invitation.objects.values()), list(Membership.objects.values())
    old = Client()
    old.force_login(alice)  # without a word of how long ago that was
    answer = old.post(address, fields)
    assert answer.status_code == 302
    assert answer["Location"].startswith(reverse("account_reauthenticate"))
    assert (list(Invitation.objects.values()), list(Membership.objects.values())) == before
    old.post("/people/", {"emails": "mia@example.org", "organization_role": "member"})
    assert Invitation.objects.filter(email="mia@example.org").exists(), "a member is no such thing"


def test_who_manages_a_workspace_alone_cannot_touch_an_invitation_of_an_admin(client, harbor, alice, bob, lab):
    lab.members.filter(user=bob).update(role=WorkspaceRole.ADMIN)
    theirs = invited(
        harbor, "nina@example.org", alice, role=OrganizationRole.ADMIN, workspace=lab, workspace_role=WorkspaceRole.USER
    )
    client.force_login(bob)
    for act in ("resend", "withdraw"):
        answer = client.post(f"/invitations/{theirs.invitation.uuid}/{act}/", follow=True)
        assert "only admins of it may change that" in answer.content.decode()
    client.logout()
    assert client.get(f"/invitations/{theirs.token}/", follow=True).status_code == 200, "the link works as before"
    member = invited(harbor, "mia@example.org", alice, workspace=lab, workspace_role=WorkspaceRole.USER)
    client.force_login(bob)
    assert client.post(f"/invitations/{member.invitation.uuid}/resend/").status_code == 200


LOOK_ALIKES = (
    "x" * 50 + "@" + "y" * 60 + "." + "z" * 60 + "." + "w" * 60 + "." + "v" * 30 + ".example",  # 270 letters
    "user@a.example\u200b",
    "us\u200ber@a.example",
    "user@\u0430.example",  # a Cyrillic a
    "user@exa\u00admple.org",
    "\u202euser@a.example",
)


@pytest.mark.parametrize("email", LOOK_ALIKES)
def test_an_address_that_is_not_what_it_looks_like_is_refused_in_words(client, harbor, alice, lab, email):
    client.force_login(alice)
    for path, fields in (
        ("/people/", {"emails": email, "organization_role": "member"}),
        (f"/workspaces/{lab.uuid}/people/", {"emails": email, "role": "user"}),
        (reverse("account_email"), {"email": email, "action_add": ""}),
    ):
        answer = client.post(path, fields)
        assert answer.status_code == 200, path
        words = answer.content.decode()
        assert "letters" in words or "valid" in words, path
        assert "\u200b" not in words.replace(email, ""), path
    assert not Invitation.objects.exists()
    assert not EmailAddress.objects.filter(user=alice).exclude(email=alice.email).exists()


def test_a_domain_in_its_ascii_form_is_taken(client, harbor, alice):
    client.force_login(alice)
    client.post("/people/", {"emails": "user@xn--80a.example", "organization_role": "member"})
    assert Invitation.objects.get().email == "user@xn--80a.example"
