"""What is wrong with the settings is said before the portal answers anybody."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from portal import environment
from portal.checks import ready_for_production, settings_are_sane
from tests.running import ROOT


@pytest.fixture
def single_sign_on(settings):
    def setting(issuer="https://id.example.org", origins=(), client="portal"):
        app = {"provider_id": "sso", "client_id": client, "secret": "x", "settings": {"server_url": issuer}}
        settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": [app]}}
        settings.SIGN_ON_ORIGINS = [issuer, *origins]
        return [error.id for error in settings_are_sane()]

    return setting


@pytest.mark.parametrize("issuer", ["https://id.example.org/realms/x", "http://127.0.0.1:8080/o", "http://[::1]:80"])
def test_an_issuer_that_can_be_believed(single_sign_on, issuer):
    assert single_sign_on(issuer, ["https://login.example.org", "http://localhost:8081"]) == []


@pytest.mark.parametrize(
    "issuer", ["http://id.example.org", "id.example.org", "https://", "ftp://127.0.0.1", "https://[", ""]
)
def test_an_issuer_that_anybody_on_the_way_could_be(single_sign_on, issuer):
    assert single_sign_on(issuer) == ["portal.E008"]


@pytest.mark.parametrize(
    "origin",
    [
        "http://login.example.org",
        "https://login.example.org/",
        "https://x.example; script-src *",
        "*",
        "'self'",
        "https:",
    ],
)
def test_an_origin_that_would_let_forms_lead_anywhere(single_sign_on, origin):
    assert single_sign_on(origins=[origin]) == ["portal.E009"]


def test_a_provider_without_a_client(single_sign_on):
    assert single_sign_on(client="") == ["portal.E006"]


@pytest.mark.parametrize(
    ("url", "said", "found"),
    [
        ("https://portal.example.org", False, ["portal.W004"]),
        ("https://portal.example.org", True, []),
        ("http://127.0.0.1:8000", False, []),
    ],
)
def test_behind_a_proxy_that_is_not_spoken_of_everybody_has_one_address(settings, url, said, found):
    settings.PORTAL_URL, settings.TRUSTED_PROXIES_SAID = url, said
    assert [warning.id for warning in settings_are_sane()] == found


@pytest.mark.parametrize(
    ("rung", "strangers", "network", "errors"),
    [
        ("plain", True, "isolated", ["portal.E010"]),
        ("plain", False, "isolated", []),
        ("", True, "host", []),
        ("", True, "bridge", ["portal.E011"]),
    ],
)
def test_nodes_without_isolation_are_not_for_strangers(settings, rung, strangers, network, errors):
    settings.LOCAL_NODES = {**settings.LOCAL_NODES, "rung": rung, "strangers": strangers, "network": network}
    assert [error.id for error in settings_are_sane()] == errors


def test_nothing_is_started_with_settings_that_are_wrong(tmp_path):
    """And it is said once, not by each process, again and again."""
    done = subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PORTAL_VAR": str(tmp_path / "var"), "PORTAL_SECRET_KEY": "short"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("PORTAL_SECRET_KEY is short") == 1
    assert "Use 50 random characters" in done.stderr


PER_HOST = {
    "portal.W006": "Kept output is written to",
    "portal.W007": "The examples' repositories",
    "portal.W008": "Logs are of each host",
    "portal.W009": "Nodes of This computer",
}


@pytest.mark.parametrize(("hosts", "told"), [(0, PER_HOST), (1, {}), (2, PER_HOST)])
def test_what_each_host_has_for_itself_is_named_before_there_are_several(settings, hosts, told):
    settings.HOST_COUNT = hosts
    found = {one.id: one for one in ready_for_production()}
    assert {name for name in found if name in PER_HOST} == set(told)
    for name, words in told.items():
        assert words in found[name].msg
        assert "PORTAL_HOSTS" in found[name].hint


def test_outputs_in_a_store_that_all_hosts_see_are_no_trouble(settings):
    settings.HOST_COUNT = 2
    settings.STORAGES = {
        **settings.STORAGES,
        "outputs": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"location": "outputs"}},
    }
    assert "portal.W006" not in {one.id for one in ready_for_production()}


@pytest.mark.parametrize(("given", "found"), [(True, set()), (False, {"portal.W005"})])
def test_keys_that_were_generated_are_those_of_one_host(settings, given, found):
    settings.KEYS_ARE_GIVEN = given
    assert {one.id for one in ready_for_production()} & {"portal.W005"} == found


@pytest.mark.parametrize(
    ("url", "warned"), [("http://portal.example.org", True), ("https://portal.example.org", False)]
)
def test_what_is_missing_for_tls_is_said_by_the_setting_that_brings_it(tmp_path, url, warned):
    call = [sys.executable, ROOT / "manage.py", "check", "--deploy"]
    env = {"PATH": os.environ["PATH"], "PORTAL_VAR": str(tmp_path / "var"), "PORTAL_URL": url}
    said = subprocess.run(call, env=env, capture_output=True, text=True, check=True).stderr
    assert ("portal.W010" in said) is warned
    assert "SECURE_" not in said
    assert "SESSION_COOKIE" not in said


@pytest.mark.parametrize("value", ["1d", "1.5", "ten"])
def test_a_setting_that_is_no_number_is_named(monkeypatch, value):
    monkeypatch.setenv("PORTAL_RUN_MINUTES", value)
    with pytest.raises(ValueError, match=f"^PORTAL_RUN_MINUTES must be a whole number, and is '{value}'"):
        environment.number("PORTAL_RUN_MINUTES", 1440)
