"""Two at the same moment: a link is used once, and the last admin stays."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest
from django.db import connection

from accounts.access import OrganizationRole
from accounts.actions import accept_invitation, change_role, invite_people, remove_member
from accounts.models import AuditEvent, Invitation, Membership, digest
from portal.errors import PortalError

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(*acts):
    """Each in a thread of its own. What each was refused with, or None."""
    barrier, ends = Barrier(len(acts)), [None] * len(acts)

    def run(n):
        try:
            barrier.wait(10)
            acts[n]()
        except PortalError as error:
            ends[n] = error
        finally:
            connection.close()

    threads = [Thread(target=run, args=[n]) for n in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return ends


def test_a_link_that_is_used_twice_at_once_works_once(harbor, alice, charlie, rings):
    (one,) = invite_people(harbor, [charlie.email], by=alice)
    ends = at_once(*[lambda: accept_invitation(digest(one.token), by=charlie)] * 4)
    assert sum(end is None for end in ends) == 1
    assert sum(isinstance(end, PortalError) for end in ends) == 3
    assert harbor.memberships.filter(user=charlie).count() == 1
    assert AuditEvent.objects.filter(verb="accepted").count() == 1


def test_an_address_that_two_admins_invite_at_once_gets_one_invitation(harbor, alice):
    found = []
    acts = [lambda: found.extend(invite_people(harbor, ["nina@example.org"], by=alice))] * 3
    assert at_once(*acts) == [None] * 3
    assert Invitation.objects.count() == 1
    assert sum(one.invitation is not None for one in found) == 1


def test_two_admins_who_go_at_once_leave_one(harbor, alice, bob, rings):
    Membership.objects.update(role=OrganizationRole.ADMIN)
    hers, his = harbor.memberships.get(user=alice), harbor.memberships.get(user=bob)
    ends = at_once(lambda: remove_member(hers, by=bob), lambda: change_role(his, OrganizationRole.MEMBER, by=alice))
    assert sorted(isinstance(end, PortalError) for end in ends) == [False, True], ends
    assert harbor.memberships.filter(role=OrganizationRole.ADMIN).count() == 1
