"""The link that the first start prints."""

from __future__ import annotations

import pytest

from accounts.actions import first_link
from accounts.models import Organization, SetupLink, User

pytestmark = pytest.mark.django_db

GOOD = {
    "organization": "Harbor Analytics",
    "name": "Alice",
    "email": "Alice@Example.org",
    "password": "tide over the bar 7",
    "again": "tide over the bar 7",
}


def path():
    return first_link("")


def test_it_makes_an_administrator_with_an_organization_and_signs_in(client):
    link = path()
    assert client.get(link).status_code == 200
    assert client.post(link, {**GOOD, "time_zone": "Europe/Oslo"}).status_code == 302
    user = User.objects.get()
    assert (user.email, user.is_superuser, user.time_zone) == ("alice@example.org", True, "Europe/Oslo")
    assert Organization.objects.get().memberships.get().role == "admin"
    assert client.get("/").status_code == 200


def test_it_works_once_and_not_after_there_is_an_administrator(client):
    link = path()
    client.post(link, GOOD)
    client.logout()
    assert client.get(link).status_code == 404
    assert client.post(link, {**GOOD, "email": "mallory@example.org"}).status_code == 404
    assert first_link("") == ""
    assert User.objects.count() == 1


def test_a_new_start_makes_the_old_link_useless(client):
    old, new = path(), path()
    assert client.get(old).status_code == 404
    assert client.get(new).status_code == 200


def test_only_a_hash_of_the_token_is_kept():
    token = path().strip("/").split("/")[-1]
    assert len(token) >= 43
    assert token not in str(SetupLink.objects.values().get())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("password", "short", "Too short"),
        ("password", "password1234", "Too common"),
        ("again", "something else 1", "differ"),
        ("email", "no address", "no e-mail address"),
        ("organization", "", "Fill this in."),
    ],
)
def test_bad_input_is_said_at_the_field_and_the_link_is_not_used_up(client, field, value, words):
    link = path()
    answer = client.post(link, {**GOOD, field: value})
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not User.objects.exists()
    assert client.post(link, GOOD).status_code == 302
