"""What becomes of a cluster on own machines when one of them fails in the middle of something."""

from __future__ import annotations

import re
import shutil
import time
import uuid

import pytest

from tests.machines.house import make_repository, serving
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PROGRAM = """
import os, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
for second in range(int(sys.argv[1])):
    print(second, flush=True) if world.rank == 0 else None
    time.sleep(1)
ranks = world.allreduce(1)
print("all:", ranks, flush=True) if world.rank == 0 else None
"""


@pytest.fixture(scope="module")
def clock(computers, tmp_path_factory):
    """A program that prints each second that it lasts, and needs all its ranks in the end."""
    folder = tmp_path_factory.mktemp("house")
    make_repository(folder / "clock", {"clock.py": PROGRAM})
    with serving(computers, folder) as address:
        yield f"{address}/clock/.git"


@pytest.fixture(autouse=True)
def as_it_was(lab, computers):
    """After each test all computers are on, plugged in and awake, and nobody has them."""
    yield
    for one in computers:
        if one.process is None:
            one.on()
        one.thaw()
        one.plug()
        if not any("listener" in process.words for process in one.processes()):
            one.start_sshd()
    for cluster in lab.call("live_clusters"):
        lab.call("drop_cluster", cluster=cluster)
        lab.becomes("cluster", cluster, "terminated")
    until(lambda: not any(row["subject"] for row in lab.stand().values()), seconds=60, what="that all are free")


FAULTS = {
    "sshd killed": (lambda one: one.kill_sshd(), lambda one: one.start_sshd()),
    "frozen": (lambda one: one.freeze(), lambda one: one.thaw()),
    "rebooted": (lambda one: one.off(), lambda one: one.on()),
    "unplugged": (lambda one: one.unplug(), lambda one: one.plug()),
}
PASSING = [name for name in FAULTS if name != "rebooted"]
LASTS = 4  # seconds, a fault that passes: more than three slow ones, which once made nodes "unreachable" elsewhere


def steps(lab, kind, uuid):
    return lab.call("state", kind=kind, uuid=uuid)["steps"]


def lasts(seconds):
    """Nothing tells of a silence but the time that it takes."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, what="a while")


def begun(lab, cluster, url, seconds):
    """A run that has printed something."""
    run = lab.run(cluster, url, f"clock.py {seconds}", name=f"clock {uuid.uuid4()}")
    until(lambda: lab.call("run_state", run=run)["stdout"] > 2, seconds=60, what="its first line")
    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cluster_is_made_all_the_same_when_a_computer_fails_meanwhile_and_comes_back(lab, computers, fault):
    strike, heal = FAULTS[fault]
    _, second, _ = computers
    cluster = lab.cluster(waits=False)
    until(lambda: steps(lab, "cluster", cluster)["introduce"][0] == "done", what="nodes that know each other")
    strike(second)
    lasts(LASTS)
    heal(second)
    lab.becomes("cluster", cluster, "running", seconds=150)
    assert [node["name"] for node in lab.call("nodes", cluster=cluster)] == ["desk1", "desk2", "desk3"]


@pytest.mark.parametrize("which", [0, 1], ids=["the head", "another"])
@pytest.mark.parametrize("until_step", ["nodes", "introduce"], ids=["taken", "introduced"])
def test_another_computer_is_taken_for_one_that_goes_away_for_good_meanwhile(lab, computers, which, until_step):
    lost = computers.computer[which]
    cluster = lab.cluster(2, waits=False)
    until(lambda: steps(lab, "cluster", cluster)[until_step][0] == "done", what="the step")
    lost.unplug()
    lab.becomes("cluster", cluster, "running", seconds=240)
    expected = ["desk3" if rank == which else f"desk{rank + 1}" for rank in range(2)]
    assert [node["name"] for node in lab.call("nodes", cluster=cluster)] == expected
    assert f"The computer {lost.name} does not answer." in lab.call("task_said", cluster=cluster)
    stand = lab.stand()[lost.name]
    assert (stand["leaving"], stand["subject"]) == (True, cluster)
    assert lab.call("on_node", cluster=cluster, rank=0, command=f"ssh {expected[1]} hostname")["out"] == expected[1]
    lost.plug()
    until(lambda: not lab.stand()[lost.name]["subject"], seconds=240, what="that it is swept")


def test_a_creation_names_the_computer_that_went_away_where_there_is_no_other(lab, computers):
    _, second, _ = computers
    cluster = lab.cluster(3, waits=False)
    until(lambda: steps(lab, "cluster", cluster)["nodes"][0] == "done", what="computers that are taken")
    second.unplug()

    def failed():
        found = lab.call("state", kind="cluster", uuid=cluster)
        return found if found["task_status"] == "failed" else None

    found = until(failed, seconds=240, what="the end of its creation")
    words = (
        r"The computer desk2 does not answer\. "
        r"The pool desks has 0 free computers of the type \S+, and 1 more are asked for\."
    )
    assert re.fullmatch(words, found["cause"])
    second.plug()
    until(lambda: lab.stand()["desk2"]["state"] == "ready", seconds=120, what="that it is back")
    lab.call("change", cluster=cluster, verb="repair")
    lab.becomes("cluster", cluster, "running", seconds=120)


@pytest.mark.parametrize("which", [0, 1], ids=["the head", "another"])
@pytest.mark.parametrize("fault", PASSING)
def test_a_run_outlives_what_passes(lab, computers, clock, fault, which):
    strike, heal = FAULTS[fault]
    one = computers.computer[which]
    cluster = lab.cluster()
    run = begun(lab, cluster, clock, 8)
    strike(one)
    lasts(LASTS)
    heal(one)
    lab.becomes("run", run, "finished", seconds=90)
    assert lab.call("read_output", run=run)["text"].split() == [*map(str, range(8)), "all:", "6"]


@pytest.mark.parametrize("which", [0, 1], ids=["the head", "another"])
def test_a_run_is_lost_when_a_computer_reboots_and_the_cluster_is_well_again_by_itself(lab, computers, clock, which):
    one = computers.computer[which]
    cluster = lab.cluster()
    run = begun(lab, cluster, clock, 600)
    one.reboot()
    lost = lab.becomes("run", run, "failed", seconds=90)
    words = {
        0: r"desk1 was started again while the run was on it\.",
        1: r"desk2 was started again at \d\d:\d\d:\d\d UTC, while the run was on it\.",
    }
    assert re.fullmatch(words[which], lost["cause"])
    until(lambda: lab.call("word_of", cluster=cluster) == "RUNNING", seconds=60, what="a cluster that is well")
    again = lab.run(cluster, clock, "clock.py 1", name=f"again {uuid.uuid4()}")
    lab.becomes("run", again, "finished", seconds=90)
    until(lambda: "It was rebooted." in lab.stand()[one.name]["history"], seconds=60, what="that its history tells")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_away_when_its_cluster_is_deleted_stays_taken_until_it_was_swept(lab, computers, clock, fault):
    strike, heal = FAULTS[fault]
    first, second, third = computers
    cluster = lab.cluster()
    run = begun(lab, cluster, clock, 600)
    strike(third)
    lab.call("drop_cluster", cluster=cluster)
    lab.becomes("cluster", cluster, "terminated", seconds=120)
    (lost,) = [lab.becomes("run", run, "failed", "cancelled", seconds=60)]
    assert "tide was deleted by Alice." in lost["cause"]
    assert "2 of 3 confirmed. desk3 is away and stays taken" in lab.call("task_said", cluster=cluster)
    stand = lab.stand()
    assert [bool(stand[one.name]["subject"]) for one in computers] == [False, False, True]
    lab.comes_clean([first, second], nodes=False)

    two = lab.cluster(2, name="two")  # of those that are free
    assert [node["name"] for node in lab.call("nodes", cluster=two)] == ["desk1", "desk2"]
    lab.call("drop_cluster", cluster=two)
    lab.becomes("cluster", two, "terminated")
    heal(third)
    until(lambda: not lab.stand()["desk3"]["subject"], seconds=240, what="that it is swept")
    lab.comes_clean()


def test_of_two_clusters_that_want_the_last_computers_one_has_them_and_the_other_hears_who(lab):
    clusters = [lab.cluster(2, name=name, waits=False) for name in ("east", "west")]

    def ends():
        found = [lab.call("state", kind="cluster", uuid=cluster) for cluster in clusters]
        return found if all(one["task_status"] in ("finished", "failed") for one in found) else None

    found = {one["status"]: one for one in until(ends, seconds=120, what="the end of both")}
    assert set(found) == {"running", "failed"}
    assert found["failed"]["cause"].endswith("and 2 are asked for.")
    assert found["failed"]["evidence"] in ("In use: 2 by east.", "In use: 2 by west.")


def test_a_computer_that_another_key_was_given_to_is_refused_until_somebody_accepts_that(lab, computers):
    (first, *_) = computers
    first.new_host_key()
    row = lab.check()[first.name]
    assert (row["state"], row["failing"]) == ("refused", ["Host key"])
    cluster = lab.cluster(2)
    assert [node["name"] for node in lab.call("nodes", cluster=cluster)] == ["desk2", "desk3"]
    lab.call("accept_key", pool=lab.pool, name=first.name, fingerprint=first.fingerprint())
    until(lambda: lab.stand()[first.name]["state"] == "ready", what="that it is ready again")


def test_what_the_check_finds_is_told_and_goes_when_it_is_mended(lab, computers):
    _, second, third = computers
    third.unshare_path()
    found = lab.check()
    assert (found["desk3"]["state"], found["desk3"]["failing"]) == ("refused", ["Shared folder"])
    assert [found[name]["state"] for name in ("desk1", "desk2")] == ["ready", "ready"]
    third.share_path()
    computers.fill_shared()
    found = lab.check()
    assert {row["state"] for row in found.values()} == {"refused"}
    assert {name for row in found.values() for name in row["failing"]} == {"Base folder"}
    computers.empty_shared()
    if shutil.which("cc"):
        second.shift_clock(30)
        found = lab.check()
        assert (found["desk2"]["state"], found["desk2"]["failing"]) == ("refused", ["Clock"])
        second.shift_clock(0)
    assert {row["state"] for row in lab.check().values()} == {"ready"}
