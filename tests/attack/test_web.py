"""Attacks on pages and sessions. Numbers are those of OWASP ASVS 5.0."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
from allauth.account.models import EmailAddress
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import OperationalError, connection
from django.test import Client
from django.utils.html import escape
from django.utils.module_loading import import_string
from redis.exceptions import ConnectionError as RedisConnectionError

from accounts.models import User
from portal.logs import ContextFilter
from tests.doors import EVERYBODY, ROWS
from tests.running import ROOT
from tests.test_doors import ADDRESSES

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
SCRIPTS = ("<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7|add:7 }}", "</title><svg onload=x>")


@pytest.fixture(autouse=True)
def verified(request):
    if "bob" in request.fixturenames:
        bob = request.getfixturevalue("bob")
        EmailAddress.objects.create(user=bob, email=bob.email, verified=True, primary=True)


def sign_in(client, email="bob@example.org", password=PASSWORD, **data):
    return client.post("/accounts/login/", {"login": email, "password": password, **data})


@pytest.mark.parametrize("path", ["/healthz", "/accounts/login/", "/no-such-page/", "/workspaces/", "/static/none.css"])
@pytest.mark.parametrize("signed_in", [False, True])
def test_every_answer_carries_the_headers(client, bob, path, signed_in):
    """3.4.3 to 3.4.6, 14.3.2."""
    if signed_in:
        client.force_login(bob)
    answer = client.get(path)
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert path.startswith("/static/") or "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.post and row.post is not EVERYBODY])
def test_a_form_of_another_site_is_refused(bob, name):
    """3.5.1: whatever can be posted needs the token, whoever asks and whatever it is about."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(bob)
    address = "/" + re.sub(r"<[^>]+>", "00000000-0000-4000-8000-000000000000", ADDRESSES[name])
    answer = client.post(address, {"name": "x"}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert b"This form was too old" in answer.content


@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "http:evil.example"]
)
def test_signing_in_leads_nowhere_else(client, bob, to):
    """3.7.2."""
    answer = sign_in(client, next=to)
    assert answer.status_code == 302
    assert answer.url == "/"


def test_the_session_is_another_one_after_signing_in(client, bob):
    """7.2.4: a session id that somebody planted before is worth nothing after."""
    client.get("/accounts/login/")
    session = client.session
    session["planted"] = True
    session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    sign_in(client)
    assert client.session.session_key != session.session_key
    stranger = Client()
    stranger.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    assert stranger.get("/workspaces/").status_code == 302


def test_signing_out_ends_the_session_on_the_server(client, bob):
    """7.4.1."""
    sign_in(client)
    key = client.session.session_key
    assert client.get("/workspaces/").status_code == 200
    client.post("/accounts/logout/")
    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = key
    assert thief.get("/workspaces/").status_code == 302


def test_what_the_database_keeps_of_a_session_signs_nobody_in(client, bob):
    sign_in(client)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    kept = {Session.objects.get().session_key, UserSession.objects.get().session_key}
    assert len(kept) == 1, "the list of sessions is of those that there are"
    assert cookie not in kept
    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = kept.pop()
    assert thief.get("/workspaces/").status_code == 302
    thief.cookies[settings.SESSION_COOKIE_NAME] = cookie
    assert thief.get("/workspaces/").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", "testserver:80@evil.example"])
def test_another_host_name_is_refused(client, host):
    """4.1.3: links in mails are made of it."""
    assert client.get("/accounts/login/", headers={"host": host}).status_code == 400


def test_a_forwarded_host_is_not_believed(client):
    answer = client.get("/accounts/password/reset/", headers={"x-forwarded-host": "evil.example"})
    assert b"evil.example" not in answer.content


@pytest.mark.parametrize("text", SCRIPTS)
def test_names_stay_text(client, alice, lab, harbor, text):
    """1.2.1: whatever people name themselves and their things."""
    alice.name = text[:120]
    alice.save()
    harbor.name = text[:80]
    harbor.save()
    lab.name = text[:80]
    lab.save()
    client.force_login(alice)
    for path in ("/workspaces/", f"/workspaces/{lab.uuid}/settings/", "/cloud-configurations/"):
        page = client.get(path).content.decode()
        assert escape(text) in page, path
        assert text not in page or escape(text) == text, path


def test_nothing_runs_with_debug_on_unless_asked(client, bob):
    """13.4.2."""
    assert settings.DEBUG is False
    answer = client.get("/no-such-page/")
    assert answer.status_code == 404
    assert b"Traceback" not in answer.content
    assert b"urlpatterns" not in answer.content


def test_cookies_under_tls():
    """3.3.1 to 3.3.4: only for this host, only over TLS, not for scripts."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json; from portal import settings as s; print(json.dumps([s.SESSION_COOKIE_NAME, "
            "s.SESSION_COOKIE_SECURE, s.SESSION_COOKIE_HTTPONLY, s.SESSION_COOKIE_SAMESITE, s.SECURE_HSTS_SECONDS]))",
        ],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "PORTAL_VAR": str(settings.VAR),
            "PORTAL_URL": "https://portal.example.org",
            "PORTAL_SECRET_KEY": "x" * 50,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == '["__Host-coxswain", true, true, "Lax", 31536000]'


@pytest.mark.parametrize("formatter", ["json", "plain"])
@pytest.mark.parametrize("typed", ["a\n2026-01-01 INFO all is well", "a\r\x1b[2J", "a\u2028b\x85c", "a\x9b31m"])
def test_what_somebody_types_does_not_begin_a_line_of_the_log(formatter, typed):
    """16.4.1."""
    chosen = {**settings.LOGGING["formatters"][formatter]}
    line = import_string(chosen.pop("()"))(**chosen)
    record = logging.LogRecord("x", logging.INFO, "x", 1, "signed in: %s", (typed,), None)
    ContextFilter().filter(record)
    said = line.format(record)
    assert "signed in: a" in said
    assert len(said.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028]", said)


@pytest.mark.parametrize("path", ["/", "/workspaces/", "/accounts/login/", "/organization/audit/", "/admin/"])
@pytest.mark.parametrize("signed_in", [False, True])
def test_without_the_database_nobody_is_let_in_and_nothing_is_told(client, bob, monkeypatch, path, signed_in):
    """16.5.1, 16.5.3: not its address, nor its password, nor what is in it."""
    if signed_in:
        client.force_login(bob)
    client.raise_request_exception = False

    def away(*_):
        raise OperationalError("connection to 10.1.2.3 failed: password hunter22")

    monkeypatch.setattr(connection, "cursor", away)
    answer = client.get(path)
    if answer.status_code == 200:
        assert (path, signed_in) == ("/accounts/login/", False), "it needs no database"
    elif answer.status_code == 302:
        assert not signed_in
        assert "/login/" in answer.url
    else:
        assert answer.status_code == 503
        assert b"The portal is being looked after" in answer.content
        assert answer["Retry-After"] == "5"
        assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert b"hunter22" not in answer.content
    assert b"10.1.2.3" not in answer.content


def test_without_the_queues_server_nobody_is_let_in(client, bob, monkeypatch):
    """16.5.3: what counts the tries is away, so that nobody may try."""

    def away(*_, **__):
        raise RedisConnectionError("10.1.2.3 is away")

    monkeypatch.setattr("django.core.cache.backends.redis.RedisCacheClient.get_client", away)
    monkeypatch.setattr("django.core.cache.cache.get", away)
    client.raise_request_exception = False
    answer = sign_in(client)
    assert answer.status_code == 503
    assert b"10.1.2.3" not in answer.content
    assert client.get("/workspaces/").status_code == 302


def test_who_is_switched_off_is_out_at_the_next_click(client, bob):
    """7.4.2."""
    client.force_login(bob)
    assert client.get("/workspaces/").status_code == 200
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert client.get("/workspaces/").status_code == 302
    assert sign_in(Client()).status_code == 302
