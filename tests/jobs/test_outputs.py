"""Where what a run has printed is kept."""

from __future__ import annotations

import pytest
from django.conf import settings

from clusters.models import Cluster, EngineVersion
from jobs.actions import start_run
from jobs.models import Job
from portal.clouds import Can
from portal.tasks import keeping, stores
from portal.tasks.output import stream_bytes
from portal.tasks.outputs import Output, Stream
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def job(lab, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    version = EngineVersion.objects.create(kind="mpi", version="5", packages=[])
    tide = Cluster.objects.create(
        workspace=lab, name="tide", engine_version=version, status="running", node_count=1, cores_per_node=2
    )
    return Job.objects.create(workspace=lab, cluster=tide, name="count", git_url="https://git.test/a", command="a.py")


def test_it_lies_in_the_store_of_the_cloud_configuration_under_its_workspace_and_run(job, bob, lab, this_computer):
    run = start_run(job, by=bob)
    run.output.append(Stream.STDOUT, b"hello\n")
    keeping.keep(run.output)
    folder = settings.VAR / "stores" / str(this_computer.uuid) / "outputs" / str(lab.uuid) / str(run.uuid)
    (kept,) = folder.iterdir()
    assert kept.read_bytes().startswith(b"hello\n")
    assert b"".join(stream_bytes(Output.objects.get(pk=run.output_id))) == b"hello\n"


def test_where_a_kind_of_cloud_has_no_store_it_lies_in_the_portals_own(job, bob, monkeypatch):
    monkeypatch.setattr(CloudConfig, "can", frozenset(Can) - {Can.STORE})
    run = start_run(job, by=bob)
    assert run.output.store == stores.OWN
    run.output.append(Stream.STDOUT, b"hello\n")
    keeping.keep(run.output)
    assert b"".join(stream_bytes(Output.objects.get(pk=run.output_id))) == b"hello\n"
