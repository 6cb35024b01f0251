"""What the wrapper around each rank costs, against plain mpiexec; and how soon a run ends whose rank has died."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

import pytest

from portal import ssh
from tests.bench import measured
from tests.bench.test_bench import ms
from tests.ranks.conftest import three  # noqa: F401 (a fixture)
from tests.running import until

pytestmark = pytest.mark.bench

SLEEPS = "import time; print('is there', flush=True); time.sleep(300)"


def plain(nodes, size):
    """Seconds that mpiexec alone takes for so many ranks of `true`."""
    hosts = "".join(f"{node.hostname}:{nodes.cores}\n" for node in nodes.nodes)
    engine = f"{nodes.nodes[0].shared}/engine/bin"
    command = f"printf {hosts!r} > /tmp/hosts; PATH={engine}:$PATH exec mpiexec -n {size} -f /tmp/hosts /bin/true"
    began = time.monotonic()
    assert ssh.run(nodes.host(), command).status == 0
    return time.monotonic() - began


def ours(nodes, size):
    ended = nodes.run("/bin/true", size=size, seconds=120)
    assert ended.verdict["good"], ended.why
    return ended.seconds


@pytest.mark.parametrize(("size", "rounds"), [(6, 9), (60, 5), (500, 2)])
def test_start(three, table, size, rounds):  # noqa: F811
    """From the order to the end of the last rank, what is the same for one rank included."""
    floors, times = [], []
    for _ in range(rounds):
        floors.append(plain(three, size))
        times.append(ours(three, size))
    floor, took = measured.amount("plain mpiexec", median(floors)), measured.amount("ours", median(times))
    a_rank = (took - floor) / size
    table.add(
        f"ranks_start, {size} ranks",
        f"{ms(took)}, {a_rank * 1000:.1f} ms a rank",
        ms(floor),
        "<= 20 ms a rank more",
        good=a_rank <= 0.020,
    )


def test_memory(three, table):  # noqa: F811
    folder = three.start(["python", "-c", SLEEPS], size=60)
    log = folder / "log"
    until(lambda: log.exists() and log.read_bytes().count(b"is there") == 60, seconds=60, what="60 ranks")
    found = {process.pid: process.parent for process in three.folder.processes() if _is_wrapper(process.pid)}
    wrappers = [pid for pid, parent in found.items() if parent not in found]  # a rank is its wrapper's child
    sizes = measured.samples("wrappers", [_pss(pid) for pid in wrappers], least=60)
    table.add(
        "ranks_memory, a wrapper of 60",
        f"{median(sizes) / 1024:.1f} MB",
        f"{len(sizes)} of them",
        "<= 4 MB",
        good=median(sizes) <= 4096,
    )
    until(lambda: three.kill(folder), seconds=20, what="the end")


def _is_wrapper(pid):
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"/python") and b"COXSWAIN_WRAPPER" in words[2]


def _pss(pid):
    """Proportional share of memory, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_output(three, table):  # noqa: F811
    """Bytes of six ranks into the head node's log. BENCH_OUTPUT_MB: how many; 5000 is what one should try once."""
    size = int(os.environ.get("BENCH_OUTPUT_MB", "300"))
    share = size * 1_000_000 // 6 // 100_000
    code = f"import sys; line = 'y' * 99 + chr(10)\nfor _ in range({share}): sys.stdout.write(line * 1000)"

    engine = f"{three.nodes[0].shared}/engine/bin"
    hosts = "".join(f"{node.hostname}:{three.cores}\n" for node in three.nodes)
    began = time.monotonic()
    answer = ssh.run(
        three.host(),
        f"printf {hosts!r} > /tmp/hosts; cat > /shared/bulk.py; "
        f"PATH={engine}:$PATH mpiexec -n 6 -f /tmp/hosts python /shared/bulk.py > /shared/bulk.out",
        input=code.encode(),
        seconds=600,
    )
    floor = measured.amount("plain mpiexec", time.monotonic() - began)
    assert answer.status == 0
    ended = three.run("python", "-c", code, seconds=600, quick=True)
    took = measured.amount("ours", ended.seconds)
    assert ended.size == share * 6 * 100_000
    table.add(
        f"ranks_output, {size} MB of 6 ranks",
        f"{size / took:.0f} MB/s",
        f"{size / floor:.0f} MB/s, without ranks",
        ">= 50 MB/s",
        good=size / took >= 50,
    )


@pytest.mark.parametrize("how", ["raises", "SIGSEGV", "leaves"])
def test_death(three, table, how):  # noqa: F811
    """From the last word of the rank that dies to the verdict, with the others in a barrier."""
    times = []
    for _ in range(5):
        ended = three.run("python", "ends.py", how, "barrier", files=["ends.py"])
        last = max(frame.at for frame in ended.frames if frame.rank == 4 and frame.kind == "o")
        times.append(ended.exit["ended"] - last / 1e9)
    times = measured.samples("deaths", times, least=5)
    table.add(
        f"ranks_death, {how}",
        f"{median(times):.1f} s, at most {times[-1]:.1f} s",
        "2 s for the others' last words",
        "<= 5 s",
        good=times[-1] <= 5,
    )
