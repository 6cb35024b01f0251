"""A workspace, a cluster and a job in an account of an emulated AWS, by the whole portal, and nothing left of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from portal.clouds.aws import policy
from tests.aws import owner
from tests.aws.box import CUSTOMER, REGION, Box, unpacked, why_not
from tests.aws.test_reading import flights, reads
from tests.aws.test_traffic import ELSEWHERE, HERE
from tests.running import RunningPortal, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def why_no_cloud_init():
    if os.environ.get("CLOUD_INIT_DEBS") or shutil.which("cloud-init"):
        return ""
    return "there is no cloud-init, and CLOUD_INIT_DEBS names no folder with Debian packages of it"


@pytest.fixture(params=["tiny", "cloud-init"])
def box(request, tmp_path):
    """With a few lines that read user data as cloud-init does, which take a second, and with Debian's own."""
    if request.param == "tiny":
        yield request.getfixturevalue("box")
        return
    if why := why_not() or why_no_cloud_init():
        pytest.skip(why)
    layers = tmp_path / "layers"
    if packages := os.environ.get("CLOUD_INIT_DEBS"):
        unpacked(Path(packages), layers)
    with Box(engine="cloud-init", layers=str(layers) if packages else "") as made:
        yield made


@pytest.fixture
def portal(box):
    folder = Path(tempfile.mkdtemp(prefix="cx-aws-portal-"))
    portal = RunningPortal(folder, **box.settings)
    portal.patience = 300
    portal.start()
    try:
        yield portal
    finally:
        portal.stop()
        shutil.rmtree(folder, ignore_errors=True)


def becomes(portal, kind, uuid, status, seconds=300):
    def state():
        found = portal.call("state", kind=kind, uuid=uuid)
        is_over = found["task_status"] not in ("new", "inprogress")
        assert not (is_over and found["status"] == "failed" != status), (found, portal.log()[-4000:])
        return is_over and found["status"] == status

    until(state, seconds=seconds, what=f"{kind} {status}")


def test_a_cluster_in_aws_from_an_access_key_to_nothing_left(box, portal, request):
    foreign = box.client("ec2").create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    portal.call("setup")
    iam = box.client("iam")
    iam.create_user(UserName="owner")
    key = iam.create_access_key(UserName="owner")["AccessKey"]
    words = {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    config = portal.call("open_account", account=CUSTOMER, region=REGION, **words)
    try:
        until(lambda: portal.call("config_badge", config=config)[0] == "ACTIVE", seconds=60)
    except AssertionError:
        raise AssertionError((portal.call("config_badge", config=config), portal.log())) from None
    workspace = portal.call("make_workspace", name="in AWS", uuid=config, choices={"range": box.net})
    becomes(portal, "workspace", workspace, "ready")
    cluster = portal.call("make_cluster", workspace=workspace, name="tide", nodes=2, cores=2)
    becomes(portal, "cluster", cluster, "running")
    nodes = portal.call("nodes", cluster=cluster)
    if request.node.callspec.params["box"] == "cloud-init":
        assert all("Cloud-init v." in box.console(node["id"]) for node in nodes), box.console(nodes[0]["id"])
    portal.call("pause", cluster=cluster)
    becomes(portal, "cluster", cluster, "paused")
    portal.call("resume", cluster=cluster)
    becomes(portal, "cluster", cluster, "running")
    portal.call("change", cluster=cluster, verb="scale", nodes=3)
    becomes(portal, "cluster", cluster, "running")
    bucket, arn = f"flights-{workspace[:8]}", owner.role(iam)
    flights(box, bucket)
    role = portal.call("register_role", workspace=workspace, arn=arn)
    becomes(portal, "role", role, "active")
    reef = portal.call("make_cluster", workspace=workspace, name="reef", nodes=1, cores=2, role=arn)
    becomes(portal, "cluster", reef, "running")
    read = portal.call("on_node", cluster=reef, command=reads(bucket))
    assert (read["status"], read["out"].splitlines()[0]) == (0, "ORD,EWR,14"), read
    box.client("s3").put_object(Bucket=bucket, Key="jobs/ex.py", Body=b"print('from a bucket')\n")
    run = portal.call("make_job", workspace=workspace, cluster=reef, git_url=f"s3://{bucket}/jobs", command="ex.py")
    becomes(portal, "run", run["run"], "finished")
    assert portal.call("run_state", run=run["run"])["stdout"] == 2 * len("from a bucket\n")
    for one in (cluster, reef):
        portal.call("drop_cluster", cluster=one)
    for one in (cluster, reef):
        becomes(portal, "cluster", one, "terminated")
    portal.call("drop_workspace", workspace=workspace)
    becomes(portal, "workspace", workspace, "terminated")
    assert owner.attached(iam, arn) == []
    left = [one["VpcId"] for one in box.client("ec2").describe_vpcs()["Vpcs"] if not one.get("IsDefault")]
    assert left == [foreign]
    assert box.client("efs").describe_file_systems()["FileSystems"] == []
    assert box.client("iam").list_instance_profiles()["InstanceProfiles"] == []
    if request.node.callspec.params["box"] == "tiny":  # beside the other tests on the same emulator
        assert policy.ACTIONS - box.emulator.asked() - HERE - ELSEWHERE.keys() == set(), "no test uses what it grants"
