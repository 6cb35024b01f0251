"""The cast: alice runs the lab, bob may run jobs in it, vera only looks, charlie is a stranger elsewhere."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import django.test.client
import pytest
from django.conf import settings
from django.core.management.color import no_style
from django.db import connection, connections
from django.http import SimpleCookie
from django.test import Client, TransactionTestCase
from xdist.scheduler import LoadScopeScheduling

from accounts.access import OrganizationRole, WorkspaceRole
from accounts.models import Membership, Organization, User
from portal.sessions import SessionKey, SessionStore
from portal.tasks import ledger, live
from tests import migrated
from workspaces.models import CloudConfig, Workspace, WorkspaceMember


class Cookies(SimpleCookie):
    """Of the tests' clients, which take the key of a session for its cookie."""

    def value_encode(self, value):
        return super().value_encode(getattr(value, "cookie", value))


def _session(self):
    if cookie := self.cookies.get(settings.SESSION_COOKIE_NAME):
        return SessionStore(SessionKey.of(cookie.value))
    session = SessionStore()
    session.save()
    self.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    return session


setattr(django.test.client, "SimpleCookie", Cookies)  # noqa: B010 (mypy believes the stubs)
setattr(django.test.client.ClientMixin, "session", property(_session))  # noqa: B010


KEPT = {"django_migrations", "django_content_type", "auth_permission"}  # what a database has that was just made


def _empty_what_was_filled(self):
    """After a test that commits. Django empties every table, and asks every model for its permissions anew."""
    for name in self._databases_names(include_mirrors=False):
        connection = connections[name]
        quote, operations = connection.ops.quote_name, connection.ops
        tables = {*connection.introspection.django_table_names(only_existing=True, include_views=False)} - KEPT
        with connection.cursor() as cursor:
            looks = (f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {quote(table)})" for table in sorted(tables))
            cursor.execute(" UNION ALL ".join(looks))
            filled = [row[0] for row in cursor.fetchall()]
        if filled:
            operations.execute_sql_flush(operations.sql_flush(no_style(), filled, allow_cascade=True))


setattr(TransactionTestCase, "_fixture_teardown", _empty_what_was_filled)  # noqa: B010


BROWSER = "browser"
TOGETHER = ("tests/aws",)  # folders whose files share what takes seconds to start


class InOrder(LoadScopeScheduling):  # type: ignore[misc]
    """Gives what stands together in a file to one process, and to each process all in the order of a single one.

    Which is that of their databases: tests that roll back come before those that commit and leave it empty. One process
    has the browser's tests, and with them one portal and one cluster; it begins at once and does nothing else.
    """

    def add_node_collection(self, node, collection):
        super().add_node_collection(node, collection)
        self.units, before, number = {}, "", 0
        for name in collection:
            file = name.partition("::")[0]
            unit = next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)
            number, before = number + (unit != before), unit
            self.units[name] = BROWSER if file.startswith("tests/browser/") else f"{number} {unit}"

    def _split_scope(self, nodeid):
        return self.units[nodeid]

    def _assign_work_unit(self, node):
        if BROWSER in self.workqueue and not self.assigned_work[node] and len(self.nodes) > 1:
            self.workqueue.move_to_end(BROWSER, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node):
        if BROWSER in self.assigned_work[node] and not node.shutting_down:
            node.shutdown()  # after what it has
        super()._reschedule(node)


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers():
    """One more than there are processors: tests wait for other processes much of their time."""
    return (yield) + 1


def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False
    return InOrder(config, log)


def pytest_collection_modifyitems(items):
    """Browser tests last: Playwright keeps an event loop running in the thread that all tests share."""
    for item in items:
        if item.get_closest_marker("django_db") or "db" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.database)
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """PostgreSQL drops no database to which somebody is connected, and threads of ours keep their connections."""
    yield
    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            cursor.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")


@pytest.fixture(scope="session")
def django_db_keepdb(django_db_modify_db_settings):
    """SQLite's is there, as migrations leave it; Django looks whether one is missing. It goes with its folder."""
    if connection.vendor != "sqlite":
        return False
    migrated.copy(Path(connection.creation._get_test_db_name()))
    return True


@pytest.fixture
def rings(monkeypatch):
    """The doorbells that were rung, in place of a channel layer."""
    heard: list[str] = []

    async def send(*names):
        heard.extend(names)

    monkeypatch.setattr(live, "send", send)
    return heard


@pytest.fixture
def no_heartbeat(monkeypatch):
    """Inside a test's transaction a second connection would wait for the first."""
    monkeypatch.setattr(ledger, "_heartbeat", lambda task: contextlib.nullcontext(bool))


@pytest.fixture
def harbor(db):
    return Organization.objects.create(name="Harbor Analytics")


@pytest.fixture
def elsewhere(db):
    return Organization.objects.create(name="Elsewhere")


def person(name, organization=None, role=OrganizationRole.MEMBER):
    user = User.objects.create_user(f"{name}@example.org", password="correct horse battery", name=name.title())
    if organization:
        Membership.objects.create(organization=organization, user=user, role=role)
    return user


@pytest.fixture
def alice(harbor):
    return person("alice", harbor, OrganizationRole.ADMIN)


@pytest.fixture
def bob(harbor):
    return person("bob", harbor)


@pytest.fixture
def vera(harbor):
    return person("vera", harbor)


@pytest.fixture
def charlie(elsewhere):
    return person("charlie", elsewhere, OrganizationRole.ADMIN)


@pytest.fixture
def this_computer(harbor, alice):
    return CloudConfig.objects.create(organization=harbor, name="This computer", kind="local", created_by=alice)


@pytest.fixture
def lab(harbor, this_computer, alice, bob, vera):
    workspace = Workspace.objects.create(
        organization=harbor, cloud_config=this_computer, name="lab", region="this-computer", status="ready"
    )
    for user, role in ((alice, WorkspaceRole.ADMIN), (bob, WorkspaceRole.USER), (vera, WorkspaceRole.VIEWER)):
        WorkspaceMember.objects.create(workspace=workspace, user=user, role=role)
    return workspace


class FreshClient(Client):
    """Who is signed in by it has just typed their password: nothing asks for it again."""

    def force_login(self, user, backend=None):
        super().force_login(user, backend)
        session = self.session
        session["account_authentication_methods"] = [{"method": "password", "at": time.time(), "email": user.email}]
        session["account_authentication_methods_user"] = str(user.pk)
        session.save()


@pytest.fixture
def client():
    return FreshClient()
