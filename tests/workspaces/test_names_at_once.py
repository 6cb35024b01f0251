"""Two forms with one name at once: the second is told so at its field."""

from __future__ import annotations

from functools import partial
from threading import Barrier, Thread

import pytest
from django.db import connection
from django.utils.timezone import now

from accounts.actions import delete_organization
from clusters.actions import create_cluster
from clusters.models import Cluster, EngineVersion
from jobs.forms import EditJobForm
from jobs.models import Job, Run
from portal.errors import Conflict, PortalError, Taken
from portal.tasks.models import Output, Task
from tests.accounts.test_at_once import at_once
from tests.clouds.bad import AccountOf, MemoryCloud
from workspaces.actions import create_cloud_config, create_workspace
from workspaces.forms import OnceForm
from workspaces.models import CloudConfig, Workspace


@pytest.fixture
def cloud(monkeypatch):
    memory = MemoryCloud()
    monkeypatch.setattr(CloudConfig, "account", AccountOf(memory))
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    return memory


@pytest.fixture
def engine(db):
    """Migrations make it; a test that writes for good has taken it away."""
    return EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})[0]


@pytest.fixture
def tide(lab, engine):
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, engine_version=engine,
        status="running", occupied_by=None,
    )  # fmt: skip
    Job.objects.create(workspace=lab, cluster=cluster, name="nightly", git_url="https://git.test/a", command="a.py")
    return cluster


def forms(lab, tide):
    config, engine = lab.cloud_config, str(tide.engine_version_id)
    return {
        "cloud configuration": ("/cloud-configurations/new/", {"name": config.name, "kind": "local"}),
        "workspace": ("/workspaces/new/", {"name": lab.name, "cloud_config": str(config.uuid), "region": "memory"}),
        "cluster": (
            f"/workspaces/{lab.uuid}/clusters/new/",
            {
                "name": tide.name, "instance_type": "local.1", "node_count": "1", "engine_version": engine,
                "auto_pause_1": "never", "auto_shutdown_1": "never",
            },
        ),
        "job": (
            f"/workspaces/{lab.uuid}/jobs/new/",
            {"name": "nightly", "cluster": str(tide.uuid), "git_url": "https://git.test/a", "command": "a.py"},
        ),
    }  # fmt: skip


@pytest.mark.django_db
@pytest.mark.usefixtures("rings")
@pytest.mark.parametrize("what", ["cloud configuration", "workspace", "cluster", "job"])
def test_a_name_that_was_given_away_a_moment_ago_is_named_at_its_field(
    client, lab, tide, alice, cloud, monkeypatch, what
):
    # They have looked before the other one was made.
    monkeypatch.setattr(OnceForm, "is_taken", lambda self, *_: False)
    monkeypatch.setattr(EditJobForm, "clean_name", lambda self: self.cleaned_data["name"])
    before = [model.objects.count() for model in (CloudConfig, Workspace, Cluster, Job, Run, Task, Output)]
    client.force_login(alice)
    address, fields = forms(lab, tide)[what]
    page = client.post(address, fields)
    assert page.status_code == 200
    assert page.context["form"].errors == {"name": ["There is one of this name already."]}
    assert [model.objects.count() for model in (CloudConfig, Workspace, Cluster, Job, Run, Task, Output)] == before


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rings")
@pytest.mark.parametrize("what", ["cloud configuration", "workspace", "cluster"])
def test_of_four_at_once_with_one_name_one_is_made(lab, alice, cloud, engine, what):
    organization, config = lab.organization, lab.cloud_config
    act = {
        "cloud configuration": lambda: create_cloud_config(organization, name="new", kind="local", by=alice),
        "workspace": lambda: create_workspace(
            organization, name="new", cloud_config=config, region="memory", by=alice
        ),
        "cluster": lambda: create_cluster(
            lab, name="new", instance_type=MemoryCloud.types[0], node_count=1,
            engine_version=engine, by=alice,
        ),
    }[what]  # fmt: skip
    barrier, ends = Barrier(4), []

    def do():
        try:
            barrier.wait(20)
            act()
            ends.append(None)
        except PortalError as error:
            ends.append(error)
        finally:
            connection.close()

    threads = [Thread(target=do) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ends.count(None) == 1
    assert [type(end) for end in ends if end] == [Taken] * 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rings", "cloud")
def test_no_workspace_is_made_in_an_organization_that_is_deleted_at_the_same_time(harbor, alice, this_computer):
    make = partial(create_workspace, harbor, name="w", cloud_config=this_computer, region="memory", by=alice)
    ends = at_once(make, partial(delete_organization, harbor, by=alice))
    harbor.refresh_from_db()
    assert bool(harbor.deleted) != harbor.workspaces.live().exists(), ends
    assert sum(end is None for end in ends) == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("rings", "cloud")
def test_a_form_for_a_workspace_of_an_organization_that_was_deleted_meanwhile_is_refused(harbor, alice, this_computer):
    CloudConfig.objects.filter(pk=this_computer.pk).update(deleted=None)
    harbor.deleted = now()
    harbor.save()
    with pytest.raises(Conflict, match="was deleted"):
        create_workspace(harbor, name="w", cloud_config=this_computer, region="memory", by=alice)
    assert not Workspace.objects.exists()
