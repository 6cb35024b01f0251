"""An output by one request of a program: with an API token, to its end, and no longer than it may."""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest
from django.test import AsyncClient
from django.urls import reverse

from accounts.access import WorkspaceRole
from accounts.actions import create_token, revoke_token
from portal.tasks import following
from portal.tasks.keeping import keep
from portal.tasks.models import Output, Task
from portal.tasks.outputs import Stream
from tests.tasks.test_output import out

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture
def output(lab):
    task = Task.objects.create(kind="workspaces.create", title="Print", subject=lab, output=Output.objects.create())
    return task.output


@pytest.fixture
def token(lab, alice):
    return create_token(lab.organization, name="ci", role=WorkspaceRole.VIEWER, by=alice, days=1, workspace=lab)


def signed(token):
    row, secret = token
    return {"authorization": "Basic " + base64.b64encode(f"{row.uuid}:{secret}".encode()).decode()}


def url(output, query=""):
    return f"{reverse('output-download', args=[output.uuid])}?{query}"


def test_a_token_reads_what_its_place_allows_and_nothing_else(client, output, token, other):
    output.append_log([out(0, b"a\n"), out(1, b"b\n")], offset=0, size=1)
    good = client.get(url(output, "tags=1"), headers=signed(token))
    assert b"".join(good.streaming_content) == b"[0] a\n[1] b\n"
    assert client.get(url(other), headers=signed(token)).status_code == 404
    assert client.get(url(output)).status_code == 302
    wrong = client.get(url(output), headers=signed((token[0], "wrong")))
    assert (wrong.status_code, wrong["WWW-Authenticate"].split()[0]) == (401, "Basic")


@pytest.fixture
def other(elsewhere, charlie):
    from workspaces.models import CloudConfig, Workspace

    config = CloudConfig.objects.create(organization=elsewhere, name="theirs", kind="local", created_by=charlie)
    lab = Workspace.objects.create(
        organization=elsewhere, cloud_config=config, name="lab", region="this-computer", status="ready"
    )
    return Task.objects.create(
        kind="workspaces.create", title="Print", subject=lab, output=Output.objects.create()
    ).output


def test_the_checksum_of_a_stream_goes_with_its_bytes(client, output, token):
    output.append_log([out(0, b"a\nb"), out(1, b"x\n", stream=Stream.STDERR), out(0, b"c\n")], offset=0, size=1)
    output.end()
    keep(output)
    answer = client.get(url(output, "order=arrival&stream=stdout"), headers=signed(token))
    body = b"".join(answer.streaming_content)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert (body, answer["Repr-Digest"]) == (b"a\nbc\n", f"sha-256=:{digest}:")
    assert answer["Content-Length"] == "5"


def follow(output, token, between, query="follow=1&tags=1"):
    """What comes of it, while `between` is done after each part that comes."""

    async def go():
        answer = await AsyncClient().get(url(output, query), headers=signed(token))
        assert answer.status_code == 200
        got = []
        async for part in answer.streaming_content:
            got.append(part)
            if between:
                await asyncio.to_thread(between.pop(0))
        return b"".join(got)

    return asyncio.run(asyncio.wait_for(go(), 60))


def test_it_is_followed_until_it_has_ended(output, token):
    output.append_log([out(0, b"first\nha")], offset=0, size=1)

    def more():
        output.append_log([out(1, b"other\n"), out(0, b"lf\nlast")], offset=1, size=1)

    assert follow(output, token, [more, output.end]) == b"[0] first\n[1] other\n[0] half\n[0] last"


def test_it_ends_when_the_token_is_revoked(output, token, alice, monkeypatch):
    monkeypatch.setattr(following, "RECHECK", 0.1)
    output.append_log([out(0, b"first\n")], offset=0, size=1)
    got = follow(output, token, [lambda: revoke_token(token[0], by=alice)], "follow=1&rank=0")
    assert got == b"first\n" + following.NOT_YOURS
