"""Attacks on the way in: foreign addresses, sockets of other pages, requests that make no sense."""

from __future__ import annotations

import re

import pytest
from allauth.account.models import EmailAddress
from asgiref.sync import async_to_sync
from django.conf import settings as portal_settings
from django.contrib.sessions.models import Session
from django.core import mail
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from clusters.models import Cluster, EngineVersion
from portal.asgi import application
from portal.environment import hosts
from tests.sockets import Page

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def fresh():
    cache.clear()


@pytest.fixture
def person(alice):
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    return alice


@pytest.fixture
def on_loopback(settings):
    settings.PORTAL_URL = "http://127.0.0.1:8000"
    settings.HOSTS = hosts(settings.PORTAL_URL)
    settings.ORIGINS = [f"http://{host}" for host in settings.HOSTS]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", ["127.0.0.1:8000", "localhost:8000"]),
        ("http://localhost:8000", ["127.0.0.1:8000", "localhost:8000"]),
        ("https://portal.example.org", ["portal.example.org", "portal.example.org:443"]),
        ("https://Portal.example.org:443", ["portal.example.org", "portal.example.org:443"]),
        ("https://portal.example.org:8443", ["portal.example.org:8443"]),
        ("http://[::1]:8000", ["[::1]:8000", "127.0.0.1:8000", "localhost:8000"]),
    ],
)
def test_the_hosts_of_an_address(url, expected):
    assert hosts(url) == expected


# Another host, another port


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000"])
def test_the_portals_own_address_is_answered(client, on_loopback, host):
    assert client.get("/accounts/login/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9999", "localhost:1", "127.0.0.1", "localhost", "127.0.0.1:80", "127.0.0.1:8000@evil.example"]
)
@pytest.mark.parametrize("path", ["/accounts/login/", "/accounts/password/reset/", "/no-such-page/", "/static/x.css"])
def test_another_port_is_another_program(client, on_loopback, host, path):
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 400
    assert b"It is at http://127.0.0.1:8000 and nowhere else" in answer.content
    assert host.encode() + b"/" not in answer.content


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["10.1.2.3:8000", "load-balancer", "127.0.0.1:8000"])
def test_whoever_asks_whether_the_portal_lives_may_use_any_address(client, on_loopback, path, host):
    answer = client.get(path, headers={"host": host})
    assert answer.status_code in (200, 503)
    assert b"nowhere else" not in answer.content


def test_a_reset_that_is_asked_for_at_another_port_sends_no_mail(client, person, on_loopback):
    headers = {"host": "127.0.0.1:9999", "origin": "http://127.0.0.1:9999"}
    client.post(reverse("account_reset_password"), {"email": person.email}, headers=headers)
    assert mail.outbox == []


def links(message):
    return re.findall(r"https?://[^\s/]+", message.body)


def test_links_in_mails_are_built_from_the_portals_url_alone(client, person, settings):
    """Each kind of mail that allauth sends, asked for at another address than PORTAL_URL's, which is let in here."""
    settings.PORTAL_URL = "https://portal.example.org"
    settings.HOSTS = [*settings.HOSTS, "127.0.0.1:9999"]
    settings.OPEN_SIGNUP = True
    headers = {"host": "127.0.0.1:9999"}
    client.post(reverse("account_reset_password"), {"email": person.email}, headers=headers)
    client.post(reverse("account_reset_password"), {"email": "nobody@example.org"}, headers=headers)
    for email in ("new@example.org", person.email):  # one that is new, and one that there is
        fields = {"email": email, "password1": "a long one, really", "password2": "a long one, really"}
        Client().post(reverse("account_signup"), fields, headers=headers)
    client.force_login(person)
    client.post(reverse("account_email"), {"action_add": "", "email": "other@example.org"}, headers=headers)
    client.post(
        reverse("account_change_password"),
        {"oldpassword": PASSWORD, "password1": "a long one, really", "password2": "a long one, really"},
        headers=headers,
    )
    kinds = {message.subject for message in mail.outbox}
    assert len(kinds) >= 4, kinds
    assert sum(bool(links(message)) for message in mail.outbox) >= 4
    for message in mail.outbox:
        assert set(links(message)) <= {"https://portal.example.org"}, message.subject
        assert "9999" not in message.body, message.subject
        assert "testserver" not in message.body, message.subject


def test_an_example_is_cloned_from_the_portals_url(client, lab, bob, settings):
    settings.PORTAL_URL = "https://portal.example.org"
    settings.HOSTS = [*settings.HOSTS, "127.0.0.1:9999"]
    Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=2, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip
    client.force_login(bob)
    page = client.get(f"/workspaces/{lab.uuid}/jobs/new/?use=flights", headers={"host": "127.0.0.1:9999"})
    assert b'value="https://portal.example.org/examples/flights"' in page.content
    assert b"9999" not in page.content


# Requests that make no sense


def test_a_form_in_another_alphabet_is_refused_in_words(client):
    client.raise_request_exception = False
    for path in ("/accounts/login/", "/", "/no-such-page/"):
        answer = client.post(path, "a=b", content_type="application/x-www-form-urlencoded; charset=utf-7")
        assert answer.status_code in (400, 404, 405), path
    answer = client.post("/accounts/login/", "a=b", content_type="application/x-www-form-urlencoded; charset=utf-7")
    assert answer.status_code == 400
    assert b"This request makes no sense" in answer.content


@pytest.mark.parametrize("name", ["a%00b", "%00", "info/refs%00"])
def test_a_nul_in_the_name_of_an_example_is_no_such_file(client, name):
    assert client.get(f"/examples/flights/{name}").status_code == 404


def test_a_look_at_the_sign_in_page_writes_no_session(client):
    anonymous = Client(enforce_csrf_checks=True)
    for path in ("/accounts/login/", "/accounts/password/reset/", "/", "/workspaces/"):
        anonymous.get(path)
    assert Session.objects.count() == 0
    assert portal_settings.SESSION_COOKIE_NAME not in anonymous.cookies


def test_the_forms_token_works_without_a_session_and_is_another_one_after_signing_in(person):
    browser = Client(enforce_csrf_checks=True)
    page = browser.get("/accounts/login/").content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    cookie = browser.cookies[portal_settings.CSRF_COOKIE_NAME]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    fields = {"login": person.email, "password": PASSWORD}
    assert browser.post("/accounts/login/", fields).status_code == 403, "without the token"
    assert (
        Client(enforce_csrf_checks=True).post("/accounts/login/", {**fields, "csrfmiddlewaretoken": token}).status_code
        == 403
    ), "without the cookie"
    assert browser.post("/accounts/login/", {**fields, "csrfmiddlewaretoken": token}).status_code == 302
    assert browser.post("/profile/", {"csrfmiddlewaretoken": token, "name": "x"}).status_code == 403, "an old token"
    page = browser.get("/profile/").content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    assert browser.post("/profile/", {"csrfmiddlewaretoken": token, "name": "x"}).status_code == 200


# Sockets


def page_of(client, path="/live/", host="testserver", origin="http://testserver", **scope):
    cookies = "; ".join(f"{name}={value.value}" for name, value in client.cookies.items())
    headers = [(b"cookie", cookies.encode()), (b"host", host.encode()), (b"origin", origin.encode())]
    return Page(application, path, headers=headers, **scope)


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": "http://testserver:8101.evil.example"},
        {"origin": "http://testserver:99999"},
        {"origin": "http://testserver.evil.example"},
        {"origin": "http://testserver:81"},
        {"origin": "https://testserver"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://[::1"},
        {"host": "testserver:81"},
        {"host": "evil.example"},
        {"host": ""},
        {"path": "/live"},
        {"path": "/live/x"},
        {"path": "/"},
        {"path": "/live/\x00"},
    ],
)
@pytest.mark.django_db(transaction=True)
def test_a_socket_that_no_page_of_ours_opens_is_closed_before_it_is_one(client, bob, wrong):
    """The test's own end raises what the application raises: there is no traceback."""
    client.force_login(bob)

    async def told():
        page = page_of(client, **wrong)
        await page.send_input({"type": "websocket.connect"})
        message = await page.receive_output()
        await page.wait()
        return message

    assert async_to_sync(told)() == {"type": "websocket.close"}


@pytest.mark.django_db(transaction=True)
def test_at_an_unknown_path_a_server_that_can_says_404(client, bob):
    client.force_login(bob)

    async def told():
        page = page_of(client, path="/x", extensions={"websocket.http.response": {}})
        await page.send_input({"type": "websocket.connect"})
        message = await page.receive_output()
        await page.receive_output()
        await page.wait()
        return message

    assert async_to_sync(told)()["status"] == 404


@pytest.mark.parametrize(
    "ask",
    [
        '{"output": "6f1f5a4e-0000-4000-8000-000000000000", "after": 1e400, "ended": false, "kept": false}',
        '{"output": ["6f1f5a4e-0000-4000-8000-000000000000"], "after": 0, "ended": false, "kept": false}',
        '{"output": {}, "after": 0, "ended": false, "kept": false}',
        '{"output": 7, "after": 0, "ended": false, "kept": false}',
        '{"output": "x", "after": 0}',
        '{"watch": 7}',
        "[]",
        "1e999",
        "",
    ],
)
@pytest.mark.django_db(transaction=True)
def test_a_socket_that_asks_nonsense_is_closed(client, bob, ask):
    client.force_login(bob)

    async def told():
        page = page_of(client)
        assert await page.connect()
        await page.send_to(ask)
        message = await page.receive_output()
        await page.disconnect()
        return message

    message = async_to_sync(told)()
    assert (message["type"], message["code"]) == ("websocket.close", 1003)


@pytest.mark.django_db(transaction=True)
def test_one_person_has_only_so_many_sockets_and_is_told_so(client, bob, vera, settings):
    settings.LIVE_PAGES = 3
    client.force_login(bob)
    other = Client()
    other.force_login(vera)

    async def open_many():
        pages = [page_of(client) for _ in range(3)]
        assert [await page.connect() for page in pages] == [True] * 3
        crowded = page_of(client)
        assert await crowded.connect()
        told = await crowded.receive_output()
        theirs = page_of(other)
        assert await theirs.connect(), "it is not about others"
        await theirs.send_json_to({"watch": []})
        assert await theirs.receive_json_from() == {"watching": []}
        await pages.pop().disconnect()
        again = page_of(client)
        assert await again.connect()
        await again.send_json_to({"watch": []})
        assert await again.receive_json_from() == {"watching": []}, "one was closed"
        for page in (*pages, theirs, again):
            await page.disconnect()
        return told

    assert async_to_sync(open_many)()["code"] == 4429
