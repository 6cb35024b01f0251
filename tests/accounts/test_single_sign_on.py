"""Single sign-on with an OpenID provider that runs: from the button to the portal and back, over HTTP."""

from __future__ import annotations

import html
import http.cookiejar
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.provider import CLIENT, PASSWORD, SECRET
from tests.running import ROOT, RunningPortal, end_with_us, free_port
from tests.web import code_of


def start_provider(port, callback):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.provider", str(port), callback],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=end_with_us,
    )
    with process.stdout as said:
        assert said.readline() == "Ready\n"
    return process


@pytest.fixture(scope="module")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-sso-"))
    port = free_port()
    portal = RunningPortal(
        folder,
        PORTAL_OIDC_ISSUER=f"http://127.0.0.1:{port}/o",
        PORTAL_OIDC_ORIGINS=f"http://localhost:{port}",
        PORTAL_OIDC_CLIENT_ID=CLIENT,
        PORTAL_OIDC_CLIENT_SECRET=SECRET,
        PORTAL_OIDC_NAME="Harbor ID",
        PORTAL_SUPPORT_ADDRESS="help@example.org",
    )
    portal.provider_port = port
    portal.provider = start_provider(port, f"{portal.url}/accounts/oidc/sso/login/callback/")
    try:
        portal.start()
        portal.call("setup")
        portal.call("make_people", names=["bob", "vera", "lola", "tessa", "otto"], locked=["lola"])
        yield portal
    finally:
        portal.stop()
        portal.provider.kill()
        portal.provider.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows them to where they lead, but for those that begin with what `stops` says."""

    def __init__(self):
        self.led, self.stops = [], None

    def redirect_request(self, request, file, code, message, headers, url):
        self.led.append(url)
        if self.stops and url.startswith(self.stops):
            return None
        return super().redirect_request(request, file, code, message, headers, url)


class Browser:
    """Follows redirects from site to site, and keeps each site's cookies."""

    def __init__(self, portal):
        self.portal, self.redirects = portal, Redirects()
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(jar, self.redirects)
        self.addresses = []

    def open(self, url, fields=None):
        site = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url))
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        request = urllib.request.Request(url, data, {"Referer": url, "Origin": site} if data is not None else {})
        try:
            response = self.opener.open(request)
        except urllib.error.HTTPError as refused:
            response = refused
        self.status, self.url, self.text = response.status, response.url, response.read().decode()
        self.addresses.append(self.url)
        return self

    def send(self, action, **fields):
        """The form of this page that has this action, with its hidden fields."""
        forms = re.findall(r"<form([^>]*)>(.*?)</form>", self.text, re.DOTALL)
        inside = next(inside for tag, inside in forms if action in html.unescape(tag) or not action)
        inputs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', inside)
        hidden = {name: html.unescape(value) for name, value in inputs}
        tag = next(tag for tag, other in forms if other is inside)
        to = re.search(r'action="([^"]+)"', tag)
        url = urllib.parse.urljoin(self.url, html.unescape(to[1]) if to else self.url)
        return self.open(url, {**hidden, **fields})

    def to_provider(self, page="/accounts/login/"):
        self.open(self.portal.url + page).send("/accounts/oidc/sso/login/")
        assert "Sign in at the provider" in self.text, (self.status, self.url, self.text[-800:])
        return self

    def to_answer(self, email):
        """The address with which the provider sends this person back, which is not opened."""
        self.redirects.stops = callback(self.portal)
        self.sign_on(email)
        self.redirects.stops = None
        return self.redirects.led[-1]

    def sign_on(self, email, page="/accounts/login/"):
        return self.to_provider(page).send("", username=email, password=PASSWORD)


@pytest.fixture
def person(portal):
    return Browser(portal)


def signed_in(browser):
    return "/accounts/login/" not in browser.open(f"{browser.portal.url}/profile/").url


def test_a_person_whom_the_provider_knows_is_in(portal, person):
    person.sign_on("alice@example.org")
    assert (person.status, person.url) == (200, f"{portal.url}/")
    assert "localhost" in person.addresses[1], "the provider's page is on another origin than its issuer"
    assert signed_in(person)
    known = portal.call("account", email="alice@example.org")
    assert known["single_sign_on"] == 1
    assert known["signed_in"][-1] == "single sign-on"
    assert known["verbs"].count("connected single sign-on") == 1
    again = Browser(portal).sign_on("alice@example.org")
    assert again.url == f"{portal.url}/"
    assert portal.call("account", email="alice@example.org")["single_sign_on"] == 1


def test_an_address_that_the_provider_has_not_checked_takes_no_account_over(portal, person):
    """Nor is it said that there is one."""
    person.sign_on("vera@example.org")
    assert person.status == 403
    assert "Harbor ID says that you are <b>vera@example.org</b>, but not that it has verified" in person.text
    assert "sign in with it" in person.text
    nobody = Browser(portal).sign_on("unknown@example.org")
    assert nobody.text.replace("unknown@", "vera@") == person.text
    assert not signed_in(person)
    assert portal.call("account", email="vera@example.org")["single_sign_on"] == 0


def test_a_stranger_is_told_who_can_invite_them(portal, person):
    person.sign_on("stranger@example.net")
    assert "an admin of your organization invites you" in person.text
    assert not signed_in(person)
    assert portal.call("account", email="stranger@example.net") is None


def test_a_locked_person_is_told_so(portal, person):
    person.sign_on("lola@example.org")
    assert person.status == 403
    assert "Couldn't sign you in" in html.unescape(person.text)
    assert "User is locked out. To unlock user, please contact your administrators" in person.text
    assert not signed_in(person)


def test_an_invitation_is_accepted_by_it(portal, person):
    """Without a password: the account is the provider's."""
    link = portal.call("invite", email="nina@example.org")
    person.open(portal.url + link)
    page = person.url.removeprefix(portal.url)
    person.sign_on("nina@example.org", page)
    assert person.url == f"{portal.url}/invitation/"
    person.send("")
    assert "Welcome to Harbor Analytics" in person.text
    known = portal.call("account", email="nina@example.org")
    assert (known["name"], known["password"]) == ("Nina", False)
    assert known["organizations"] == ["Harbor Analytics"]


def test_an_invitation_to_another_address_lets_nobody_in(portal, person):
    person.open(portal.url + portal.call("invite", email="omar@example.org"))
    person.sign_on("stranger@example.net", person.url.removeprefix(portal.url))
    assert "an admin of your organization invites you" in person.text
    assert portal.call("account", email="stranger@example.net") is None


def test_who_is_asked_for_a_second_factor_sets_one_up_first(portal, person):
    portal.call("require_second_factor")
    try:
        person.sign_on("bob@example.org")
        assert person.url == f"{portal.url}/accounts/security/"
    finally:
        portal.call("require_second_factor", required=False)


def test_a_second_factor_is_asked_for_after_the_provider_too(portal, person):
    secret = portal.call("add_app", email="tessa@example.org")
    person.sign_on("tessa@example.org")
    assert person.url == f"{portal.url}/accounts/security/authenticate/"
    assert not signed_in(Browser(portal))
    assert person.open(f"{portal.url}/people/").url != f"{portal.url}/people/"
    person.open(f"{portal.url}/accounts/security/authenticate/").send("", code=code_of(secret))
    assert (person.status, person.url) == (200, f"{portal.url}/")
    assert portal.call("account", email="tessa@example.org")["signed_in"][-1] == "single sign-on, authenticator app"


def test_what_the_provider_says_to_another_client_is_not_believed(portal, person):
    person.sign_on("otto@example.org")
    assert person.status == 401
    assert not signed_in(person)
    assert portal.call("account", email="otto@example.org")["single_sign_on"] == 0
    assert "Invalid id_token" in portal.log()


def test_an_answer_counts_once(portal, person):
    answer = person.to_answer("alice@example.org")
    assert person.open(answer).url == f"{portal.url}/"
    person.open(f"{portal.url}/accounts/logout/").send("")
    assert person.open(answer).status == 401
    assert not signed_in(person)


def test_another_persons_code_is_worth_nothing(portal, person):
    """Whoever has got hold of it lacks what the other's browser keeps: the verifier of RFC 7636."""
    stolen = urllib.parse.parse_qs(urllib.parse.urlsplit(Browser(portal).to_answer("alice@example.org")).query)
    person.to_provider()
    person.open(callback(portal, code=stolen["code"][0], state=state_of(person)))
    assert person.status == 401
    assert not signed_in(person)


@pytest.mark.parametrize("answer", ["{}", "[]", "null", "7", "<html>", '{"issuer": 1, "token_endpoint": []}'])
def test_a_provider_that_makes_no_sense_is_said_not_to(portal, person, answer):
    def say(this):
        odd = f"http://127.0.0.1:{portal.provider_port}/odd/"
        urllib.request.urlopen(odd, json.dumps({"answer": this}).encode())

    away = Browser(portal).to_provider()
    say(answer)
    away.open(callback(portal, code="x", state=state_of(away)))
    assert (away.status, "could not be believed" in away.text) == (401, True)
    person.open(f"{portal.url}/accounts/login/")
    say(answer)
    person.send("/accounts/oidc/sso/login/")
    assert (person.status, "could not be believed" in person.text) == (401, True)


def callback(portal, **query):
    return f"{portal.url}/accounts/oidc/sso/login/callback/?{urllib.parse.urlencode(query)}"


def state_of(person):
    """Of the request that waits at the provider."""
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(person.url).query)
    return urllib.parse.parse_qs(urllib.parse.urlsplit(query["next"][0]).query)["state"][0]


def test_an_answer_that_nobody_asked_for_signs_nobody_in(portal, person):
    person.to_provider()
    for query in ({"code": "x", "state": "made-up"}, {"code": "x"}, {}):
        person.open(callback(portal, **query))
        assert person.status < 500
        assert "Couldn't sign you in" in html.unescape(person.text)
        assert not signed_in(person)


def test_an_answer_to_somebody_else_signs_nobody_in(portal, person):
    """The state of one person's way, on another's: nobody is led into an account that is not theirs."""
    other = Browser(portal).to_provider()
    person.to_provider().open(callback(portal, code="x", state=state_of(other)))
    assert "sign you in" in person.text
    assert not signed_in(person)


def test_a_code_that_the_provider_did_not_give_signs_nobody_in(portal, person):
    person.to_provider()
    person.open(callback(portal, code="made-up", state=state_of(person)))
    assert "the portal's log says what was wrong" in html.unescape(person.text)
    assert "single sign-on by" in portal.log()
    assert not signed_in(person)


def test_whoever_says_no_at_the_provider_is_not_in(portal, person):
    person.to_provider()
    person.open(callback(portal, error="access_denied", state=state_of(person)))
    assert "Sign-in was cancelled" in person.text
    assert not signed_in(person)


def test_the_secret_is_nowhere(portal, person):
    person.sign_on("alice@example.org")
    kept = urllib.parse.quote_plus(SECRET)
    assert any("code=" in address for address in person.redirects.led)
    for place in (portal.log(), person.text, *person.addresses, *person.redirects.led):
        assert SECRET not in place
        assert kept not in place


def test_a_provider_that_is_down_is_said_to_be(portal, person):
    """The last one here: the provider is killed, and comes back."""
    away = Browser(portal).to_provider()
    portal.provider.kill()
    portal.provider.wait()
    away.open(callback(portal, code="x", state=state_of(away)))
    assert away.status < 500
    assert "could not be reached" in away.text
    person.open(f"{portal.url}/accounts/login/").send("/accounts/oidc/sso/login/")
    assert person.status < 500
    assert "could not be reached" in person.text
    assert person.open(f"{portal.url}/accounts/login/").status == 200, "others sign in with their password"
    portal.provider = start_provider(portal.provider_port, f"{portal.url}/accounts/oidc/sso/login/callback/")
    person.sign_on("alice@example.org")
    assert person.url == f"{portal.url}/"
