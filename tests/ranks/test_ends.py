"""How a run ended is how its ranks ended, on one node and on three."""

from __future__ import annotations

import asyncio
import time

import pytest

from jobs.watch import Observer
from portal import ssh
from tests.running import until


@pytest.mark.parametrize("nodes", [1, 3])
def test_all_ranks_that_end_well_are_a_good_run(three, nodes):
    ended = three.run("python", "pool.py", files=["pool.py"], nodes=nodes, size=6)
    assert ended.verdict["good"], ended.why
    assert ended.exit["status"] == 0
    assert ended.out(0) == b"sum of squares 4950\n"


WAYS = {
    "raises": {"status": 1, "error": "ValueError: rank four is sad"},
    "exits": {"status": 3},
    "words": {"status": 1, "error": "no more fuel"},
    "leaves": {"status": 7},
    "SIGSEGV": {"signal": 11},
    "SIGKILL": {"signal": 9},
    "aborts": {"aborts": 42},
}


@pytest.mark.parametrize("wait", ["barrier", "spin"])
@pytest.mark.parametrize("how", WAYS)
def test_a_rank_that_fails_ends_the_run_and_is_named(three, how, wait):
    ended = three.run("python", "ends.py", how, wait, files=["ends.py"])
    assert not ended.verdict["good"]
    assert (ended.first["rank"], ended.first["node"]) == (4, "demo-2"), ended.why
    assert {name: ended.first.get(name) for name in WAYS[how]} == WAYS[how]
    assert ended.seconds < 20
    until(lambda: not three.processes(), seconds=10, what="the end of all processes")


def test_all_that_fail_are_counted_though_few_are_named(three):
    ended = three.run("/bin/sh", "-c", "exit 3", size=80, nodes=1, seconds=60)
    assert (ended.verdict["failed"], ended.verdict["size"], len(ended.failures)) == (80, 80, 16), ended.why


def test_a_node_is_not_said_to_be_younger_than_a_run_that_was_on_it(three):
    """By which it would have been started again under the run: sessions do not see how old their node is."""
    began = time.monotonic()
    three.run("/bin/sh", "-c", "exit 3", size=6)

    async def age():
        connections = ssh.Connections()
        try:
            return await Observer(0, connections)._age(three.host(1))
        finally:
            connections.close()

    assert asyncio.run(age()) > time.monotonic() - began
