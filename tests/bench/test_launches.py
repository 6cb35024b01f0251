"""Runs that start on two nodes, from a repository that is new, and two hundred at once; each beside its floor."""

from __future__ import annotations

import secrets
import time
from statistics import median

import pytest

from tests.bench import measured
from tests.bench.conftest import PROGRAMS, make_cluster
from tests.bench.test_bench import ms
from tests.gitserver import served
from tests.running import until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

ROUNDS, MANY, CLUSTERS = 7, 200, 4
LARGE = 10_000_000  # bytes of a repository


def first_line(portal, run):
    """When rank 0 of a run printed its first line, once it is FINISHED."""
    state = until(lambda: (s := portal.call("run_state", run=run))["ended"] and s, seconds=60, what="its end")
    assert state["status"] == "finished", state
    text = portal.call("read_output", run=run)["text"]
    return float(next(line for line in text.splitlines() if line.startswith("FIRST")).split()[1])


def idle(portal, job):
    until(lambda: not portal.call("busy", job=job), what="the run before")


@pytest.fixture(scope="module")
def two(portal, lab):
    return make_cluster(portal, lab, "two", 2)


def give(portal, cluster):
    """The program that stamps its first line, on the nodes: for the floors. Its path."""
    put = f"cat > /shared/hello.py <<'EOF'\n{PROGRAMS['hello.py']}EOF"
    assert portal.call("on_node", cluster=cluster, command=put)["status"] == 0
    return "/shared/hello.py"


def test_two_nodes(portal, lab, two, repository, table):
    """A run of four ranks on two nodes, against mpiexec over a new connection; in turns."""
    made = portal.call("make_job", workspace=lab, cluster=two, git_url=repository, command="hello.py", name="two")
    first_line(portal, made["run"])
    hello, engine = give(portal, two), portal.call("engine_of", cluster=two)
    words = f"{engine}; exec mpiexec -n 4 -f ~/hostfile python {hello}"
    ours, floors = [], []
    for _ in range(ROUNDS):
        idle(portal, made["job"])
        floors.append(portal.call("floor_cold", cluster=two, words=words))
        began = time.time()
        ours.append(first_line(portal, portal.call("run_again", job=made["job"])) - began)
    took = median(measured.samples("a launch on two nodes", ours, least=ROUNDS))
    floor = median(measured.samples("its floor", floors, least=ROUNDS))
    table.add("launch_2node", ms(took), ms(floor), "<= floor + 50 ms", good=took <= floor + 0.05)


def test_cold_git(portal, lab, small, table):
    """Of a repository of 10 MB that nobody has fetched, against git clone and mpiexec; in turns."""
    hello = PROGRAMS["hello.py"]
    ours, floors = [], []
    engine = portal.call("engine_of", cluster=small)
    for n in range(ROUNDS):
        with served({"hello.py": hello, "large.txt": secrets.token_hex(LARGE // 2)}) as address:
            began = time.time()
            job = {"workspace": lab, "cluster": small, "git_url": address, "command": "hello.py", "name": f"cold-{n}"}
            made = portal.call("make_job", **job)
            ours.append(first_line(portal, made["run"]) - began)
            idle(portal, made["job"])
            words = f"{engine}; git clone -q {address} /tmp/cold-{n} && exec mpiexec -n 2 python /tmp/cold-{n}/hello.py"
            floors.append(portal.call("floor_cold", cluster=small, words=words))
    took = median(measured.samples("a launch from a new repository", ours, least=ROUNDS))
    floor = median(measured.samples("its floor", floors, least=ROUNDS))
    table.add("launch_cold_git, 10 MB", ms(took), ms(floor), "<= 1.15 × floor", good=took <= 1.15 * floor)


def test_burst(portal, client, lab, repository, table):
    """200 jobs at once on four clusters, against as many mpiexec over kept connections; and a page meanwhile."""
    clusters = [make_cluster(portal, lab, f"burst{n}", 1) for n in range(CLUSTERS)]
    hello, engine = give(portal, clusters[0]), portal.call("engine_of", cluster=clusters[0])
    floor = portal.call(
        "floor_many", clusters=clusters, command=f"{engine}; exec mpiexec -n 2 python {hello}", each=MANY // CLUSTERS
    )

    def look():
        began = time.perf_counter()
        assert client.get(f"/workspaces/{lab}/jobs/")
        return time.perf_counter() - began

    alone = measured.samples("a page", [look() for _ in range(20)], least=20)
    began = time.time()
    runs = portal.call(
        "begin_many", workspace=lab, clusters=clusters, count=MANY, git_url=repository, command="hello.py"
    )
    looks = []

    def over():
        looks.append(look())
        found = portal.call("ended_of", runs=runs)
        ended = sum(found["status"].get(one, 0) for one in ("finished", "failed", "cancelled"))
        return found if ended == MANY else None

    ended = until(over, seconds=900, what="all of them")
    assert ended["status"] == {"finished": MANY}
    took = measured.amount("the burst", ended["last"] - began)
    measured.amount("its floor", floor)
    busy = measured.percentile(measured.samples("a page meanwhile", looks, least=20), 0.95)
    calm = measured.percentile(alone, 0.95)
    table.add(
        "burst, 200 jobs on 4 clusters",
        f"{MANY / took:.1f} a second",
        f"{MANY / floor:.1f} a second over SSH alone",
        ">= 0.8 × floor",
        good=took <= floor / 0.8,
    )
    table.add("burst, a page meanwhile p95", ms(busy), f"{ms(calm)} before", "<= 2 × before", good=busy <= 2 * calm)
