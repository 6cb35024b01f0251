"""Jobs, runs, clusters, dashboards and staff pages with 1,000,000 runs, beside those with 10,000."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from accounts.access import OrganizationRole, WorkspaceRole
from accounts.models import Membership, Organization, User
from clusters.models import Cluster, EngineVersion, Node
from jobs.models import Job, Run, Tag
from portal.tasks.models import Output, Task
from tests.bench.test_lists import MOST_CPU, MOST_QUERIES, get, measure
from workspaces.models import CloudConfig, Workspace, WorkspaceMember

pytestmark = [pytest.mark.bench, pytest.mark.django_db(transaction=True), pytest.mark.timeout(1200)]

PAGES = (
    "/", "/runs/", "/runs/?after={middle}", "/runs/?sort=old", "/runs/?status=needs", "/runs/?status=failed&days=7",
    "/runs/?who=me", "/runs/?who={nobody}", "{lab}/dashboard/", "{quiet}/dashboard/", "{lab}/jobs/",
    "{lab}/jobs/?sort=name", "{lab}/jobs/?q=job-1", "{lab}/jobs/?cluster={cluster}", "{lab}/jobs/?tag=odd",
    "{lab}/jobs/?tag=rare", "{lab}/jobs/?tag=nothing", "{lab}/jobs/?after={job}",
    "{lab}/runs/", "{lab}/runs/?sort=old", "{lab}/runs/?after={middle}", "{lab}/runs/?status=failed",
    "{lab}/runs/?status=failed&after={middle}", "{lab}/runs/?status=needs", "{lab}/runs/?status=going",
    "{lab}/runs/?status=cancelled&cluster={cluster}", "{lab}/runs/?cluster={cluster}", "{lab}/runs/?cluster={gone}",
    "{lab}/runs/?who=me", "{lab}/runs/?who={nobody}", "{lab}/runs/?days=7", "{lab}/runs/?days=7&status=failed",
    "{lab}/runs/?q=job-0", "{lab}/runs/?q=job-1", "{lab}/runs/?q=rare", "{lab}/runs/?q=nothing",
    "{lab}/runs/?q=job&status=cancelled", "{lab}/runs/?job={job}", "{quiet}/runs/", "{quiet}/runs/?status=failed",
    "/jobs/{job}/", "/jobs/{job}/?after={middle}", "/jobs/{rare}/", "/runs/{middle}/", "/clusters/{cluster}/",
    "{lab}/clusters/", "{lab}/clusters/?q=c-1", "{lab}/clusters/?tab=gone", "{lab}/clusters/?tab=gone&after={gone}",
    "/admin/jobs/run/", "/admin/jobs/run/?status__exact=failed", "/admin/jobs/run/?q=job-1", "/admin/jobs/job/",
    "/admin/tasks/task/", "/admin/tasks/task/?status__exact=failed", "/admin/clusters/cluster/",
)  # fmt: skip
# Pages of one thing: they are measured, and what they may cost is said in tests/pages/queries.json.
OF_ONE = ("/jobs/{", "/runs/{")


def copies(model, row, count, **columns):
    """So many more rows like this one; `columns` say in SQL what is different in row number `i`."""
    names = [field.column for field in model._meta.concrete_fields if not field.primary_key or "id" in columns]
    sqlite = connection.vendor == "sqlite"
    given = {"uuid": "lower(hex(randomblob(16)))" if sqlite else "gen_random_uuid()", **columns}
    if sqlite:
        series = (
            f"(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {count}) SELECT i FROM s) s"
        )
    else:
        series = f"generate_series(1, {count}) AS s(i)"
    values = ", ".join(given.get(name, f't."{name}"') for name in names)
    quoted = ", ".join(f'"{name}"' for name in names)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {model._meta.db_table} ({quoted}) SELECT {values} FROM {model._meta.db_table} t, {series}"
            f" WHERE t.id = {row.pk} ORDER BY i"
        )


def ago(seconds):
    """A moment, in SQL."""
    if connection.vendor == "sqlite":
        return f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || ({seconds}) || ' seconds')"
    return f"now() - ({seconds}) * interval '1 second'"


def a_run(job, number, **fields):
    return Run.objects.create(
        job=job, number=number, cluster=job.cluster, git_url=job.git_url, command="a.py",
        output=Output.objects.create(), **{"started_by": job.created_by, "turn": now(), **fields},
    )  # fmt: skip


def one_in(of):
    """SQL: a number of 0 to `of` - 1 by the run's own; every second run has number 0."""
    return f"(CASE WHEN i % 2 = 0 THEN 0 ELSE 1 + (i / 2) % {of - 1} END)"


def a_workspace(name, runs):
    """With 200 jobs and 20 clusters, half of the runs in the first and on the first; 500 clusters are gone.

    Each run has the task that ran it.
    """
    organization = Organization.objects.create(name=name)
    me = User.objects.create_superuser(f"me.{name}@example.org", "correct horse battery")
    nobody = User.objects.create_user(f"nobody.{name}@example.org", "correct horse battery")
    Membership.objects.create(organization=organization, user=me, role=OrganizationRole.ADMIN)
    config = CloudConfig.objects.create(organization=organization, name="here", kind="local")
    engine = EngineVersion.objects.get(kind="mpi")

    def place(name):
        made = Workspace.objects.create(
            organization=organization, cloud_config=config, name=name, region="this-computer", status="ready"
        )
        WorkspaceMember.objects.create(workspace=made, user=me, role=WorkspaceRole.ADMIN)
        return made

    def cluster(workspace, name, status="running", **fields):
        return Cluster.objects.create(
            workspace=workspace, name=name, status=status, engine_version=engine, instance_type="local.2",
            cores_per_node=2, node_count=1, **fields,
        )  # fmt: skip

    quiet, lab = place("quiet"), place("lab")
    for workspace in [quiet, *(place(f"w{n}") for n in range(3))]:
        own = Job.objects.create(
            workspace=workspace, cluster=cluster(workspace, "own"), name="own", git_url="https://h/x", created_by=me
        )
        for number in range(1, 13):
            a_run(own, number, status="failed" if number == 12 else "finished", started=now(), ended=now())
    clusters = [cluster(lab, f"c-{n}") for n in range(20)]
    for one in clusters:
        Node.objects.create(cluster=one, rank=0, hostname=f"{one.name}-0", state="answers")
    gone = [cluster(lab, f"old-{n}", "terminated") for n in range(500)]
    jobs = [
        Job.objects.create(
            workspace=lab, cluster=clusters[n % 20], name=f"job-{n}", git_url="https://h/x", command="a.py",
            created_by=me, ran=now() - timedelta(minutes=n), tags=["odd"] if n % 2 else ["even"],
        )
        for n in range(200)
    ]  # fmt: skip
    rare = Job.objects.create(
        workspace=lab, cluster=clusters[3], name="rare", git_url="https://h/x", created_by=me, tags=["rare"]
    )
    Tag.objects.bulk_create(Tag(workspace=lab, job=job, word=word) for job in [*jobs, rare] for word in job.tags)
    first = a_run(rare, 1, status="finished", started=now(), ended=now())
    base = (Output.objects.order_by("-pk").values_list("pk", flat=True).first() or 0) + 1000
    copies(Output, first.output, runs, id=f"{base} + i")
    copies(
        Run, first, runs, number="i", output_id=f"{base} + i",
        job_id=f"{jobs[0].pk} + {one_in(200)}", cluster_id=f"{clusters[0].pk} + {one_in(20)}",
        status="CASE WHEN i % 50 < 5 THEN 'failed' WHEN i % 50 = 49 THEN 'cancelled' ELSE 'finished' END",
        started_by_id=f"CASE WHEN i % 7 = 0 THEN {me.pk} ELSE NULL END", cause="'Rank 1 ended with exit status 2.'",
        created=ago(f"({runs} - i) * 40"), turn=ago(f"({runs} - i) * 40"), started=ago(f"({runs} - i) * 40"),
        ended=ago(f"({runs} - i) * 40 - 30"),
    )  # fmt: skip
    task = Task.objects.create(
        kind="jobs.run", title="Run a job", subject=first, queue="launch", output=first.output, status="finished"
    )
    copies(
        Task, task, runs, subject_id=f"{first.pk} + i", created=ago(f"({runs} - i) * 40"),
        status="CASE WHEN i % 50 < 5 THEN 'failed' ELSE 'finished' END",
    )  # fmt: skip
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval(pg_get_serial_sequence('tasks_output', 'id'), max(id)) FROM tasks_output")
    middle = jobs[0].runs.filter(number=2 * (runs // 4)).get()
    for job in jobs[:40]:
        last = job.runs.filter(status="failed").order_by("-pk").first()
        Run.objects.filter(pk=last.pk).update(needs_you=True)
    for n in range(5):
        on = a_run(jobs[n], runs + 10, status="inprogress", started=now(), cores=2)
        Cluster.objects.filter(pk=on.cluster_id).update(occupied_by=on.uuid)
    for n in range(100):
        a_run(jobs[1], runs + 100 + n, status="new", turn=None)
    return me, {
        "lab": f"/workspaces/{lab.uuid}", "quiet": f"/workspaces/{quiet.uuid}", "cluster": clusters[0].uuid,
        "gone": gone[250].uuid, "job": jobs[0].uuid, "rare": rare.uuid, "middle": middle.uuid, "nobody": nobody.uuid,
    }  # fmt: skip


def database(client, path):
    """Milliseconds that the database takes for all queries of a page, the best of three: CPU that is not ours, too."""
    taken = []
    for _ in range(3):
        with CaptureQueriesContext(connection) as captured:
            get(client, path)
        taken.append(1000 * sum(float(query["time"]) for query in captured.captured_queries))
    return min(taken)


def test_runs(table):
    costs = {}
    for name, runs in (("few", 10_000), ("many", int(os.environ.get("BENCH_RUNS", "1000000")))):
        with transaction.atomic():
            me, of = a_workspace(name, runs)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        client = Client()
        client.force_login(me)
        for page in PAGES:
            path = page.format(**of)
            costs.setdefault(page, []).append((*measure(client, path), database(client, path)))
    missed = []
    for page, ((few, few_cpu, few_database), (many, many_cpu, many_database)) in costs.items():
        most = 14 if page.startswith(OF_ONE) else MOST_QUERIES
        good = few == many <= most and many_cpu <= MOST_CPU
        table.add(
            page,
            f"{many} queries, {many_cpu:.0f} ms, {many_database:.0f} ms in the database",
            f"{few} queries, {few_cpu:.0f} ms, {few_database:.0f} ms",
            f"{most}, {MOST_CPU} ms",
            good=good,
        )
        if few != many:
            missed.append(page)
    assert missed == []
