"""What people of one organization try on what another has, by its uuids, which are no secret."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.urls import reverse

from accounts.access import WorkspaceRole
from accounts.models import ApiToken, Organization
from clusters.models import Cluster, EngineVersion, Node
from jobs.actions import create_job, start_run
from portal import secrets, ssh
from portal.clouds import Tags
from portal.models import installation
from portal.tasks.models import Task
from tests.clouds.bad import AccountOf, MemoryCloud
from tests.clusters.test_strays import compare, make_nodes
from workspaces.models import CloudConfig, Stray, Workspace, WorkspaceMember

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings", "no_heartbeat")]


@pytest.fixture
def accounts(monkeypatch):
    """An account of its own for each cloud configuration."""
    made = {}
    account = property(lambda config: made.setdefault(config.pk, AccountOf(MemoryCloud())))
    monkeypatch.setattr(CloudConfig, "account", account)


@pytest.fixture
def yard(elsewhere, charlie):
    """Charlie's."""
    config = CloudConfig.objects.create(organization=elsewhere, name="Own account", kind="local", created_by=charlie)
    workspace = Workspace.objects.create(
        organization=elsewhere, cloud_config=config, name="yard", region="this-computer", status="ready"
    )
    WorkspaceMember.objects.create(workspace=workspace, user=charlie, role=WorkspaceRole.ADMIN)
    return workspace


def make(workspace, name, status="running"):
    cluster = Cluster.objects.create(
        workspace=workspace, name=name, instance_type="local.2", cores_per_node=2, node_count=1, status=status,
        engine_version=EngineVersion.objects.filter(kind="mpi").first(),
    )  # fmt: skip
    private, cluster.key_public = ssh.new_key(name)
    secrets.seal(cluster, "key_private", private)
    cluster.save()
    node = Node(cluster=cluster, rank=0, hostname=f"{name}-0", host_public="ssh-ed25519 AAAA", state="gone")
    secrets.seal(node, "host_private", "a key")
    node.save()
    return cluster


@pytest.mark.usefixtures("accounts")
def test_nobody_starts_anothers_cluster_by_its_uuid_on_something_in_their_own_account(client, lab, yard, charlie):
    ebb = make(lab, "ebb", "stopped")
    forged = Tags(installation(), str(yard.organization.uuid), str(yard.uuid), str(ebb.uuid))
    make_nodes(yard.cloud_config.account.cloud("this-computer"), forged, 1)
    compare(yard.cloud_config)
    stray = Stray.objects.get()
    client.force_login(charlie)
    page = client.get(stray.get_absolute_url()).content.decode()
    client.post(reverse("adopt-stray", args=[stray.uuid]))
    ebb.refresh_from_db()
    assert (ebb.status, Task.objects.count()) == ("stopped", 0)
    assert "cluster ebb" not in page


def test_a_form_with_the_uuid_of_anothers_cluster_makes_one_of_its_own(client, lab, yard, charlie):
    ebb = make(lab, "ebb")
    client.force_login(charlie)
    page = reverse("new-cluster", args=[yard.uuid])
    form = client.get(page).context["form"]
    typed = {
        "name": "own", "instance_type": form["instance_type"].value(), "node_count": 1,
        "engine_version": form["engine_version"].field.choices[0][0], "auto_pause_0": 1, "auto_pause_1": "hours",
        "auto_shutdown_0": "", "auto_shutdown_1": "never", "key": ebb.uuid,
    }  # fmt: skip
    assert client.post(page, typed).status_code == 302
    assert yard.clusters.get().uuid != ebb.uuid
    ebb.refresh_from_db()
    assert (ebb.name, ebb.workspace) == ("ebb", lab)


def test_so_do_those_of_workspaces_cloud_configurations_and_jobs(client, lab, this_computer, yard, charlie):
    client.force_login(charlie)
    typed = {"name": "mine", "cloud_config": yard.cloud_config.uuid, "region": "this-computer", "key": lab.uuid}
    assert client.post("/workspaces/new/", typed).status_code == 302
    assert client.post("/cloud-configurations/new/", {"name": "mine", "key": this_computer.uuid}).status_code == 302
    asked = {"name": "f", "git_url": "https://git.test/f", "reference": "", "command": "f.py", "uuid": uuid4()}
    theirs, their_run = create_job(lab, cluster=make(lab, "c"), by=charlie, **asked)
    own, _ = create_job(yard, cluster=make(yard, "c"), by=charlie, **asked)
    assert (theirs.workspace, own.workspace) == (lab, yard)
    assert start_run(own, by=charlie, uuid=their_run.uuid).job == own
    assert {row.organization for row in Workspace.objects.filter(name="mine")} == {yard.organization}
    assert CloudConfig.objects.get(name="mine").organization == yard.organization


def test_a_cursor_tells_nothing_of_what_others_have(client, lab, yard, charlie):
    theirs = make(lab, "mmm")
    for name in ("aaa", "zzz"):
        make(yard, name)
    client.force_login(charlie)

    def found(page, uuid, query=""):
        context = client.get(f"{page}?after={uuid}{query}").context
        return [str(getattr(row, "cluster", row)) for row in context.get("rows", context.get("workspaces"))]

    for query in ("", "&sort=status", "&sort=cores", "&sort=new", "&tab=gone"):
        page = reverse("clusters", args=[yard.uuid])
        assert found(page, theirs.uuid, query) == found(page, uuid4(), query)
    Workspace.objects.filter(pk=lab.pk).update(name="a")
    assert found("/workspaces/", lab.uuid) == found("/workspaces/", uuid4())


@pytest.mark.parametrize(
    "end", ["\n\nYour account ends today: https://evil.test", "\u202egnp.exe", "\u2028x", "\x1b[2J"]
)
def test_a_name_adds_no_line_to_a_mail_and_turns_no_sentence_around(client, harbor, lab, yard, alice, end):
    client.force_login(alice)
    name = {"name": f"Lab{end}"}
    for page in (reverse("workspace-settings", args=[lab.uuid]), lab.cloud_config.get_absolute_url()):
        client.post(page, name)
    client.post("/workspaces/new/", {**name, "cloud_config": lab.cloud_config.uuid, "region": "this-computer"})
    for page in ("/cloud-configurations/new/", "/organizations/new/", "/organization/", "/organization/tokens/new/"):
        client.post(page, {**name, "role": "admin", "days": "30"})
    client.post("/profile/", {**name, "time_zone": "UTC", "theme": "auto"})
    cluster = make(lab, "ebb")
    client.post(reverse("edit-cluster", args=[cluster.uuid]), {"name": "ebb", "description": f"x{end}"})
    alice.refresh_from_db()
    cluster.refresh_from_db()
    names = [alice.name, cluster.description]
    for model in (Workspace, CloudConfig, Organization, ApiToken):
        names += model.objects.values_list("name", flat=True)
    assert not [one for one in names if end in one]
