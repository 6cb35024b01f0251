"""What should be fast, each against its floor measured in the same run. `make bench` prints the table."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest

from tests.bench import measured
from tests.running import ROOT, until
from tests.web import ask, parse

pytestmark = pytest.mark.bench

ROUNDS = 15


def ms(seconds):
    return f"{seconds * 1000:.0f} ms"


def start(portal, job, command):
    return portal.call("run_again", job=job, command=command)


async def launch(client, job):
    """Press Run, and watch as the page does. Seconds to the first line, and from END to FINISHED on the page."""
    fields = await asyncio.to_thread(client.form, f"/jobs/{job}/")
    began = time.time()
    page = (await asyncio.to_thread(client.send, f"/jobs/{job}/run/", fields)).decode()
    run = client.at.strip("/").split("/")[1]
    output = page.split('data-output="')[1].split('"')[0]
    first = end = None
    changed = asyncio.Event()

    async def fetch():
        """The page's head, one fetch at a time, while the socket goes on. Returns when it says FINISHED."""
        headers = {"HX-Request": "true", "HX-Target": "run-head"}
        while True:
            await changed.wait()
            changed.clear()
            if b"FINISHED" in await asyncio.to_thread(client.get, f"/runs/{run}/", **headers):
                return time.time()

    async with client.live() as socket, asyncio.TaskGroup() as group:
        fetching = group.create_task(fetch())
        await socket.send(json.dumps({"watch": [f"run.{run}"]}))
        cursor = 0
        await socket.send(ask(output, 0))
        while end is None or not fetching.done():
            message = await socket.recv()
            if isinstance(message, str):
                if "changed" in message:
                    changed.set()
                else:  # the page fetches a moment after it is connected, and then whenever something changed
                    asyncio.get_running_loop().call_later(0.5, changed.set)
                continue
            header, body = parse(message)
            cursor = header["next"]
            for line in body.splitlines():
                if line.startswith(b"FIRST"):
                    first = first or time.time()
                if line.startswith(b"END"):
                    end = float(line.split()[1])
            await socket.send(ask(output, cursor, ended=header["ended"], kept=header["kept"]))
    return first - began, fetching.result() - end


def test_launch(portal, client, small, job, table):
    """A run of two ranks on a cluster that is there, against mpiexec over a kept connection; in turns."""
    portal.call("run_again", job=job, command="hello.py")
    portal.call("on_node", cluster=small, command="cat > ~/hello.py <<'EOF'\n" + _program("hello.py") + "EOF")
    firsts, ends, floors, floor_ends = [], [], [], []
    for _ in range(ROUNDS):
        until(lambda: not _busy(portal, job), what="the run before")  # its cleaning up would slow down both
        floor, floor_end = portal.call("floor_launch", cluster=small, command="~/hello.py")
        floors.append(floor)
        floor_ends.append(floor_end)
        first, end = asyncio.run(launch(client, job))
        firsts.append(first)
        ends.append(end)
    firsts = measured.samples("the first line of a launch", firsts, least=ROUNDS)
    ends = measured.samples("the end of a launch", ends, least=ROUNDS)
    floors = measured.samples("the floor of a launch", floors, least=ROUNDS)
    floor_ends = measured.samples("the floor of its end", floor_ends, least=ROUNDS)
    p50, p95, floor = median(firsts), measured.percentile(firsts, 0.95), median(floors)
    bar = min(0.150, floor + 0.100)
    table.add(
        "launch_first_line p50 / p95",
        f"{ms(p50)} / {ms(p95)}",
        ms(floor),
        f"<= {ms(bar)} / 400 ms",
        good=p50 <= bar and p95 <= 0.4,
    )
    p50, p95 = median(ends), measured.percentile(ends, 0.95)
    table.add(
        "launch_finished p50 / p95",
        f"{ms(p50)} / {ms(p95)}",
        ms(median(floor_ends)),
        "<= 60 / 200 ms",
        good=p50 <= 0.06 and p95 <= 0.2,
    )


def test_launch_beside_a_thousand_that_wait(portal, client, small, job, lab, table):
    """On an idle cluster, while 1,000 runs wait for another one; against the same without them."""
    portal.call("run_again", job=job, command="hello.py")

    def firsts():
        found = []
        for _ in range(ROUNDS // 2):
            until(lambda: not _busy(portal, job), what="the run before")
            found.append(asyncio.run(launch(client, job))[0])
        return measured.samples("the first line of a launch", found, least=ROUNDS // 2)

    alone = firsts()
    waiting = portal.call("let_wait", workspace=lab, count=1000)
    try:
        beside = firsts()
    finally:
        portal.call("forget_waiting", job=waiting)
    p50, floor = median(beside), median(alone)
    table.add("launch beside 1,000 waiting", ms(p50), ms(floor), "<= 1.3 × floor", good=p50 <= 1.3 * floor)


def _program(name):
    from tests.bench.conftest import PROGRAMS

    return PROGRAMS[name]


def _busy(portal, job):
    return portal.call("busy", job=job)


def test_cluster_create(portal, lab, small, table):
    """Three nodes with an engine version that the workspace has, against nodes that answer and nothing more."""
    ours, floors = [], []
    for n in range(5):
        floors.append(portal.call("floor_nodes", workspace=lab, nodes=3))
        cluster = portal.call("make_cluster", workspace=lab, name=f"b{n}", nodes=3, cores=2)
        until(lambda c=cluster: portal.call("state", kind="cluster", uuid=c)["status"] == "running", what="running")
        times = portal.call("task_times", kind="cluster", uuid=cluster)
        ours.append(times["total"])
        portal.call("drop_cluster", cluster=cluster)
        until(lambda c=cluster: portal.call("state", kind="cluster", uuid=c)["status"] == "terminated", what="gone")
    ours = measured.samples("making a cluster", ours, least=5)
    floors = measured.samples("the floor of making a cluster", floors, least=5)
    table.add(
        "cluster_create, 3 nodes",
        ms(median(ours)),
        ms(median(floors)),
        "<= floor + 3 s",
        good=median(ours) <= median(floors) + 3,
    )


def test_cluster_life(portal, lab, small, table):
    """Three nodes that are paused, resumed, made ten and deleted, against what the cloud alone needs for that."""
    bars = {"pause": 2, "resume": 3, "scale": 5, "delete": 3}
    ours, floors = {verb: [] for verb in bars}, {verb: [] for verb in bars}
    for n in range(5):
        for verb, took in portal.call("floor_life", workspace=lab, nodes=3).items():
            floors.get(verb, []).append(took)
        floors["scale"].append(portal.call("floor_nodes", workspace=lab, nodes=7))
        cluster = portal.call("make_cluster", workspace=lab, name=f"life{n}", nodes=3, cores=2)
        until(lambda c=cluster: portal.call("word_of", cluster=c) == "RUNNING", what="running")
        for verb, ends in (("pause", "PAUSED"), ("resume", "RUNNING"), ("scale", "RUNNING"), ("delete", "TERMINATED")):
            portal.call("change", cluster=cluster, verb=verb, **({"nodes": 10} if verb == "scale" else {}))
            until(lambda c=cluster, word=ends: portal.call("word_of", cluster=c) == word, what=ends)
            ours[verb].append(portal.call("task_times", kind="cluster", uuid=cluster)["total"])
    for verb, bar in bars.items():
        took, floor = (
            median(measured.samples(f"{of} {verb}", found[verb], least=5))
            for of, found in (("our", ours), ("the floor of", floors))
        )
        what = "3 -> 10 nodes" if verb == "scale" else "3 nodes"
        table.add(f"cluster_{verb}, {what}", ms(took), ms(floor), f"<= {bar} s", good=took <= bar)


def test_log_tail(portal, client, large, large_job, table):
    """A million lines, 100 MB, from six ranks, with a page that follows: every byte, and how fast."""
    run = start(portal, large_job, "flood.py 1000000")
    state = until(lambda: (s := portal.call("run_state", run=run))["started"] and s, what="started")
    done = {}

    async def follow():
        async with client.live() as socket:
            cursor, size, slowest, beat = 0, 0, 0.0, time.time()
            await socket.send(ask(state["output"], 0))
            while True:
                message = await socket.recv()
                if isinstance(message, str):
                    continue
                header, body = parse(message)
                slowest, beat = max(slowest, time.time() - beat), time.time()
                assert header["after"] == cursor
                cursor, size = header["next"], size + len(body)
                if header["ended"] and cursor >= header["head"]:
                    done.update(size=size, slowest=slowest, head=header["head"])
                    return
                await socket.send(ask(state["output"], cursor, ended=header["ended"], kept=header["kept"]))

    asyncio.run(asyncio.wait_for(follow(), 180))
    state = portal.call("run_state", run=run)
    assert state["status"] == "finished"
    assert state["agrees"] is True
    assert state["stdout"] == 100_000_000
    assert done["size"] == done["head"]
    assert done["size"] >= 100_000_000, "the page did not follow it"
    seconds = measured.amount("the time of the run", state["ended"] - state["started"])
    portal.call("on_node", cluster=large, command="head -c 100000000 /dev/zero > /shared/floor")
    floor, size = portal.call("floor_stream", cluster=large, path="/shared/floor")
    measured.amount("the floor's time", floor)
    assert size == 100_000_000, "the floor is of as many bytes"
    table.add(
        "log_tail: 100 MB written, stored, followed",
        f"{100 / seconds:.0f} MB/s",
        f"{size / floor / 1e6:.0f} MB/s over SSH alone",
        "every byte; >= 50 MB/s",
        good=seconds <= 2,
    )


def watch(portal, client, cluster, job, *, viewers, stalled=0, seconds=20):
    """Lines while so many watch, who are there when they begin. Delays, the run, and the most memory of the web."""
    signal = f"/shared/viewers-are-here-{viewers}-{stalled}"
    run = start(portal, job, f"pulse.py 10000 {seconds} {signal}")
    output = portal.call("run_state", run=run)["output"]
    web = portal.pids("web")[0]
    order = {
        "url": portal.url,
        "cookie": client.cookie,
        "output": output,
        "viewers": viewers,
        "stalled": stalled,
        "seconds": seconds,
        "patience": 120,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.viewers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    told = process.stdout.readline().strip()
    portal.call("on_node", cluster=cluster, command=f"touch {signal}")  # in any case: the run must end
    most = 0
    with process, ThreadPoolExecutor(1) as reader:
        reading = reader.submit(process.stdout.read)  # meanwhile: what they tell is more than a pipe holds
        while not reading.done():
            most = max(most, memory(web))
            time.sleep(0.2)
    results = json.loads(reading.result())
    assert told == "READY", f"{results['caught_up']} of {viewers} viewers caught up within 120 s: {results['errors']}"
    until(lambda: portal.call("run_state", run=run)["kept"], seconds=60, what="kept")
    state = portal.call("run_state", run=run)
    late = measured.viewers(results, viewers=viewers, stalled=stalled, least=10)
    assert results["got"][0] >= state["stdout"] > 0
    assert state["stdout"] >= 10_000 * seconds * 0.5 * 30, "far fewer lines were written than asked for"
    return late, measured.amount("the memory of the web process", most)


def memory(pid):
    """Resident, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def test_fanout(portal, client, small, job, table):
    """200 viewers at 10,000 lines a second; then as many with 20 that read nothing."""
    alone, _ = watch(portal, client, small, job, viewers=1, seconds=8)
    late, before = watch(portal, client, small, job, viewers=200)
    p50, p95, p99 = (measured.percentile(late, part) for part in (0.5, 0.95, 0.99))
    table.add(
        "log_fanout200 p95 (p50, p99)",
        f"{p95:.0f} ms ({p50:.0f}, {p99:.0f})",
        f"{measured.percentile(alone, 0.95):.0f} ms with 1 viewer",
        "<= 250 ms, nothing lost",
        good=p95 <= 250,
    )
    _, after = watch(portal, client, small, job, viewers=220, stalled=20)
    table.add(
        "log_slow: with 20 stalled",
        f"{after:.0f} MB",
        f"{before:.0f} MB without",
        "<= 20 MB more",
        good=after - before <= 20,
    )
