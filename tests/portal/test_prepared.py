"""Queries that are compiled once answer each time by what they are given."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from accounts.models import Membership, Organization, User
from portal.prepared import prepared, reread

pytestmark = pytest.mark.django_db

built: list[str] = []


@prepared
def places(user: int, *, role: str) -> QuerySet[Organization]:
    built.append(role)
    return Organization.objects.filter(pk__in=Membership.objects.filter(user=user, role=role).values("organization"))


@prepared
def joined(since: datetime, uuids: list[UUID]) -> QuerySet[User]:
    return User.objects.filter(date_joined__gte=since, uuid__in=uuids).order_by("email")


@prepared
def emails(pks: tuple[int, ...]):
    each = [User.objects.filter(pk=pk).values_list("email", flat=True) for pk in pks]
    return each[0].union(*each[1:], all=True)


@prepared
def called(asked: dict[str, str], before: datetime | None):
    people = User.objects.filter(date_joined__lt=before) if before else User.objects.all()
    return people.filter(**{f"{name}__icontains": value for name, value in asked.items()})


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


def test_each_length_of_a_tuple_has_a_query(alice, bob, vera):
    assert emails((bob.pk, alice.pk)) == [bob.email, alice.email]
    assert emails((vera.pk, bob.pk, alice.pk)) == [vera.email, bob.email, alice.email]


def test_it_depends_on_what_is_said_at_all(alice, bob):
    assert called({}, None) == [alice, bob]
    assert called({"name": "ALI"}, None) == [alice]
    assert called({"name": "ALI", "email": bob.email}, None) == []
    assert called({"name": "ALI"}, alice.date_joined) == []


def test_nothing_is_asked_where_nothing_can_be(alice, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert prepared(lambda user: User.objects.none().filter(pk=user))(alice.pk) == []


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


@pytest.mark.django_db(transaction=True)
def test_nobody_locks_what_is_let_go_of_at_once(alice):
    with transaction.atomic():
        assert held(alice.pk) == [alice]
    with pytest.raises(transaction.TransactionManagementError, match="within a transaction"):
        held(alice.pk)


def test_what_a_row_refers_to_stays_read_as_long_as_it_is_that(alice, bob, harbor, django_assert_num_queries):
    membership = Membership.objects.select_related("organization", "user").get(user=alice)
    Membership.objects.filter(pk=membership.pk).update(role="member")
    with django_assert_num_queries(1):
        reread(membership)
        assert (membership.role, membership.organization, membership.user) == ("member", harbor, alice)
    Membership.objects.get(user=bob).delete()
    Membership.objects.filter(pk=membership.pk).update(user=bob)
    with django_assert_num_queries(2):
        reread(membership)
        assert membership.user == bob
    Membership.objects.all().delete()
    with pytest.raises(Membership.DoesNotExist):
        reread(membership)


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
