"""Passwords, second factors, sessions, and how much trying is allowed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from allauth.account.models import EmailAddress
from allauth.core import context
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal import auth as totp
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.internal.flows.login import complete_login
from allauth.socialaccount.models import SocialAccount, SocialLogin
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import AnonymousUser
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import AuditEvent, Organization, User
from accounts.watch import forget_sessions
from tests.pages.test_pages import Page

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"
SECRET = "JBSWY3DPEHPK3PXP"


@pytest.fixture(autouse=True)
def fresh():
    cache.clear()


@pytest.fixture
def person(alice):
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    return alice


def sign_in(client, email, password=PASSWORD, **headers):
    return client.post(reverse("account_login"), {"login": email, "password": password}, **headers)


def confirm(client):
    client.post(reverse("account_reauthenticate"), {"password": PASSWORD})


def code(secret=SECRET):
    return totp.format_hotp_value(totp.hotp_value(secret, next(totp.yield_hotp_counters_from_time())))


def verbs():
    return list(AuditEvent.objects.order_by("pk").values_list("verb", flat=True))


# Passwords and trying


def test_who_signs_in_and_who_fails_is_written_down(client, person, harbor):
    sign_in(client, person.email, "wrong", REMOTE_ADDR="192.0.2.7")
    sign_in(client, person.email)
    client.post(reverse("account_logout"))
    events = AuditEvent.objects.filter(chain__organization=harbor.uuid).order_by("pk")
    assert [(e.verb, e.how) for e in events] == [
        ("failed to sign in", ""), ("signed in", "password"), ("signed out", "password"),
    ]  # fmt: skip
    assert events[0].address == "192.0.2.7"


def test_of_an_unknown_address_no_more_is_kept_than_a_part_of_what_was_typed(client, person, harbor):
    sign_in(client, "x" * 120 + "@example.org")
    event = AuditEvent.objects.get(verb="failed to sign in")
    assert (event.chain.organization, event.subject, len(event.subject_name)) == (None, None, 100)


def test_known_and_unknown_addresses_get_the_same_answers(client, person):
    def page(address, email, field):
        text = client.post(address, {field: email, "password": "wrong"}, follow=True).content.decode()
        return re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", text).replace(email, "")

    for name, field in (("account_login", "login"), ("account_reset_password", "email")):
        assert page(reverse(name), person.email, field) == page(reverse(name), "nobody@example.org", field)


def test_an_unknown_address_costs_a_hash_too(client, person, monkeypatch):
    hashed = []
    monkeypatch.setattr(User, "set_password", lambda self, password: hashed.append(password))
    sign_in(client, "nobody@example.org", "some password")
    assert hashed == ["some password"]


def test_a_stranger_who_tries_does_not_keep_the_owner_out(client, person):
    for _ in range(6):
        answer = sign_in(client, person.email, "wrong", REMOTE_ADDR="192.0.2.66")
    assert "Too many" in answer.content.decode()
    assert "Too many" in sign_in(client, person.email, REMOTE_ADDR="192.0.2.66").content.decode()
    assert sign_in(Client(), person.email, REMOTE_ADDR="192.0.2.1").status_code == 302


def test_one_address_may_not_try_many_accounts(client, person):
    for n in range(20):
        sign_in(client, f"p{n}@example.org", "wrong")
    assert "Too many" in sign_in(client, person.email).content.decode()


def test_the_address_is_the_one_that_the_trusted_proxy_saw(client, person, settings):
    settings.TRUSTED_PROXIES = 1
    for n in range(6):
        forged = {"HTTP_X_FORWARDED_FOR": f"10.0.0.{n}, 192.0.2.66", "HTTP_X_FORWARDED_PROTO": "https"}
        answer = sign_in(client, person.email, "wrong", **forged)
    assert "Too many" in answer.content.decode()


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("short one 1", "Too short"),
        ("password1234", "Too common"),
        ("alice@example", "Too similar"),
        ("correct horse battery staple " * 4, ""),
        ("all lower case words", ""),
    ],
)
def test_the_rules_of_passwords(client, person, password, words):
    sign_in(client, person.email)
    answer = client.post(
        reverse("account_change_password"),
        {"oldpassword": PASSWORD, "password1": password, "password2": password},
        follow=True,
    )
    person.refresh_from_db()
    if words:
        assert words in answer.content.decode()
        assert person.check_password(PASSWORD)
    else:
        assert person.check_password(password)


def test_a_new_password_ends_the_other_sessions_and_is_audited(client, person):
    other = Client()
    sign_in(other, person.email)
    sign_in(client, person.email)
    new = "another long password"
    client.post(reverse("account_change_password"), {"oldpassword": PASSWORD, "password1": new, "password2": new})
    assert client.get("/").status_code == 200
    assert other.get("/").status_code == 302
    assert "changed password" in verbs()


# Sessions


def test_sessions_are_listed_and_can_be_ended(client, person):
    other = Client()
    sign_in(other, person.email, REMOTE_ADDR="192.0.2.9", HTTP_USER_AGENT="Lynx/2.9")
    sign_in(client, person.email)
    text = client.get(reverse("usersessions_list")).content.decode()
    assert "192.0.2.9" in text
    assert "Lynx/2.9" in text
    client.post(reverse("usersessions_list"))
    assert other.get("/").status_code == 302
    assert client.get("/").status_code == 200


def test_a_session_ends_when_it_is_not_used_and_after_a_week_in_any_case(client, person, time_machine, settings):
    start = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    time_machine.move_to(start, tick=False)
    sign_in(client, person.email)
    assert client.get("/").status_code == 200
    time_machine.move_to(start + timedelta(hours=11), tick=False)
    assert client.get("/").status_code == 200
    time_machine.move_to(start + timedelta(hours=22), tick=False)
    assert client.get("/").status_code == 200  # 11 hours after the last request
    time_machine.move_to(start + timedelta(hours=22 + 13), tick=False)
    assert client.get("/").status_code == 302

    sign_in(client, person.email)
    at = start + timedelta(hours=35)
    for _ in range(33):
        time_machine.move_to(at, tick=False)
        assert client.get("/").status_code == 200
        at += timedelta(hours=5)
    time_machine.move_to(start + timedelta(hours=35 + 7 * 24 + 1), tick=False)
    assert client.get("/").status_code == 302


def test_sessions_that_are_over_are_forgotten(client, person, time_machine):
    start = now().replace(microsecond=0)
    time_machine.move_to(start, tick=False)
    assert Client().session.session_key, "somebody opened an invitation, and never comes back"
    elsewhere = Client()
    sign_in(elsewhere, person.email)
    elsewhere.get("/")
    time_machine.move_to(start + timedelta(hours=11), tick=False)
    sign_in(client, person.email)
    client.get("/")
    assert (Session.objects.count(), UserSession.objects.count()) == (3, 2)
    forget_sessions()
    assert (Session.objects.count(), UserSession.objects.count()) == (3, 2)
    time_machine.move_to(start + timedelta(hours=13), tick=False)
    forget_sessions()
    assert (Session.objects.count(), UserSession.objects.count()) == (1, 1)
    assert client.get("/profile/").status_code == 200


def test_a_busy_session_is_not_written_at_every_request(client, person, django_assert_num_queries):
    sign_in(client, person.email)
    client.get("/")
    before = Session.objects.get().session_data
    client.get("/")
    assert Session.objects.get().session_data == before


# Second factors


@pytest.mark.django_db(transaction=True)
def test_an_authenticator_app_is_set_up_used_and_kept_secret(client, person):
    sign_in(client, person.email)
    confirm(client)
    page = client.get(reverse("mfa_activate_totp"))
    secret = page.context["form"].secret
    assert "data:image/svg" in page.content.decode()
    answer = client.post(reverse("mfa_activate_totp"), {"code": code(secret)})
    codes = client.get(answer["Location"])
    assert "10 of 10 left" in codes.content.decode()
    stored = Authenticator.objects.get(type="totp").data["secret"]
    assert secret not in stored
    assert stored.startswith("v1:")
    assert "added second factor" in verbs()

    client.post(reverse("account_logout"))
    cache.clear()  # the same code may not be used twice
    assert sign_in(client, person.email)["Location"] == reverse("mfa_authenticate")
    assert client.get("/").status_code == 302
    assert "This code is not right" in client.post(reverse("mfa_authenticate"), {"code": "000000"}).content.decode()
    assert client.post(reverse("mfa_authenticate"), {"code": code(secret)})["Location"] == "/"
    assert AuditEvent.objects.filter(verb="signed in").last().how == "password, authenticator app"


def test_a_recovery_code_lets_in_once(client, person):
    totp.TOTP.activate(person, SECRET)
    one = RecoveryCodes.activate(person).get_unused_codes()[0]
    for works in (True, False):
        sign_in(client, person.email)
        answer = client.post(reverse("mfa_authenticate"), {"code": one})
        assert (answer.status_code == 302) is works
        client.post(reverse("account_logout"))


def test_guessing_codes_is_limited(client, person):
    totp.TOTP.activate(person, SECRET)
    sign_in(client, person.email)
    for _ in range(6):
        answer = client.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert "Too many" in answer.content.decode()


def test_an_organization_may_ask_for_a_second_factor(client, person, harbor):
    sign_in(client, person.email)
    Organization.objects.filter(pk=harbor.pk).update(second_factor_required=True)
    answer = client.get("/", follow=True)
    assert answer.request["PATH_INFO"] == reverse("mfa_index")
    assert "Harbor Analytics asks for a second factor." in answer.content.decode()
    confirm(client)
    assert client.get(reverse("mfa_activate_totp")).status_code == 200  # the way out is open
    totp.TOTP.activate(person, SECRET)
    assert client.get("/").status_code == 200
    assert "asks for a second factor" not in client.get(reverse("mfa_index")).content.decode()
    answer = client.post(reverse("mfa_deactivate_totp"))
    assert "cannot deactivate" in answer.content.decode()
    assert Authenticator.objects.filter(user=person).exists()


def test_changes_of_second_factors_ask_who_it_is(client, person, time_machine):
    start = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    time_machine.move_to(start, tick=False)
    sign_in(client, person.email)
    confirm(client)
    assert client.get(reverse("mfa_activate_totp")).status_code == 200
    time_machine.move_to(start + timedelta(minutes=6), tick=False)
    for name in ("mfa_activate_totp", "mfa_add_webauthn"):
        answer = client.get(reverse(name), follow=True)
        assert "Confirm that it is you" in answer.content.decode()
    confirm(client)
    assert client.get(reverse("mfa_activate_totp")).status_code == 200


# Pages


def test_pages_of_the_account_have_one_heading_and_nothing_that_the_policy_forbids(client, person):
    client.get(reverse("account_login"))
    sign_in(client, person.email)
    confirm(client)
    totp.TOTP.activate(person, SECRET)
    SocialAccount.objects.create(user=person, provider="sso", uid="1")
    names = (
        "mfa_index", "mfa_add_webauthn", "mfa_list_webauthn", "mfa_deactivate_totp", "mfa_generate_recovery_codes",
        "usersessions_list", "account_email", "account_change_password", "account_reauthenticate",
        "mfa_reauthenticate", "socialaccount_connections", "account_logout", "profile", "delete-profile",
    )  # fmt: skip
    for name in names:
        answer = client.get(reverse(name))
        assert answer.status_code == 200, name
        page = Page(answer)
        assert (page.headings, page.primary <= 1) == (1, True), name
        assert [text for text in page.inline if text != "script"] == [], name
        scripts = re.findall(r"<script(?![^>]* src=)[^>]*>", answer.content.decode())
        assert all('type="application/json"' in tag for tag in scripts), name


def test_an_open_portal_has_a_page_to_sign_up_on(client, settings):
    settings.OPEN_SIGNUP = True
    answer = client.get(reverse("account_signup"))
    assert Page(answer).headings == 1
    assert "Create an account" in answer.content.decode()
    settings.OPEN_SIGNUP = False
    assert "an admin of your organization invites you" in client.get(reverse("account_signup")).content.decode()


def test_a_passkey_is_renamed_and_removed(client, person):
    sign_in(client, person.email)
    confirm(client)
    passkey = Authenticator.objects.create(user=person, type="webauthn", data={"name": "key ring"})
    edit, remove = (reverse(f"mfa_{verb}_webauthn", args=[passkey.pk]) for verb in ("edit", "remove"))
    page = Page(client.get(edit))
    assert (page.headings, page.primary) == (1, 1)
    client.post(edit, {"name": "desk"})
    page = client.get(remove)
    assert Page(page).headings == 1
    assert "Remove desk?" in page.content.decode()
    client.post(remove)
    assert not Authenticator.objects.filter(type="webauthn").exists()


def test_what_signs_one_in_can_be_disconnected(client, person, provider):
    account = SocialAccount.objects.create(user=person, provider="sso", uid="1")
    sign_in(client, person.email)
    confirm(client)
    page = client.get(reverse("socialaccount_connections")).content.decode()
    assert "Connect Harbor ID" in page
    assert "Disconnect" in page
    client.post(reverse("socialaccount_connections"), {"account": account.pk})
    assert not SocialAccount.objects.exists()
    event = AuditEvent.objects.get(verb="disconnected single sign-on")
    assert (event.actor, event.after) == (person.uuid, {"provider": "Harbor ID"})


# Single sign-on and Django admin


@pytest.fixture
def provider(settings):
    settings.SOCIALACCOUNT_PROVIDERS = {
        "openid_connect": {
            "APPS": [
                {
                    "provider_id": "sso", "name": "Harbor ID", "client_id": "c", "secret": "s",
                    "settings": {"server_url": "https://id.example.org"},
                }
            ]
        }
    }  # fmt: skip


def come_back(client, *, email, verified):
    """What happens when the provider has said who it is."""
    request = RequestFactory().get("/")
    request.session, request.user = client.session, AnonymousUser()
    request.allauth = SimpleNamespace()
    MessageMiddleware(lambda request: None).process_request(request)
    with context.request_context(request):
        login = SocialLogin(
            user=User(email=email),
            account=SocialAccount(provider="sso", uid="42", extra_data={}),
            email_addresses=[EmailAddress(email=email, verified=verified, primary=True)],
        )
        login.state = {"process": "login"}
        return complete_login(request, login), request


def test_single_sign_on_is_offered_where_it_is_set_up(client, provider):
    text = client.get(reverse("account_login")).content.decode()
    assert "Continue with Harbor ID" in text
    assert "/accounts/oidc/sso/login/" in text


def test_without_it_nothing_is_offered(client):
    assert "Continue with" not in client.get(reverse("account_login")).content.decode()


def test_an_address_that_the_provider_vouches_for_connects_the_account(client, provider, person):
    answer, request = come_back(client, email="Alice@example.org", verified=True)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert request.user == person
    assert SocialAccount.objects.get().user == person
    assert AuditEvent.objects.get(verb="signed in").how == "single sign-on"


def test_an_address_that_it_does_not_vouch_for_does_not(client, provider, person):
    _, request = come_back(client, email=person.email, verified=False)
    assert not request.user.is_authenticated
    assert not SocialAccount.objects.exists()


@pytest.mark.parametrize(
    ("said", "verified"),
    [(True, True), ("true", True), ("false", False), (False, False), (None, False), (1, False), ("no", False)],
)
def test_only_a_clear_yes_of_the_provider_counts(provider, said, verified):
    """To allauth the word "false" is true."""
    request = RequestFactory().get("/")
    with context.request_context(request):
        sso = get_adapter().get_provider(request, "sso")
        claims = {"sub": "42", "email": "alice@example.org", "email_verified": said}
        login = sso.sociallogin_from_response(request, {"userinfo": claims})
    assert [address.verified for address in login.email_addresses] == [verified]


def test_an_address_that_was_never_confirmed_here_does_not(client, provider, person):
    EmailAddress.objects.update(verified=False)
    _, request = come_back(client, email=person.email, verified=True)
    assert not request.user.is_authenticated
    assert not SocialAccount.objects.exists()


def test_a_stranger_of_the_provider_does_not_become_a_person_here(client, provider, person):
    answer, request = come_back(client, email="new@example.org", verified=True)
    assert "Sign-up is closed" in answer.content.decode()
    assert not request.user.is_authenticated
    assert User.objects.count() == 1


def test_a_locked_account_is_locked_for_it_too(client, provider, person):
    past = now() - timedelta(days=91)
    User.objects.filter(pk=person.pk).update(last_login=past, date_joined=past)
    answer, request = come_back(client, email=person.email, verified=True)
    assert answer.status_code == 403
    assert "User is locked out." in answer.content.decode()
    assert not request.user.is_authenticated


def test_django_admin_is_for_administrators_of_the_installation(client, person, bob):
    client.force_login(bob)
    assert client.get("/admin/").status_code in (302, 403)
    assert client.get("/admin/login/").status_code == 403
    User.objects.filter(pk=person.pk).update(is_staff=True, is_superuser=True)
    client.force_login(person)
    assert client.get("/admin/").status_code == 200


def test_a_mail_server_that_is_down_does_not_undo_a_change(client, person, settings):
    sign_in(client, person.email)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    new = "another long password"
    client.post(reverse("account_change_password"), {"oldpassword": PASSWORD, "password1": new, "password2": new})
    person.refresh_from_db()
    assert person.check_password(new)


def test_an_address_that_is_none_is_no_reason_to_fail(client, person, settings):
    settings.TRUSTED_PROXIES = 1
    assert sign_in(client, person.email, HTTP_X_FORWARDED_FOR="unknown").status_code == 302
    assert AuditEvent.objects.get(verb="signed in").address is None


def test_asking_too_often_is_said_in_our_look(client, person):
    for n in range(11):
        answer = client.post(reverse("account_reset_password"), {"email": f"p{n}@example.org"})
    assert answer.status_code == 429
    assert "Too many tries</h1>" in answer.content.decode()
