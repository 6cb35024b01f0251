"""What costs more with every organization, person and page: starts, hints for workers, live pages. On either database.

`bin/with-servers make bench ARGS=tests/bench/test_database.py` has them on PostgreSQL and Redis.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import connection
from redis import Redis

from accounts import audit
from accounts.models import AuditChain, AuditEvent
from clusters.models import Cluster, EngineVersion
from jobs.actions import MOST_WAITING, start_run
from jobs.models import Job, Run
from portal.tasks import ledger, permission, queue
from portal.tasks.models import Output, Task
from portal.tasks.worker import PortalWorker
from tests.bench import measured
from tests.tasks.test_consumers import page_of
from workspaces.models import Workspace, WorkspaceMember

pytestmark = pytest.mark.bench

STARTS = int(os.environ.get("STARTS", "10000"))
HINTS = 1_000
PAGES = 500
SERIALIZER = "rq.serializers.JSONSerializer"


def nothing(number):
    """What a worker of RQ alone is asked to do."""
    return number


@pytest.fixture
def lab(harbor, this_computer, alice, bob):
    """Without a portal beside it."""
    workspace = Workspace.objects.create(
        organization=harbor, cloud_config=this_computer, name="lab", region="this-computer", status="ready"
    )
    WorkspaceMember.objects.create(workspace=workspace, user=bob, role="user")
    return workspace


@pytest.fixture
def engine(db):
    return EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})[0]


@pytest.mark.django_db
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("rings")
def test_ten_thousand_starts_of_one_organization(lab, alice, engine, table):
    """As schedules ask for them that are due at the same time: in batches, each with one lock of the audit's chain."""
    words = {"instance_type": "local.1", "cores_per_node": 1, "node_count": 1, "engine_version": engine}
    jobs = []
    for n in range(STARTS // MOST_WAITING):
        cluster = Cluster.objects.create(workspace=lab, name=f"c{n}", **words)
        jobs.append(
            Job.objects.create(
                workspace=lab, cluster=cluster, name=f"j{n}", git_url="https://git.test/a", command="a.py"
            )
        )

    began = time.perf_counter()
    for n in range(1000):
        output = Output.objects.create()
        Run.objects.create(
            workspace=lab, job=jobs[0], number=10**6 + n, cluster=jobs[0].cluster, git_url="x", command="a.py",
            output=output, status="finished",
        )  # fmt: skip
    floor = measured.amount("the floor of a start", (time.perf_counter() - began) / 1000)

    locks = []

    def count(execute, sql, *rest):
        if sql.startswith('UPDATE "accounts_auditchain"'):
            locks.append(sql)
        return execute(sql, *rest)

    began = time.perf_counter()
    with connection.execute_wrapper(count):
        for job in jobs:
            with audit.atomic():
                for _ in range(MOST_WAITING):
                    start_run(job, by=alice)
    took = measured.amount("ten thousand starts", time.perf_counter() - began)
    assert Run.objects.waiting().count() == STARTS
    assert AuditEvent.objects.filter(verb="started").count() == STARTS
    assert not any(audit.verify(chain) for chain in AuditChain.objects.all())
    table.add(
        f"{STARTS:,} starts of one organization, {connection.vendor}",
        f"{took:.1f} s, {1000 * took / STARTS:.2f} ms each, {len(locks)} locks of its chain",
        f"two rows each: {1000 * floor:.2f} ms",
        f"<= {len(jobs)} locks, <= 12 x the rows",
        good=len(locks) <= len(jobs) and took / STARTS <= 12 * floor,
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rings")
@pytest.mark.skipif("REDIS_URL" not in os.environ, reason="needs Redis in REDIS_URL: bin/with-servers")
def test_queue_rate(lab, alice, engine, table, monkeypatch):
    """A hint for a task that has ended by now, pushed and looked at; against a function that does nothing, by RQ."""
    Redis.from_url(os.environ["REDIS_URL"]).flushdb()
    task = ledger._new_task(lab, ledger.plan_of("workspaces.delete"), alice, "", "", None, None)
    Task.objects.update(status="finished")
    listened = queue.queue(task.queue)

    def rate(push):
        began = time.perf_counter()
        for number in range(HINTS):
            push(number)
        worker = PortalWorker([listened], connection=listened.connection, serializer=SERIALIZER)
        worker.work(burst=True, logging_level="WARNING")
        assert listened.count == 0
        return HINTS / (time.perf_counter() - began)

    def hint():
        task.ticket = queue.new_ticket()  # as each hint has: of one that is given twice, RQ does the first alone
        queue.push(task)

    looked = []
    monkeypatch.setattr(ledger, "run_task", lambda pk, look=ledger.run_task: looked.append(look(pk)))
    alone, ours = [], []
    for _ in range(3):  # in turns
        alone.append(
            rate(lambda n: listened.enqueue(nothing, n, job_id=f"n{n}", job_timeout=-1, result_ttl=0, failure_ttl=3600))
        )
        ours.append(rate(lambda n: hint()))
    assert len(looked) == 3 * HINTS
    raw, portal = measured.amount("RQ alone", max(alone)), measured.amount("the portal's hints", max(ours))
    table.add(
        f"queue_rate, {connection.vendor}",
        f"{portal:.0f}/s, {portal / raw:.2f} of it",
        f"RQ alone: {raw:.0f}/s",
        ">= 0.70 of it",
        good=portal >= 0.7 * raw,
    )


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="needs PostgreSQL in DATABASE_URL: bin/with-servers")
async def test_five_hundred_live_pages(lab, bob, table):
    """Each of a session of its own, as those of 500 people are: what they ask every two seconds."""
    pages = []
    for _ in range(PAGES):
        page = await database_sync_to_async(page_of)(bob)
        pages.append(page.scope["session"].session_key)
    name = f"workspace.{lab.uuid}"

    async def all_ask():
        permission._whose.clear()
        permission._believed.clear()
        began, cpu = time.perf_counter(), time.process_time()
        found = await asyncio.gather(*(permission.refusal(session, [name]) for session in pages))
        assert found == [None] * PAGES
        return time.perf_counter() - began, time.process_time() - cpu

    @database_sync_to_async
    def one_after_the_other():
        began = time.perf_counter()
        for session in pages:
            assert permission._people([session])[session]
        return time.perf_counter() - began

    floor = measured.amount("the floor", await one_after_the_other())
    rounds = [await all_ask() for _ in range(5)]
    took, cpu = (measured.samples("a round", [one[n] for one in rounds], least=5) for n in (0, 1))
    stats = await database_sync_to_async(lambda: connection.pool.get_stats())()
    table.add(
        "500 live pages ask, as they do every 2 s",
        f"{1000 * took[2]:.0f} ms, CPU {1000 * cpu[2]:.0f} ms, {stats['pool_size']} connections",
        f"one after the other: {1000 * floor:.0f} ms",
        f"<= 1.5 s, <= {settings.DATABASE_CONNECTIONS} connections",
        good=took[2] <= 1.5 and stats["pool_size"] <= settings.DATABASE_CONNECTIONS,
    )
