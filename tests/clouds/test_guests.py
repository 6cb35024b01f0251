"""How many sessions by ssh people have on a node of this computer, and what it has used, as the portal is told."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from clusters.samples import COUNT, PING, _Counts
from portal.clouds.local.sessions import Sessions

from . import hands


@pytest.mark.parametrize("rung", ["namespaces", "landlock", "plain"])
def test_a_node_tells_the_portal_how_many_people_are_signed_in(local, rung):
    cloud = local(rung)
    _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, 1))
    (node,) = hands.up(cloud, where, 1)

    async def told(connection):
        return (await connection.run(PING.line, env=dict(PING.env))).stdout

    async def until(portal, said):
        async with asyncio.timeout(30):
            while await told(portal) != said:
                await asyncio.sleep(0.02)

    async def go():
        async with hands.connect(node) as portal, hands.connect(node, who="cluster") as person:
            terminal = await portal.create_process("sleep 60", term_type="xterm")  # a web terminal is the portal's
            assert await told(portal) == "0"
            shell = await person.create_process(term_type="xterm")
            await until(portal, "1")
            copy = await person.create_process("sleep 60")
            await until(portal, "2")
            rank = await person.create_process("sleep 60", env={"COXSWAIN_RUN": "a-run"})
            assert await told(portal) == "2", "what a run does from node to node is nobody's session"
            assert await told(person) == "", "programs of people are told nothing"
            claim = {**dict(PING.env), "COXSWAIN_GUESTS": "9"}
            assert (await person.run(PING.line, env=claim)).stdout == ""
            assert (await portal.run(PING.line, env=claim)).stdout == "2"
            for one in (shell, copy, rank, terminal):
                one.close()
            await until(portal, "0")

    asyncio.run(go())


def test_programs_of_people_end_no_session_of_the_portal(local):
    """The words of a sweep are the portal's: no terminal and no run is ended by whoever has the other key."""
    cloud = local("namespaces")
    _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, 1))
    (node,) = hands.up(cloud, where, 1)
    sweeps = ({"COXSWAIN_SWEEP_OTHERS": "1"}, {"COXSWAIN_SWEEP": "a-run"}, {"COXSWAIN_SWEEP_STAYING": "1"})

    async def go():
        async with hands.connect(node) as portal, hands.connect(node, who="cluster") as person:
            run = await portal.create_process("read line; echo did $line", env={"COXSWAIN_RUN": "a-run"})
            terminal = await portal.create_process("read line; echo did $line", term_type="xterm")
            said = [(await person.run("echo -$COXSWAIN_SWEPT", env=sweep)).stdout for sweep in sweeps]
            for one in (run, terminal):
                one.stdin.write("it\n")
            async with asyncio.timeout(20):
                return said, [(await one.wait()).stdout.strip().splitlines()[-1:] for one in (run, terminal)]

    assert asyncio.run(go()) == (["-\n"] * 3, [["did it"]] * 2)


class Session:
    def __init__(self):
        self.ended = asyncio.get_running_loop().create_future()

    def signal(self, number):
        self.ended.set_result(-number)


def test_what_is_about_to_end_is_not_counted_among_what_was_ended():
    """A run's keeper says that the run has ended, and is gone a moment later: it has left nothing behind."""

    async def go():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sessions = Sessions(ours)
            going, ending = Session(), Session()
            sessions._running = {1: (going, -1), 2: (ending, -1)}
            asyncio.get_running_loop().call_soon(ending.ended.set_result, 0)
            count = await sessions.end(lambda _: True, patience=0.05)
            asyncio.get_running_loop().remove_reader(ours)
            return count, going.ended.result(), ending.ended.result()

    assert asyncio.run(go()) == (1, -signal.SIGKILL, 0)


def test_what_begins_while_others_end_by_themselves_is_ended_too():
    async def go():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sessions = Sessions(ours)
            going, late = Session(), Session()
            sessions._running = {1: (going, -1)}
            asyncio.get_running_loop().call_soon(sessions._running.__setitem__, 2, (late, -1))
            count = await sessions.end(lambda _: True, patience=0.05)
            asyncio.get_running_loop().remove_reader(ours)
            return count, late.ended.done()

    assert asyncio.run(go()) == (2, True)


@pytest.mark.parametrize("rung", ["namespaces", "landlock", "plain"])
def test_a_node_tells_the_portal_what_its_own_processes_have_used(local, rung):
    cloud = local(rung)
    _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, 2))
    nodes = hands.up(cloud, where, 2)

    async def counts(connection):
        said = (await connection.run(COUNT.line, env=dict(COUNT.env))).stdout
        return _Counts.of(said.partition("\n")[2].encode())

    async def go():
        async with (
            hands.connect(nodes[0]) as busy,
            hands.connect(nodes[1]) as idle,
            hands.connect(nodes[0], who="cluster") as person,
        ):
            before = await counts(busy), await counts(idle)
            loop = await person.create_process("sh -c 'while :; do :; done'")
            async with asyncio.timeout(30):
                while (await counts(busy)).busy < before[0].busy + 100:
                    await asyncio.sleep(0.05)
            loop.close()
            async with asyncio.timeout(30):  # what has ended is counted on
                while (await counts(busy)).busy < before[0].busy + 100:
                    await asyncio.sleep(0.05)
            after = await counts(idle)
            assert after.busy < before[1].busy + 60, "what is done on one node is not counted on another"
            assert after.total > after.used > 1024
            assert (after.whole, after.received, after.sent) == (None, None, None)
            told = await person.run("echo $COXSWAIN_COUNTS", env={**dict(COUNT.env), "COXSWAIN_COUNTS": "1 2 3 4 5 6"})
            assert told.stdout == "\n", "people's programs are told nothing, and say nothing themselves"

    asyncio.run(go())
