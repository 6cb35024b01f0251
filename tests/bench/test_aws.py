"""A cluster in an account of an emulated AWS: what it takes from Create to RUNNING, in seconds and in calls.

Real nodes boot behind the instances, and AWS's own time is missing. Calls for 200 nodes are counted in tests/aws.

Only calls of the process that makes the cluster are counted, which has a session of its own: others of the portal look
at the account once a minute, whether anything is made there or not, and that is 16 more where the minute is just over.
What grows with the time that nodes take is counted apart from what does not.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from tests.aws.box import CUSTOMER, REGION, Box, why_not
from tests.aws.recording import Recording
from tests.aws.test_whole import becomes
from tests.bench import measured
from tests.running import RunningPortal, until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

NODES, ROUNDS = 3, 3
# A program that does the same with boto3 and ssh alone, on a quiet machine: launch template, instances, SSH.
PROTOTYPE = 1.4 + 0.1 + 0.9
LOCK = ("dynamodb:GetItem", "dynamodb:PutItem")  # which a task takes each time that it goes on


@pytest.fixture(scope="module")
def box():
    if why := why_not():
        pytest.skip(why)
    with Box() as made:
        yield made


@pytest.fixture(scope="module")
def portal(box):
    folder = Path(tempfile.mkdtemp(prefix="cx-bench-aws-"))
    portal = RunningPortal(folder, **box.settings)
    portal.patience = 300
    portal.start()
    portal.call("setup")
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_cluster_in_emulated_aws(portal, box, table):
    iam = box.client("iam")
    iam.create_user(UserName="owner")
    key = iam.create_access_key(UserName="owner")["AccessKey"]
    words = {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    config = portal.call("open_account", account=CUSTOMER, region=REGION, **words)
    until(lambda: portal.call("config_badge", config=config)[0] == "ACTIVE", seconds=180)
    workspace = portal.call("make_workspace", name="in AWS", uuid=config, choices={"range": box.net})
    becomes(portal, "workspace", workspace, "ready")
    took, rounds = [], []
    recording = Recording(box.folder / "recording")
    for n in range(ROUNDS + 1):  # the first one installs the engine version
        recording.more()
        cluster = portal.call("make_cluster", workspace=workspace, name=f"warm{n}", nodes=NODES, cores=1)
        becomes(portal, "cluster", cluster, "running")
        rounds.append(Asked(recording.more()))
        took.append(portal.call("task_times", kind="cluster", uuid=cluster)["total"])
        portal.call("drop_cluster", cluster=cluster)
        becomes(portal, "cluster", cluster, "terminated")
    took = measured.samples("a cluster in AWS", took[1:], least=ROUNDS)
    print(*(one.said for one in rounds), sep="\n")
    name = f"cluster_create_emulated_aws, {NODES} nodes, warm, p50 / worst"
    floor = f"prototype: {PROTOTYPE:.1f} s"
    table.add(name, f"{median(took):.1f} / {max(took):.1f} s", floor, "<= 15 s", good=median(took) <= 15)
    calls, floor = max(len(one.others) for one in rounds[1:]), f"{NODES} RunInstances"
    table.add("its calls of AWS, but for looks", f"{calls}", floor, "<= 30", good=calls <= 30)
    looks, each = max(len(one.looks) for one in rounds[1:]), max(max(one.looks) for one in rounds[1:])
    name = "its looks at whether the nodes are up: Describe calls each, most"
    table.add(name, f"{each}, in {looks} looks", "1", "<= 2", good=each <= 2)


class Asked:
    """What was asked by whoever made the nodes: in looks at whether they are up by now, and else."""

    def __init__(self, calls):
        runs = [call for call in calls if call.action == "ec2:RunInstances"]
        assert len(runs) == NODES
        (session,) = {call.session for call in runs}
        mine = [call.action for call in calls if call.session == session]
        made = len(mine) - mine[::-1].index("ec2:RunInstances")
        self.looks, self.others, locks = [0], [], 0  # Describe calls of each look
        for at, action in enumerate(mine):
            if action in LOCK:
                locks += 1
                if at >= made and action == LOCK[0]:
                    self.looks.append(0)
            elif at >= made and ":Describe" in action:
                self.looks[-1] += 1
            else:
                self.others.append(action)
        self.said = f"looks: {self.looks}, for the lock: {locks}, else: {dict(Counter(self.others))}"
