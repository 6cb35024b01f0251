"""Programs that ask a node for all that it has leave what the portal needs there, and what others need beside it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time

import asyncssh
import pytest

from . import hands

pytestmark = pytest.mark.slow

SOON = 20  # seconds, on a busy machine: for somebody who is not kept out


@pytest.fixture(params=["namespaces", "landlock"])
def rung(request):
    return request.param


@pytest.fixture
def few_files():
    """As many as a program may open that nobody has given more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def start(cloud):
    _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, 1))
    return hands.up(cloud, where, 1)[0]


CROWD = """
import os, resource, socket, sys, threading, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
def come():
    while len(held) < 3000:
        try:
            one = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
        except OSError:
            continue
        held.append(one)
        one.sendall(b"SSH-2.0-x\\r\\n")
for _ in range(30):
    threading.Thread(target=come, daemon=True).start()
while len(held) < 1500:
    time.sleep(0.05)
print("here", flush=True)
time.sleep(100)
"""


async def seconds_of(node, command, said):
    """How long somebody waits who comes anew."""
    began = time.monotonic()
    async with asyncio.timeout(60), hands.connect(node) as connection:
        done = await connection.run(command)
        assert (done.stdout or "").strip() == said, (done.exit_status, done.stderr)
    return time.monotonic() - began


def test_connections_that_never_sign_in_keep_nobody_out(local, rung, few_files):
    node = start(local(rung))
    hands.run(node, "cat > crowd.py", input=CROWD)

    async def go():
        async with hands.connect(node) as connection:
            crowd = await connection.create_process(f"python3 crowd.py {node.private_address} {node.port}")
            assert await asyncio.wait_for(crowd.stdout.readline(), 30) == "here\n", await crowd.stderr.read()
            waited = [await seconds_of(node, "echo in", "in") for _ in range(3)]
            crowd.kill()
            return waited

    assert max(asyncio.run(go())) < SOON


def test_sessions_of_programs_are_so_many_and_the_portals_are_beside_them(local, rung):
    node = start(local(rung))

    async def all_at_once(connection, count):
        opened = await asyncio.gather(
            *(connection.create_process("echo in; sleep 60") for _ in range(count)), return_exceptions=True
        )
        processes = [one for one in opened if isinstance(one, asyncssh.SSHClientProcess)]
        assert {type(one) for one in opened if one not in processes} <= {asyncssh.ChannelOpenError}
        for process in processes:
            assert await process.stdout.readline() == "in\n"
        return len(processes)

    async def go():
        for _ in range(2):  # and when they are gone, others may come
            async with hands.connect(node, who="cluster") as connection:
                assert await all_at_once(connection, 200) == 128
                with pytest.raises(asyncssh.ChannelOpenError):
                    await connection.create_process("true")
                assert await seconds_of(node, "echo in", "in") < SOON
            await asyncio.wait_for(until_one_may_come(), 60)

    async def until_one_may_come():
        while True:
            async with hands.connect(node, who="cluster") as connection:
                with contextlib.suppress(asyncssh.ChannelOpenError):
                    return await connection.run("true")
            await asyncio.sleep(0.1)

    asyncio.run(go())


def test_programs_are_led_nowhere_by_the_server_of_a_node(local):
    node = start(local())

    async def go():
        async with hands.connect(node, who="cluster") as connection:
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_connection(node.private_address, node.port)
        async with hands.connect(node) as connection:
            reader, _ = await connection.open_connection(node.private_address, node.port)
            assert (await reader.readline()).startswith(b"SSH-2.0")

    asyncio.run(go())


BOMB = """
import os, time
count = 0
while True:
    try:
        if not os.fork():
            time.sleep(100)
            os._exit(0)
        count += 1
    except OSError:
        if count:
            print("full", flush=True)
        count = 0
        time.sleep(0.01)
"""


def test_a_node_full_of_processes_is_still_the_portals_to_clear(local, rung):
    node = start(local(rung, processes=200))
    hands.run(node, "cat > bomb.py", input=BOMB)

    async def go():
        async with hands.connect(node) as connection:
            bomb = await connection.create_process("exec python3 bomb.py", env={"COXSWAIN_RUN": "bomb"})
            assert await asyncio.wait_for(bomb.stdout.readline(), 30) == "full\n"
            assert await seconds_of(node, "echo in", "in") < SOON
            async with hands.connect(node) as other:
                done = await other.run("exec python3 -c 'print(1)'", env={"COXSWAIN_SWEEP": "bomb"})
                assert done.stdout == "1\n"
            await asyncio.wait_for(bomb.wait_closed(), 60)

    asyncio.run(go())


def test_a_node_whose_home_a_program_has_closed_is_still_there(local, rung):
    node = start(local(rung))
    hands.said(node, 'chmod 000 "$HOME"')
    assert hands.said(node, "pwd") == node.home


TUNNELS = """
import os, socket, sys, time
host, _, port = os.environ["http_proxy"].removeprefix("http://").rpartition(":")
held, most = [], int(sys.argv[2])
while len(held) < most:
    one = socket.create_connection((host, int(port)), 5)
    one.sendall(sys.argv[1].encode().decode("unicode_escape").encode())
    if sys.argv[1].startswith("CONNECT"):
        assert one.recv(100).startswith(b"HTTP/1.1 200"), one
    held.append(one)
print("here", flush=True)
time.sleep(int(sys.argv[3]))
"""


@pytest.mark.parametrize("ask", ["CONNECT {} HTTP/1.1\\r\\n\\r\\n", "GET http://{}/ HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"])
def test_who_has_gone_leaves_the_way_out_to_others(local, ask, monkeypatch):
    """Though the servers that he asked never close a connection."""

    async def go():
        held = []

        async def hold(reader, writer):
            held.append(writer)
            await reader.read(1 << 16)
            await asyncio.sleep(100)

        server = await asyncio.start_server(hold, "127.0.0.1", 0, backlog=1000)
        far = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        node = await asyncio.to_thread(start, local(addresses=(far,)))
        async with hands.connect(node) as connection:
            await connection.run("cat > tunnels.py", input=TUNNELS)
            many = await connection.create_process(f"python3 tunnels.py '{ask.format(far)}' 256 100")
            assert await asyncio.wait_for(many.stdout.readline(), 30) == "here\n", await many.stderr.read()
            done = await connection.run(f"python3 tunnels.py 'CONNECT {far} HTTP/1.1\\r\\n\\r\\n' 1 0")
            assert done.exit_status == 1, "so many at once are let out"
            many.kill()
            await many.wait_closed()
            async with asyncio.timeout(30):
                while not (await connection.run(f"python3 tunnels.py 'CONNECT {far} HTTP/1.1\\r\\n\\r\\n' 1 0")).stdout:
                    await asyncio.sleep(0.5)
        for writer in held:
            writer.close()
        server.close()

    asyncio.run(go())


DESCRIPTORS = """
import array, os, resource, socket, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
some = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * 200)
held = []
try:
    while True:
        held.append(socket.socketpair())
        held[-1][0].setblocking(False)
        try:
            while True:
                held[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, some)])
        except BlockingIOError:
            continue
except OSError:
    print("full", flush=True)
time.sleep(100)
"""


def test_descriptors_that_nobody_fetches_hinder_no_node(local, rung):
    """The kernel counts them for a user, and without root all nodes are the portal's."""
    clouds = [local(rung, name=name) for name in ("one", "other")]
    nodes = [start(cloud) for cloud in clouds]
    hands.run(nodes[0], "cat > descriptors.py", input=DESCRIPTORS)

    async def go():
        async with hands.connect(nodes[0]) as connection:
            hostile = await connection.create_process("exec python3 descriptors.py")
            assert await asyncio.wait_for(hostile.stdout.readline(), 30) == "full\n"
            for node in nodes:
                assert await seconds_of(node, "echo in", "in") < SOON
            await asyncio.to_thread(start, clouds[1])
            hostile.kill()

    asyncio.run(go())
