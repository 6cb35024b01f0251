"""A terminal: the first byte of a new one, and the echo of a key, beside asyncssh alone on the same node."""

from __future__ import annotations

import asyncio
import json
import time
from statistics import median

import pytest

from tests.bench import measured

pytestmark = pytest.mark.bench

ROUNDS, KEYS = 10, 10
FIRST, ECHO = 0.3, 0.06  # seconds


async def open_and_type(client, cluster):
    """Seconds to the first byte, and to the echo of each key, as a page has them."""
    began = time.perf_counter()
    echoes = []
    async with client.live(f"/terminal/{cluster}/0/") as socket:
        await socket.send(json.dumps({"open": [80, 24]}))

        async def some():
            while isinstance(message := await socket.recv(), str):
                assert "over" not in message, message
            return message

        seen = await some()
        first = time.perf_counter() - began
        while not seen.endswith(b"$ "):
            seen += await some()
        for _ in range(KEYS):
            began = time.perf_counter()
            await socket.send(b"x")
            assert await some() == b"x"
            echoes.append(time.perf_counter() - began)
        await socket.send(json.dumps({"end": True}))
        while not (isinstance(message := await socket.recv(), str) and "over" in message):
            pass
    return first, echoes


def test_terminal(portal, client, small, table):
    floor_firsts, floor_echoes = portal.call("floor_terminal", cluster=small, rounds=ROUNDS)
    asyncio.run(open_and_type(client, small))
    found = [asyncio.run(open_and_type(client, small)) for _ in range(ROUNDS)]
    firsts = measured.samples("first bytes", [first for first, _ in found], least=ROUNDS)
    echoes = measured.samples("echoes", [echo for _, each in found for echo in each], least=ROUNDS * KEYS)
    for what, values, floor, bar in (
        ("first byte of a terminal", firsts, floor_firsts, FIRST),
        ("echo of a key in it", echoes, floor_echoes, ECHO),
    ):
        worst = measured.percentile(values, 0.95)
        table.add(
            what, f"{1000 * median(values):.1f} ms, p95 {1000 * worst:.1f} ms",
            f"{1000 * measured.amount(what, median(floor)):.1f} ms, asyncssh alone", f"p95 <= {1000 * bar:.0f} ms",
            good=worst <= bar,
        )  # fmt: skip
    assert all(row[-1] == "ok" for row in table.rows[-2:])
