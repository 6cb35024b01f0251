"""A program's way in: within its place and its role, and only while its owner could do the same."""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from uuid import uuid4

import pytest
import time_machine
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import Http404
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from accounts.access import Can, OrganizationRole, WorkspaceRole, get_for
from accounts.actions import create_token, revoke_token
from accounts.models import ApiToken, AuditEvent, Invitation, Organization, User
from accounts.tokens import acting, authenticate
from workspaces.models import CloudConfig, Workspace, WorkspaceMember


def made(owner, place, role="admin", days=90):
    workspace = place if isinstance(place, Workspace) else None
    organization = workspace.organization if workspace else place
    token, secret = create_token(organization, name="ci", role=role, by=owner, days=days, workspace=workspace)
    return token, secret


def enter(owner, place, role="admin"):
    token, secret = made(owner, place, role)
    return authenticate(str(token.uuid), secret)


@pytest.fixture
def other_lab(harbor, this_computer, alice):
    workspace = Workspace.objects.create(
        organization=harbor, cloud_config=this_computer, name="other", region="x", status="ready"
    )
    WorkspaceMember.objects.create(workspace=workspace, user=alice, role=WorkspaceRole.ADMIN)
    return workspace


def test_the_right_secret_lets_in_and_no_other(alice, lab):
    token, secret = made(alice, lab)
    other, other_secret = made(alice, lab)
    assert authenticate(str(token.uuid), secret).owner == alice
    for client_id, wrong in [
        (token.uuid, other_secret), (token.uuid, ""), (token.uuid, secret[:-1]), (token.uuid, token.secret_hash),
        (uuid4(), secret), (other.uuid, secret), ("", secret), ("x", secret), ("é", "ü"),
    ]:  # fmt: skip
        assert authenticate(str(client_id), wrong) is None


def test_an_unknown_client_costs_what_a_wrong_secret_costs(alice, lab, monkeypatch):
    """The same questions to the database, and as many comparisons."""
    token, _ = made(alice, lab)
    compared = []
    monkeypatch.setattr("accounts.tokens.compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    asked = []
    for client_id in (token.uuid, uuid4(), "no uuid"):
        with CaptureQueriesContext(connection) as queries:
            assert authenticate(str(client_id), "wrong") is None
        asked.append(len(queries))
    assert asked == [1, 1, 1]
    assert compared == [(64, 64)] * 3


@pytest.mark.parametrize(
    ("header", "lets_in"),
    [
        ("Basic {good}", True), ("basic {good}", True), ("Bearer {good}", False), ("Basic", False), ("", False),
        ("Basic !!!", False), ("Basic {plain}", False), ("Basic {latin}", False), ("Basic {empty}", False),
    ],
)  # fmt: skip
def test_what_a_request_says(alice, lab, header, lets_in):
    token, secret = made(alice, lab)
    words = {
        "good": base64.b64encode(f"{token.uuid}:{secret}".encode()).decode(),
        "plain": f"{token.uuid}:{secret}",
        "latin": base64.b64encode(b"\xff\xfe:\xff").decode(),
        "empty": base64.b64encode(b"nothing").decode(),
    }
    request = RequestFactory().get("/", headers={"Authorization": header.format(**words)}, REMOTE_ADDR="2001:DB8::9")
    assert bool(acting(request)) == lets_in
    token.refresh_from_db()
    assert token.last_address == ("2001:db8::9" if lets_in else None)


def may(who, queryset, row):
    return {can for can in Can if queryset.where(who, can).filter(pk=row.pk).exists()}


def test_a_workspace_token_acts_in_its_workspace_alone(alice, lab, other_lab, harbor, this_computer):
    who = enter(alice, lab)
    inside = {Can.SEE_WORKSPACE, Can.VIEW, Can.RUN_JOBS, Can.MANAGE_CLUSTERS, Can.MANAGE_WORKSPACE, Can.INVITE}
    assert may(who, Workspace.objects.all(), lab) == inside | {Can.MANAGE_TOKENS}
    assert may(who, Workspace.objects.all(), other_lab) == set()
    assert may(who, Organization.objects.all(), harbor) == set()
    assert may(who, CloudConfig.objects.all(), this_computer) == set()
    with pytest.raises(Http404):
        get_for(Workspace.objects.all(), who, Can.VIEW, uuid=other_lab.uuid)


def test_an_organization_token_acts_on_its_organization_alone(alice, lab, harbor, elsewhere, this_computer):
    elsewhere.memberships.create(user=alice, role=OrganizationRole.ADMIN)
    who = enter(alice, harbor)
    assert Can.MANAGE_ORGANIZATION in may(who, Organization.objects.all(), harbor)
    assert may(who, Organization.objects.all(), elsewhere) == set()
    assert CloudConfig.objects.seen_by(who, this_computer.uuid) == this_computer
    assert Can.SEE_WORKSPACE in may(who, Workspace.objects.all(), lab)
    assert Can.VIEW not in may(who, Workspace.objects.all(), lab)
    member = enter(alice, harbor, role="member")
    assert may(member, Organization.objects.all(), harbor) == {Can.SEE_ORGANIZATION}
    assert not CloudConfig.objects.seen_by(member, this_computer.uuid)


def test_its_role_is_a_limit(alice, lab):
    for role, allowed in [
        ("viewer", {Can.SEE_WORKSPACE, Can.VIEW}),
        ("user", {Can.SEE_WORKSPACE, Can.VIEW, Can.RUN_JOBS}),
    ]:
        who = enter(alice, lab, role)
        assert (who.role, may(who, Workspace.objects.all(), lab)) == (role, allowed)
    with pytest.raises(PermissionDenied):
        get_for(Workspace.objects.all(), who, Can.MANAGE_CLUSTERS, uuid=lab.uuid)


def test_it_loses_what_its_owner_loses(alice, lab):
    token, secret = made(alice, lab, "admin")
    lab.members.filter(user=alice).update(role=WorkspaceRole.USER)
    who = authenticate(str(token.uuid), secret)
    assert who.role == "user"
    assert may(who, Workspace.objects.all(), lab) == {Can.SEE_WORKSPACE, Can.VIEW, Can.RUN_JOBS}
    lab.members.filter(user=alice).update(role=WorkspaceRole.ADMIN)
    assert authenticate(str(token.uuid), secret).role == "admin"


def test_it_does_not_gain_what_its_owner_gains(bob, lab):
    token, secret = made(bob, lab, "user")
    lab.members.filter(user=bob).update(role=WorkspaceRole.ADMIN)
    who = authenticate(str(token.uuid), secret)
    assert who.role == "user"
    assert Can.MANAGE_CLUSTERS not in may(who, Workspace.objects.all(), lab)


def test_a_token_sees_only_the_tokens_and_invitations_of_its_place(alice, lab, other_lab, harbor):
    who = enter(alice, lab)
    made(alice, other_lab)
    made(alice, harbor)
    later = now() + timedelta(days=1)
    for n, workspace in enumerate((lab, other_lab, None)):
        Invitation.objects.create(
            organization=harbor, workspace=workspace, email=f"{n}@e.org", token_hash=str(n), expires=later
        )
    assert list(ApiToken.objects.where(who, Can.MANAGE_TOKENS)) == [who.token]
    assert [row.workspace for row in Invitation.objects.where(who, Can.INVITE)] == [lab]


DEATHS = {
    "REVOKED": lambda token: revoke_token(token, by=token.owner),
    "EXPIRED": lambda token: ApiToken.objects.update(expires=now()),
    "WORKSPACE DELETED": lambda token: Workspace.objects.update(status="terminated"),
    "OWNER LEFT": lambda token: token.organization.memberships.filter(user=token.owner).delete(),
    "OWNER LOCKED": lambda token: User.objects.update(is_active=False),
}


@pytest.mark.parametrize("word", DEATHS)
def test_it_dies(alice, lab, word):
    token, secret = made(alice, lab)
    assert authenticate(str(token.uuid), secret)
    DEATHS[word](token)
    assert authenticate(str(token.uuid), secret) is None
    assert ApiToken.objects.with_owners().get().badge.word == word


def test_it_dies_with_the_role_in_the_workspace_and_while_that_is_being_deleted(alice, lab):
    token, secret = made(alice, lab)
    Workspace.objects.update(status="terminating")
    assert authenticate(str(token.uuid), secret) is None
    Workspace.objects.update(status="failed")
    assert authenticate(str(token.uuid), secret)
    lab.members.filter(user=alice).delete()
    assert authenticate(str(token.uuid), secret) is None


def test_it_dies_with_the_workspace_itself(alice, lab):
    token, secret = made(alice, lab)
    lab.delete()
    assert authenticate(str(token.uuid), secret) is None


def test_its_use_is_no_sign_in_and_a_locked_owner_locks_it(alice, lab):
    token, secret = made(alice, lab, days=365)
    before = User.objects.get(pk=alice.pk).quiet_since
    assert authenticate(str(token.uuid), secret)
    assert User.objects.get(pk=alice.pk).quiet_since == before
    User.objects.update(date_joined=now() - timedelta(days=91), last_login=None)
    assert authenticate(str(token.uuid), secret) is None
    User.objects.update(unlocked_at=now())
    assert authenticate(str(token.uuid), secret)


def test_it_expires_at_its_time(alice, lab):
    with time_machine.travel(now(), tick=False) as clock:
        token, secret = made(alice, lab, days=30)
        clock.shift(timedelta(days=30, seconds=-1))
        assert authenticate(str(token.uuid), secret)
        clock.shift(timedelta(seconds=1))
        assert authenticate(str(token.uuid), secret) is None


def test_its_use_is_noted_once_a_minute(alice, lab):
    token, secret = made(alice, lab)
    with time_machine.travel(now(), tick=False) as clock:
        assert authenticate(str(token.uuid), secret, "192.0.2.1")
        first = ApiToken.objects.get().last_used
        clock.shift(59)
        with CaptureQueriesContext(connection) as queries:
            assert authenticate(str(token.uuid), secret, "192.0.2.2")
        assert len(queries) == 1
        assert (ApiToken.objects.get().last_used, ApiToken.objects.get().last_address) == (first, "192.0.2.1")
        clock.shift(1)
        assert authenticate(str(token.uuid), secret, "192.0.2.2")
        assert ApiToken.objects.get().last_used == first + timedelta(minutes=1)
        assert ApiToken.objects.get().last_address == "192.0.2.2"


def test_refusals_are_not_noted(alice, lab):
    token, _ = made(alice, lab)
    authenticate(str(token.uuid), "wrong", "192.0.2.1")
    assert ApiToken.objects.get().last_used is None


FORM = {"name": "nightly", "role": "admin", "days": "90"}


def secret_on(response):
    return re.search(r'<code id="secret"[^>]*>([^<]+)</code>', response.content.decode())[1]


@pytest.mark.parametrize("of_workspace", [True, False])
def test_made_on_a_page_shown_once_and_revoked(client, alice, lab, of_workspace, caplog):
    caplog.set_level("DEBUG")
    client.force_login(alice)
    tokens = f"/workspaces/{lab.uuid}/tokens/" if of_workspace else "/organization/tokens/"
    key = str(uuid4())
    answer = client.post(f"{tokens}new/", {**FORM, "key": key})
    secret = secret_on(answer)
    assert "no-store" in answer["Cache-Control"]
    token = ApiToken.objects.get()
    assert (token.workspace == lab, token.owner, token.role) == (of_workspace, alice, "admin")
    assert timedelta(days=89) < token.expires - now() <= timedelta(days=90)
    assert authenticate(str(token.uuid), secret, "192.0.2.1")

    again = client.post(f"{tokens}new/", {**FORM, "key": key}, follow=True)
    assert "was made already" in again.content.decode()
    assert ApiToken.objects.count() == 1

    listed = client.get(tokens).content.decode()
    for part in (str(token.uuid), "nightly", "ACTIVE", "192.0.2.1", alice.email):
        assert part in listed
    asked = client.get(f"/tokens/{token.uuid}/revoke/")
    assert "Revoke nightly?" in asked.content.decode()
    assert authenticate(str(token.uuid), secret)
    revoked = client.post(f"/tokens/{token.uuid}/revoke/", follow=True).content.decode()
    assert "nightly is revoked" in revoked
    assert "REVOKED" in revoked
    assert authenticate(str(token.uuid), secret) is None

    audited = list(AuditEvent.objects.order_by("number"))
    assert [(event.verb, event.kind, event.subject_name) for event in audited] == [
        ("created", "API token", "nightly"), ("revoked", "API token", "nightly"),
    ]  # fmt: skip
    later = [again.content.decode(), listed, asked.content.decode(), revoked, client.get(tokens).content.decode()]
    kept = [str(row) for row in ApiToken.objects.values()] + [str(row) for row in AuditEvent.objects.values()]
    for place in (*later, *kept, caplog.text, str(dict(client.session)), answer.request["PATH_INFO"]):
        assert secret not in place


def test_somebody_gives_at_most_their_own_role(client, alice, lab):
    client.force_login(alice)
    lab.members.filter(user=alice).update(role=WorkspaceRole.VIEWER)
    form = client.get(f"/workspaces/{lab.uuid}/tokens/new/").content.decode()
    assert re.findall(r'<option value="(admin|user|viewer)"', form) == ["viewer"]
    answer = client.post(f"/workspaces/{lab.uuid}/tokens/new/", {**FORM, "role": "admin"})
    assert "This cannot be chosen here." in answer.content.decode()
    assert 'value="nightly"' in answer.content.decode()
    assert not ApiToken.objects.exists()


def test_an_organization_admin_without_a_role_in_the_workspace_revokes_and_makes_none(client, alice, bob, lab):
    token, secret = made(bob, lab, "user")
    lab.members.filter(user=alice).delete()
    client.force_login(alice)
    assert "Create API token" not in client.get(f"/workspaces/{lab.uuid}/tokens/").content.decode()
    assert client.get(f"/workspaces/{lab.uuid}/tokens/new/").status_code == 403
    assert client.post(f"/tokens/{token.uuid}/revoke/").status_code == 302
    assert authenticate(str(token.uuid), secret) is None


@pytest.mark.parametrize(
    ("field", "value"), [("name", ""), ("role", "owner"), ("days", "7"), ("days", ""), ("key", "x")]
)
def test_what_is_wrong_with_the_form_is_said(client, alice, lab, field, value):
    client.force_login(alice)
    assert client.post("/organization/tokens/new/", {**FORM, field: value}).status_code == 200
    assert not ApiToken.objects.exists()


def test_a_token_that_never_expires(client, alice, lab):
    client.force_login(alice)
    client.post("/organization/tokens/new/", {**FORM, "days": "0"})
    assert ApiToken.objects.get().expires is None
    assert "never" in client.get("/organization/tokens/").content.decode()


def test_a_form_with_the_client_id_of_others_makes_a_token_of_its_own(client, alice, bob, lab):
    lab.members.update(role=WorkspaceRole.ADMIN)
    token, secret = made(bob, lab)
    client.force_login(alice)
    answer = client.post(f"/workspaces/{lab.uuid}/tokens/new/", {**FORM, "key": str(token.uuid)})
    assert authenticate(str(token.uuid), secret).owner == bob
    assert authenticate(str(ApiToken.objects.get(owner=alice).uuid), secret_on(answer)).owner == alice


def test_a_stolen_session_makes_no_token(harbor, alice):
    client = Client()
    client.force_login(alice)
    form = client.get("/organization/tokens/new/").context["form"]
    data = {"name": "ci", "role": "admin", "days": "30", "key": form["key"].value()}
    answer = client.post("/organization/tokens/new/", data)
    assert answer.url.startswith("/accounts/reauthenticate/")
    assert not ApiToken.objects.exists()
    answer = client.post(answer.url, {"password": "correct horse battery"})
    token = ApiToken.objects.get()
    assert authenticate(str(token.uuid), secret_on(answer)).owner == alice


def test_a_token_of_another_organization_than_the_active_one_is_not_touched(client, harbor, elsewhere, alice):
    """alice is an admin of both; the list is open in another tab."""
    token, _ = made(alice, harbor)
    elsewhere.memberships.create(user=alice, role=OrganizationRole.ADMIN)
    client.force_login(alice)
    client.post("/organizations/switch/", {"organization": str(elsewhere.uuid)})
    answer = client.get(f"/tokens/{token.uuid}/revoke/")
    assert answer.status_code == 409
    assert "That page belongs to Harbor Analytics" in answer.content.decode()
    assert client.post(f"/tokens/{token.uuid}/revoke/", {"in_organization": str(harbor.uuid)}).status_code == 409
    token.refresh_from_db()
    assert not token.revoked
