"""Raw live sockets in a process of their own: `python -m tests.bench.viewers < {"url", "cookie", "output", …}`.

Prints READY or LATE once everybody has seen what there was, or not within `patience`. Then goes on, and prints one
JSON line: of each viewer the delays in ms of the last line of each frame and the bytes it got, gaps and repeats.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import websockets

from tests.web import ask, parse


async def viewer(order, results, stalled, over):
    async with websockets.connect(
        order["url"].replace("http", "ws", 1) + "/live/",
        additional_headers={"Cookie": order["cookie"]},
        origin=order["url"],
        max_size=None,
        compression=None,
        open_timeout=60,
        ping_timeout=None,
    ) as socket:
        cursor, got, ended, kept, caught_up = 0, 0, False, False, False
        late: list[float] = []
        results["open"] += 1
        await socket.send(ask(order["output"], 0))
        if stalled:
            await over.wait()
            return
        while True:
            message = await socket.recv()
            now = time.time()
            if isinstance(message, str):
                continue
            header, body = parse(message)
            if header["after"] != cursor:
                results["wrong"] += 1
            cursor, ended, kept = header["next"], header["ended"], header["kept"]
            got += len(body)
            results["frames"] += 1
            if (at := body.rfind(b" pulse of")) > 0:
                stamp = body[body.rfind(b"\n", 0, at) + 1 : at].split()[0]
                late.append((now - float(stamp)) * 1000)
            if not caught_up and b"waiting for the viewers" in body:
                caught_up = True
                results["caught_up"] += 1
            if ended and cursor >= header["head"]:
                results["got"].append(got)
                results["late"].append(late)
                return
            await socket.send(ask(order["output"], cursor, ended=ended, kept=kept))


def wanted_seconds():
    """For how long this process has run or has waited for a core."""
    ran, waited, _ = Path("/proc/self/schedstat").read_text().split()
    return (int(ran) + int(waited)) / 1e9


async def main():
    order = json.loads(sys.stdin.readline())
    results = {"late": [], "got": [], "frames": 0, "wrong": 0, "open": 0, "caught_up": 0, "ready": False}
    over = asyncio.Event()
    following, stalled = [], []
    for n in range(order["viewers"]):
        is_stalled = n < order["stalled"]
        (stalled if is_stalled else following).append(asyncio.create_task(viewer(order, results, is_stalled, over)))
        await asyncio.sleep(0.01)
    until = time.monotonic() + order["patience"]
    while not results["ready"] and time.monotonic() < until:
        await asyncio.sleep(0.05)
        results["ready"] = results["open"] == order["viewers"] and results["caught_up"] == len(following)
    began, wanted = time.monotonic(), wanted_seconds()
    print("READY" if results["ready"] else "LATE", flush=True)
    await asyncio.wait(following, timeout=order["seconds"] + 120)
    results["busy"] = (wanted_seconds() - wanted) / (time.monotonic() - began)
    over.set()
    if stalled:
        await asyncio.wait(stalled, timeout=10)
    everybody = [*following, *stalled]
    results["hung"] = sum(not task.done() for task in everybody)
    results["errors"] = [repr(task.exception())[:200] for task in everybody if task.done() and task.exception()][:3]
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
