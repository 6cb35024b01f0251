"""What is wrong with the settings is said before the portal answers anybody."""

from __future__ import annotations

import pytest

from portal.checks import settings_are_sane


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
