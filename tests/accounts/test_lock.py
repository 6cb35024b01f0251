"""No sign-in for more than 90 days locks an account: by every way in, to the second, and until somebody unlocks it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from allauth.account.internal.flows.login import perform_login
from allauth.account.models import EmailAddress, Login
from allauth.mfa.totp.internal import auth as totp
from django.core import mail
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts import watch
from accounts.actions import unlock_user
from accounts.models import AuditEvent, User

pytestmark = pytest.mark.django_db
LOCKED = "User is locked out. To unlock user, please contact your administrators"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def clock(monkeypatch, time_machine):
    """The database's clock and the process's. The second says otherwise near the day, and must not matter then."""
    cache.clear()
    time_machine.move_to(NOW, tick=False)
    monkeypatch.setattr("accounts.models.database_now", lambda: NOW)
    monkeypatch.setattr("accounts.actions.database_now", lambda: NOW)


def known(user):
    EmailAddress.objects.get_or_create(user=user, email=user.email, defaults={"verified": True, "primary": True})
    return user


def quiet_for(user, **length):
    """As if the last sign-in were so long ago."""
    past = NOW - timedelta(**length)
    User.objects.filter(pk=user.pk).update(last_login=past, date_joined=past - timedelta(days=1))
    user.refresh_from_db()
    return known(user)


def sign_in(client, email, password=PASSWORD, **fields):
    return client.post(reverse("account_login"), {"login": email, "password": password, **fields})


def verbs(user):
    return list(AuditEvent.objects.filter(subject=user.uuid).order_by("pk").values_list("verb", flat=True))


@pytest.mark.parametrize(("seconds", "locked"), [(-1, False), (0, False), (1, True)])
def test_the_lock_falls_after_ninety_days_to_the_second(client, alice, seconds, locked):
    quiet_for(alice, days=90, seconds=seconds)
    answer = sign_in(client, alice.email)
    assert (answer.status_code, User.objects.get_queryset().locked().exists()) == (
        (403, True) if locked else (302, False)
    )
    assert client.get("/").status_code == (302 if locked else 200)


def test_the_page_says_the_words_and_how_to_go_on(client, alice, settings):
    settings.SUPPORT_ADDRESS = "help@example.org"
    quiet_for(alice, days=91)
    answer = sign_in(client, alice.email)
    text = answer.content.decode()
    assert LOCKED in text
    assert "<h1>Couldn't sign you in</h1>" in text
    assert "mailto:help@example.org" in text
    assert "Back to sign-in" in text
    assert "was refused as locked" in verbs(alice)


def test_who_never_signed_in_is_counted_from_joining(client, alice):
    User.objects.filter(pk=alice.pk).update(last_login=None, date_joined=NOW - timedelta(days=91))
    assert sign_in(client, known(alice).email).status_code == 403


def test_a_wrong_password_says_nothing_of_the_lock(client, alice):
    quiet_for(alice, days=91)

    def page(email):
        answer = sign_in(client, email, "not the password")
        text = re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", answer.content.decode())
        return answer.status_code, text.replace(email, "")

    assert page(alice.email) == page("nobody-here@example.org")


def test_it_comes_before_the_second_factor(client, alice):
    quiet_for(alice, days=91)
    totp.TOTP.activate(alice, "JBSWY3DPEHPK3PXP")
    assert LOCKED in sign_in(client, alice.email).content.decode()
    assert client.get(reverse("mfa_authenticate")).status_code == 302


def test_it_falls_while_the_second_factor_is_asked_for(client, alice, monkeypatch):
    quiet_for(alice, days=90)
    totp.TOTP.activate(alice, "JBSWY3DPEHPK3PXP")
    assert sign_in(client, alice.email)["Location"] == reverse("mfa_authenticate")
    monkeypatch.setattr("accounts.models.database_now", lambda: NOW + timedelta(seconds=1))
    code = totp.format_hotp_value(totp.hotp_value("JBSWY3DPEHPK3PXP", next(totp.yield_hotp_counters_from_time())))
    answer = client.post(reverse("mfa_authenticate"), {"code": code})
    assert LOCKED in answer.content.decode()
    assert client.get("/").status_code == 302


def test_single_sign_on_is_a_way_in_as_any_other(rf, client, alice):
    quiet_for(alice, days=91)
    request = rf.get("/")
    request.session = client.session
    answer = perform_login(request, Login(user=alice))
    assert answer.status_code == 403


def test_a_new_password_does_not_unlock(client, alice):
    quiet_for(alice, days=91)
    client.post(reverse("account_reset_password"), {"email": alice.email})
    link = re.search(r"http://\S+/accounts/password/reset/key/\S+", mail.outbox[0].body)[0]
    form = client.get(link.replace("http://testserver", ""), follow=True)
    client.post(form.request["PATH_INFO"], {"password1": "a quite new one 77", "password2": "a quite new one 77"})
    alice.refresh_from_db()
    assert alice.check_password("a quite new one 77")
    assert LOCKED in sign_in(client, alice.email, "a quite new one 77").content.decode()


def test_django_admin_has_no_way_in_of_its_own(client, alice):
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    quiet_for(alice, days=91)
    form = client.get("/admin/login/")
    assert form["Location"].startswith(reverse("account_login"))
    answer = client.post("/admin/login/", {"username": alice.email, "password": PASSWORD})
    assert answer["Location"].startswith(reverse("account_login"))
    assert client.get("/admin/").status_code == 302


def test_an_open_session_ends_at_its_next_request(client, alice):
    client.force_login(alice)
    assert client.get("/").status_code == 200
    quiet_for(alice, days=90, seconds=1)
    answer = client.get("/")
    assert answer.status_code == 403
    assert LOCKED in answer.content.decode()
    assert client.get("/").status_code == 302


def test_unlocking_counts_the_days_anew(client, alice, bob, harbor):
    quiet_for(alice, days=200)
    unlock_user(alice, by=bob, reason="back from leave", organization=harbor)
    assert not alice.is_locked
    event = AuditEvent.objects.get(verb="unlocked")
    assert (event.actor_name, event.after) == (bob.email, {"reason": "back from leave"})
    assert sign_in(client, alice.email).status_code == 302


def test_the_command_unlocks_and_makes_administrators_only_when_told(alice, capsys):
    quiet_for(alice, days=200)
    call_command("unlock", "ALICE@example.org", "--reason", "asked by phone")
    alice.refresh_from_db()
    assert (alice.is_locked, alice.is_superuser) == (False, False)
    assert AuditEvent.objects.get(verb="unlocked").after == {"reason": "asked by phone"}
    with pytest.raises(CommandError, match="no account"):
        call_command("unlock", "nobody@example.org")


def test_the_command_brings_back_the_last_administrator(client, alice, capsys):
    User.objects.filter(pk=alice.pk).update(is_active=False, is_superuser=False)
    quiet_for(alice, days=200)
    call_command("unlock", alice.email)
    assert "--administrator" in capsys.readouterr().out
    call_command("unlock", alice.email, "--administrator")
    alice.refresh_from_db()
    assert (alice.is_active, alice.is_superuser, alice.is_staff, alice.is_locked) == (True, True, True, False)
    assert sign_in(client, alice.email).status_code == 302
    assert client.get("/admin/").status_code == 200


def test_one_kind_mail_for_each_threshold(alice, bob):
    quiet_for(alice, days=60, seconds=1)
    quiet_for(bob, days=3)
    watch.look()
    watch.look()
    assert [(m.to, m.subject) for m in mail.outbox] == [
        ([alice.email], "[Coxswain] Your account will be locked on 24 December")
    ]
    assert "/accounts/login/" in mail.outbox[0].body
    quiet_for(alice, days=86)
    watch.look()
    assert len(mail.outbox) == 2


def test_no_mail_to_those_who_want_none_or_are_locked_and_the_day_is_noted(alice, bob):
    User.objects.filter(pk=alice.pk).update(notify_dormancy=False)
    quiet_for(alice, days=76)
    quiet_for(bob, days=91)
    watch.look()
    watch.look()
    assert mail.outbox == []
    assert verbs(bob) == ["locked"]


def test_a_mail_that_cannot_be_sent_is_sent_later(alice, monkeypatch, settings):
    quiet_for(alice, days=61)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    watch.look()
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    watch.look()
    assert len(mail.outbox) == 1


def test_after_a_sign_in_the_warnings_begin_anew(client, alice):
    quiet_for(alice, days=76)
    watch.look()
    sign_in(client, alice.email)
    alice.refresh_from_db()
    assert alice.warned_days == 0
