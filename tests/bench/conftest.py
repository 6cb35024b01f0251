from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.gitserver import served
from tests.running import RunningPortal, until
from tests.web import Client

PROGRAMS = {
    # Stamps that the launch is measured by.
    "hello.py": 'import os, time\nif os.environ["PMI_RANK"] == "0":\n    print("FIRST", time.time(), flush=True)\n'
    '    print("END", time.time(), flush=True)\n',
    # Lines at a rate, each with the time at which it was written; from when the file is there, so that viewers are.
    "pulse.py": """
import os, sys, time
rate, seconds, signal = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
if os.environ["PMI_RANK"] != "0":
    sys.exit()
print("waiting for the viewers", flush=True)
end = time.time() + 300
while not os.path.exists(signal):
    if time.time() > end:
        sys.exit("nobody came")
    time.sleep(0.05)
os.unlink(signal)
began, n = time.time(), 0
while (now := time.time()) - began < seconds:
    due = int((now - began) * rate)
    if due > n:
        os.write(1, b"".join(b"%.4f %08d pulse of the run, one line of many\\n" % (now, k) for k in range(n, due)))
        n = due
    time.sleep(0.01)
""",
    # What makes many small writes of little: bytes one by one, a line of a MB, and a burst of lines.
    "chatty.py": """
import os, sys, time
if os.environ["PMI_RANK"] != "0":
    sys.exit()
print("waiting for the viewer", flush=True)
end = time.time() + 120
while not os.path.exists(sys.argv[1]):
    if time.time() > end:
        sys.exit("nobody came")
    time.sleep(0.05)
began = time.time()
while time.time() - began < 5:
    for _ in range(20):
        os.write(1, b".")
    time.sleep(0.001)
os.write(1, b"\\n" + b"m" * 1_000_000 + b"\\n")
for n in range(0, 300_000, 1000):
    os.write(1, b"".join(b"%08d a line of a burst\\n" % k for k in range(n, n + 1000)))
    time.sleep(max(0, began + 5 + n / 100_000 - time.time()))
print("THE END", flush=True)
""",
    # A million lines of 100 bytes from all ranks, in whole lines of a pipe's size.
    "flood.py": """
import os, sys
rank, ranks, lines = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"]), int(sys.argv[1])
share = range(rank * lines // ranks, (rank + 1) * lines // ranks)
block = []
for n in share:
    block.append(b"r%02d %08d " % (rank, n) + b"x" * 86 + b"\\n")
    if len(block) == 40:
        os.write(1, b"".join(block))
        block.clear()
os.write(1, b"".join(block))
""",
}


class Table:
    def __init__(self):
        self.rows = []

    def add(self, name, value, floor, bar, *, good):
        """A row. Fails when a cell has no number: what was not measured has no row."""
        for cell in (value, floor):
            assert re.search(r"\d", cell), f"{name}: {cell!r} is no measurement"
            assert not re.search(r"\b(nan|inf|None)\b", cell), f"{name}: {cell!r} is no measurement"
        assert re.search(r"[1-9]", value), f"{name}: {value!r} is nothing"
        self.rows.append((name, value, floor, bar, "ok" if good else "MISSED"))

    def __str__(self):
        head = ("what", "measured", "floor, same run", "bar", "")
        widths = [max(len(str(row[n])) for row in [head, *self.rows]) for n in range(5)]
        return "\n".join(
            "  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)) for row in [head, *self.rows]
        )


@pytest.fixture(scope="session")
def table():
    table = Table()
    yield table
    print(f"\n\n{table}\n")


@pytest.fixture(scope="session")
def repository():
    with served(PROGRAMS) as address:
        yield address


@pytest.fixture(scope="session")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-bench-"))
    portal = RunningPortal(folder, PORTAL_LIVE_PAGES="1000").start()
    portal.who = portal.call("setup")
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def client(portal):
    return Client(portal.url).sign_in(portal.who["email"], portal.who["password"])


@pytest.fixture(scope="session")
def lab(portal):
    workspace = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    return workspace


def make_cluster(portal, lab, name, nodes):
    cluster = portal.call("make_cluster", workspace=lab, name=name, nodes=nodes, cores=2)
    until(
        lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", seconds=120, what="running"
    )
    return cluster


@pytest.fixture(scope="session")
def small(portal, lab):
    return make_cluster(portal, lab, "small", 1)


@pytest.fixture(scope="session")
def large(portal, lab):
    return make_cluster(portal, lab, "large", 3)


@pytest.fixture(scope="session")
def job(portal, lab, small, repository):
    return _job(portal, lab, small, repository, "bench")


@pytest.fixture(scope="session")
def large_job(portal, lab, large, repository):
    return _job(portal, lab, large, repository, "bench-large")


def _job(portal, lab, cluster, repository, name):
    made = portal.call("make_job", workspace=lab, cluster=cluster, git_url=repository, command="hello.py", name=name)
    until(lambda: portal.call("run_state", run=made["run"])["status"] == "finished", what="the first run")
    return made["job"]
