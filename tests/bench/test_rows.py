"""What full pages of lists cost in CPU: 25 clusters, 25 jobs and 25 runs, with menus of everything that can be done."""

from __future__ import annotations

import time

import pytest
from django.test import Client
from django.utils.timezone import now

from accounts.access import WorkspaceRole
from clusters.models import Cluster, EngineVersion, Node
from jobs.models import Job, Run
from tests.bench import measured
from tests.bench.test_lists import MOST_CPU, get
from tests.pages.test_pages import make_run, make_task
from workspaces.models import Workspace, WorkspaceMember

pytestmark = [pytest.mark.bench, pytest.mark.django_db, pytest.mark.timeout(600)]

ROWS, TIMES = 25, 50


@pytest.fixture
def full(this_computer, alice, rings):
    lab = Workspace.objects.create(
        organization=this_computer.organization, cloud_config=this_computer, name="full", region="x", status="ready"
    )
    WorkspaceMember.objects.create(workspace=lab, user=alice, role=WorkspaceRole.ADMIN)
    engine = EngineVersion.objects.get(kind="mpi")
    for n in range(ROWS):
        cluster = Cluster.objects.create(
            workspace=lab, name=f"c-{n:02}", instance_type="local.2", cores_per_node=2, node_count=1,
            engine_version=engine, status="running", created_by=alice,
        )  # fmt: skip
        Node.objects.create(cluster=cluster, rank=0, hostname=f"c-{n}-0", state="answers")
        make_task(cluster, "finished")
        job = Job.objects.create(
            workspace=lab, cluster=cluster, name=f"job-{n:02}", git_url="https://h/x", command="a.py", created_by=alice
        )
        make_run(job, 1, "failed", ended=now(), started_by=alice, cause="Rank 1 ended with exit status 2.")
    Run.objects.update(needs_you=True)
    return lab


def test_rows(table, full, alice):
    client = Client()  # whose `get` would copy the context of each template
    client.force_login(alice)
    place = f"/workspaces/{full.uuid}"
    for path in (f"{place}/clusters/", f"{place}/jobs/", f"{place}/runs/", "/runs/"):
        get(client, path)
        taken = []
        for _ in range(TIMES):
            began = time.process_time()
            get(client, path)
            taken.append((time.process_time() - began) * 1000)
        taken = measured.samples(f"the CPU of {path}", taken, least=TIMES)
        size = len(client.get(path).content)
        name = path.replace(str(full.uuid), "LAB")
        table.add(
            name,
            f"{min(taken):.0f} ms ({measured.percentile(taken, 0.5):.0f})",
            f"{size >> 10} KiB",
            f"{MOST_CPU} ms",
            good=min(taken) <= MOST_CPU,
        )
