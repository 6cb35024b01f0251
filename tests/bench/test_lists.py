"""Lists of 100,000 people, 1,000 organizations and 1,000,000 entries of the audit, beside the same lists of a few."""

from __future__ import annotations

import time
from datetime import timedelta
from urllib.parse import unquote, urlsplit

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from accounts.access import OrganizationRole, WorkspaceRole
from accounts.models import (
    ApiToken,
    AuditChain,
    Invitation,
    Membership,
    Organization,
    User,
)
from tests.bench import measured
from workspaces.models import CloudConfig, Workspace, WorkspaceMember

pytestmark = [pytest.mark.bench, pytest.mark.django_db, pytest.mark.timeout(600)]

MOST_QUERIES, MOST_CPU = 8, 25  # of a page; the latter in milliseconds
PAGES = (
    "/", "/workspaces/", "/organization/", "/organizations/", "/people/", "/people/?q=ada", "/people/?role=admin",
    "/people/?state=locked", "/people/?state=dormant", "/people/?page=2", "/people/?q=nobody",
    "/workspaces/{lab}/people/", "/workspaces/{lab}/people/?q=ada", "/organization/tokens/", "/organization/audit/",
    "/organization/audit/?before=500", "/organization/audit/?verb=verb+3", "/organization/audit/?q=user1",
    "/organization/audit/?q=nothing", "/organization/audit/?day={day}", "/organization/audit/?workspace={lab}",
    "/admin/accounts/user/", "/admin/accounts/user/?q=ada", "/admin/accounts/user/?lock=locked",
    "/admin/accounts/organization/", "/admin/accounts/membership/", "/admin/accounts/invitation/",
    "/admin/accounts/apitoken/", "/admin/accounts/auditevent/", "/admin/accounts/auditevent/?q=user1@example.org",
)  # fmt: skip


def an_organization(name, people, entries):
    """With so many people, entries of the audit, and a few hundred invitations and tokens at most."""
    at = now()
    organization = Organization.objects.create(name=name)
    admin = User.objects.create_superuser(f"admin.{name}@example.org", "correct horse battery")
    config = CloudConfig.objects.create(organization=organization, name="here", kind="local")
    lab = Workspace.objects.create(
        organization=organization, cloud_config=config, name="lab", region="x", status="ready"
    )
    users = User.objects.bulk_create(
        [
            User(
                email=f"{'ada' if n % 50 == 0 else 'ben'}.{name}{n}@example.org",
                password="!",
                last_login=at - timedelta(hours=n % 2400 if people > 2400 else 80 * n),
                date_joined=at - timedelta(days=400),
            )
            for n in range(people)
        ],
        batch_size=5000,
    )
    roles = (OrganizationRole.ADMIN, *[OrganizationRole.MEMBER] * 99)
    Membership.objects.create(organization=organization, user=admin, role=OrganizationRole.ADMIN)
    WorkspaceMember.objects.create(workspace=lab, user=admin, role=WorkspaceRole.ADMIN)
    Membership.objects.bulk_create(
        [Membership(organization=organization, user=user, role=roles[n % 100]) for n, user in enumerate(users)],
        batch_size=5000,
    )
    WorkspaceMember.objects.bulk_create(
        [WorkspaceMember(workspace=lab, user=user, role=WorkspaceRole.USER) for user in users], batch_size=5000
    )
    Invitation.objects.bulk_create(
        Invitation(email=f"i{n}@example.org", organization=organization, token_hash=f"{name}{n}", expires=at)
        for n in range(min(people, 500))
    )
    ApiToken.objects.bulk_create(
        ApiToken(name=f"t{n}", organization=organization, owner=users[n], secret_hash=f"{name}{n}")
        for n in range(min(people, 500))
    )
    chain = AuditChain.objects.create(organization=organization.uuid, length=entries)
    if connection.vendor == "postgresql":
        series = f"generate_series(1, {entries}) AS s(i)"
        moment, empty = f"now() - ({entries} - i) * interval '30 seconds'", "'{}'::jsonb"
        workspace = f"'{lab.uuid}'::uuid"
    else:
        series = (
            f"(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {entries}) SELECT i FROM s)"
        )
        moment, empty = f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (({entries} - i) * 30) || ' seconds')", "'{}'"
        workspace = f"'{lab.uuid.hex}'"
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO accounts_auditevent (chain_id, number, at, actor_name, how, verb, kind, subject_name,"
            f" workspace, before, after, request_id, previous, hash) SELECT {chain.pk}, i, {moment},"
            " 'user' || (i % 20) || '@example.org', '', 'verb ' || (i % 13), 'run', 'job-' || (i % 9973),"
            f" CASE WHEN i % 7 = 0 THEN {workspace} END, {empty}, {empty}, 'req' || i, '', '' FROM {series}"
        )
    return admin, lab


def get(client, path):
    """As a server does. The test client's own way copies the context of every template that is rendered."""
    url = urlsplit(path)
    environ = client._base_environ(PATH_INFO=unquote(url.path), QUERY_STRING=url.query)
    response = client.handler(environ)
    assert (response.status_code, bool(response.content)) == (200, True), path


def measure(client, path):
    """(queries, CPU milliseconds of the best of five)."""
    get(client, path)
    with CaptureQueriesContext(connection) as captured:
        get(client, path)
        queries = len(captured)
    best = []
    for _ in range(5):
        began = time.process_time()
        get(client, path)
        best.append((time.process_time() - began) * 1000)
    best = measured.samples(f"the CPU of {path}", best, least=5)
    return measured.amount(f"the queries of {path}", queries), best[0]


def test_lists(table):
    costs = {}
    for name, people, entries in (("few", 30, 60), ("many", 100_000, 1_000_000)):
        admin, lab = an_organization(name, people, entries)
        if name == "many":
            Organization.objects.bulk_create(Organization(name=f"Organization {n}") for n in range(1000))
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        client = Client()
        client.force_login(admin)
        client.get("/admin/")
        for page in PAGES:
            path = page.format(lab=lab.uuid, day=(now() - timedelta(hours=1)).date())
            costs.setdefault(page, []).append(measure(client, path))
    assert len(costs) == len(PAGES) > 0
    missed = []
    for page, ((few, few_cpu), (many, many_cpu)) in costs.items():
        good = few == many <= MOST_QUERIES and many_cpu <= MOST_CPU
        table.add(page, f"{many} queries, {many_cpu:.0f} ms", f"{few} queries, {few_cpu:.0f} ms", "8, 25 ms", good=good)
        if few != many:
            missed.append(page)
    assert missed == []
