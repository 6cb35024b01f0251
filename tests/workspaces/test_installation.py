"""What clouds know of us: the tag by which our things are found."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from portal.models import Installation, installation

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def anew():
    installation.cache_clear()
    yield
    installation.cache_clear()


def test_a_portal_that_is_called_something_else_finds_what_it_has_made(lab, settings):
    lab.cloud.ensure_network(lab.spec)
    lab.cloud.ensure_filesystem(lab.spec)
    before = lab.cloud.leftovers(lab.tags())
    settings.PORTAL_NAME = "Acme HPC"
    assert {resource.kind for resource in before} == {"network", "filesystem"}
    assert lab.cloud.leftovers(lab.tags()) == before
    assert lab.cloud.owners(lab.tags().portal) == {lab.tags()}


def test_two_portals_of_one_name_have_two_tags():
    assert installation() == Installation.objects.get().tag
    assert installation() != "coxswain"


def test_a_copy_of_a_portal_is_made_another_one(capsys):
    before = installation()
    call_command("new_installation")
    installation.cache_clear()
    assert installation() != before
    assert "another portal" in capsys.readouterr().out
