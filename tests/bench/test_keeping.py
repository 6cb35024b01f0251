"""A long output that is kept while many read it: BENCH_OUTPUT_MIB=5120 for the size that the portal is made for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from tests.bench import measured
from tests.running import ROOT

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

MIB = int(os.environ.get("BENCH_OUTPUT_MIB", "600"))
READERS = int(os.environ.get("BENCH_READERS", "200"))
PAUSE = READERS / 10  # seconds that each looks at what it has got: ten frames a second in all


def test_keeping(portal, client, lab, table):
    made = portal.call("open_task", workspace=lab)
    output = made["output"]
    head = portal.call("fill_output", output=output, mib=MIB)
    portal.call("end_task", task=made["task"])
    assert head == MIB * 1024 * 1024
    order = {
        "url": portal.url,
        "cookie": client.cookie,
        "output": output,
        "head": head,
        "readers": READERS,
        "pause": PAUSE,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.readers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "READY\n"
        alone_from = time.time()
        time.sleep(max(PAUSE, 10))
        kept = portal.call("keep_output", output=output)
        after_from = time.time()
        time.sleep(max(PAUSE, 10))
        results = json.loads(process.communicate("over\n")[0])
    assert results["errors"] == []
    assert (results["open"], results["wrong"]) == (READERS, 0)
    assert kept["whole"]

    def delays(what, begin, end):
        return measured.samples(what, [took for at, took in results["frames"] if begin <= at < end], least=20)

    before = delays("frames from chunks", alone_from, kept["began"])
    during = delays("frames meanwhile", kept["began"], kept["ended"])
    after = delays("frames from the store", after_from, time.time())
    waits = measured.samples("writes elsewhere", kept["waits"], least=20)
    seconds = measured.amount("the time it took", kept["ended"] - kept["began"])
    floor = measured.amount("a plain write", kept["floor"])
    table.add(
        f"output_keep: {MIB} MiB while {READERS} read",
        f"{MIB / seconds:.0f} MiB/s",
        f"{MIB / floor:.0f} MiB/s, a plain write",
        ">= floor / 100",
        good=seconds <= floor * 100,
    )
    median, p99 = (measured.percentile(waits, part) for part in (0.5, 0.99))
    table.add(
        "output_keep: another's write, p99 (longest)",
        f"{p99 * 1000:.0f} ms ({waits[-1] * 1000:.0f})",
        f"{median * 1000:.0f} ms, the median",
        "<= 100 ms, or 5 ×",
        good=p99 <= max(0.1, median * 5),
    )
    p95 = [measured.percentile(times, 0.95) * 1000 for times in (before, during, after)]
    table.add(
        "output_keep: a frame, p95 meanwhile (from the store)",
        f"{p95[1]:.0f} ms ({p95[2]:.0f})",
        f"{p95[0]:.0f} ms from chunks, before",
        "<= 3 × and 1.5 ×",
        good=p95[1] <= p95[0] * 3 and p95[2] <= p95[0] * 1.5,
    )
