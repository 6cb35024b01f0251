"""Raw live sockets in a process of their own: `python -m tests.bench.viewers < {"url", "cookie", "output", …}`.

Prints one JSON line: latencies in ms of the last line of each frame, bytes each viewer got, gaps and repeats.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import websockets

from tests.web import ask, parse


async def viewer(order, results, stalled):
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
        results["open"] += 1
        await socket.send(ask(order["output"], 0))
        if stalled:
            await asyncio.sleep(order["seconds"])
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
            # What was written before the viewer came is history, and late by nature.
            if caught_up and (at := body.rfind(b" pulse of")) > 0:
                stamp = body[body.rfind(b"\n", 0, at) + 1 : at].split()[0]
                results["late"].append((now - float(stamp)) * 1000)
            caught_up = caught_up or cursor >= header["head"]
            if ended and cursor >= header["head"]:
                results["got"].append(got)
                return
            await socket.send(ask(order["output"], cursor, ended=ended, kept=kept))


async def main():
    order = json.loads(sys.stdin.readline())
    results = {"late": [], "got": [], "frames": 0, "wrong": 0, "open": 0}
    viewers = []
    for n in range(order["viewers"]):
        viewers.append(asyncio.create_task(viewer(order, results, n < order["stalled"])))
        await asyncio.sleep(0.01)
    await asyncio.wait(viewers, timeout=order["seconds"] + 60)
    results["hung"] = sum(not task.done() for task in viewers)
    results["errors"] = [repr(task.exception())[:200] for task in viewers if task.done() and task.exception()][:3]
    late = sorted(results.pop("late"))
    results["p50"], results["p95"], results["p99"] = (
        late[int(len(late) * q)] if late else 0 for q in (0.5, 0.95, 0.99)
    )
    results["same"] = len(set(results["got"])) == 1
    results["got"] = results["got"][:1]
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
