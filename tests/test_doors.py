"""Every address of the portal has a row in tests/doors.py: who gets in by GET, and who by POST."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from itertools import product
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings
from django.db import transaction
from django.test import Client
from django.urls import get_resolver
from django.utils.timezone import now

from accounts.access import OrganizationRole, WorkspaceRole
from accounts.actions import create_token, invite_people
from accounts.models import Invitation, User, digest
from clusters.models import Cluster, EngineVersion, InstanceRole, Node
from jobs.actions import create_job
from jobs.cron import Cron
from jobs.schedules import create_schedule
from portal import secrets
from portal.asgi import application
from portal.clouds.machines.models import Pool
from portal.tasks import registry
from portal.tasks.ledger import start_task
from portal.tasks.models import Output
from tests.conftest import FreshClient, person
from tests.doors import (
    CAST,
    ELSEWHERE,
    GONE,
    INSIDE,
    LIVE,
    MEMBERS,
    ROWS,
    SIGNED_IN,
    SIGNED_OUT,
    as_page,
    closed_with,
    knows,
    named,
    status,
    terminal_closed_with,
)
from tests.jobs.conftest import make_template
from tests.running import ROOT
from tests.sockets import Page
from workspaces.credentials import create_git_credential
from workspaces.models import CloudConfig, Stray, Workspace, WorkspaceMember

ADDRESSES = dict(named(get_resolver().url_patterns))
BOB = UUID("b0b00000-0000-4000-8000-000000000000")
OF_THE_ORGANIZATION = {
    *("person", "invitation", "token", "cloud config", "aws config", "stray", "own machines", "pool", "computer"),
}
NOWHERE = "00000000-0000-4000-8000-000000000000"


def address(name, uuid):
    return "/" + ADDRESSES[name].replace("<uuid:uuid>", str(uuid)).replace("<uuid:member>", str(BOB))


def test_every_address_has_a_row():
    ours = {name for name in ADDRESSES if not name.startswith(ELSEWHERE)}
    assert ours == set(ROWS)


def test_the_page_about_it_is_current():
    """`bin/python --test -m tests.doors > docs/access.md` writes it anew."""
    assert (ROOT / "docs" / "access.md").read_text() == as_page()


@pytest.fixture
def things(lab, harbor, this_computer, monkeypatch, rings, alice, bob):
    User.objects.filter(pk=bob.pk).update(uuid=BOB)
    token, _ = create_token(harbor, name="t", role="admin", by=alice, days=30)
    asked = {"workspace": lab, "workspace_role": WorkspaceRole.USER}
    (invited,) = invite_people(harbor, ["nina@example.org"], by=alice, **asked)
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="2026.1", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, engine_version=engine,
        status="running",
    )  # fmt: skip
    task = start_task(cluster, "clusters.repair", title="Create cluster tide", by=alice)
    url = "https://git.example.org/x"
    job, run = create_job(lab, name="j", cluster=cluster, git_url=url, reference="", command="ex.py", by=alice)
    run.notebook = Output.objects.create(ended=True)
    run.save()
    own_machines = CloudConfig.objects.create(organization=harbor, name="Own machines", kind="machines")
    monkeypatch.setitem(settings.AWS, "principal", "arn:aws:iam::123456789012:role/portal")
    aws_config = CloudConfig.objects.create(
        organization=harbor,
        name="AWS",
        kind="aws",
        options={"draft": {"account": "222233334444", "region": "eu-west-1"}},
    )
    secrets.seal(aws_config, "credentials", NOWHERE)
    aws_config.save()
    pool = Pool.objects.create(account=own_machines.uuid, name="desks", user="team", base="/shared/coxswain")
    keys = {"host_public": "ssh-ed25519 AAAA", "host_shown": "ssh-ed25519 BBBB"}
    pool.computers.create(address="n1.example.org", state="refused", **keys)
    in_aws = Workspace.objects.create(
        organization=harbor, cloud_config=aws_config, name="in AWS", region="eu-west-1", status="ready"
    )
    for one in lab.members.all():
        WorkspaceMember.objects.create(workspace=in_aws, user=one.user, role=one.role)
    role = InstanceRole.objects.create(
        workspace=in_aws, name="reader", arn="arn:aws:iam::222233334444:role/coxswain-r", status="active"
    )
    return {
        "aws workspace": in_aws.uuid, "instancerole": role.uuid,
        "workspace": lab.uuid, "cluster": cluster.uuid, "job": job.uuid, "run": run.uuid, "task": task.uuid,
        "output": task.output.uuid, "person": BOB, "invitation": invited.invitation.uuid,
        "token": token.uuid, "schedule": create_schedule(job, Cron("0 9 * * *", "UTC"), by=alice).uuid,
        "template": make_template(lab, alice).uuid,
        "git credential": create_git_credential(
            lab, name="bot", server="https://git.example.org", username="bot", secret="x", by=alice
        ).uuid,
        "cloud config": this_computer.uuid,
        "aws config": aws_config.uuid,
        "own machines": own_machines.uuid, "pool": pool.uuid, "computer": pool.computers.get().uuid,
        "stray": Stray.objects.create(
            cloud_config=this_computer, region="x", organization_tag="o", workspace_tag="w", subject="w", name="Some"
        ).uuid,
    }  # fmt: skip


@pytest.fixture
def who_is(harbor, elsewhere, lab, bob, vera, charlie):
    """A function from a name of the cast to the person."""

    def make(name):
        if name in ("bob", "vera", "charlie"):
            return {"bob": bob, "vera": vera, "charlie": charlie}[name]
        member = name in ("lola", "mina", "wanda", "olga")
        role = OrganizationRole.ADMIN if name == "olga" else OrganizationRole.MEMBER
        found = person(name, harbor if member else None, role)
        if name in ("wanda", "lola"):
            for one in harbor.workspaces.all():
                WorkspaceMember.objects.create(workspace=one, user=found, role=WorkspaceRole.ADMIN)
        if name == "sam":
            found.is_staff = found.is_superuser = True
            found.save()
        if name == "ivy":
            Invitation.objects.create(
                organization=harbor, workspace=lab, workspace_role=WorkspaceRole.ADMIN, email=found.email,
                token_hash=digest("asked"), expires=now() + timedelta(days=7),
            )  # fmt: skip
        return found

    return make


def sign_in(client, user):
    client.force_login(user)
    if user.email.startswith("lola"):  # signed in long ago, with a session that is still there
        long_ago = now() - timedelta(days=91)
        type(user).objects.filter(pk=user.pk).update(last_login=long_ago, date_joined=long_ago)


@contextmanager
def undone():
    """What is done inside is as if it had not been: one set of things serves everybody."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.mark.parametrize("who", CAST)
def test_who_gets_in(things, who_is, who):
    client = Client()
    if who != "nobody":
        sign_in(client, who_is(who))
    cookies = deepcopy(client.cookies)
    for name, method in product(ROWS, ("get", "post")):
        with undone():
            client.cookies, told = deepcopy(cookies), (name, method)
            answer = getattr(client, method)(address(name, things.get(ROWS[name].about, "")))
            assert answer.status_code in status(name, who, method), told
            if answer.status_code == 302:
                assert ("/accounts/login/" in answer.url) == (who == "nobody"), told
                if who in SIGNED_IN - MEMBERS and name not in ("new-organization", "switch-organization"):
                    assert answer.url == "/organizations/", told
            if who == "lola" and answer.status_code == 403:
                assert b"User is locked out. To unlock user, please contact your administrators" in answer.content
                assert client.get("/workspaces/").status_code == 302, "still signed in"


@pytest.mark.parametrize("who", sorted(SIGNED_IN - INSIDE))
def test_what_belongs_to_others_is_as_if_it_were_not(things, who_is, who):
    client, looked = Client(), 0
    client.force_login(who_is(who))
    cookies = deepcopy(client.cookies)
    for name in [name for name, row in ROWS.items() if row.about and row.get]:
        if knows(who, ROWS[name].about) or 302 in status(name, who, "get"):
            continue
        with undone():
            client.cookies = deepcopy(cookies)
            theirs = client.get(address(name, things[ROWS[name].about]))
            none = client.get(address(name, NOWHERE))
            assert (theirs.status_code, none.status_code) == (404, 404), name
            assert theirs.content == none.content, name
            looked += 1
    assert looked


@pytest.mark.parametrize("who", ["olga", "wanda"])
def test_what_was_deleted_is_not_there(who_is, lab, who):
    user = who_is(who)
    for name in [name for name, row in ROWS.items() if row.about]:
        if ("olga" if ROWS[name].about in OF_THE_ORGANIZATION else "wanda") == who:
            with undone():
                client = FreshClient()
                client.force_login(user)
                method = "get" if ROWS[name].get else "post"
                assert getattr(client, method)(address(name, NOWHERE)).status_code == 404, name


@pytest.mark.parametrize("who", ["olga", "wanda"])
def test_looking_changes_nothing(things, who_is, who):
    """3.5.3: no page does anything by being opened, whatever is in its address."""
    client = Client()
    client.force_login(who_is(who))
    client.get("/")
    before = everything()
    for name, row in ROWS.items():
        if row.get:
            client.get(address(name, things.get(row.about, "")), {"confirmed": "yes", "take_away": "yes", "name": "x"})
    assert everything() == before


def everything():
    """Every row of ours. Sessions note that they were used."""
    apps_of_ours = (
        "accounts",
        "workspaces",
        "usage",
        "clusters",
        "jobs",
        "tasks",
        "machines",
        "mfa",
        "account",
        "socialaccount",
    )
    return {
        model._meta.label: list(model._base_manager.order_by("pk").values())
        for label in apps_of_ours
        for model in apps.get_app_config(label).get_models()
    }


# The socket of live pages


def socket(client, origin="http://testserver", path="/live/"):
    headers = [(b"cookie", f"{name}={value.value}".encode()) for name, value in client.cookies.items()]
    headers.append((b"host", b"testserver"))
    return Page(application, path, headers=[*headers, *([(b"origin", origin.encode())] if origin else [])])


async def heard(client, name):
    """The code with which the socket is closed that asks for this; None if it goes on."""
    page = socket(client)
    assert await page.connect(), "the code of a socket that is not accepted is not told to the page"
    await page.send_json_to({"watch": [name]})
    answer = await page.receive_output()
    await page.disconnect()
    return answer["code"] if answer["type"] == "websocket.close" else None


def test_whatever_can_be_watched_has_a_row():
    assert set(LIVE) == {*registry.live, "output"}


@pytest.mark.django_db(transaction=True)
def test_who_hears_of_what(things, who_is, harbor):
    things["organization"] = harbor.uuid
    clients = {}
    for who in CAST:
        clients[who] = Client()
        if who != "nobody":
            sign_in(clients[who], who_is(who))

    async def ask():
        for who, client in clients.items():
            for kind in LIVE:
                assert await heard(client, f"{kind}.{things[kind]}") == closed_with(kind, who), (who, kind)
                nothing = SIGNED_OUT if who in ("nobody", "lola") else GONE
                assert await heard(client, f"{kind}.{NOWHERE}") == nothing, (who, kind)

    async_to_sync(ask)()


async def opens(client, cluster):
    """The code with which the socket of a terminal is closed; None if there is one, or would be were there a node."""
    page = socket(client, path=f"/terminal/{cluster}/0/")
    assert await page.connect()
    await page.send_json_to({"open": [80, 24]})
    words = (await page.receive_json_from())["over"]
    code = (await page.receive_output())["code"]
    await page.disconnect()
    return None if words == "tide is FAILED. Terminals can be opened while it is RUNNING." else code


@pytest.mark.django_db(transaction=True)
def test_who_opens_a_terminal(things, who_is):
    cluster = Cluster.objects.get(uuid=things["cluster"])
    Node.objects.create(cluster=cluster, rank=0, hostname="tide-0", host_public="", host_private="x")
    Cluster.objects.update(status="failed")
    clients = {}
    for who in CAST:
        clients[who] = Client()
        if who != "nobody":
            sign_in(clients[who], who_is(who))

    async def ask():
        for who, client in clients.items():
            assert await opens(client, cluster.uuid) == terminal_closed_with(who), who
            nothing = SIGNED_OUT if who in ("nobody", "lola") else GONE
            assert await opens(client, NOWHERE) == nothing, who

    async_to_sync(ask)()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/live/", f"/terminal/{NOWHERE}/0/"])
@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://testserver:8888", "https://testserver"]
)
def test_a_socket_from_elsewhere_is_refused(bob, origin, path):
    client = Client()
    client.force_login(bob)

    async def open_sockets():
        return [await socket(client, o, path).connect() for o in ("http://testserver", origin)]

    assert async_to_sync(open_sockets)() == [True, False]


def test_a_cluster_of_others_cannot_be_named_in_a_form(client, things, elsewhere, charlie, lab, bob):
    client.force_login(bob)
    answer = client.post(
        f"/workspaces/{lab.uuid}/jobs/new/",
        {"name": "x", "cluster": NOWHERE, "command": "a.py", "git_url": "https://h/x"},
    )
    assert answer.status_code == 200
    assert not lab.jobs.filter(name="x").exists()
