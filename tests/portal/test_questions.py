"""Questions that are asked again and again: they are written once, and answered anew each time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils.timezone import now

from clusters import idle
from clusters.actions import repair_what_is_gone, stop_what_failed
from jobs.dispatch import dispatch_all
from jobs.retries import retry_due
from jobs.schedules import fire_due, next_look
from portal.questions import asked_often
from portal.tasks.watch import queue_due
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


def test_it_is_written_once_for_each_value_and_says_what_is_there_now(this_computer):
    written = []

    @asked_often
    def due_of(kind: str) -> QuerySet[CloudConfig]:
        written.append(kind)
        return CloudConfig.objects.filter(kind=kind, check_due__lte=Now())

    CloudConfig.objects.update(check_due=now() + timedelta(hours=1))
    assert (due_of("local"), due_of("aws")) == (set(), set())
    CloudConfig.objects.update(check_due=now() - timedelta(seconds=1))
    assert (due_of("local"), due_of("aws")) == ({this_computer.pk}, set())
    assert written == ["local", "aws"]


def test_where_there_is_nothing_no_look_writes_a_statement(this_computer, monkeypatch):
    looks = (dispatch_all, retry_due, fire_due, next_look, queue_due, idle.look, repair_what_is_gone, stop_what_failed)
    for look in looks:
        look()

    def written(query, *_, **__):
        raise AssertionError(f"a statement is written anew: {query.model}")

    monkeypatch.setattr("django.db.models.sql.query.Query.get_compiler", written)
    for look in looks:
        look()
