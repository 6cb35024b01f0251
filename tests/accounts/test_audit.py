"""What is done is written down, stays as it was written, and is found again."""

from __future__ import annotations

import threading
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import close_old_connections, connection, transaction
from django.utils.timezone import now

from accounts import audit
from accounts.actions import create_first_administrator
from accounts.models import AuditChain, AuditEvent
from clusters.actions import create_cluster, delete_cluster, repair_cluster
from clusters.models import Cluster, EngineVersion
from jobs.actions import cancel_run, create_job, start_run
from portal.clouds import InstanceType
from portal.logs import log_context
from portal.tasks.ledger import start_task
from portal.tasks.models import Task
from workspaces.actions import create_cloud_config, create_workspace, delete_workspace

TYPE = InstanceType("local.1", family="local", cores=1, vcpus=1, memory_gib=1.0)


def said(event):
    return event.actor_name, event.verb, event.kind, event.subject_name


def alter(event, **values):
    """As somebody with the database's password would."""
    names = ", ".join(f"{name} = %s" for name in values)
    with connection.cursor() as cursor:
        sql = f"UPDATE accounts_auditevent SET {names} WHERE id = %s"  # noqa: S608 (names of our own columns)
        cursor.execute(sql, [*values.values(), event.pk])


def remove(event):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM accounts_auditevent WHERE id = %s", [event.pk])


def verified():
    out = StringIO()
    try:
        call_command("verify_audit", stdout=out)
    except SystemExit as ending:
        return ending.code, out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def entries(harbor, alice):
    return [audit.record("renamed", harbor, organization=harbor, by=alice, after={"n": number}) for number in range(5)]


@pytest.mark.parametrize(
    "address", [None, "192.0.2.7", "2001:DB8:0:0::1", "::ffff:192.0.2.7", "fe80::1%eth0", "unknown", "192.0.2.7:5555"]
)
def test_an_entry_is_the_same_after_the_database(harbor, alice, lab, address):
    odd = {
        "text": "naïve \0 “quoted” 🚣", "number": 3, "share": 0.1, "yes": True, "none": None, "id": uuid4(),
        "at": now(),
        "list": [1, "b", {"c": lab}], "set": {"b", "a"}, 7: 1e300,
    }  # fmt: skip
    with audit.done_from(address, "passkey"), log_context(request="abc"):
        made = audit.record("changed", lab, organization=harbor, by=alice, workspace=lab, before=odd, after=odd)
    stored = AuditEvent.objects.get(pk=made.pk)
    assert audit.hash_of(stored) == stored.hash == made.hash
    assert (stored.how, stored.request_id, stored.workspace, stored.actor) == ("passkey", "abc", lab.uuid, alice.uuid)
    assert verified()[0] == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2001:DB8:0:0::1", "2001:db8::1"), ("::ffff:192.0.2.7", "192.0.2.7"), ("fe80::1%eth0", "fe80::1"),
        ("unknown", None), ("", None), (None, None), ("192.0.2.7", "192.0.2.7"),
    ],
)  # fmt: skip
def test_addresses_are_written_in_one_way(harbor, given, kept):
    with audit.done_from(given):
        event = audit.record("seen", harbor, organization=harbor, by=None)
    assert AuditEvent.objects.get(pk=event.pk).address == kept


def test_what_is_undone_is_not_written_down(harbor, alice):
    before = AuditEvent.objects.count()
    with transaction.atomic():
        audit.record("renamed", harbor, organization=harbor, by=alice)
        transaction.set_rollback(True)
    assert AuditEvent.objects.count() == before
    assert verified()[0] == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("of_installation", [False, True])
def test_at_the_same_moment(harbor, alice, of_installation):
    """Every entry gets its place, from the very first of a chain on."""
    together = threading.Barrier(4)
    wrong = []

    def write():
        try:
            together.wait()
            for _ in range(5):
                with transaction.atomic():
                    audit.record("seen", harbor, organization=None if of_installation else harbor, by=alice)
        except Exception as error:  # noqa: BLE001
            wrong.append(error)
        finally:
            close_old_connections()
            connection.close()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    chain = AuditChain.objects.get()
    assert chain.length == 20
    assert sorted(chain.events.values_list("number", flat=True)) == list(range(1, 21))
    assert verified()[0] == 0


def test_chains_of_organizations_and_of_the_installation_are_apart(harbor, elsewhere, alice):
    for organization in (harbor, elsewhere, None, None, harbor):
        audit.record("seen", harbor, organization=organization, by=alice)
    assert {chain.organization: chain.length for chain in AuditChain.objects.all()} == {
        harbor.uuid: 2, elsewhere.uuid: 1, None: 2,
    }  # fmt: skip
    code, out = verified()
    assert code == 0
    assert "audit of the installation: 2 entries, all as written" in out


def test_the_portal_refuses_to_change_an_entry(entries):
    event = entries[1]
    event.verb = "nothing"
    for attempt in (
        event.save,
        event.delete,
        AuditEvent.objects.all().delete,
        lambda: AuditEvent.objects.update(verb="nothing"),
        lambda: AuditEvent.objects.bulk_update([event], ["verb"]),
        lambda: AuditEvent.objects.bulk_create([AuditEvent(chain=event.chain, number=99)]),
        lambda: event.chain.events.all().delete(),
    ):
        with pytest.raises(TypeError), transaction.atomic():
            attempt()
    assert verified()[0] == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("verb", "praised"), ("actor_name", "bob@example.org"), ("subject_name", "x"), ("address", "192.0.2.9"),
        ("after", '{"n": 7}'), ("hash", "0" * 64), ("previous", "0" * 64), ("how", "x"), ("request_id", "x"),
        ("at", "2020-01-01 00:00:00+00:00"), ("kind", "x"),
    ],
)  # fmt: skip
def test_a_changed_entry_is_found(entries, column, value):
    alter(entries[2], **{column: value})
    assert verified() == (1, f"{entries[2].chain}: entry 3 was changed\n")


@pytest.mark.parametrize("which", [0, 2, 4])
def test_a_removed_entry_is_found_also_the_last_one(entries, which):
    remove(entries[which])
    assert verified() == (1, f"{entries[0].chain}: entry {which + 1} was removed\n")


def test_an_entry_removed_together_with_the_length_is_found(entries):
    remove(entries[4])
    AuditChain.objects.update(length=4)
    assert verified() == (1, f"{entries[0].chain}: entry 4 is not the one that was last appended\n")


def test_an_added_entry_is_found(entries):
    last = entries[4]
    forged = AuditEvent(chain=last.chain, number=6, at=now(), verb="x", kind="x", subject_name="x", previous=last.hash)
    forged.hash = audit.hash_of(forged)
    forged.save()
    assert verified() == (1, f"{last.chain}: entry 6 was added\n")


def test_an_entry_rewritten_with_its_hash_is_found_by_the_next_one(entries):
    event = AuditEvent.objects.get(pk=entries[2].pk)
    event.verb = "praised"
    alter(event, verb="praised", hash=audit.hash_of(event))
    assert verified() == (1, f"{event.chain}: entry 4 does not follow the entry before it\n")


def test_an_entry_moved_to_another_chain_is_found(entries, elsewhere, alice):
    other = audit.record("seen", elsewhere, organization=elsewhere, by=alice)
    alter(entries[4], chain_id=other.chain_id, number=2)
    code, out = verified()
    assert code == 1
    assert len([line for line in out.splitlines() if "was" in line]) == 2


def test_the_first_administrator_and_the_organization_are_written_down(db):
    create_first_administrator(email="ada@example.org", name="Ada", password="correct horse", organization="Lab")
    assert [said(event) for event in AuditEvent.objects.order_by("pk")] == [
        ("", "created", "user", "Ada"),  # by the link that the first start prints
        ("ada@example.org", "created", "organization", "Lab"),
    ]
    assert verified()[0] == 0


def test_every_action_is_written_down_once(harbor, alice, this_computer, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)

    def end_tasks():
        Task.objects.update(status="finished")

    key = uuid4()
    for _ in range(2):  # a form sent twice
        create_cloud_config(harbor, name="Second", kind="local", by=alice, uuid=key)
    workspace = create_workspace(harbor, name="bay", cloud_config=this_computer, region="this-computer", by=alice)
    end_tasks()
    workspace.status = "ready"
    workspace.save()
    engine = EngineVersion.objects.get(kind="mpi")
    cluster = create_cluster(workspace, name="tide", instance_type=TYPE, node_count=2, engine_version=engine, by=alice)
    end_tasks()
    Cluster.objects.update(status="running")
    url = "https://bob:tok-en@git.example.org/x"
    job, run = create_job(workspace, name="j", cluster=cluster, git_url=url, reference="main", command="a.py", by=alice)
    assert cancel_run(run, by=alice)
    end_tasks()
    start_run(job, by=alice)
    end_tasks()
    repair_cluster(Cluster.objects.get(), by=alice)
    end_tasks()
    Cluster.objects.update(status="running")
    delete_cluster(Cluster.objects.get(), by=alice)
    end_tasks()
    Cluster.objects.update(status="terminated")
    delete_workspace(workspace, by=alice)
    events = list(AuditEvent.objects.order_by("number"))
    assert [(event.verb, event.kind, event.subject_name) for event in events] == [
        ("created", "cloud config", "Second"),
        ("created", "workspace", "bay"),
        ("created", "cluster", "tide"),
        ("created", "job", "j"),
        ("started", "run", "j, run 1"),
        ("cancelled", "run", "j, run 1"),
        ("started", "run", "j, run 2"),
        ("repaired", "cluster", "tide"),
        ("deleted", "cluster", "tide"),
        ("deleted", "workspace", "bay"),
    ]
    assert {event.workspace for event in events[1:]} == {workspace.uuid}
    assert events[2].after == {"nodes": 2, "instance type": "local.1", "engine version": str(engine)}
    assert "tok-en" not in str([event.after for event in events])


def test_a_task_cancelled_or_tried_again_by_a_person_is_written_down(client, lab, alice, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    task = start_task(lab, "workspaces.create", title="Create workspace lab", by=alice)
    client.force_login(alice)
    client.post(f"/tasks/{task.uuid}/cancel/")
    Task.objects.update(status="failed", cancel_asked=False)
    lab.status = "failed"
    lab.save()
    client.post(f"/tasks/{task.uuid}/retry/")
    client.post(f"/tasks/{task.uuid}/retry/")  # is refused: it does not stand as failed any more
    events = list(AuditEvent.objects.order_by("number"))
    assert [said(event) for event in events] == [
        ("alice@example.org", "cancelled", "task", "Create workspace lab"),
        ("alice@example.org", "tried again", "task", "Create workspace lab"),
    ]
    assert events[0].workspace == lab.uuid
    assert events[0].address == "127.0.0.1"
    assert events[0].request_id
