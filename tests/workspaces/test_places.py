"""Where a team works: what the list says, how a workspace is mended, and what its cloud says of itself."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.actions import delete_organization
from accounts.models import AuditEvent
from clusters.models import Cluster, EngineVersion
from jobs.actions import create_job
from portal.clouds import Identity, Permission, Refused
from portal.errors import Conflict, PortalError
from portal.secrets import CannotDecrypt
from portal.tasks import ledger, output
from portal.tasks.models import Task
from tests.clouds.bad import AccountOf, MemoryCloud, Refusing
from tests.web import words
from workspaces import checks, forms
from workspaces.actions import delete_workspace, forget_workspace, update_workspace
from workspaces.models import CloudConfig, Stray, Workspace
from workspaces.watch import CheckWatcher

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings", "no_heartbeat")]


@pytest.fixture
def cloud(monkeypatch):
    made = MemoryCloud()
    monkeypatch.setattr(CloudConfig, "account", AccountOf(made))
    return made


def do(task):
    ledger.run_task(task.pk)
    task.refresh_from_db()
    return task


# The list


def test_a_row_says_where_it_is_and_only_who_is_inside_one_that_is_ready_may_enter(client, lab, alice, bob):
    client.force_login(bob)
    enter = 'Enter<span class="visually-hidden"> lab</span>'
    page = words(client.get("/workspaces/"))
    assert "This computer, this-computer" in page
    assert str(lab.uuid) in page
    assert enter in page
    Workspace.objects.update(status="inprogress")
    page = words(client.get("/workspaces/"))
    assert enter not in page
    assert "Watch" in page
    Workspace.objects.update(status="ready")
    lab.members.filter(user=alice).delete()
    client.force_login(alice)
    page = words(client.get("/workspaces/"))
    assert enter not in page
    assert "you are not a member" in page


def test_what_is_looked_for_is_in_the_address(client, harbor, this_computer, alice):
    for name, status in (("ocean", "ready"), ("oceanic", "failed"), ("risk", "ready")):
        Workspace.objects.create(organization=harbor, cloud_config=this_computer, name=name, region="x", status=status)
    client.force_login(alice)

    def found(query):
        return [one.name for one in client.get(f"/workspaces/?{query}").context["workspaces"]]

    assert found("q=ocean") == ["ocean", "oceanic"]
    assert found("q=ocean&status=failed") == ["oceanic"]
    risk = Workspace.objects.get(name="risk")
    assert found(f"q={str(risk.uuid)[:8]}") == found(f"q={risk.uuid}") == ["risk"]
    assert found("sort=new") == ["risk", "oceanic", "ocean"]
    assert "No workspace is like this." in words(client.get("/workspaces/?q=nothing"))


def test_workspaces_are_found_by_their_cloud_configuration(client, harbor, lab, this_computer, alice, bob):
    other = CloudConfig.objects.create(organization=harbor, name="The cellar", kind="local")
    Workspace.objects.create(organization=harbor, cloud_config=other, name="risk", region="x", status="ready")
    client.force_login(alice)
    page = client.get(f"/workspaces/?cloud={other.uuid}")
    assert [one.name for one in page.context["workspaces"]] == ["risk"]
    assert "Show all" in words(page)
    assert [one.name for one in client.get("/workspaces/?cloud=").context["workspaces"]] == ["lab", "risk"]
    client.force_login(bob)
    page = words(client.get("/workspaces/"))
    assert "The cellar" not in page, "nobody hears of what they see no workspace of"
    assert 'name="cloud"' not in page, "there is nothing to choose"
    assert not client.get(f"/workspaces/?cloud={other.uuid}").context["workspaces"]


def test_a_long_list_has_pages_and_costs_no_more(client, harbor, this_computer, alice):
    many = [
        Workspace(organization=harbor, cloud_config=this_computer, name=f"w{n:02}", region="x", status="failed")
        for n in range(60)
    ]
    Workspace.objects.bulk_create(many)
    client.force_login(alice)
    client.get("/workspaces/")  # content types are remembered from here on
    with CaptureQueriesContext(connection) as asked:
        first = client.get("/workspaces/")
    assert len(asked) <= 8
    second = client.get(f"/workspaces/?after={first.context['older']}")
    assert [one.name for one in second.context["workspaces"]] == [f"w{n:02}" for n in range(25, 50)]


def test_one_that_failed_says_why_and_is_tried_again_from_its_own_page(client, lab, alice, bob, cloud, monkeypatch):
    Workspace.objects.update(status="new")
    lab.refresh_from_db()

    def refuse():
        raise Refused("The cloud does not accept these credentials.", evidence="UnauthorizedOperation")

    monkeypatch.setattr(cloud, "check", refuse, raising=False)
    task = ledger.start_task(lab, "workspaces.create", by=alice)
    assert do(task).status == "failed"
    client.force_login(alice)
    assert "The cloud does not accept these credentials." in words(client.get("/workspaces/"))
    answer = client.get(reverse("workspace", args=[lab.uuid]))
    assert answer.url == reverse("workspace-settings", args=[lab.uuid])
    page = words(client.get(answer.url))
    assert "UnauthorizedOperation" in page
    assert reverse("delete-workspace", args=[lab.uuid]) in page
    assert f'action="{reverse("retry-task", args=[task.uuid])}"' in page
    client.force_login(bob)
    page = words(client.get(answer.url))
    assert "An admin of Harbor Analytics can try again" in page
    assert reverse("retry-task", args=[task.uuid]) not in page
    monkeypatch.setattr(cloud, "check", lambda: Identity("Memory"))
    client.force_login(alice)
    client.post(reverse("retry-task", args=[task.uuid]))
    do(task)
    lab.refresh_from_db()
    assert lab.status == "ready"


# Its infrastructure


def test_an_update_makes_what_is_missing_while_the_workspace_stays_in_use(client, lab, alice, cloud):
    cloud.ensure_network(lab.spec)
    Workspace.objects.update(missing_since="2026-11-01T00:00Z")
    client.force_login(alice)
    assert "Updating the infrastructure makes them anew" in words(
        client.get(reverse("workspace-settings", args=[lab.uuid]))
    )
    address = reverse("update-workspace", args=[lab.uuid])
    assert "Make the shared filesystem" in words(client.get(address))
    assert not Task.objects.exists()
    client.post(address)
    task = Task.objects.get()
    lab.refresh_from_db()
    assert lab.status == "ready"
    assert do(task).status == "finished"
    lab.refresh_from_db()
    assert (lab.status, lab.missing_since) == ("ready", None)
    assert len(cloud.filesystems) == len(cloud.networks) == 1


def test_an_update_that_fails_leaves_the_workspace_ready_and_says_why(client, lab, alice, cloud, monkeypatch):
    def refuse(spec, *, token=""):
        raise Refused("The role may not make mount targets.")

    monkeypatch.setattr(cloud, "ensure_filesystem", refuse)
    assert do(update_workspace(lab, by=alice)).status == "failed"
    lab.refresh_from_db()
    assert lab.status == "ready"
    client.force_login(alice)
    page = words(client.get(reverse("workspace-settings", args=[lab.uuid])))
    assert "The role may not make mount targets." in page
    assert "What was there before is there still." in page
    assert "Try again" in page


def test_an_update_is_refused_in_words_while_something_else_goes_on(client, lab, alice, cloud):
    delete_workspace(lab, by=alice)
    client.force_login(alice)
    page = words(client.post(reverse("update-workspace", args=[lab.uuid]), follow=True))
    assert "lab is being worked on already." in page
    Task.objects.update(status="finished")
    with pytest.raises(Conflict, match="cannot be updated while it is TERMINATING"):
        update_workspace(lab, by=alice)
    assert Task.objects.count() == 1


def test_a_workspace_with_something_alive_in_it_names_and_links_it(client, lab, alice):
    engine = EngineVersion.objects.filter(kind="mpi").first()
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, status="running",
        engine_version=engine,
    )  # fmt: skip
    url = "https://git.example.org/x"
    _, run = create_job(lab, name="ingest", cluster=cluster, git_url=url, reference="", command="a.py", by=alice)
    client.force_login(alice)
    page = words(client.get(reverse("delete-workspace", args=[lab.uuid])))
    assert "Remove these first." in page
    assert cluster.get_absolute_url() in page
    assert run.get_absolute_url() in page
    Cluster.objects.update(status="terminated")
    with pytest.raises(PortalError, match="Something goes on in this workspace: ingest"):
        delete_workspace(lab, by=alice)
    lab.refresh_from_db()
    assert lab.status == "ready"


# One that cannot be deleted


def delete_in_vain(lab, alice, cloud, monkeypatch):
    """Its things are there, and the cloud lets nobody take them away."""
    cloud.ensure_network(lab.spec)
    cloud.ensure_filesystem(lab.spec)
    lab.keep_login_key("a key", "its public half")
    monkeypatch.setattr(cloud, "delete_filesystem", Refusing(cloud)._refuse)
    assert do(delete_workspace(lab, by=alice)).status == "failed"


def test_one_that_cannot_be_deleted_is_forgotten_by_its_name_and_what_stays_is_told(
    client, lab, alice, bob, cloud, monkeypatch
):
    delete_in_vain(lab, alice, cloud, monkeypatch)
    address = reverse("forget-workspace", args=[lab.uuid])
    client.force_login(bob)
    assert client.post(address, {"name": "lab"}).status_code == 403
    client.force_login(alice)
    assert address in words(client.get(reverse("workspace-settings", args=[lab.uuid])))
    page = words(client.get(address))
    assert "Whatever of it is in the cloud: nobody takes it away" in page
    assert "was not forgotten" in words(client.post(address, {"name": "lap"}))
    client.post(address, {"name": "lab"})
    task = do(Task.objects.get(kind="workspaces.forget"))
    assert task.status == "finished"
    lab.refresh_from_db()
    assert (lab.status, lab.login_private, lab.login_public) == ("terminated", "", "")
    assert "Left where it is: " in "".join(piece.data.decode() for piece in output.read(task.output, 0))
    assert AuditEvent.objects.latest("pk").verb == "forgotten"
    assert cloud.filesystems, "nobody has taken it away"
    assert Workspace.objects.create(organization=lab.organization, cloud_config=lab.cloud_config, name="lab").pk


def test_only_what_could_not_be_deleted_is_forgotten(client, lab, alice, cloud):
    with pytest.raises(Conflict, match="only where its deletion has failed"):
        forget_workspace(lab, by=alice)
    client.force_login(alice)
    Workspace.objects.update(status="failed")
    assert reverse("forget-workspace", args=[lab.uuid]) not in words(
        client.get(reverse("workspace-settings", args=[lab.uuid]))
    )
    with pytest.raises(Conflict, match="only where its deletion has failed"):
        forget_workspace(lab, by=alice)
    assert not Task.objects.exists()


@pytest.mark.parametrize("trouble", [Refused("This account is closed."), CannotDecrypt()])
def test_a_cloud_that_cannot_be_asked_keeps_no_workspace(lab, alice, cloud, monkeypatch, trouble):
    delete_in_vain(lab, alice, cloud, monkeypatch)

    def account(self):
        raise trouble

    monkeypatch.setattr(CloudConfig, "account", property(account))
    assert do(forget_workspace(lab, by=alice)).status == "finished"
    lab.refresh_from_db()
    assert lab.status == "terminated"


# Cloud configurations


class Account(AccountOf):
    """Is not allowed one of three things, and does not say of another."""

    def permissions(self):
        return [
            Permission("ec2:RunInstances", True),
            Permission("iam:PassRole", False, "so that nodes have a role", '{"Action": "iam:PassRole"}'),
            Permission("ce:GetCost", None),
        ]


def check(config):
    asyncio.run(CheckWatcher().look_after(config.pk))
    config.refresh_from_db()


@pytest.mark.django_db(transaction=True)
def test_what_the_cloud_says_is_read_from_the_row_and_no_page_asks_it(client, this_computer, alice, monkeypatch):
    client.force_login(alice)
    address = this_computer.get_absolute_url()
    assert "NEW" in words(client.get(address))
    monkeypatch.setattr(CloudConfig, "account", Account(MemoryCloud()))
    check(this_computer)

    def hangs(self):
        raise AssertionError("a page has asked the cloud")

    monkeypatch.setattr(CloudConfig, "account", property(hangs))
    page = words(client.get(address))
    assert "INCOMPLETE" in page
    assert 'ec2:RunInstances<span class="muted">, granted' in page
    assert 'iam:PassRole<span class="t-bad">, missing' in page
    assert "{&quot;Action&quot;: &quot;iam:PassRole&quot;}" in page
    assert "not confirmed" in page
    assert "the portal is not allowed: iam:PassRole" in words(client.get("/cloud-configurations/"))
    assert "Memory" in words(client.get("/workspaces/new/"))


@pytest.mark.django_db(transaction=True)
def test_a_cloud_that_refuses_is_said_and_asked_again_when_somebody_wants_it(client, this_computer, alice, cloud):
    def refuse():
        raise Refused("The role cannot be assumed.", evidence="AccessDenied", advice="Look at its trust policy.")

    cloud.check = refuse
    check(this_computer)
    client.force_login(alice)
    page = words(client.get(this_computer.get_absolute_url()))
    for said in ("FAILED", "The role cannot be assumed.", "AccessDenied", "Look at its trust policy."):
        assert said in page
    assert checks.due() == set(), "an hour has not passed"
    client.post(reverse("check-cloud-config", args=[this_computer.uuid]))
    assert checks.due() == {this_computer.pk}
    assert "CHECKING" in words(client.get(this_computer.get_absolute_url()))
    cloud.check = lambda: Identity("Memory")
    check(this_computer)
    assert this_computer.badge.word == "ACTIVE"
    assert "The role cannot be assumed." not in words(client.get(this_computer.get_absolute_url()))


@pytest.mark.django_db(transaction=True)
def test_an_account_that_cannot_be_made_is_said_and_asked_again_only_when_it_is_due(this_computer, monkeypatch):
    def refused(self):
        raise Refused("The options of this configuration are none.")

    monkeypatch.setattr(CloudConfig, "account", property(refused))
    check(this_computer)
    assert this_computer.findings["trouble"]["message"] == "The options of this configuration are none."
    assert checks.due() == set()


@pytest.mark.django_db(transaction=True)
def test_who_asks_while_a_check_goes_on_gets_one_of_their_own(this_computer, cloud):
    begun = CloudConfig.objects.select_related("organization").get(pk=this_computer.pk)
    checks.want(this_computer)
    checks.write_down(begun, {"regions": []})
    this_computer.refresh_from_db()
    assert this_computer.badge.word == "CHECKING"
    assert checks.due() == {this_computer.pk}


@pytest.mark.django_db(transaction=True)
def test_a_cloud_that_does_not_answer_is_given_up_on(this_computer, cloud, monkeypatch):
    monkeypatch.setattr(checks, "PATIENCE", 0.01)
    never = asyncio.Event()

    async def hang(function):
        await never.wait()

    monkeypatch.setattr("workspaces.watch.apart", hang)
    check(this_computer)
    assert "has not answered" in this_computer.findings["trouble"]["message"]
    assert this_computer.badge.word == "FAILED"


def test_a_kind_of_cloud_brings_a_form_of_its_own_with_options_and_sealed_credentials(
    client, harbor, alice, monkeypatch
):
    client.force_login(alice)
    monkeypatch.setattr(forms, "CONFIG_FORMS", [forms.LocalConfigForm])
    assert "tabs" not in words(client.get("/cloud-configurations/new/")).split("<main")[1], "there is only one kind"

    class OtherForm(forms.CloudConfigForm):
        kind = CloudConfig.Kind.LOCAL
        about = "workspaces/_about_local.html"
        tenant = forms.forms.CharField()
        secret = forms.forms.CharField()

        @property
        def options(self):
            return {"tenant": self.cleaned_data["tenant"]}

        @property
        def credentials(self):
            return self.cleaned_data["secret"]

    monkeypatch.setattr(forms, "CONFIG_FORMS", [OtherForm, forms.LocalConfigForm])
    page = words(client.get("/cloud-configurations/new/"))
    assert 'name="tenant"' in page
    assert "?kind=local" in page
    client.post("/cloud-configurations/new/", {"name": "Ours", "tenant": "t-1", "secret": "s3cret", "key": uuid4()})
    config = harbor.cloud_configs.get(name="Ours")
    assert config.options == {"tenant": "t-1"}
    assert config.credentials
    assert "s3cret" not in config.credentials
    assert "s3cret" not in words(client.get(config.get_absolute_url()))


def test_of_very_much_that_was_left_behind_pages_show_a_part(client, this_computer, lab, alice):
    Stray.objects.bulk_create(
        Stray(cloud_config=this_computer, region="x", workspace_tag="w", subject=f"{n:04}", name=f"The cluster {n:04}")
        for n in range(1000)
    )
    client.force_login(alice)
    for path in ("/cloud-configurations/", this_computer.get_absolute_url()):
        page = words(client.get(path))
        assert [f"The cluster {n:04}" in page for n in (0, 19, 20)] == [True, True, False]
        assert "There are more. They are shown once these are gone." in page


def test_the_account_of_an_organization_that_was_deleted_is_not_asked_any_more(this_computer, lab, alice):
    assert checks.due() == {this_computer.pk}
    Workspace.objects.update(status="terminated")
    lab.organization.memberships.exclude(user=alice).delete()
    delete_organization(lab.organization, by=alice)
    assert checks.due() == set()
