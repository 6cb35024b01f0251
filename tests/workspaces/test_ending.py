"""What of a workspace is secret is gone from the database with it, however that ends; what there is to read stays."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.urls import reverse
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion, Node
from jobs.actions import Credential, change_credential, change_secrets, create_job
from jobs.models import Job, Run
from portal.errors import PortalError
from portal.secrets import EncryptedField, seal
from portal.tasks import ledger
from portal.tasks.models import Output, Stream, Task
from tests.clouds.bad import AccountOf, MemoryCloud, Refusing
from tests.web import words
from workspaces.actions import delete_workspace, forget_workspace
from workspaces.credentials import create_git_credential, replace_git_secret
from workspaces.models import CloudConfig, GitCredential, Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings", "no_heartbeat")]
OF_THE_ORGANIZATION = {"workspaces.CloudConfig.credentials", "machines.Pool.key_private"}  # they outlive a workspace
COLUMNS = {
    f"{model._meta.label}.{column.name}": model._base_manager.exclude(**{column.name: ""})
    for model in apps.get_models()
    for column in model._meta.local_concrete_fields
    if isinstance(column, EncryptedField)
}
URL = "https://git.example.org/x"


@pytest.fixture
def cloud(monkeypatch):
    made = MemoryCloud()
    monkeypatch.setattr(CloudConfig, "account", AccountOf(made))
    return made


@pytest.fixture
def sealed(lab, alice, cloud):
    """A workspace in which each thing that may have a secret has one, and a run of a job that has ended."""
    cloud.ensure_network(lab.spec)
    cloud.ensure_filesystem(lab.spec)
    lab.keep_login_key("private", "public")
    create_git_credential(lab, name="bot", server="https://git.example.org", username="b", secret="ghp_1", by=alice)
    cluster = Cluster(
        workspace=lab, name="tide", instance_type="x", cores_per_node=1, node_count=1, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip
    seal(cluster, "key_private", "private")
    cluster.save()
    node = Node(cluster=cluster, rank=0, hostname="tide-0")
    node.make_host_key()
    node.save()
    with_password, _ = create_job(
        lab, name="ingest", cluster=cluster, git_url=URL, reference="", command="a.py", by=alice,
        credential=Credential("bob", "ghp_2"), secrets={"TOKEN": "s3cret"},
    )  # fmt: skip
    create_job(
        lab, name="other", cluster=cluster, git_url=URL, reference="", command="a.py", by=alice,
        credential=GitCredential.objects.get(),
    )  # fmt: skip
    Run.objects.update(status="finished", ended=now())
    with_password.last_run.output.append(Stream.STDOUT, b"42 rows\n")
    Output.objects.update(ended=True)
    Cluster.objects.update(status="terminated")
    Task.objects.update(status="finished")
    assert {name for name, rows in COLUMNS.items() if rows.exists()} == set(COLUMNS) - OF_THE_ORGANIZATION, (
        "a new EncryptedField: fill it in here, and have it forgotten (workspaces/ending.py)"
    )
    return lab


def left():
    return {name for name, rows in COLUMNS.items() if rows.exists()} - OF_THE_ORGANIZATION


def do(task):
    ledger.run_task(task.pk)
    task.refresh_from_db()
    return task.status


def status(workspace):
    workspace.refresh_from_db()
    return workspace.status


def test_a_deletion_leaves_no_ciphertext_and_what_ran_can_be_read(client, sealed, alice, bob):
    client.force_login(alice)
    asked = words(client.get(reverse("delete-workspace", args=[sealed.uuid])))
    assert "Saved Git credentials; passwords, access tokens and secret variables of its jobs" in asked
    assert do(delete_workspace(sealed, by=alice)) == "finished"
    assert (status(sealed), left()) == ("terminated", set())
    job = Job.objects.get(name="ingest")
    assert (job.secret_names, job.command) == (["TOKEN"], "a.py")
    client.force_login(bob)
    for name, row in (("job", job), ("run", job.last_run)):
        assert "ingest" in words(client.get(reverse(name, args=[row.uuid])))
    output = client.get(reverse("output-download", args=[job.last_run.output.uuid]))
    assert b"42 rows" in b"".join(output)


def test_none_is_left_by_a_deletion_that_fails_nor_when_it_is_forgotten(sealed, alice, cloud, monkeypatch):
    monkeypatch.setattr(cloud, "delete_filesystem", Refusing(cloud)._refuse)
    assert do(delete_workspace(sealed, by=alice)) == "failed"
    assert (status(sealed), left()) == ("failed", set())
    Workspace.objects.update(login_private="what an older portal has left")
    assert do(forget_workspace(sealed, by=alice)) == "finished"
    assert (status(sealed), left()) == ("terminated", set())


@pytest.mark.parametrize("end", [delete_workspace, forget_workspace])
def test_none_is_left_where_it_is_cancelled_before_anything_was_done(sealed, alice, end):
    if end == forget_workspace:
        ledger.cancel_task(before := delete_workspace(sealed, by=alice))
        do(before)
        Workspace.objects.update(login_private="what an older portal has left")
        sealed.refresh_from_db()
    task = end(sealed, by=alice)
    ledger.cancel_task(task)
    assert do(task) == "cancelled"
    assert (status(sealed), left()) == ("failed", set())


def test_what_is_kept_while_the_person_asks_is_forgotten_too(sealed, alice):
    task = delete_workspace(sealed, by=alice)
    GitCredential.objects.update(secret="of a request that had begun before", deleted=None)
    Job.objects.update(secret_values="of a request that had begun before")
    assert do(task) == "finished"
    assert left() == set()


def test_a_deletion_that_is_refused_forgets_nothing(sealed, alice):
    before = left()
    Run.objects.filter(job__name="other").update(status="new")
    with pytest.raises(PortalError, match="Something goes on"):
        delete_workspace(sealed, by=alice)
    assert left() == before
    assert sealed.git_credentials.live().count() == 1


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_secret_is_kept_in_it_afterwards(sealed, alice, cloud, monkeypatch, fails):
    saved = GitCredential.objects.get()
    job = Job.objects.get(name="ingest")
    if fails:
        monkeypatch.setattr(cloud, "delete_filesystem", Refusing(cloud)._refuse)
    do(delete_workspace(sealed, by=alice))
    new = {"server": "https://git.example.org", "username": "b", "secret": "ghp_3"}
    for keep in (
        lambda: create_git_credential(Workspace.objects.get(), name="new", **new, by=alice),
        lambda: replace_git_secret(saved, username="b", secret="ghp_3", by=alice),
        lambda: change_credential(job, Credential("bob", "ghp_3"), by=alice),
        lambda: change_secrets(job, {"TOKEN": "s3cret"}, by=alice),
    ):
        with pytest.raises(PortalError, match="nothing secret is kept in it any more"):
            keep()
    assert left() == set()


def test_a_creation_that_is_cancelled_leaves_none(lab, alice, cloud, monkeypatch):
    Workspace.objects.update(status="new")
    lab.refresh_from_db()
    task = ledger.start_task(lab, "workspaces.create", by=alice)
    make = cloud.ensure_filesystem

    def cancelled_meanwhile(*args, **kwargs):
        ledger.cancel_task(task)
        create_git_credential(lab, name="bot", server="https://git.example.org", username="b", secret="ghp_1", by=alice)
        return make(*args, **kwargs)

    monkeypatch.setattr(cloud, "ensure_filesystem", cancelled_meanwhile)
    assert do(task) == "cancelled"
    assert (status(lab), left()) == ("terminated", set())
