"""Pages that read here and there in a long output: `python -m tests.bench.readers < {"url", "cookie", "output", …}`.

Each asks for a frame at a random line, looks whether it is that line, and asks again after a pause, until a second line
comes on the standard input. Prints READY once all have read, and at the end one JSON line: when each frame was asked
for and how long it took, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import websockets

from tests.web import ask, parse

LINE = 1024


chance = random.Random(1)  # noqa: S311 (where a person looks)


async def reader(order, results, over):
    async with websockets.connect(
        order["url"].replace("http", "ws", 1) + "/live/",
        additional_headers={"Cookie": order["cookie"]},
        origin=order["url"],
        max_size=None,
        compression=None,
        open_timeout=60,
        ping_timeout=None,
    ) as socket:
        results["open"] += 1
        while not over.is_set():
            line = chance.randrange(order["head"] // LINE)
            asked, began = time.time(), time.monotonic()
            await socket.send(ask(order["output"], line * LINE))
            while isinstance(message := await socket.recv(), str):
                pass
            results["frames"].append((asked, time.monotonic() - began))
            header, body = parse(message)
            results["wrong"] += header["after"] != line * LINE or int(body[:15]) != line
            await asyncio.sleep(order["pause"] * chance.uniform(0.5, 1.5))


async def main():
    order = json.loads(sys.stdin.readline())
    results = {"open": 0, "frames": [], "wrong": 0, "errors": []}
    over = asyncio.Event()
    readers = []
    for _ in range(order["readers"]):
        readers.append(asyncio.create_task(reader(order, results, over)))
        await asyncio.sleep(0.01)
    while len(results["frames"]) < order["readers"] and not any(task.done() for task in readers):
        await asyncio.sleep(0.05)
    print("READY", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    over.set()
    done, late = await asyncio.wait(readers, timeout=60)
    results["errors"] = [repr(task.exception())[:200] for task in done if task.exception()] + ["hung"] * len(late)
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
