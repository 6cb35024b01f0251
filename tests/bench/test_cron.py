"""10,000 schedules that come due in the same second: claimed, and their runs made as rows. And what a look costs."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from accounts.access import WorkspaceRole
from clusters.models import Cluster, EngineVersion
from jobs.models import Firing, Job, Run, Schedule
from jobs.schedules import fire_due, next_look
from tests.bench import measured
from workspaces.models import Workspace, WorkspaceMember

pytestmark = [pytest.mark.bench, pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

MANY, CLUSTERS, PLACES, OWNERS = 10_000, 200, 10, 2
AT = datetime(2026, 6, 1, 9, tzinfo=UTC)
BAR, LOOK = 3.0, 5  # seconds; milliseconds


@pytest.fixture
def many(this_computer, alice, bob, rings):
    """Of 10 workspaces and two people; 120 expressions, all of which have 09:00 on this day."""
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="2026.1", defaults={"packages": []})
    about = {"organization": this_computer.organization, "cloud_config": this_computer, "region": "x"}
    places = [Workspace.objects.create(name=f"lab-{n}", status="ready", **about) for n in range(PLACES)]
    for place in places:
        for user in (alice, bob):
            WorkspaceMember.objects.create(workspace=place, user=user, role=WorkspaceRole.USER)
    clusters = Cluster.objects.bulk_create(
        Cluster(
            workspace=places[n % PLACES], name=f"c-{n}", instance_type="local.1", engine_version=engine,
            status="running", node_count=1, cores_per_node=1,
        )
        for n in range(CLUSTERS)
    )  # fmt: skip
    jobs = Job.objects.bulk_create(
        Job(
            workspace=clusters[n % CLUSTERS].workspace, cluster=clusters[n % CLUSTERS], name=f"job-{n}",
            git_url="https://git.test/a", command="a.py", created_by=alice,
        )
        for n in range(MANY)
    )  # fmt: skip
    Schedule.objects.bulk_create(
        Schedule(
            workspace_id=job.workspace_id, job=job, cron=_expression(n), zone="UTC", owner=(alice, bob)[n % OWNERS],
            next_at=AT,
        )
        for n, job in enumerate(jobs)
    )  # fmt: skip


def _expression(n: int) -> str:
    return f"0 9,{n % 24} 1,{1 + n % 20} * *"


def test_cron10k(table, many):
    looks = []
    for _ in range(50):
        began = time.perf_counter()
        assert fire_due(AT - timedelta(seconds=1)) == 0
        next_look()
        looks.append((time.perf_counter() - began) * 1000)
    floor = _bare_rows()
    began, worked = time.perf_counter(), time.process_time()
    assert fire_due(AT + timedelta(seconds=1)) == MANY
    took, cpu = time.perf_counter() - began, time.process_time() - worked
    assert Run.objects.count() == Firing.objects.filter(outcome="ran").count() == MANY
    assert fire_due(AT + timedelta(seconds=1)) == 0
    assert not Schedule.objects.filter(next_at__lte=AT).exists()
    table.add("cron10k", f"{took:.2f} s ({cpu:.2f} of CPU)", f"{floor:.2f} s", f"{BAR} s", good=took <= BAR)
    looks = measured.samples("a look with nothing due", looks, least=50)
    half = measured.percentile(looks, 0.5)
    table.add("cron, nothing due", f"{half:.1f} ms", f"{min(looks):.1f} ms", f"{LOOK} ms", good=half <= LOOK)


def _bare_rows() -> float:
    """As many rows with three values each, written by one statement for each 500."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE bare (a bigint, b text, c text)")
        began = time.perf_counter()
        for start in range(0, 3 * MANY, 500):
            rows = [(n, "x" * 200, "y") for n in range(start, start + 500)]
            cursor.executemany("INSERT INTO bare VALUES (%s, %s, %s)", rows)
        took = time.perf_counter() - began
        cursor.execute("DROP TABLE bare")
    return took
