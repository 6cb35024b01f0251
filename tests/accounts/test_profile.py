"""What people may say about themselves, see, take away and end."""

from __future__ import annotations

import re

import pytest
import time_machine
from allauth.account.models import EmailAddress
from django.core import mail
from django.core.cache import cache
from django.urls import reverse

from accounts.access import OrganizationRole
from accounts.models import ApiToken, AuditEvent, Membership, Organization, User, digest

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def fresh():
    cache.clear()


@pytest.fixture
def signed_in(client):
    def sign_in(user):
        EmailAddress.objects.get_or_create(user=user, email=user.email, defaults={"verified": True, "primary": True})
        assert client.post(reverse("account_login"), {"login": user.email, "password": PASSWORD}).status_code == 302
        client.post(reverse("account_reauthenticate"), {"password": PASSWORD})
        return client

    return sign_in


SAID = {"name": "Alice A.", "time_zone": "Europe/Zurich", "theme": "dark", "notify_membership": "on"}


def test_what_is_said_is_kept_and_audited(client, alice):
    client.force_login(alice)
    answer = client.post(reverse("profile"), SAID, follow=True)
    assert "Your profile is saved." in answer.content.decode()
    alice.refresh_from_db()
    assert (alice.name, alice.time_zone, alice.theme) == ("Alice A.", "Europe/Zurich", "dark")
    assert (alice.notify_dormancy, alice.notify_membership) == (False, True)
    event = AuditEvent.objects.get(verb="changed profile")
    assert event.before["name"] == "Alice"
    assert "notify_membership" not in event.after
    client.post(reverse("profile"), SAID)
    assert AuditEvent.objects.filter(verb="changed profile").count() == 1


def test_the_theme_follows_the_person(client, alice, signed_in):
    User.objects.filter(pk=alice.pk).update(theme="dark")
    assert 'data-theme="dark"' in signed_in(alice).get("/").content.decode()
    client.post(reverse("profile"), {**SAID, "theme": "light"})
    assert client.cookies["theme"].value == "light"


@pytest.mark.parametrize(("field", "value"), [("time_zone", "Mars/Base"), ("theme", "pink"), ("name", "")])
def test_bad_input_is_said_at_the_field_and_nothing_is_lost(client, alice, field, value):
    client.force_login(alice)
    text = client.post(reverse("profile"), {**SAID, field: value}).content.decode()
    assert "Nothing was saved: one field needs a change." in text
    assert "is-invalid" in text
    alice.refresh_from_db()
    assert alice.name == "Alice"


def test_times_are_in_the_persons_zone_and_say_so(client, alice, this_computer):
    client.force_login(alice)
    User.objects.filter(pk=alice.pk).update(time_zone="America/New_York")
    type(this_computer).objects.update(created="2026-11-24T20:15:00Z")
    text = client.get(reverse("cloud-configs")).content.decode()
    assert "Made (EST)" in text
    assert "24 Nov 15:15" in text
    User.objects.filter(pk=alice.pk).update(time_zone="Atlantis/Nowhere")
    assert "Made (UTC)" in client.get(reverse("cloud-configs")).content.decode()


def test_one_persons_zone_is_not_the_next_ones(client, alice, bob):
    User.objects.filter(pk=alice.pk).update(time_zone="Asia/Tokyo")
    client.force_login(alice)
    assert "(JST)" in client.get(reverse("usersessions_list")).content.decode()
    client.force_login(bob)
    assert "(UTC)" in client.get(reverse("usersessions_list")).content.decode()


def test_a_new_address_counts_once_it_is_confirmed(client, alice, signed_in):
    signed_in(alice)
    client.post(reverse("account_email"), {"email": "alice@new.example.org", "action_add": ""})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    assert "was sent to alice@new.example.org" in client.get(reverse("account_email")).content.decode()
    link = re.search(r"http://testserver(\S+confirm-email\S+)", mail.outbox[0].body)[1]
    client.post(link)
    alice.refresh_from_db()
    assert alice.email == "alice@new.example.org"
    assert AuditEvent.objects.filter(verb="changed address").exists()
    assert [m.to for m in mail.outbox[1:]] == [["alice@example.org"]]  # the old one is told


def test_the_address_of_another_is_not_taken_and_not_told(client, alice, bob, signed_in):
    EmailAddress.objects.create(user=bob, email=bob.email, verified=True, primary=True)
    signed_in(alice)
    answer = client.post(reverse("account_email"), {"email": bob.email, "action_add": ""}, follow=True)
    assert "already" not in answer.content.decode()
    assert not EmailAddress.objects.filter(user=alice, email=bob.email, verified=True).exists()


def test_a_change_of_address_asks_again_after_a_while(client, alice, signed_in):
    with time_machine.travel("2026-11-24T12:00:00Z", tick=False):
        signed_in(alice)
    with time_machine.travel("2026-11-24T12:06:00Z", tick=False):
        answer = client.post(reverse("account_email"), {"email": "alice@new.example.org", "action_add": ""})
        assert answer["Location"].startswith(reverse("account_reauthenticate"))
        assert mail.outbox == []


def test_all_that_is_kept_is_given_and_no_secret(client, alice, harbor, lab, signed_in):
    ApiToken.objects.create(
        name="ci", organization=harbor, role="admin", owner=alice, secret_hash=digest("hush")
    )  # fmt: skip
    answer = signed_in(alice).get(reverse("profile-data"))
    assert answer["Content-Disposition"].startswith("attachment")
    data = answer.json()
    assert data["person"]["email"] == alice.email
    assert data["organizations"][0]["organization__name"] == "Harbor Analytics"
    assert data["workspaces"][0]["role"] == "admin"
    assert data["api_tokens"][0]["name"] == "ci"
    assert data["done"][0]["verb"] == "signed in"
    assert len(data["sessions"]) == 1
    assert digest("hush") not in answer.content.decode()
    assert alice.password not in answer.content.decode()


def test_an_account_is_deleted_with_what_hangs_on_it_and_the_record_stays(client, bob, harbor, lab, signed_in):
    token = ApiToken.objects.create(name="t", organization=harbor, role="user", owner=bob, secret_hash=digest("x"))
    signed_in(bob)
    assert "cannot be brought back" in client.get(reverse("delete-profile")).content.decode()
    wrong = client.post(reverse("delete-profile"), {"password": "not this one"})
    assert "This is not your password." in wrong.content.decode()
    answer = client.post(reverse("delete-profile"), {"password": PASSWORD}, follow=True)
    assert "Your account is deleted." in answer.content.decode()
    assert not User.objects.filter(pk=bob.pk).exists()
    assert not ApiToken.objects.filter(pk=token.pk).exists()
    assert not lab.members.filter(user=bob.pk).exists()
    assert AuditEvent.objects.get(verb="deleted").actor_name == "bob@example.org"
    assert client.get("/").status_code == 302


def test_the_last_admin_stays_while_others_need_one(client, alice, bob, harbor, signed_in):
    signed_in(alice)
    assert "last admin of Harbor Analytics" in client.get(reverse("delete-profile")).content.decode()
    answer = client.post(reverse("delete-profile"), {"password": PASSWORD})
    assert "Somebody else must be made an admin first: Harbor Analytics." in answer.content.decode()
    assert User.objects.filter(pk=alice.pk).exists()
    Membership.objects.filter(user=bob).update(role=OrganizationRole.ADMIN)
    client.post(reverse("delete-profile"), {"password": PASSWORD})
    assert not User.objects.filter(pk=alice.pk).exists()
    assert Organization.objects.filter(pk=harbor.pk).exists()


def test_the_last_admin_stays_while_there_are_workspaces(client, alice, lab, signed_in):
    Membership.objects.exclude(user=alice).delete()
    signed_in(alice)
    client.post(reverse("delete-profile"), {"password": PASSWORD})
    assert User.objects.filter(pk=alice.pk).exists()
