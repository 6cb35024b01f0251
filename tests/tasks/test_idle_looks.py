"""What the watch process asks every second, and mostly in vain."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from django.db import connection

from clusters import idle
from clusters.actions import repair_what_is_gone, stop_what_failed
from jobs.dispatch import dispatch_all
from jobs.mail import find_slow
from jobs.retries import retry_due
from jobs.schedules import fire_due, next_look
from jobs.watch import _to_observe, _with_leftovers
from portal.tasks.keeping import drop_unfinished, keep_due
from portal.tasks.watch import queue_due

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

EVERY_SECOND = (
    *(dispatch_all, retry_due, fire_due, next_look, queue_due, idle.look, repair_what_is_gone, stop_what_failed),
    *(_to_observe, _with_leftovers),
)
LOOKS = (*EVERY_SECOND, find_slow, drop_unfinished, lambda: keep_due(threading.Event()))


def test_where_there_is_nothing_no_look_writes_a_statement(this_computer, monkeypatch):
    for look in EVERY_SECOND:
        look()

    def written(query, *_, **__):
        raise AssertionError(f"a statement is written anew: {query.model}")

    monkeypatch.setattr("django.db.models.sql.query.Query.get_compiler", written)
    for look in EVERY_SECOND:
        look()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by how many rows there are")
def test_no_look_reads_all_that_there_ever_was():
    plans = []

    def explained(execute, sql, values, many, context):
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute("EXPLAIN QUERY PLAN " + sql.replace("%s", "?").replace("%%", "%"), values or ())
            plans.extend(row[3] for row in cursor.fetchall())
        return execute(sql, values, many, context)

    with connection.execute_wrapper(explained):
        for look in LOOKS:
            look()
    whole = [plan for plan in plans if plan.startswith("SCAN ") and " INDEX " not in plan]
    grows = ("jobs_run", "jobs_firing", "jobs_letter", "clusters_cluster", "tasks_")
    assert [plan for plan in whole if plan.split()[1].startswith(grows)] == []
    assert len(plans) > len(LOOKS)
