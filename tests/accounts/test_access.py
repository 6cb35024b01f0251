"""The one table, asked in its two ways."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.test import Client

from accounts.access import Can, get_for
from accounts.models import Organization
from workspaces.models import CloudConfig, Workspace

ROWS = [
    (Can.SEE_WORKSPACE, {"alice", "bob", "vera"}),
    (Can.VIEW, {"alice", "bob", "vera"}),
    (Can.RUN_JOBS, {"alice", "bob"}),
    (Can.MANAGE_CLUSTERS, {"alice"}),
    (Can.MANAGE_WORKSPACE, {"alice"}),
]


@pytest.fixture
def cast(alice, bob, vera, charlie, lab):
    return {"alice": alice, "bob": bob, "vera": vera, "charlie": charlie, "nobody": AnonymousUser()}


@pytest.mark.parametrize(("can", "people"), ROWS)
def test_who_may_do_what_in_a_workspace(cast, lab, can, people):
    may = {name for name, user in cast.items() if Workspace.objects.where(user, can).filter(pk=lab.pk).exists()}
    assert may == people


def test_an_organization_admin_without_a_role_sees_that_a_workspace_exists_and_no_more(cast, lab, alice):
    lab.members.filter(user=alice).delete()
    assert Workspace.objects.where(alice, Can.SEE_WORKSPACE).get() == lab
    assert not Workspace.objects.where(alice, Can.VIEW).exists()


def test_only_organization_admins_see_cloud_configurations(cast, this_computer):
    may = {name for name, user in cast.items() if CloudConfig.objects.seen_by(user, this_computer.uuid)}
    assert may == {"alice"}


def test_a_member_without_a_role_sees_the_organization(cast, harbor, bob, lab):
    lab.members.filter(user=bob).delete()
    assert Organization.objects.seen_by(bob, harbor.uuid) == harbor
    assert not Workspace.objects.where(bob, Can.SEE_WORKSPACE).exists()


def test_an_inactive_person_may_nothing(cast, lab, alice):
    alice.is_active = False
    assert not Workspace.objects.where(alice, Can.SEE_WORKSPACE).exists()


def test_a_stranger_is_told_what_somebody_is_told_who_asks_for_nothing(cast, lab, charlie, bob):
    with pytest.raises(Http404):
        get_for(Workspace.objects.all(), charlie, Can.SEE_WORKSPACE, uuid=lab.uuid)
    with pytest.raises(PermissionDenied):
        get_for(Workspace.objects.all(), bob, Can.MANAGE_WORKSPACE, uuid=lab.uuid)
    assert get_for(Workspace.objects.all(), bob, Can.SEE_WORKSPACE, uuid=lab.uuid) == lab


def test_a_role_counts_from_the_next_page_on(lab, bob, vera, charlie):
    def answers(user):
        client = Client()
        client.force_login(user)
        return client.get(f"/workspaces/{lab.uuid}/jobs/new/").status_code

    assert [answers(bob), answers(vera), answers(charlie)] == [200, 403, 404]
    lab.members.filter(user=bob).update(role="viewer")
    lab.members.filter(user=vera).update(role="user")
    assert [answers(bob), answers(vera), answers(charlie)] == [403, 200, 404]
    lab.members.filter(user=bob).delete()
    assert [answers(bob), answers(vera)] == [404, 200]
