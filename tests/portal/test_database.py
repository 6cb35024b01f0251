"""Many threads share few connections, and any words of others can be stored."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from channels.db import database_sync_to_async
from django.apps import apps
from django.conf import settings
from django.db import connection, models
from hypothesis import HealthCheck, example, given
from hypothesis import settings as trying
from hypothesis import strategies as st

from accounts import audit
from accounts.models import AuditEvent
from portal.errors import Refused
from portal.tasks import ledger, permission, registry
from portal.tasks.models import Output, Task
from portal.tasks.plans import Plan, StepPlan
from portal.text import storable
from tests.running import until
from tests.tasks.test_consumers import page_of

on_postgres = pytest.mark.skipif(connection.vendor != "postgresql", reason="needs PostgreSQL in DATABASE_URL")


def connections_here():
    """How many the server has from this process's database, apart from the one that asks."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return cursor.fetchone()[0]


def in_use():
    found = connection.pool.get_stats()
    return found["pool_size"] - found["pool_available"]


@on_postgres
@pytest.mark.postgres
@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_five_hundred_live_pages_share_few_connections(bob, lab, monkeypatch):
    """Each asks whether its person may still see the workspace, as it does every two seconds."""
    monkeypatch.setattr(permission, "RELOAD", 0.0)
    monkeypatch.setattr(permission, "RECHECK", 0.0)  # nothing is believed: each of them asks
    session = (await database_sync_to_async(page_of)(bob)).scope["session"].session_key

    def opened():
        return connection.pool.get_stats().get("connections_num", 0)

    before = await database_sync_to_async(opened)()
    for _ in range(3):
        answers = await asyncio.gather(*(permission.refusal(session, [f"workspace.{lab.uuid}"]) for _ in range(500)))
        assert answers == [None] * 500
    at_once = await database_sync_to_async(connections_here)()
    assert at_once <= settings.DATABASE_CONNECTIONS
    assert await database_sync_to_async(opened)() - before <= settings.DATABASE_CONNECTIONS


@on_postgres
@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_lease_is_renewed_without_holding_a_connection_meanwhile(lab, alice, monkeypatch):
    monkeypatch.setattr(ledger, "LEASE", ledger.LEASE / 100)
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    type(lab).objects.update(status="new")
    task = ledger.start_task(lab, "workspaces.create", by=alice)
    claimed = Task.claim(task.pk, worker="here")
    beats, before = [], in_use()  # this thread's own, and those of threads that other tests have started
    real = Task.hold
    monkeypatch.setattr(Task, "hold", lambda self, **changes: beats.append(threading.current_thread()) or real(self))
    with ledger._heartbeat(claimed):
        until(lambda: len(beats) >= 3, what="three beats")
        until(lambda: in_use() <= before, what="a lease without a connection")


# Words of others

WORDS = st.text(st.characters(codec=None, categories=None), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(WORDS, inside, max_size=3),
    max_leaves=6,
)
HOSTILE = "\0 nul \ud800 half \udcff byte \ufffe \U0010ffff \u202e \\u0000 %00 '\"; --"
often = trying(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def text_fields():
    """Of all models, ours and those of libraries."""
    return [
        (model, field)
        for model in apps.get_models()
        for field in model._meta.concrete_fields
        if isinstance(field, models.CharField | models.TextField | models.JSONField) and not field.primary_key
    ]


@given(words=WORDS, said=JSON)
@example(words=HOSTILE, said={HOSTILE: [HOSTILE, float("nan"), float("-inf"), {"a": HOSTILE}]})
@often
def test_what_is_storable_is_text_that_every_database_takes(words, said):
    assert "\0" not in storable(words)
    storable(words).encode()
    assert "\\u0000" not in json.dumps(storable(said), allow_nan=False).replace("\\\\", "")
    assert storable(storable(said)) == storable(said)


@given(words=WORDS)
@example(words="größe ✓ 日本 \U0001f409")
@often
def test_what_every_database_takes_is_left_as_it_is(words):
    kept = words.replace("\0", "").encode(errors="replace").decode()
    assert storable(words) == kept


@on_postgres
@pytest.mark.postgres
@pytest.mark.django_db
@given(words=WORDS, said=JSON)
@example(words=HOSTILE, said={HOSTILE: [HOSTILE, float("nan"), float("-inf"), {"a": HOSTILE}]})
@trying(often, max_examples=12)
def test_every_text_field_of_every_model_takes_and_is_asked_for_any_words(words, said):
    """Written and looked up by way of SQL that PostgreSQL checks, though there are no rows."""
    fields = text_fields()
    assert len(fields) > 100
    for model, field in fields:
        rows = models.QuerySet(model)
        if isinstance(field, models.JSONField):
            rows.filter(**{field.attname: {"nobody": "has this"}}).update(**{field.attname: said})
        else:
            value = words[: field.max_length] if field.max_length else words
            rows.filter(**{field.attname: value}).update(**{field.attname: value})


@pytest.mark.django_db
@given(words=WORDS)
@example(words=HOSTILE)
@trying(often, max_examples=25)
def test_the_audit_keeps_any_words_and_its_chain_holds(harbor, alice, words):
    with audit.done_from(words, words):
        alice.name = words[:120]
        audit.record("changed", alice, organization=harbor, by=alice, before={words: words}, after={"names": [words]})
    event = AuditEvent.objects.latest("number")
    assert event.after == {"names": [storable(words)]}
    assert audit.verify(event.chain) is None


@pytest.mark.django_db
@pytest.mark.usefixtures("no_heartbeat", "rings")
@given(words=WORDS)
@example(words=HOSTILE)
@trying(often, max_examples=25)
def test_a_task_fails_in_any_words_once(lab, alice, words):
    """On PostgreSQL it ended six workers: an error of the database was taken for its absence."""

    def step(work):
        work.log(words)
        work.memo[words] = words
        raise Refused(f"git said {words}", evidence=words, advice=words)

    plan = Plan("tests.words", "Words", "said", [StepPlan("say", "Say", step)], queue="launch")
    registry.plans[plan.kind] = plan
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("portal.tasks.queue.push", lambda task: None)
            task = ledger.start_task(lab, plan.kind, by=alice, title=storable(words)[:200] or "Say")
            ledger.run_task(task.pk)
    finally:
        del registry.plans[plan.kind]
    task.refresh_from_db()
    assert task.status == "failed"
    assert task.cause.startswith("git said")
    assert Output.objects.get(pk=task.output_id).ended
