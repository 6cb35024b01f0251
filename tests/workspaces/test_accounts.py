"""A cloud configuration's account: made of its row and what is sealed in it, and kept."""

from __future__ import annotations

import pytest

from portal import clouds, secrets
from portal.clouds import Can
from portal.clouds.local import LocalOptions
from workspaces.models import CloudConfig

pytestmark = pytest.mark.django_db


@pytest.fixture
def connected(monkeypatch):
    """What accounts are made of, each time that one is made."""
    found = []

    def connect(options, credentials=""):
        found.append((options, credentials))
        return object()

    monkeypatch.setattr(clouds, "connect", connect)
    return found


def test_an_account_is_made_once_and_anew_when_its_configuration_changes(this_computer, settings):
    account = this_computer.account
    assert CloudConfig.objects.get(pk=this_computer.pk).account is account
    settings.LOCAL_NODES = {**settings.LOCAL_NODES, "processes": 17}
    assert this_computer.account is not account


def test_credentials_lie_sealed_and_reach_the_folder_of_their_cloud_alone(this_computer, connected):
    secrets.seal(this_computer, "credentials", "a secret key")
    this_computer.save()
    config = CloudConfig.objects.get(pk=this_computer.pk)
    assert "secret" not in config.credentials
    assert config.account
    ((options, credentials),) = connected
    assert credentials == "a secret key"
    assert "secret" not in repr(options)


def test_what_a_cloud_can_do_is_known_without_opening_what_is_sealed(this_computer, lab):
    this_computer.credentials = "v1:of another key:AAAA"
    this_computer.save()
    assert Can.PAUSE in CloudConfig.objects.get(pk=this_computer.pk).can
    lab.refresh_from_db()
    assert Can.ROLE not in lab.can


def test_no_row_widens_what_the_one_who_runs_the_portal_has_decided(this_computer, settings):
    settings.LOCAL_NODES = {**settings.LOCAL_NODES, "rung": "landlock"}
    this_computer.options = {"rung": "plain", "root": "/", "what is this": 1}
    options = this_computer.connection
    assert isinstance(options, LocalOptions)
    assert (options.rung, options.root) == ("landlock", settings.VAR / "local" / str(this_computer.uuid))
