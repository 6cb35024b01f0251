"""Commands that are started ahead of their need, over a kept connection."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import ipaddress

import asyncssh
import pytest

from portal import ssh
from portal.errors import Passing, Refused


@pytest.fixture
async def node(monkeypatch, request):
    """An SSH server, perhaps of few ciphers, whose command says which start of it this is and the line it was given."""
    monkeypatch.setattr(ssh, "AHEAD_AFTER", 0.0)
    started: asyncio.Queue[asyncssh.SSHServerProcess[bytes]] = asyncio.Queue()
    count = iter(range(1, 100))

    async def command(process):
        number = next(count)
        started.put_nowait(process)
        if process.command == "stay":
            return
        if process.command == "true":
            process.exit(0)
            return
        line = await process.stdin.readline()
        while process.command == "again" and line:
            process.stdout.write(b"%d %s" % (number, line))
            line = await process.stdin.readline()
        if process.command == "again":
            return  # it is not needed any more
        process.stdout.write(b"%d %s" % (number, line))
        process.exit(0)

    private, public = ssh.new_key("host")
    ours, ours_public = ssh.new_key("portal")

    class Door(asyncssh.SSHServer):
        def connection_made(self, conn):
            self.connection = conn

        def begin_auth(self, username):
            self.connection.set_authorized_keys(asyncssh.import_authorized_keys(ours_public))
            return True

        def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
            return dest_port == server.get_port()

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Door,
        server_host_keys=[asyncssh.import_private_key(private)],
        process_factory=command,
        encoding=None,
        encryption_algs=getattr(request, "param", ()),
    )
    host = ssh.Host("node", "127.0.0.1", server.get_port(), "u", ours, public)
    connections = ssh.Connections()
    yield host, connections, started
    connections.close()
    server.close()
    await server.wait_closed()


async def test_the_next_call_finds_its_command_started(node):
    host, connections, started = node
    for n in (1, 2, 3):
        answer = await connections.run(host, "x", input=b"a line\n", ahead=True)
        assert answer.text == f"{n} a line"
        await started.get()
        await asyncio.wait_for(_not_empty(started), 30)


@pytest.mark.parametrize(
    ("node", "spoken"),
    [((), "aes"), ("chacha20-poly1305@openssh.com", "chacha20"), ("aes128-ctr", "aes128-ctr")],
    indirect=["node"],
)
async def test_the_cipher_that_costs_least_is_spoken_and_any_other_that_the_node_knows(node, spoken):
    host, connections, started = node
    async with connections.stream(host, "stay"):
        process = await started.get()
        cipher = process.channel.get_connection().get_extra_info("recv_cipher")
    assert cipher.startswith(spoken)
    assert spoken != "aes" or cipher.endswith("-gcm@openssh.com")


async def _not_empty(queue):
    queue.put_nowait(await queue.get())
    return True


async def test_without_being_asked_for_nothing_is_started_ahead(node):
    host, connections, started = node
    for n in (1, 2):
        assert (await connections.run(host, "x", input=b"a\n")).text == f"{n} a"
    assert started.qsize() == 2


async def test_one_that_ended_before_its_call_is_not_used(node):
    host, connections, started = node
    await connections.run(host, "x", input=b"a\n", ahead=True)
    await started.get()
    waiting = await asyncio.wait_for(started.get(), 30)
    waiting.exit(98)
    await waiting.wait_closed()
    await connections.run(host, "other", input=b"a\n")  # a round trip, so that the end has arrived
    assert (await connections.run(host, "x", input=b"b\n", ahead=True)).text == "4 b"


async def test_a_stream_is_told_its_words_as_well(node):
    host, connections, started = node
    for n in (1, 2):
        async with connections.stream(host, "x", input=b"words\n", ahead=True) as out:
            assert await out.read() == b"%d words\n" % n
        await started.get()
        await asyncio.wait_for(_not_empty(started), 30)


async def _is_let_go(process):
    await asyncio.wait_for(process.wait_closed(), 30)


async def _line(connections, host):
    """What the next call is told by the command that waits again, or by a new one."""
    async with connections.stream(host, "again", input=b"b\n", ahead=True) as out:
        return await out.readline()


async def test_what_waits_again_is_told_the_words_of_the_next_call(node):
    host, connections, started = node
    for n in (1, 2, 3):
        async with connections.stream(host, "again", input=b"words %d\n" % n, ahead=True) as out:
            assert await out.readline() == b"1 words %d\n" % n
            out.is_over = True
    assert started.qsize() == 1
    async with connections.stream(host, "again", input=b"a\n", ahead=True) as out:
        assert await out.readline() == b"1 a\n"  # and it may have more to say
    await _is_let_go(await started.get())
    await asyncio.wait_for(_not_empty(started), 30)
    assert await _line(connections, host) == b"2 b\n"


async def test_one_that_has_said_nonsense_is_told_nothing_more(node):
    host, connections, started = node

    async def hear():
        async with connections.stream(host, "again", input=b"a\n", ahead=True) as out:
            assert await out.readline() == b"1 a\n"
            out.is_over = True
            raise ValueError("nonsense")

    with pytest.raises(ValueError, match="nonsense"):
        await hear()
    await _is_let_go(await started.get())
    assert await _line(connections, host) == b"2 b\n"


async def test_of_two_that_wait_again_one_is_let_go(node):
    host, connections, started = node
    async with (
        connections.stream(host, "again", input=b"a\n", ahead=True) as one,
        connections.stream(host, "again", input=b"b\n", ahead=True) as other,
    ):
        assert {await one.readline(), await other.readline()} == {b"1 a\n", b"2 b\n"}
        one.is_over = other.is_over = True
    await _is_let_go(await started.get())
    assert await _line(connections, host) == b"2 b\n"


async def test_what_waits_again_goes_with_its_connection(node):
    host, connections, started = node
    async with connections.stream(host, "again", input=b"a\n", ahead=True) as out:
        assert await out.readline() == b"1 a\n"
        out.is_over = True
    connections.drop(host)
    await _is_let_go(await started.get())
    assert await _line(connections, host) == b"2 b\n"


async def test_what_waits_goes_with_its_connection(node):
    host, connections, started = node
    await connections.run(host, "x", input=b"a\n", ahead=True)
    await started.get()
    waiting = await asyncio.wait_for(started.get(), 30)
    connections.drop(host)
    await asyncio.wait_for(waiting.wait_closed(), 30)
    assert (await connections.run(host, "x", input=b"b\n", ahead=True)).text == "3 b"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ssh, "IDLE_SECONDS", 0.2)


async def test_a_connection_with_a_living_stream_is_never_cut_and_an_idle_one_is(node, quick):
    """However long the stream says nothing, and whoever else is talked to meanwhile."""
    host, connections, started = node
    same = dataclasses.replace(host, name="the same by another name")
    async with connections.stream(host, "stay") as out:
        waiting = await started.get()
        assert (await connections.run(same, "x", input=b"a\n")).status == 0
        assert (await connections.run(host, "x", input=b"a\n")).status == 0
        async with asyncio.timeout(30):
            while len(connections) > 1:
                await asyncio.sleep(0.01)
        waiting.stdout.write(b"still here\n")
        assert await asyncio.wait_for(out.readline(), 30) == b"still here\n"
        waiting.exit(0)
    async with asyncio.timeout(30):
        while len(connections):
            await asyncio.sleep(0.01)


async def test_what_was_started_ahead_keeps_no_connection_open(node, quick):
    host, connections, started = node
    await connections.run(host, "x", input=b"a\n", ahead=True)
    await started.get()
    waiting = await asyncio.wait_for(started.get(), 30)
    await asyncio.wait_for(waiting.wait_closed(), 30)
    assert len(connections) == 0


async def test_no_more_connections_are_kept_than_may_be_and_none_in_use_is_given_up(node):
    host, _, started = node
    connections = ssh.Connections(most=3)
    hosts = [dataclasses.replace(host, name=f"node-{n}") for n in range(8)]
    async with connections.stream(hosts[0], "stay") as out:
        waiting = await started.get()
        for one in hosts[1:]:
            assert (await connections.run(one, "x", input=b"a\n")).status == 0
            assert len(connections) <= 3
        waiting.exit(0)
        assert await asyncio.wait_for(out.read(), 30) == b""
    connections.close()


async def test_one_who_cuts_a_connection_ends_no_other_that_waits_for_it(node):
    """It fails with a sentence, as it would if the node had gone away."""
    host, connections, _ = node
    waiting = asyncio.create_task(connections.run(host, "x", input=b"a\n"))
    await asyncio.sleep(0)
    connections.drop(host)
    with pytest.raises(Passing, match="was cut"):
        await waiting


async def test_a_command_that_ends_before_it_is_written_to_has_ended_well(node):
    host, connections, _ = node
    answers = await asyncio.gather(*(connections.run(host, "true", input=b"x") for _ in range(50)))
    assert {answer.status for answer in answers} == {0}


async def test_a_node_is_reached_through_another_and_both_keys_are_pinned(node):
    host, connections, _ = node
    behind = dataclasses.replace(host, name="behind", via=host)
    assert (await connections.run(behind, "x", input=b"through\n")).text == "1 through"
    assert len(connections) == 2
    wrong = dataclasses.replace(behind, host_key=ssh.new_key("another")[1])
    with pytest.raises(Refused, match="behind shows another host key"):
        await connections.run(wrong, "true")
    with pytest.raises(Refused, match="node shows another host key"):
        await connections.run(
            dataclasses.replace(behind, via=dataclasses.replace(wrong, name="node", via=None)), "true"
        )


async def test_the_way_to_another_is_kept_as_long_as_that_is_and_no_longer(node, quick):
    host, connections, _ = node
    behind = dataclasses.replace(host, name="behind", via=host)
    async with connections.stream(behind, "stay"):
        await connections.run(dataclasses.replace(host, name="a third, which goes when nobody uses it"), "true")
        await asyncio.wait_for(_left(connections, 2), 30)
        assert connections.has(host)
        assert connections.has(behind)
    await asyncio.wait_for(_left(connections, 0), 30)


async def _left(connections, count):
    while len(connections) > count:
        await asyncio.sleep(0.01)


async def test_a_way_that_is_cut_cuts_what_it_led_to_and_is_opened_again(node):
    host, connections, _ = node
    behind = dataclasses.replace(host, name="behind", via=host)
    await connections.run(behind, "true")
    connections.drop(host)
    assert (await connections.run(behind, "true")).status == 0
    lost = dataclasses.replace(behind, port=1)
    with pytest.raises(Passing, match="behind does not answer through node"):
        await connections.run(lost, "true")


@pytest.mark.parametrize("asks", ["key", "command", "door"])
async def test_who_is_ended_while_a_connection_is_prepared_leaves_none_open(monkeypatch, tmp_path, settings, asks):
    settings.MACHINES_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    prepares, ended = asyncio.Event(), asyncio.Queue()

    async def prepare(*_, **__):
        prepares.set()
        await asyncio.Event().wait()

    async def takes(reader, writer):
        ended.put_nowait(await reader.read())
        writer.close()

    monkeypatch.setattr(asyncssh.SSHClientConnectionOptions, "construct", prepare)
    door = str(tmp_path / "door") if asks == "door" else ""
    server = await (asyncio.start_unix_server(takes, door) if door else asyncio.start_server(takes, "127.0.0.1", 0))
    port = 0 if door else server.sockets[0].getsockname()[1]
    private, public = ssh.new_key("host")
    certificate = ssh.sign(private, public, name="portal", principals=["u"])
    host = ssh.Host("node", "127.0.0.1", port, "u", private, public, door, certificate="" if door else certificate)
    connections = ssh.Connections()
    kept = []  # whoever looks at the fault has it, and the socket with it: nothing is collected
    asking = asyncio.create_task(ssh.host_key_of("127.0.0.1", port) if asks == "key" else connections.run(host, "true"))
    async with asyncio.timeout(30):
        await prepares.wait()
        asking.cancel()
        connections.close()
        kept.extend(await asyncio.gather(asking, return_exceptions=True))
        assert await ended.get() == b""
    server.close()


async def test_a_node_that_lets_us_in_and_begins_nothing_is_not_waited_for(node, monkeypatch):
    host, connections, _ = node
    monkeypatch.setattr(asyncssh.channel.SSHChannel, "process_open", lambda *_: None)  # of servers
    monkeypatch.setattr(ssh, "BEGIN_SECONDS", 0.3, raising=False)
    async with asyncio.timeout(30):
        with pytest.raises(Passing, match="has begun nothing"):
            await connections.run(host, "true", seconds=0.3)
    assert not connections.has(host)


def blob(*parts):
    return base64.b64encode(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).decode()


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no key",
        "-----BEGIN PUBLIC KEY-----\n(\n-----END PUBLIC KEY-----",
        "-----BEGIN )(-----\n-----END )(-----",
        f"ssh-rsa {blob(b'ssh-rsa', bytes([255]), bytes([255] * 33))}",  # negative numbers
        f"ssh-ed25519 {blob(b'ssh-ed25519', bytes(31))}",
        f"ssh-ed25519 {'A' * 100_000}",
    ],
)
def test_what_a_node_calls_its_key_and_is_none_is_refused_in_words(said):
    with pytest.raises(Refused, match="says of something that it is its host key"):
        ssh.public_key(said)


def test_a_key_that_a_node_says_is_known_without_its_comment():
    for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256"):
        _, public = ssh.new_key("a node", kind)
        assert ssh.public_key(public) == " ".join(public.split()[:2])
