"""A person's terminal on a node: who gets one, what it carries, and how it ends. The node is an SSH server in here."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager
from html import unescape

import asyncssh
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import AuditEvent
from clusters import consumers, terminals
from clusters.models import Cluster, EngineVersion, Node, Terminal
from portal import background, database, secrets, ssh
from portal.asgi import sockets
from portal.database import for_sockets
from portal.sessions import SessionStore
from portal.tasks import permission
from portal.tasks.permission import GONE, SIGNED_OUT
from tests.sockets import PATIENCE, Page
from workspaces.models import WorkspaceMember

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rings")]
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
BLOCK = b"\x1b[31mflood\x1b[0m " * 1000


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(terminals, "LOOK", 0.05)
    monkeypatch.setattr(permission, "RELOAD", 0.0)
    yield
    background.wait_for(everything_ended())


async def everything_ended():
    shells = list(terminals._shells.values())
    for shell in shells:
        shell.end("The test is over.")
        await shell.written_down.wait()
    for task in list(terminals._lives):
        task.cancel()
    await asyncio.gather(*terminals._lives, return_exceptions=True)
    terminals._shells.clear()
    for connections in terminals._kept.values():
        connections.close()
    terminals._kept.clear()
    await asyncio.sleep(0.01)  # for what was cut to be closed
    # A question to the database that nobody waits for any more would be in the way of emptying it.
    threads = database._live._max_workers
    together = threading.Barrier(threads)
    await asyncio.gather(*(for_sockets(together.wait)() for _ in range(threads)))


class Machine:
    """A node. What is typed comes back; "flood", "deaf", "bye N" and "gone" are commands."""

    def __init__(self):
        self.sent = 0  # bytes that it could get rid of
        self.sizes = []
        self.open = 0
        self.connections = []
        self.commands = []

    async def shell(self, process):
        self.open += 1
        self.commands.append(process.command)
        self.sizes.append(process.term_size[:2])
        try:
            process.stdout.write(b"tide-0:~$ ")
            while True:
                try:
                    said = await process.stdin.read(4096)
                except asyncssh.TerminalSizeChanged as change:
                    self.sizes.append((change.width, change.height))
                    continue
                if not said:
                    break
                match said.split():
                    case [b"flood"]:
                        while True:
                            process.stdout.write(BLOCK)
                            await process.stdout.drain()
                            self.sent += len(BLOCK)
                    case [b"deaf"]:
                        process.stdin.channel.pause_reading()
                        await asyncio.Event().wait()
                    case [b"bye", status]:
                        process.exit(int(status))
                        return
                    case [b"gone"]:
                        for connection in self.connections:
                            connection.abort()
                    case _:
                        process.stdout.write(said)
        except (OSError, asyncssh.Error):
            pass
        finally:
            self.open -= 1
            process.close()


@asynccontextmanager
async def listening(cluster):
    """Its only node, listening where the cluster's row says."""
    machine = Machine()
    workspace = await sync_to_async(lambda: cluster.workspace)()

    class Door(asyncssh.SSHServer):
        def connection_made(self, conn):
            self.connection = conn
            machine.connections.append(conn)

        def begin_auth(self, username):
            self.connection.set_authorized_keys(asyncssh.import_authorized_keys(workspace.login_public))
            return True

    async with await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Door, server_host_keys=[HOST_KEY], process_factory=machine.shell,
        encoding=None, line_editor=False,
    ) as server:  # fmt: skip
        await sync_to_async(cluster.nodes.update)(port=server.get_port())
        try:
            yield machine
        finally:
            for connection in machine.connections:
                connection.abort()
                await connection.wait_closed()
            await asyncio.sleep(0)  # its transport is closed a moment later


@pytest.fixture
def tide(lab, alice):
    lab.keep_login_key(*ssh.new_key("test"))
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="5.0.2", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=1, status="running",
        engine_version=engine, created_by=alice,
    )  # fmt: skip
    public = HOST_KEY.export_public_key().decode().strip()
    node = Node(
        cluster=cluster, rank=0, hostname="tide-0", host_public=public, state="answers", address="127.0.0.1",
        user="node", seen=now(),
    )  # fmt: skip
    secrets.seal(node, "host_private", "key")
    node.save()
    return cluster


def session_of(user):
    session = SessionStore()
    session.person = user or AnonymousUser()
    if user:
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "accounts.backends.PersonBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return session


class Desk(Page):
    """A terminal's page as far as the portal sees it."""

    def __init__(self, cluster, session, rank=0):
        path = f"/terminal/{cluster.uuid}/{rank}/"
        super().__init__(sockets, path, session=session, user=session.person, client=("192.0.2.7", 5))
        self.at = 0
        self.seen = b""
        self.words = []
        self.code = None

    async def take(self):
        message = await self.receive_output()
        if message["type"] == "websocket.close":
            self.code = message["code"]
        elif message.get("bytes"):
            self.seen += message["bytes"]
            self.at += len(message["bytes"])
        else:
            self.words.append(json.loads(message["text"]))
        return message

    async def opens(self, size=(80, 24)):
        await self.connect()
        await self.send_json_to({"open": size})
        return await self.opened()

    async def opened(self):
        while True:
            await self.take()
            if self.code or (self.words and "resume" in self.words[-1]):
                break
        if self.code is None:
            self.ask = {name: self.words[-1][name] for name in ("resume", "terminal")}
            self.at = self.words[-1]["from"]
        return self.code is None

    async def comes_back(self, ask, after, size=(80, 24)):
        await self.connect()
        await self.send_json_to({**ask, "after": after, "size": size})
        return await self.opened()

    async def type(self, data):
        await self.send_input({"type": "websocket.receive", "bytes": data})

    async def until(self, data):
        while data not in self.seen:
            await self.take()
            assert self.code is None, self.words
            await self.send_json_to({"shown": self.at})

    async def ending(self):
        """Why it is over, and the code."""
        while self.code is None:
            await self.take()
        return next((words["over"] for words in self.words if "over" in words), ""), self.code


async def desk(cluster, user, **where):
    return Desk(cluster, await sync_to_async(session_of)(user), **where)


@sync_to_async
def audited(cluster):
    events = AuditEvent.objects.filter(kind="terminal").order_by("pk")
    return [(e.actor_name, e.verb, e.subject_name, e.after.get("why", "")) for e in events]


async def come_true(look, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not await look():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_what_is_typed_goes_to_the_node_and_what_it_says_comes_back(tide, bob):
    async with listening(tide) as machine:
        page = await desk(tide, bob)
        assert await page.opens((100, 30))
        await page.until(b"tide-0:~$ ")
        await page.type("naïve\n".encode())
        await page.until("naïve\n".encode())
        await page.send_json_to({"size": [120, 40]})
        await page.type(b"again\n")
        await page.until(b"again\n")
        assert machine.sizes == [(100, 30), (120, 40)]
        assert "/shared/.engines/mpi-5.0.2/bin:$PATH" in machine.commands[0]
        while page.words[-1] != {"typed": 13, "notice": ""}:
            await page.take()
        await page.disconnect()


@pytest.mark.parametrize(
    ("who", "code"), [("alice", None), ("bob", None), ("vera", 4403), ("charlie", GONE), (None, SIGNED_OUT)]
)
async def test_who_gets_a_terminal(tide, alice, bob, vera, charlie, who, code):
    people = {"alice": alice, "bob": bob, "vera": vera, "charlie": charlie, None: None}
    async with listening(tide) as machine:
        page = await desk(tide, people[who])
        assert await page.opens() is (code is None)
        assert page.code == code
        if code is None:
            await page.until(b"$ ")
        assert (machine.commands != []) is (code is None)
        assert await sync_to_async(Terminal.objects.count)() == (1 if code is None else 0)
        await page.disconnect()


async def test_the_page_of_a_terminal_is_looser_in_style_alone_and_no_other_is(tide, client, bob, vera):
    def look():
        client.force_login(bob)
        page = client.get(reverse("terminal", args=[tide.uuid]))
        other = client.get(reverse("cluster", args=[tide.uuid]))
        assert "style-src 'self' 'unsafe-inline'" in page["Content-Security-Policy"]
        assert "unsafe" not in page["Content-Security-Policy"].replace("style-src 'self' 'unsafe-inline'", "")
        assert "unsafe" not in other["Content-Security-Policy"]
        assert client.get(reverse("terminal", args=[tide.uuid]), {"node": "7"}).status_code == 404
        Cluster.objects.update(status="failed")
        refused = client.get(reverse("terminal", args=[tide.uuid])).content.decode()
        assert "tide is FAILED." in refused
        assert "terminal-screen" not in refused

    await sync_to_async(look)()


async def test_the_audit_says_who_was_on_which_node_from_when_to_when(tide, bob):
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        await page.type(b"bye 3")
        assert await page.ending() == ("The shell ended with exit status 3.", consumers.OVER)
        await come_true(sync_to_async(lambda: AuditEvent.objects.filter(verb="closed").exists()))

        def entry():
            opened, closed = AuditEvent.objects.filter(kind="terminal").order_by("pk")
            assert (opened.actor_name, opened.verb, opened.subject_name) == (bob.email, "opened", "tide-0")
            assert (closed.actor_name, closed.verb, closed.subject_name) == (bob.email, "closed", "tide-0")
            assert opened.address == closed.address == "192.0.2.7"
            assert closed.after["opened"] < closed.after["closed"]
            assert closed.after["why"] == "The shell ended with exit status 3."
            assert not Terminal.objects.exists()

        await sync_to_async(entry)()


async def take_role(lab, bob):
    await sync_to_async(WorkspaceMember.objects.filter(user=bob).update)(role="viewer")


async def sign_out(lab, bob):
    await sync_to_async(lambda: type(bob).objects.filter(pk=bob.pk).update(is_active=False))()


async def lose_node(lab, bob):
    await sync_to_async(Node.objects.update)(state="gone")


async def lose_row(lab, bob):
    await sync_to_async(Terminal.objects.all().delete)()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (take_role, terminals.NOT_YOURS), (sign_out, terminals.SIGNED_OUT), (lose_node, "tide-0 is gone."),
        (lose_row, terminals.LOST),
    ],
)  # fmt: skip
async def test_it_ends_in_words_when_what_it_stands_on_goes(tide, lab, bob, what, words):
    async with listening(tide) as machine:
        page = await desk(tide, bob)
        await page.opens()
        await page.until(b"$ ")
        await what(lab, bob)
        assert await page.ending() == (words, consumers.OVER)
        await come_true(lambda: sync_to_async(lambda: machine.open == 0)())


async def test_a_node_that_goes_away_ends_it_in_words(tide, bob):
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        await page.type(b"gone")
        words, code = await page.ending()
        assert (words, code) == (
            "The connection to tide-0 broke: it was stopped, or cannot be reached.",
            consumers.OVER,
        )


async def test_a_node_that_does_not_answer_is_said_and_is_not_the_end(tide, bob):
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        await sync_to_async(Node.objects.update)(state="silent")
        while page.words[-1].get("notice") != "tide-0 does not answer.":
            await page.take()
        await sync_to_async(Node.objects.update)(state="answers")
        while page.words[-1].get("notice") != "":
            await page.take()
        await page.type(b"on\n")
        await page.until(b"on\n")
        await page.disconnect()


async def test_a_page_that_was_cut_off_goes_on_where_it_was(tide, bob):
    async with listening(tide) as machine:
        session = await sync_to_async(session_of)(bob)
        page = Desk(tide, session)
        await page.opens()
        await page.type(b"one\n")
        await page.until(b"one\n")
        await page.disconnect()
        again = Desk(tide, session)
        assert await again.comes_back(page.ask, page.at)
        assert again.words[-1]["fresh"] is False
        await again.type(b"two\n")
        await again.until(b"two\n")
        assert again.seen == b"two\n"
        assert len(machine.commands) == 1
        await again.disconnect()


async def test_a_page_that_was_loaded_again_is_given_what_was_said_and_redrawn(tide, bob):
    async with listening(tide) as machine:
        session = await sync_to_async(session_of)(bob)
        page = Desk(tide, session)
        await page.opens()
        await page.type(b"one\n")
        await page.until(b"one\n")
        await page.disconnect()
        again = Desk(tide, session)
        assert await again.comes_back(page.ask, None)
        await again.until(b"tide-0:~$ one\n")
        assert (again.words[0]["from"], again.words[0]["head"], again.words[0]["fresh"]) == (0, 14, True)
        await again.type(b"two\n")
        await again.until(b"two\n")
        assert machine.sizes == [(80, 24), (80, 23), (80, 24)]
        await again.disconnect()


async def test_another_page_takes_it_over_and_the_first_is_told(tide, bob):
    async with listening(tide):
        session = await sync_to_async(session_of)(bob)
        page, other = Desk(tide, session), Desk(tide, session)
        await page.opens()
        assert await other.comes_back(page.ask, None)
        assert await page.ending() == (terminals.TAKEN, consumers.OVER)
        await other.type(b"mine\n")
        await other.until(b"mine\n")
        await other.disconnect()


async def test_nobody_comes_back_to_anothers_terminal(tide, alice, bob):
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        for other in (await desk(tide, alice), await desk(tide, bob)):  # another person; another session
            assert not await other.comes_back(page.ask, 0)
        mine = Desk(tide, page.scope["session"])
        assert not await mine.comes_back({**page.ask, "resume": "x" * 43}, 0)
        await page.type(b"still mine\n")
        await page.until(b"still mine\n")
        await page.disconnect()


async def test_nobody_comes_back_and_it_ends(tide, bob, monkeypatch):
    monkeypatch.setattr(terminals, "ALONE", 0.2)
    async with listening(tide) as machine:
        page = await desk(tide, bob)
        await page.opens()
        await page.until(b"$ ")
        await page.disconnect()
        await come_true(lambda: sync_to_async(lambda: machine.open == 0)())
        await come_true(sync_to_async(lambda: not Terminal.objects.exists()))
        assert (await audited(tide))[-1][3] == terminals.LEFT_ALONE


async def test_a_page_that_goes_while_its_terminal_opens_has_left_it(tide, bob, monkeypatch):
    """The server raises then, in the middle of what the socket is about to say."""

    async def gone(self, *args, **named):
        raise OSError("the client has gone")

    monkeypatch.setattr(terminals, "ALONE", 0.2)
    monkeypatch.setattr(consumers.TerminalConsumer, "send", gone)
    async with listening(tide) as machine:
        page = await desk(tide, bob)
        await page.connect()
        await page.send_json_to({"open": [80, 24]})
        with pytest.raises(OSError, match="gone"):
            await page.wait()
        await come_true(sync_to_async(lambda: not Terminal.objects.exists()))
        await come_true(sync_to_async(lambda: machine.open == 0))
        assert (await audited(tide))[-1][3] == terminals.LEFT_ALONE


async def test_a_terminal_of_another_process_is_asked_for_again_and_of_a_dead_one_closed(tide, bob, monkeypatch):
    async with listening(tide):
        session = await sync_to_async(session_of)(bob)
        row = await sync_to_async(Terminal.objects.create)(cluster=tide, hostname="tide-0", person=bob)
        ask = {"resume": "x", "terminal": str(row.uuid)}
        page = Desk(tide, session)
        assert not await page.comes_back(ask, 0)
        assert page.code == consumers.ELSEWHERE
        await sync_to_async(Terminal.objects.update)(seen=now() - 2 * terminals.LEASE)
        assert await sync_to_async(terminals.sweep)() == 1
        page = Desk(tide, session)
        assert not await page.comes_back(ask, 0)
        assert page.code == consumers.OVER
        assert await audited(tide) == [(bob.email, "closed", "tide-0", terminals.LOST)]


async def test_one_that_is_open_is_never_swept(tide, bob):
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        await sync_to_async(Terminal.objects.update)(seen=now() - terminals.LEASE / 2)
        await come_true(sync_to_async(lambda: Terminal.objects.get().seen > now() - terminals.LEASE / 4))
        assert await sync_to_async(terminals.sweep)() == 0
        await page.disconnect()


@pytest.fixture
def unwilling(monkeypatch):
    """A node that takes the connection, and never starts a shell; until it is told to."""
    willing, real = asyncio.Event(), ssh.Connections._open_process

    async def wait(*args):
        await willing.wait()
        return await real(*args)

    monkeypatch.setattr(ssh.Connections, "_open_process", wait)
    return willing


@pytest.mark.parametrize(
    ("what", "words"), [("end", "You ended it."), ("sign out", terminals.SIGNED_OUT), ("role", terminals.NOT_YOURS)]
)
async def test_a_node_that_never_starts_a_shell_keeps_none_open(tide, lab, bob, unwilling, what, words):
    page = await desk(tide, bob)
    await page.opens()
    if what == "end":
        await page.send_json_to({"end": True})
    elif what == "sign out":
        await page.scope["session"].aflush()
    else:
        await sync_to_async(WorkspaceMember.objects.filter(workspace=lab, user=bob).delete)()
    assert await page.ending() == (words, consumers.OVER)
    await come_true(sync_to_async(lambda: not Terminal.objects.exists()))


async def test_a_node_that_never_starts_a_shell_leaves_room_for_others(tide, bob, unwilling, settings):
    settings.TERMINALS = 1
    page, other = await desk(tide, bob), await desk(tide, bob)
    await page.opens()
    await page.disconnect()
    assert await other.opens()
    await sync_to_async(Terminal.objects.update)(seen=now() - terminals.LEASE / 2)
    await come_true(sync_to_async(lambda: Terminal.objects.get().seen > now() - terminals.LEASE / 4))
    assert other.words[-1].get("notice", "Connecting") != ""
    await other.disconnect()


async def test_a_size_that_comes_before_the_node_answers_is_not_lost(tide, bob, unwilling):
    async with listening(tide) as machine:
        page = await desk(tide, bob)
        await page.opens((100, 30))
        await page.send_json_to({"size": [120, 40]})
        await page.type(b"early\n")
        background.submit(_set(unwilling))
        await page.until(b"early\n")
        assert machine.sizes == [(100, 30), (120, 40)]
        await page.disconnect()


async def _set(event):
    event.set()


async def test_a_portal_may_have_none(tide, bob, settings):
    settings.TERMINALS = 0
    page = await desk(tide, bob)
    assert not await page.opens()
    assert (await page.ending())[0] == "Terminals are switched off in this portal."


async def test_there_are_only_so_many_of_a_person_and_of_a_portal(tide, alice, bob, settings):
    settings.TERMINALS, settings.ALL_TERMINALS = 2, 3
    async with listening(tide):
        pages = [await desk(tide, bob) for _ in range(3)]
        assert [await page.opens() for page in pages] == [True, True, False]
        assert await pages[-1].ending() == ("You have 2 terminals open. End one of them first.", consumers.OVER)
        hers = [await desk(tide, alice) for _ in range(2)]
        assert [await page.opens() for page in hers] == [True, False]
        assert (await hers[-1].ending())[0] == "3 terminals are open in this portal. Try again later."
        await pages[0].send_json_to({"end": True})
        assert (await pages[0].ending())[0] == "You ended it."
        await come_true(sync_to_async(lambda: Terminal.objects.count() == 2))
        assert await (await desk(tide, alice)).opens()


async def test_one_that_nobody_is_at_makes_room_for_another(tide, bob, settings):
    settings.TERMINALS = 2
    async with listening(tide):
        pages = [await desk(tide, bob) for _ in range(3)]
        assert await pages[0].opens()
        assert await pages[1].opens()
        await pages[1].disconnect()
        assert await pages[2].opens()
        await pages[0].type(b"mine\n")
        await pages[0].until(b"mine\n")
        assert [entry[3] for entry in await audited(tide) if entry[1] == "closed"] == [terminals.MADE_ROOM]


async def test_a_node_that_floods_waits_for_a_page_that_stalls(tide, bob):
    """Neither the page's messages nor the portal's memory grow, and other loops and pages go on."""
    async with listening(tide) as machine:
        page = await desk(tide, bob)
        await page.opens()
        await page.type(b"flood")
        while page.at < terminals.AHEAD:
            await page.take()
        assert await page.receive_nothing(0.3)
        assert page.at == terminals.AHEAD
        before = machine.sent
        (shell,) = terminals._shells.values()
        assert len(shell._kept) <= terminals.KEPT
        assert before < 4 * 1024 * 1024
        await asyncio.sleep(0)
        assert await page.receive_nothing(0.3)
        assert machine.sent == before
        await page.send_json_to({"shown": page.at})
        while page.at < 2 * terminals.AHEAD:
            await page.take()
        await page.disconnect()


async def test_a_flood_is_read_at_a_measured_pace(tide, bob, monkeypatch):
    monkeypatch.setattr(terminals, "RATE", 128 * 1024)
    monkeypatch.setattr(terminals, "BURST", 32 * 1024)
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        began = time.monotonic()
        await page.type(b"flood")
        while page.at < 384 * 1024:
            await page.take()
            await page.send_json_to({"shown": page.at})
        rate = (page.at - terminals.BURST - terminals.FRAME) / (time.monotonic() - began)
        assert rate <= terminals.RATE * 1.1
        await page.disconnect()


async def test_a_page_that_was_loaded_again_is_given_no_more_than_it_shows_either(tide, bob):
    async with listening(tide):
        session = await sync_to_async(session_of)(bob)
        page = Desk(tide, session)
        await page.opens()
        await page.type(b"flood")
        while page.at < terminals.KEPT:
            await page.take()
            await page.send_json_to({"shown": page.at})
        await page.disconnect()
        again = Desk(tide, session)
        assert await again.comes_back(page.ask, None)
        begin = again.at
        assert again.words[0]["head"] - begin > terminals.AHEAD
        while again.at < begin + terminals.AHEAD:
            await again.take()
        assert await again.receive_nothing(0.3)
        assert again.at == begin + terminals.AHEAD
        await again.disconnect()


async def test_a_page_that_shows_nothing_is_told_the_end_in_the_end(tide, bob, monkeypatch):
    monkeypatch.setattr(terminals, "ALONE", 0.3)
    monkeypatch.setattr(terminals, "AHEAD", 100_000)  # where no read ends, so that there is more than is shown
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        await page.type(b"flood")
        while page.at < terminals.AHEAD:
            await page.take()
        await page.send_json_to({"end": True})
        assert (await page.ending())[0] == "You ended it."
        assert page.at == terminals.AHEAD
        assert terminals._shells == {}


async def test_what_a_program_does_not_read_is_not_piled_up(tide, bob, monkeypatch):
    monkeypatch.setattr(terminals, "MOST_TYPED", 64 * 1024)
    async with listening(tide):
        page = await desk(tide, bob)
        await page.opens()
        await page.type(b"deaf")
        await page.until(b"$ ")
        for _ in range(4096):
            await page.type(b"x" * 8192)
            if not await page.receive_nothing(0.001):
                await page.take()
            if page.code or any("over" in words for words in page.words):
                break
        assert (await page.ending())[0] == "More was typed than its program reads."


async def test_messages_of_nothing_are_not_piled_up(tide, bob, unwilling):
    page = await desk(tide, bob)
    await page.opens()
    for _ in range(100):
        await page.type(b"")
    await page.type(b"x")
    (shell,) = terminals._shells.values()
    await come_true(sync_to_async(lambda: shell._waiting == 1))
    assert shell._input.qsize() == 1
    await page.disconnect()


@pytest.mark.parametrize(
    "message",
    [
        "", "[]", "{}", "null", "7", '{"open": 3}', '{"open": [1e999, 2]}', '{"open": ["x", 2]}', "[" * 5000,
        '{"resume": "a", "terminal": "b", "after": 1, "size": [1, 1]}', '{"resume": 1}',
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused_in_words(tide, bob, message):
    page = await desk(tide, bob)
    await page.connect()
    await page.send_to(message)
    assert await page.ending() == ("The page said something that the portal does not understand.", consumers.MISREAD)
    assert not await sync_to_async(Terminal.objects.exists)()


async def test_typing_before_there_is_a_terminal_is_refused(tide, bob):
    page = await desk(tide, bob)
    await page.connect()
    await page.type(b"rm -rf /\n")
    assert (await page.ending())[1] == consumers.MISREAD


async def test_odd_sizes_are_bounded_and_odd_words_of_what_was_shown_change_nothing(tide, bob):
    async with listening(tide) as machine:
        page = await desk(tide, bob)
        await page.opens((10**9, -4))
        await page.send_json_to({"shown": 10**18})
        await page.send_json_to({"shown": -5})
        await page.type(b"fine\n")
        await page.until(b"fine\n")
        assert machine.sizes == [(consumers.WIDEST, 1)]
        await page.disconnect()


async def test_a_socket_that_asks_for_nothing_is_closed(tide, bob, monkeypatch):
    monkeypatch.setattr(consumers, "OPEN_WITHIN", 0.05)
    page = await desk(tide, bob)
    await page.connect()
    assert await page.ending() == ("", consumers.MISREAD)


def test_the_key_is_given_to_those_who_may_run_jobs_and_written_down(tide, client, bob, vera):
    private, tide.key_public = ssh.new_key("cluster")
    secrets.seal(tide, "key_private", private)
    tide.save()
    address = reverse("cluster-key", args=[tide.uuid])
    client.force_login(vera)
    assert client.post(address).status_code == 403
    client.force_login(bob)
    assert client.get(address).status_code == 405
    answer = client.post(address)
    assert answer.content.decode() == private
    assert answer["Content-Disposition"] == f'attachment; filename="id_ed25519-{tide.uuid}"'
    assert answer["Cache-Control"] == "no-store"
    entry = AuditEvent.objects.get(verb="downloaded the key of")
    assert (entry.actor_name, entry.subject_name) == (bob.email, "tide")
    assert private[40:80] not in json.dumps([entry.before, entry.after])
    session = client.session
    session["account_authentication_methods"] = []
    session.save()
    assert client.post(address)["Location"].startswith("/accounts/reauthenticate/")
    assert AuditEvent.objects.filter(verb="downloaded the key of").count() == 1
    client.force_login(bob)
    Cluster.objects.update(status="terminated")
    assert client.post(address)["Location"] == tide.get_absolute_url()


def test_the_commands_are_on_the_page_of_the_cluster_for_those_who_may_use_them(tide, client, bob, vera):
    client.force_login(bob)
    page = client.get(tide.get_absolute_url()).content.decode()
    assert f"mpiexec -n 2 -f /shared/.hostfile-{tide.uuid} hostname" in page
    assert f"ssh -i ~/Downloads/id_ed25519-{tide.uuid} node@127.0.0.1" in page
    assert HOST_KEY.get_fingerprint() in page
    assert "Terminals</dt>" not in page
    key = f"ssh -i ~/Downloads/id_ed25519-{tide.uuid}"
    Node.objects.create(
        cluster=tide,
        rank=1,
        hostname="tide-1",
        user="node",
        address="10.0.0.7",
        port=2222,
        via=0,
        host_public=HOST_KEY.export_public_key().decode().strip(),
    )
    page = unescape(client.get(tide.get_absolute_url()).content.decode())
    assert f'{key} -o ProxyCommand="{key} -W %h:%p node@127.0.0.1" -p 2222 node@10.0.0.7<' in page
    Node.objects.filter(rank=0).update(address="")  # it is being made anew
    assert key not in client.get(tide.get_absolute_url()).content.decode()
    Node.objects.filter(rank=0).update(address="127.0.0.1")
    Node.objects.filter(rank=1).delete()
    Terminal.objects.create(cluster=tide, hostname="tide-0", person=bob)
    Node.objects.update(door="/var/door", private_address="127.77.3.1")  # it has a network of its own
    page = client.get(tide.get_absolute_url()).content.decode()
    assert "ssh 127.77.3.1<" in page
    assert "ssh -i" not in page
    assert "Terminals</dt>" in page
    client.force_login(vera)
    page = client.get(tide.get_absolute_url()).content.decode()
    assert "mpiexec" not in page
    assert reverse("terminal", args=[tide.uuid]) not in page
