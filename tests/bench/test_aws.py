"""A cluster in an account of an emulated AWS: what it takes from Create to RUNNING, in seconds and in calls.

Real nodes boot behind the instances, and AWS's own time is missing. Calls for 200 nodes are counted in tests/aws.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from tests.aws.box import CUSTOMER, REGION, Box, why_not
from tests.aws.recording import Recording, actions
from tests.aws.test_whole import becomes
from tests.bench import measured
from tests.running import RunningPortal, until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

NODES, ROUNDS = 3, 3
# A program that does the same with boto3 and ssh alone, on a quiet machine: launch template, instances, SSH.
PROTOTYPE = 1.4 + 0.1 + 0.9


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
    took, calls = [], []
    recording = Recording(box.folder / "recording")
    for n in range(ROUNDS + 1):  # the first one installs the engine version
        recording.more()
        cluster = portal.call("make_cluster", workspace=workspace, name=f"warm{n}", nodes=NODES, cores=1)
        becomes(portal, "cluster", cluster, "running")
        calls.append(Counter(actions(recording.more())))
        took.append(portal.call("task_times", kind="cluster", uuid=cluster)["total"])
        portal.call("drop_cluster", cluster=cluster)
        becomes(portal, "cluster", cluster, "terminated")
    took = measured.samples("a cluster in AWS", took[1:], least=ROUNDS)
    asked = [one.total() for one in calls[1:]]
    assert all(one["ec2:RunInstances"] == NODES for one in calls)
    print(calls[-1])
    name = f"cluster_create_emulated_aws, {NODES} nodes, warm, p50 / worst"
    floor = f"prototype: {PROTOTYPE:.1f} s"
    table.add(name, f"{median(took):.1f} / {max(took):.1f} s", floor, "<= 15 s", good=median(took) <= 15)
    table.add(
        f"its calls of AWS, {NODES} nodes, most",
        f"{max(asked)}",
        f"{NODES} RunInstances",
        "<= 45",
        good=max(asked) <= 45,
    )
