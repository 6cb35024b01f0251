"""Permission of live pages, asked for many at once: as if each had asked for itself."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from channels.db import database_sync_to_async
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from accounts.access import OrganizationRole
from accounts.models import Organization
from clusters.models import EngineVersion, InstanceRole
from jobs.actions import create_job
from portal.tasks import permission, registry
from portal.tasks.models import Task
from portal.tasks.permission import GONE, SIGNED_OUT
from tests.conftest import person
from tests.jobs.test_jobs import make_cluster  # noqa: F401
from tests.tasks.test_consumers import page_of
from workspaces.models import Stray, Workspace, WorkspaceMember

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def nothing_is_believed(monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    monkeypatch.setattr(permission, "RELOAD", 0.0)
    monkeypatch.setattr(permission, "RECHECK", 0.0)


@pytest.fixture
def filled(lab, make_cluster, bob):  # noqa: F811
    """A row of each kind that live pages hear about, with the outputs of tasks and of a run."""
    if not EngineVersion.objects.filter(kind="mpi").exists():  # a test before this one has emptied all tables
        EngineVersion.objects.create(kind="mpi", version="5", packages=["mpich"])
    _, run = create_job(
        lab, name="tides", cluster=make_cluster("tide"), git_url="https://git.example.org/x", reference="",
        command="ex.py", by=bob,
    )  # fmt: skip
    InstanceRole.objects.create(workspace=lab, name="data", arn="arn:aws:iam::222233334444:role/coxswain-data")
    Stray.objects.create(
        cloud_config=lab.cloud_config, region=lab.region, organization_tag=lab.organization.uuid,
        workspace_tag=lab.uuid, subject=uuid4(), name="A cluster",
    )  # fmt: skip
    return run


@pytest.fixture
def cast(harbor, alice, bob, vera, charlie, lab):
    """Also an admin of the organization who is in no workspace, a member of nothing in it, and who is locked out."""
    outside, member = person("odette", harbor, OrganizationRole.ADMIN), person("max", harbor)
    closed = person("carl", harbor, OrganizationRole.ADMIN)
    WorkspaceMember.objects.create(workspace=lab, user=closed, role="admin")
    type(closed).objects.filter(pk=closed.pk).update(is_active=False)
    closed.refresh_from_db()
    return [alice, bob, vera, charlie, outside, member, closed]


def test_many_are_answered_as_each_alone(filled, cast):
    for model in registry.live.values():
        rows = list(model.objects.all())
        assert rows, f"nothing of {model}"
        alone = {(row.pk, one.pk) for row in rows for one in cast if model.objects.seen_by(one, row.uuid)}
        assert model.objects.all().seers(cast) == alone
        assert alone, f"nobody sees any {model}"


def test_another_workspace_gives_nothing(filled, cast, elsewhere, charlie, this_computer):
    other = Workspace.objects.create(organization=elsewhere, cloud_config=this_computer, name="den", status="ready")
    WorkspaceMember.objects.create(workspace=other, user=charlie, role="admin")
    seen = Workspace.objects.all().seers(cast)
    assert {row for row, one in seen if one == charlie.pk} == {other.pk}
    assert {one for row, one in seen if row == other.pk} == {charlie.pk}
    assert not any(one == charlie.pk for _, one in Task.objects.all().seers(cast))


@pytest.fixture
def hundred(filled, lab, harbor):
    """What as many people in sessions of their own ask; every second one of them is in the workspace."""
    sessions = []
    for n in range(100):
        one = person(f"p{n}", harbor)
        if n % 2:
            WorkspaceMember.objects.create(workspace=lab, user=one, role="viewer")
        sessions.append(page_of(one).scope["session"].session_key)
    names = (f"run.{filled.uuid}", f"output.{filled.output.uuid}", f"workspace.{lab.uuid}")
    return [(session, names) for session in sessions]


def test_a_hundred_people_cost_a_handful_of_questions(hundred):
    with CaptureQueriesContext(connection) as queries:
        answers = permission._refusals.func(hundred)
    assert [code for code, _ in answers] == [None if n % 2 else GONE for n in range(100)]
    assert len(queries) <= 14


@pytest.mark.asyncio
async def test_who_asks_at_once_asks_together(hundred, monkeypatch):
    rounds, real = [], permission._people
    monkeypatch.setattr(permission, "_people", lambda keys: rounds.append(len(keys)) or real(keys))
    answers = await asyncio.gather(*(permission.refusal(*ask) for ask in hundred))
    assert answers == [None if n % 2 else GONE for n in range(100)]
    assert len(rounds) <= 2
    assert sum(rounds) == 100


@pytest.mark.asyncio
async def test_what_other_pages_have_forgotten_meanwhile_is_no_error(filled, bob, vera, monkeypatch):
    """Pages of another loop, or those that ask next, may have read so much that all of it is forgotten."""
    monkeypatch.setattr(permission, "RELOAD", 60.0)
    mine, hers = [(await database_sync_to_async(page_of)(one)).scope["session"].session_key for one in (bob, vera)]
    assert await permission.refusal(mine, []) is None
    real = permission._people
    monkeypatch.setattr(permission, "_people", lambda keys: permission._whose.clear() or real(keys))
    asked = (permission.refusal(key, [f"run.{filled.uuid}"]) for key in (mine, hers))
    assert await asyncio.gather(*asked) == [None, None]


def test_what_a_page_has_shown_its_socket_need_not_ask_for_and_others_must(filled, bob, vera, client, monkeypatch):
    monkeypatch.setattr(permission, "RELOAD", 60.0)
    monkeypatch.setattr(permission, "RECHECK", 60.0)
    permission._believed.clear()
    asked, real = [], permission._refusals
    monkeypatch.setattr(permission, "_refusals", lambda asks: asked.extend(asks) or real(asks))
    client.force_login(bob)
    assert client.get(f"/runs/{filled.uuid}/").status_code == 200
    names = [f"run.{filled.uuid}", f"output.{filled.output.uuid}"]
    assert asyncio.run(permission.refusal(client.session.session_key, names)) is None
    assert asked == []
    hers = page_of(vera).scope["session"].session_key
    for session, name in ((hers, names[0]), (client.session.session_key, f"workspace.{filled.workspace.uuid}")):
        assert asyncio.run(permission.refusal(session, [name])) is None
        assert asked.pop() == (session, (name,))


@pytest.mark.asyncio
async def test_a_socket_has_its_person_though_all_is_forgotten_before_it_begins(bob, monkeypatch):
    real, found = permission._refusals, []

    async def forgetful(asks):
        answers = await real(asks)
        permission._whose.clear()
        return answers

    async def app(scope, receive, send):
        found.append(scope["user"])

    monkeypatch.setattr(permission, "_refusals", forgetful)
    session = (await database_sync_to_async(page_of)(bob)).scope["session"]
    await permission.SocketPersonMiddleware(app)({"session": session}, None, None)
    assert found == [bob]


@pytest.mark.asyncio
async def test_cookies_that_are_nobodys_fill_no_memory(bob):
    session = (await database_sync_to_async(page_of)(bob)).scope["session"].session_key
    permission._whose.clear()
    keys = [session, *(f"nobody's {n}" for n in range(50))]
    answers = await asyncio.gather(*(permission.refusal(key, []) for key in keys))
    assert answers == [None, *[SIGNED_OUT] * 50]
    assert set(permission._whose) == {session}


@pytest.mark.asyncio
async def test_a_session_that_is_over_is_told_apart_from_a_right_that_is_gone(filled, bob, vera, lab):
    mine, hers = [(await database_sync_to_async(page_of)(one)).scope["session"].session_key for one in (bob, vera)]
    name = f"run.{filled.uuid}"
    await database_sync_to_async(lab.members.filter(user=vera).delete)()
    asks = [(mine, name), (hers, name), ("nobody's", name), (None, name), (mine, "run.no-uuid"), (mine, "weather.1")]
    answers = await asyncio.gather(*(permission.refusal(key, [what]) for key, what in asks))
    assert answers == [None, GONE, SIGNED_OUT, SIGNED_OUT, GONE, GONE]


@pytest.mark.asyncio
async def test_an_error_is_told_to_all_who_asked_and_the_next_ones_are_answered(filled, bob, monkeypatch):
    session = (await database_sync_to_async(page_of)(bob)).scope["session"].session_key

    def away(keys):
        raise OperationalError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(permission, "_people", away)
        asked = (permission.refusal(session, []) for _ in range(5))
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in answers] == [OperationalError] * 5
    assert await permission.refusal(session, []) is None


def test_an_organization_is_seen_by_its_people(harbor, cast):
    seen = {one for _, one in Organization.objects.filter(pk=harbor.pk).seers(cast)}
    assert seen == {one.pk for one in cast if Organization.objects.seen_by(one, harbor.uuid)}
