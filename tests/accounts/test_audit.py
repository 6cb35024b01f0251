"""What was done is written down once, in order, and cannot be changed unnoticed."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from accounts import audit
from accounts.models import AuditChain, AuditEvent, Unchangeable
from workspaces.actions import create_cloud_config, create_workspace
from workspaces.models import CloudConfig


@pytest.fixture
def entries(harbor, alice, bob):
    with audit.done_from("2001:DB8::1", "password"):
        for n in range(5):
            before, after = {"role": "member", "n": n}, {"role": "admin", "text": "é\U0001f30a", "none": None, "x": 0.1}
            audit.record("changed role", bob, organization=harbor, by=alice, before=before, after=after)
    audit.record("created", alice, organization=None, by=None)
    return AuditEvent.objects.filter(chain__organization=harbor.uuid).order_by("number")


def tamper(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)


def damages():
    return [(damage.number, damage.what) for damage in audit.verify()]


def test_what_was_written_verifies(entries, capsys):
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5]
    assert damages() == []
    call_command("verify_audit")
    assert "6 entries in 2 chains" in capsys.readouterr().out


def test_an_entry_says_who_what_from_where(entries, alice, bob):
    entry = entries[0]
    assert (entry.actor, entry.actor_name, entry.how, entry.address) == (
        alice.uuid, "alice@example.org", "password", "2001:db8::1",
    )  # fmt: skip
    assert (entry.verb, entry.kind, entry.subject, entry.before["role"]) == ("changed role", "user", bob.uuid, "member")


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("UPDATE accounts_auditevent SET verb='x' WHERE number=3 AND actor_name<>''", 3),
        ("UPDATE accounts_auditevent SET at='2020-01-01 00:00:00+00:00' WHERE number=2 AND actor_name<>''", 2),
        ("UPDATE accounts_auditevent SET after='{}' WHERE number=4", 4),
        ("DELETE FROM accounts_auditevent WHERE number=3", 3),
        ("DELETE FROM accounts_auditevent WHERE number=1 AND actor_name<>''", 1),
        ("DELETE FROM accounts_auditevent WHERE number=5", 5),
        ("DELETE FROM accounts_auditevent WHERE actor_name<>''", 1),
    ],
)
def test_tampering_is_found(entries, sql, number, capsys):
    tamper(sql)
    assert [found for found, _ in damages()] == [number]
    with pytest.raises(CommandError, match="1 of 2 chains"):
        call_command("verify_audit")


def test_an_entry_with_a_made_up_hash_is_found(entries):
    """Whoever changes an entry and computes its hash anew has not changed the one after it."""
    entry = entries[2]
    entry.verb = "nothing"
    tamper("UPDATE accounts_auditevent SET verb='nothing', hash=%s WHERE id=%s", audit.hash_of(entry), entry.pk)
    assert [number for number, _ in damages()] == [4]


def test_entries_cannot_be_changed_by_accident(entries):
    entry = entries[0]
    for change in (entry.save, entry.delete, entries.delete, lambda: entries.update(verb="x")):
        with pytest.raises(Unchangeable):
            change()
    assert damages() == []


def test_what_is_not_done_is_not_written(harbor, alice):
    with transaction.atomic():
        audit.record("deleted", harbor, organization=harbor, by=alice)
        transaction.set_rollback(True)
    assert not AuditEvent.objects.exists()
    audit.record("deleted", harbor, organization=harbor, by=alice)
    assert AuditChain.objects.get().length == 1
    assert damages() == []


def test_what_people_do_is_written_down(harbor, alice, client, rings, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    config = create_cloud_config(harbor, name="This computer", kind=CloudConfig.Kind.LOCAL, by=alice)
    workspace = create_workspace(harbor, name="lab", cloud_config=config, region="this-computer", by=alice)
    client.force_login(alice)
    client.post(f"/tasks/{workspace.last_task.uuid}/cancel/", REMOTE_ADDR="198.51.100.24")
    said = [(entry.verb, entry.kind, entry.subject_name, entry.workspace) for entry in AuditEvent.objects.all()]
    assert said == [
        ("created", "cloud config", "This computer", None),
        ("created", "workspace", "lab", workspace.uuid),
        ("cancelled", "task", "Create workspace lab", workspace.uuid),
    ]
    last = AuditEvent.objects.latest("number")
    assert last.address == "198.51.100.24"
    assert last.request_id
    assert damages() == []
