"""The live page: nothing lost, nothing twice, and nothing to people who may not see it."""

from __future__ import annotations

import asyncio
import inspect
import json
import struct
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from allauth.mfa.models import Authenticator
from asgiref.sync import sync_to_async
from channels.routing import URLRouter
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.db import OperationalError
from django.urls import path
from django.utils.timezone import now

from portal.sessions import SessionStore
from portal.tasks import consumers, ledger, live, pace, permission
from portal.tasks.consumers import LiveConsumer
from portal.tasks.keeping import keep
from portal.tasks.models import Output, Segment, Stream
from portal.tasks.permission import GONE, SIGNED_OUT
from tests.sockets import Page
from workspaces.models import WorkspaceMember

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(permission, "RECHECK", 0.05)
    monkeypatch.setattr(pace, "GAP", 0.0)


@pytest.fixture
def task(lab, alice, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    type(lab).objects.filter(pk=lab.pk).update(status="new")
    return ledger.start_task(lab, "workspaces.create", by=alice)


def page_of(user):
    session = SessionStore()
    if user:
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "accounts.backends.PersonBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return Page(URLRouter([path("live/", LiveConsumer.as_asgi())]), "/live/", session=session)


def parse(frame):
    size = struct.unpack(">I", frame[:4])[0]
    return json.loads(frame[4 : 4 + size]), frame[4 + size :]


@sync_to_async
def write(output, data, stream=Stream.STDOUT):
    Output.objects.get(pk=output.pk).append(stream, data)


async def ask(page, output, after, *, ended=False, kept=False):
    await page.send_json_to({"output": str(output.uuid), "after": after, "ended": ended, "kept": kept})


async def frame_of(page):
    """The next frame of output; words are passed over."""
    while True:
        message = await page.receive_output()
        if message.get("bytes"):
            return parse(message["bytes"])
        assert message["type"] == "websocket.send", message


async def closed_with(page):
    while True:
        message = await page.receive_output()
        if message["type"] == "websocket.close":
            return message["code"]


async def test_a_page_is_told_that_what_it_watches_changed(task, bob):
    page = await sync_to_async(page_of)(bob)
    assert await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    assert await page.receive_json_from() == {"watching": [f"task.{task.uuid}"]}
    await live.send(f"task.{task.uuid}")
    assert await page.receive_json_from() == {"changed": [f"task.{task.uuid}"]}
    await page.disconnect()


async def test_output_comes_from_the_pages_own_cursor_and_then_as_it_is_written(task, bob):
    await write(task.output, b"one\ntwo\n")
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await ask(page, task.output, 4)
    header, body = await frame_of(page)
    assert (header["after"], header["next"], body) == (4, 8, b"two\n")
    await ask(page, task.output, header["next"])
    await write(task.output, b"three\n")
    header, body = await frame_of(page)
    assert body == b"three\n"
    await page.disconnect()


async def test_a_page_that_does_not_ask_is_sent_nothing_more(task, bob):
    await write(task.output, b"one\n")
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await ask(page, task.output, 0)
    await frame_of(page)
    await write(task.output, b"two\n")
    assert await page.receive_nothing(0.3)
    await page.disconnect()


async def test_a_page_that_reconnects_goes_on_where_it_was(task, bob):
    await write(task.output, b"one\n")
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await ask(page, task.output, 0)
    header, _ = await frame_of(page)
    await page.disconnect()
    await write(task.output, b"missed\n")
    again = await sync_to_async(page_of)(bob)
    await again.connect()
    await ask(again, task.output, header["next"])
    assert (await frame_of(again))[1] == b"missed\n"
    await again.disconnect()


async def test_two_pages_get_the_same_bytes(task, alice, bob):
    pages = [await sync_to_async(page_of)(user) for user in (alice, bob)]
    for page in pages:
        await page.connect()
        await ask(page, task.output, 0)
    await write(task.output, b"hello\n")
    assert [(await frame_of(page))[1] for page in pages] == [b"hello\n"] * 2
    for page in pages:
        await page.disconnect()


async def test_a_page_is_told_who_wrote_what_wherever_its_cursor_is(task, bob):
    at = datetime(2026, 11, 26, 12, tzinfo=UTC)
    log = [Segment(Stream.STDOUT, b"one\n", at, 0, 7), Segment(Stream.STDERR, b"oh\n", at, 1, 2)]
    await sync_to_async(task.output.append_log)(log, offset=0, size=1)
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    ms = int(at.timestamp() * 1000)
    for cursor, pieces in [(0, "1,7,4,0;2,1.2,3,0"), (2, "1,7,2,0;2,1.2,3,0"), (4, "2,1.2,3,0"), (5, "2,1.2,2,0")]:
        await ask(page, task.output, cursor)
        header, body = await frame_of(page)
        assert (header["pieces"], body) == (f"@{ms};{pieces}", b"one\noh\n"[cursor:])
        assert header["line"] == (cursor >= 4)
    await page.disconnect()


async def test_the_end_is_told_once(task, bob):
    await write(task.output, b"x\n")
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await ask(page, task.output, 2)
    await sync_to_async(Output.objects.filter(pk=task.output_id).update)(ended=True)
    await live.send(task.output.live_name)
    header, body = await frame_of(page)
    assert (header["ended"], header["kept"], body) == (True, False, b"")
    await ask(page, task.output, 2, ended=True)
    assert await page.receive_nothing(0.3)
    await page.disconnect()


async def test_what_is_said_when_a_task_is_tried_again_comes_to_a_page_that_saw_its_end(task, bob):
    await write(task.output, b"first try\n", Stream.PORTAL)

    @sync_to_async
    def end():
        Output.objects.filter(pk=task.output_id).update(ended=True)
        keep(Output.objects.get(pk=task.output_id))

    await end()
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await ask(page, task.output, 0)
    header, body = await frame_of(page)
    assert (header["ended"], header["kept"], body) == (True, True, b"first try\n")
    await ask(page, task.output, 10, ended=True, kept=True)
    assert await page.receive_nothing(0.2)
    await sync_to_async(task.output.reopen)()
    header, body = await frame_of(page)
    assert (header["ended"], header["kept"], body) == (False, False, b"")
    await ask(page, task.output, 10)
    await write(task.output, b"second try\n", Stream.PORTAL)
    assert (await frame_of(page))[1] == b"second try\n"
    await page.disconnect()


@pytest.mark.parametrize("what", ["task", "output"])
async def test_a_stranger_is_sent_away(task, charlie, what):
    page = await sync_to_async(page_of)(charlie)
    await page.connect()
    if what == "task":
        await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    else:
        await ask(page, task.output, 0)
    assert await closed_with(page) == GONE


async def test_nobody_signed_in_is_told_to_sign_in(task):
    page = await sync_to_async(page_of)(None)
    await page.connect()
    assert await closed_with(page) == SIGNED_OUT


async def test_someone_who_is_removed_hears_no_more(task, bob):
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    await page.receive_json_from()
    await ask(page, task.output, 0)
    await sync_to_async(WorkspaceMember.objects.filter(user=bob).delete)()
    assert await closed_with(page) == GONE
    await write(task.output, b"private\n")


async def test_someone_whose_account_is_locked_hears_no_more(task, bob):
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    await page.receive_json_from()
    past = now() - timedelta(days=90, seconds=1)
    await sync_to_async(type(bob).objects.filter(pk=bob.pk).update)(last_login=past, date_joined=past)
    assert await closed_with(page) == SIGNED_OUT


async def test_someone_who_signs_out_elsewhere_hears_no_more(task, bob):
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await sync_to_async(page.scope["session"].flush)()
    assert await closed_with(page) == SIGNED_OUT


async def test_a_session_ends_some_time_after_it_began_however_busy(task, bob, settings):
    page = await sync_to_async(page_of)(bob)
    page.scope["session"]["began"] = int(now().timestamp()) - settings.SESSION_LONGEST + 30
    await sync_to_async(page.scope["session"].save)()
    await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    assert "watching" in await page.receive_json_from()
    with time_machine.travel(now() + timedelta(minutes=1)):
        assert await closed_with(page) == SIGNED_OUT


async def test_who_is_asked_for_a_second_factor_hears_no_more_until_there_is_one(task, bob, harbor):
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    assert "watching" in await page.receive_json_from()
    harbor.second_factor_required = True
    await sync_to_async(harbor.save)()
    assert await closed_with(page) == SIGNED_OUT
    await sync_to_async(Authenticator.objects.create)(user=bob, type="totp", data={})
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    assert "watching" in await page.receive_json_from()
    await page.disconnect()


@pytest.mark.parametrize(
    "words",
    ["", "no json", "[1]", '{"output": "x", "after": 0, "ended": 0, "kept": 0}', '{"watch": 7}', '{"watch": ["x.y"]}'],
)
async def test_nonsense_closes_the_socket_and_nothing_else(task, bob, words):
    page = await sync_to_async(page_of)(bob)
    await page.connect()
    await page.send_to(text_data=words)
    assert await closed_with(page) in (1003, GONE)


@pytest.mark.parametrize("job", ["_tell", "_beat"])
async def test_a_page_whose_news_end_is_told_to_connect_again(task, bob, monkeypatch, job):
    """And not kept in the belief that it is live."""
    page = await sync_to_async(page_of)(bob)
    assert await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    assert "watching" in await page.receive_json_from()
    real = LiveConsumer._still_allowed

    async def broken_once(self):
        if inspect.currentframe().f_back.f_code.co_name == job:
            raise OperationalError("server closed the connection unexpectedly")
        return await real(self)

    monkeypatch.setattr(LiveConsumer, "_still_allowed", broken_once)
    await live.send(f"task.{task.uuid}")
    assert await closed_with(page) == consumers.TRY_AGAIN


async def test_a_page_whose_question_fails_is_over_with_all_that_it_did(task, bob, monkeypatch):
    """The socket ends by the error, and whatever went on for it would ask for ever."""
    page = await sync_to_async(page_of)(bob)
    assert await page.connect()
    await page.send_json_to({"watch": [f"task.{task.uuid}"]})
    assert "watching" in await page.receive_json_from()
    real, asked, left = permission.refusal, [], []

    async def away(key, names):
        asked.append(names)
        if f"workspace.{task.subject_id}" in names:
            raise OperationalError("server closed the connection unexpectedly")
        return await real(key, names)

    async def discard(self, name, channel):
        left.append(name)

    monkeypatch.setattr(permission, "refusal", away)
    monkeypatch.setattr("channels.layers.InMemoryChannelLayer.group_discard", discard)
    await page.send_json_to({"watch": [f"workspace.{task.subject_id}"]})
    with pytest.raises(OperationalError):
        await page.wait()
    assert left == [f"task.{task.uuid}"]
    asked.clear()
    await asyncio.sleep(4 * permission.RECHECK)
    assert asked == []
