"""Queries that are compiled once answer each time by what they are given."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from accounts.models import Membership, Organization, User
from portal.prepared import prepared

pytestmark = pytest.mark.django_db

built: list[str] = []


@prepared
def places(user: int, *, role: str) -> QuerySet[Organization]:
    built.append(role)
    return Organization.objects.filter(pk__in=Membership.objects.filter(user=user, role=role).values("organization"))


@prepared
def joined(since, uuids: list[UUID]) -> QuerySet[User]:
    return User.objects.filter(date_joined__gte=since, uuid__in=uuids).order_by("email")


@prepared
def emails(pks: list[int]):
    pair = [User.objects.filter(pk=pks[n]).values_list("email", flat=True) for n in (0, 1)]
    return pair[0].union(pair[1], all=True)


def test_each_is_answered_by_what_they_gave_and_it_is_built_once_for_each_shape(alice, bob, charlie, harbor, elsewhere):
    built.clear()
    asked = [places(user.pk, role="admin") for user in (alice, bob, charlie)] + [places(bob.pk, role="member")]
    assert asked == [[harbor], [], [elsewhere], [harbor]]
    assert built in ([], ["admin", "member"])  # by this test, or by one before it


def test_times_uuids_and_lists_are_given_as_the_database_has_them(alice, bob, vera):
    hour = timedelta(hours=1)
    assert joined(now() - hour, [vera.uuid, alice.uuid]) == [alice, vera]
    assert joined(now() - hour, [bob.uuid]) == [bob]
    assert joined(now() - hour, []) == []
    assert joined(now() + hour, [bob.uuid]) == []


def test_one_of_a_list_can_be_named(alice, bob):
    assert emails([bob.pk, alice.pk]) == [bob.email, alice.email]


def test_what_belongs_to_somebody_does_not_stay_in_a_query(alice):
    with pytest.raises(AssertionError, match="somebody's"):
        prepared(lambda: User.objects.filter(uuid=alice.uuid))()


@prepared
def held(pk: int) -> QuerySet[User]:
    return User.objects.select_for_update(no_key=True).filter(pk=pk)


def test_rows_are_locked_as_the_query_says_and_read_anew_each_time(alice):
    with CaptureQueriesContext(connection) as asked:
        assert held(alice.pk) == [alice]
        User.objects.filter(pk=alice.pk).update(name="Alice anew")
        assert held(alice.pk)[0].name == "Alice anew"
    assert ("FOR NO KEY UPDATE" in asked[0]["sql"]) == (connection.vendor == "postgresql")


@prepared
def numbered(pk: int) -> QuerySet[User, int]:
    return User.objects.filter(pk=pk).values_list("pk", flat=True)


@pytest.mark.django_db(transaction=True)
def test_threads_that_ask_at_once_are_each_answered_what_they_ask(alice, bob, vera):
    def ask(person):
        try:
            return numbered(person.pk)
        finally:
            connection.close()

    people = [alice, bob, vera] * 20
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, people)) == [[person.pk] for person in people]
