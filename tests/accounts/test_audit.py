"""What is done is written down, stays as it was written, and is found again."""

from __future__ import annotations

import csv
import io
import re
import threading
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import uuid4

import pytest
import time_machine
from django.core.management import call_command
from django.db import ProgrammingError, close_old_connections, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from accounts import audit
from accounts.actions import create_first_administrator
from accounts.models import AuditChain, AuditEvent, AuditEventQuerySet
from clusters.actions import create_cluster, delete_cluster, repair_cluster
from clusters.models import Cluster, EngineVersion
from jobs.actions import cancel_run, create_job, start_run
from jobs.models import Run
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
        sql = f"UPDATE accounts_auditevent SET {names} WHERE id = %s"
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
def test_what_is_done_once_the_first_action_is_certain_is_written_down_too(harbor, alice):
    with audit.atomic():
        audit.record("created", harbor, organization=harbor, by=alice)
        transaction.on_commit(lambda: audit.record("changed", harbor, organization=harbor, by=alice))
    assert list(AuditEvent.objects.order_by("number").values_list("verb", flat=True)) == ["created", "changed"]


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
    Run.objects.update(status="failed")
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
    assert events[2].after == {
        "nodes": 2,
        "instance type": "local.1",
        "engine version": str(engine),
        "auto pause": "never",
        "auto shutdown": "never",
        "repair by itself": False,
    }
    assert "tok-en" not in str([event.after for event in events])


def test_a_task_cancelled_or_tried_again_by_a_person_is_written_down(client, lab, alice, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    type(lab).objects.filter(pk=lab.pk).update(status="new")
    task = start_task(lab, "workspaces.create", by=alice)
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


@pytest.fixture
def shown(client, alice):
    """The page as its text, whose links are kept."""
    client.force_login(alice)

    def get(**query):
        response = client.get("/organization/audit/", query)
        assert response.status_code == 200
        return response.content.decode()

    return get


def names_on(text):
    """The objects of the entries on a page, from the top."""
    return re.findall(r'data-l="Did".*?<(?:a|strong)\s[^>]*>([^<]+)<', text, re.DOTALL)


def test_the_page_says_who_did_what_from_where(shown, harbor, alice, lab):
    with audit.done_from("2001:db8::7", "passkey"), log_context(request="feedbeef"):
        before, after = {"role": "viewer", "size": 3}, {"role": "user", "mail": False, "list": []}
        audit.record("changed role of", lab, organization=harbor, by=alice, workspace=lab, before=before, after=after)
    audit.record("repaired", lab, organization=harbor, by=None)
    text = shown()
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    did = "alice@example.org passkey changed role of workspace lab"
    assert f"{did} list: nothing mail: no role: viewer to user size: 3" in plain
    assert "size: 3 2001:db8::7 feedbeef" in plain
    assert "The portal repaired workspace lab portal" in plain
    assert f'href="/workspaces/{lab.uuid}/"' in text


def test_an_empty_audit_says_so(shown):
    assert "Nothing was done yet" in shown()


def test_others_see_nothing_of_it(client, harbor, bob, charlie, entries):
    for user, path in ((bob, ""), (bob, "csv/")):
        client.force_login(user)
        assert client.get(f"/organization/audit/{path}").status_code == 403
    client.force_login(charlie)
    assert "Harbor" not in client.get("/organization/audit/").content.decode()


def test_what_somebody_may_not_see_or_what_is_gone_is_no_link(shown, harbor, alice, lab, this_computer):
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="x", cores_per_node=1, node_count=1,
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip
    audit.record("created", cluster, organization=harbor, by=alice)
    audit.record("created", this_computer, organization=harbor, by=alice)
    assert f'href="/clusters/{cluster.uuid}/"' in shown()
    lab.members.filter(user=alice).delete()
    text = shown()
    assert names_on(text) == ["This computer", "tide"]
    assert f'href="/clusters/{cluster.uuid}/"' not in text


@pytest.fixture
def many(harbor, alice, bob, lab, this_computer):
    """120 entries: on three days, of two people, with two verbs."""
    start = datetime(2026, 3, 1, 22, tzinfo=UTC)
    with time_machine.travel(start, tick=False) as clock:
        for number in range(120):
            clock.move_to(start + timedelta(minutes=2 * number))
            lab.name = f"lab-{number}"
            with log_context(request=f"request-{number}"):
                audit.record(
                    "created" if number % 2 else "deleted", lab, organization=harbor, by=bob if number % 3 else alice,
                    workspace=lab if number < 10 else None,
                )  # fmt: skip
    return [f"lab-{number}" for number in range(120)]


def test_the_newest_first_and_the_older_by_a_cursor(shown, many, harbor, alice):
    first = shown(verb="created")
    assert names_on(first) == [f"lab-{number}" for number in range(119, 19, -2)]
    older = re.search(r'href="\?(verb=created&amp;before=\d+)"', first)[1].replace("&amp;", "&")
    audit.record("created", harbor, organization=harbor, by=alice)  # what is appended meanwhile moves nothing
    second = shown(**dict(pair.split("=") for pair in older.split("&")))
    assert names_on(second) == [f"lab-{number}" for number in range(19, 0, -2)]
    assert "Older entries" not in second
    assert "Newest entries" in second


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"q": "lab-7"}, [*range(79, 69, -1), 7]),
        ({"q": "request-7"}, [7]),
        ({"q": "alice@", "verb": "deleted"}, range(114, -1, -6)),
        ({"q": "ali%"}, []),
        ({"q": "b_b"}, []),
        ({"day": "2026-03-01"}, range(59, 9, -1)),
        ({"day": "2026-03-01", "q": "alice"}, range(57, -1, -3)),
        ({"day": "2026-02-28"}, []),
        ({"day": "2026-03-03"}, []),
        ({"day": "9999-12-31"}, []),
        ({"verb": "created", "q": "lab-11"}, [119, 117, 115, 113, 111, 11]),
    ],
)
def test_filters(shown, many, query, numbers):
    assert names_on(shown(**query)) == [f"lab-{number}" for number in numbers]


def test_the_filter_by_workspace_and_by_uuid(shown, many, lab, alice):
    assert names_on(shown(workspace=lab.uuid)) == [f"lab-{number}" for number in range(9, -1, -1)]
    assert names_on(shown(q=str(alice.uuid), day="2026-03-02"))[0] == "lab-117"
    assert len(names_on(shown(q=str(lab.uuid)))) == 50


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"day": "soon"}, "Write a date like 2026-11-24."),
        ({"verb": "praised"}, "This cannot be chosen here."),
        ({"q": "a\0"}, "a character in it that cannot be kept"),
    ],
)
def test_what_cannot_be_looked_for_is_said_at_the_field(shown, many, query, sentence):
    text = shown(**query, workspace="")
    assert sentence in text
    assert names_on(text) == []
    assert "That cannot be looked for" in text


@pytest.mark.parametrize("before", ["x", "-1", "0", str(2**70)])
def test_a_cursor_that_is_none_shows_nothing(shown, many, before):
    assert names_on(shown(before=before)) == []


def test_the_csv_is_the_view_and_no_formula(client, alice, harbor, many):
    names = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "x;=1+1", "x; -1", "\uff1d1+1", 'x;"=1', "a\n=1", "a-b; c")
    for name in (*names, 'a "quoted", name\nof lines'):
        harbor.name = name
        audit.record("created", harbor, organization=harbor, by=alice, after={"name": name})
    client.force_login(alice)
    response = client.get("/organization/audit/csv/", {"verb": "created"})
    assert response.streaming
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"] == 'attachment; filename="audit.csv"'
    assert response["X-Content-Type-Options"] == "nosniff"
    rows = list(csv.DictReader(io.StringIO(b"".join(response.streaming_content).decode())))
    assert [row["subject_name"] for row in rows[:12]] == [
        'a "quoted", name\nof lines', "a-b; c", "a\n'=1", "x;'\"=1", "'\uff1d1+1", "x;' -1", "x;'=1+1",
        "'\t=1", "'@SUM(A1)", "'-1", "'+1", "'=1+1",
    ]  # fmt: skip
    assert [row["subject_name"] for row in rows[12:]] == [f"lab-{number}" for number in range(119, 0, -2)]
    assert not [cell for row in rows for cell in row.values() if cell[:1] in set("=+-@\t\r")]
    assert AuditEvent.objects.get(number=rows[12]["number"]).hash == rows[12]["hash"]


@pytest.mark.django_db(transaction=True)
async def test_the_csv_comes_from_a_server_that_is_asynchronous(async_client, alice, many):
    await async_client.aforce_login(alice)
    response = await async_client.get("/organization/audit/csv/", {"verb": "created"})
    pieces = [piece async for piece in response.streaming_content]
    assert b"".join(pieces).count(b"\n") == 61


FILTERS = {
    "all": {},
    "older": {"before": 40},
    "verb": {"verb": "created"},
    "day": {"day": "2026-03-01"},
    "uuid": {"q": "00000000-0000-4000-8000-000000000000"},
    "workspace": {"workspace": "the lab's"},
}


@pytest.mark.parametrize("name", FILTERS)
def test_what_a_page_reads_does_not_grow_with_the_audit(client, many, lab, alice, harbor, name):
    """No counting, no skipping, and every reading of entries goes through an index."""
    client.force_login(alice)
    query = {key: lab.uuid if key == "workspace" else value for key, value in FILTERS[name].items()}
    client.get("/organization/audit/", query)  # makes what the session keeps
    with CaptureQueriesContext(connection) as few:
        client.get("/organization/audit/", query)
    for _ in range(100):
        audit.record("created", lab, organization=harbor, by=alice)
    with CaptureQueriesContext(connection) as more:
        client.get("/organization/audit/", query)
    assert len(more) == len(few)
    for asked in more:
        sql = asked["sql"]
        if "accounts_auditevent" in sql:
            assert "COUNT(" not in sql
            assert "OFFSET" not in sql
            with connection.cursor() as cursor:
                if connection.vendor == "postgresql":
                    cursor.execute("SET LOCAL enable_seqscan = off")  # a small table is read whole otherwise
                cursor.execute(f"EXPLAIN {'QUERY PLAN ' if connection.vendor == 'sqlite' else ''}{sql}")
                plan = "\n".join(str(row) for row in cursor.fetchall())
            assert "SCAN accounts_auditevent" not in plan, plan
            assert "Seq Scan on accounts_auditevent" not in plan, plan


@pytest.mark.parametrize(
    ("text", "index"), [("lab-7", "audit_by_what"), ("nobody@", "audit_by_who"), ("feed", "audit_by_request")]
)
def test_a_name_is_found_through_an_index_by_how_it_begins(many, harbor, text, index):
    chain = AuditChain.objects.get(organization=harbor.uuid)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE accounts_auditevent")
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        with CaptureQueriesContext(connection) as asked:
            AuditEvent.objects.filter(chain=chain).about(text)
        (looks,) = asked
        cursor.execute(f"EXPLAIN {'QUERY PLAN ' if connection.vendor == 'sqlite' else ''}{looks['sql']}")
        plan = "\n".join(str(row) for row in cursor.fetchall())
    assert index in plan, plan


@pytest.mark.parametrize("little", [0, 3, 500])
def test_what_there_is_much_of_is_found_as_what_there_is_little_of(many, harbor, alice, lab, monkeypatch, little):
    monkeypatch.setattr(AuditEventQuerySet, "LITTLE", little)
    chain = AuditChain.objects.get(organization=harbor.uuid)
    entries = AuditEvent.objects.filter(chain=chain)
    people = (str(alice.uuid), str(lab.uuid), "request-7")
    for text in ("lab-7", "lab-", "alice", "LAB", "nothing", "%", "_", "\U0010ffff", *people):
        found = set(entries.about(text).values_list("number", flat=True))
        begin = {e.number for e in entries if e.actor_name.startswith(text) or e.subject_name.startswith(text)}
        exact = {e.number for e in entries if text in (str(e.actor), str(e.subject), e.request_id)}
        assert found == begin | exact, text
        assert found or text not in people


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no roles")
def test_a_role_of_the_database_can_add_entries_and_not_change_them(harbor, alice):
    """By the statements that the docstring of accounts/audit.py gives."""
    statements = re.findall(r"REVOKE [^;]+;", audit.__doc__)
    assert len(statements) == 2
    refused = (
        "UPDATE accounts_auditevent SET verb = 'x'",
        "DELETE FROM accounts_auditevent",
        "TRUNCATE accounts_auditevent",
        "DELETE FROM accounts_auditchain",
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE portal")  # undone with the test's transaction
        cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO portal")
        cursor.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO portal")
        for statement in statements:
            cursor.execute(statement)
        cursor.execute("SET LOCAL ROLE portal")
        audit.record("created", harbor, organization=harbor, by=alice)
        audit.record("changed", harbor, organization=harbor, by=alice)
        for statement in refused:
            with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
                cursor.execute(statement)
        cursor.execute("RESET ROLE")
    assert AuditEvent.objects.count() == 2
