"""Something of a run dies at a moment that nobody has chosen: the right outcome, in words, and nothing left.

The moments come from CHAOS_SEED; what fails is told with its own. CHAOS_ROUNDS: how many.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from portal.clouds.local import processes
from tests.chaos.conftest import ended
from tests.chaos.test_kills import came_back, is_right, kill_node, nodes_of, nothing_left, repair, start_run
from tests.clouds import hands
from tests.running import until

pytestmark = pytest.mark.chaos

SEED = int(os.environ.get("CHAOS_SEED") or time.time())
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "24"))
PARTS = ("web", "watch", "worker", "valkey-server")
PATTERNS = {
    "a rank": "COXSWAIN_RUNNER",
    "a rank's wrapper": "COXSWAIN_RUNNER",
    "mpiexec": "/bin/mpiexec ",
    "a proxy": "hydra_pmi_proxy",
    "the keeper or the launcher": " detach wait job",
}
NODES = ("the head node", "a node")


def victims(portal, cluster, what):
    found = hands.of_people(nodes_of(portal, cluster))
    wanted = [pid for pid, words in found.items() if PATTERNS[what] in words]
    if what in ("a rank", "a rank's wrapper"):
        # Hydra's processes name the rank's command too. A rank has the words of its wrapper, whose child it is.
        wanted = [pid for pid in wanted if found[pid].split()[0].endswith("/python")]
        ranks = [pid for pid in wanted if (one := processes.look(pid)) and one.parent in wanted]
        return ranks if what == "a rank" else [pid for pid in wanted if pid not in ranks]
    return wanted


def strike(portal, cluster, what, dice):
    """Kill it, if it is there now. Whether it was."""
    if what in PARTS:
        portal.kill_part(what)
        return True
    if what == "the portal":
        portal.kill()
        portal.start()
        return True
    if what in NODES:
        kill_node(portal, cluster, 0 if what == "the head node" else dice.choice((1, 2)))
        return True
    for pid in victims(portal, cluster, what)[:1]:
        os.kill(pid, signal.SIGKILL)
        return True
    return False


@pytest.mark.parametrize("number", range(ROUNDS))
def test_whatever_dies_whenever(portal, cluster, job, number):
    dice = random.Random(f"{SEED}.{number}")  # noqa: S311
    what = dice.choice([*PARTS, "the portal", *PATTERNS, *PATTERNS, *NODES])
    moment = dice.uniform(0, 3)
    print(f"CHAOS_SEED={SEED}, round {number}: {what} after {moment:.2f} s")
    run, marker = start_run(portal, job, seconds=2)
    began = time.monotonic()
    until(lambda: time.monotonic() - began >= moment, what="the moment")
    struck = strike(portal, cluster, what, dice)
    if what in NODES:
        repair(portal, cluster)
    state = ended(portal, run, seconds=90)
    if what in (*PARTS, "the portal") or not struck:
        came_back(portal)
        is_right(portal, cluster, run, marker)
        return
    assert state["status"] in ("finished", "failed"), state
    assert bool(state["cause"]) is (state["status"] == "failed"), state
    nothing_left(portal, cluster, run)
    again, marker = start_run(portal, job, seconds=0.2)
    is_right(portal, cluster, again, marker)
