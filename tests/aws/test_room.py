"""The box is as AWS is, where it counts: asked with boto3 alone, as anybody would."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from functools import cache
from pathlib import Path

import asyncssh
import pytest

from portal.clouds import HostKey
from portal.clouds.bootstrap import Boot, Mount, user_data
from tests.aws.box import REGION, Box, Emulator, why_not
from tests.clouds import hands
from tests.running import until

pytestmark = pytest.mark.timeout(120)
PORTAL = "127.0.0.1/32"


@cache
def image(box):
    """Of thousands, which take a second to read."""
    return box.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]


class Site:
    """A network, a filesystem, and instances in it."""

    def __init__(self, box, number):
        self.box, self.ec2, self.efs = box, box.client("ec2"), box.client("efs")
        self.name = f"site-{uuid.uuid4().hex[:8]}"
        net = f"127.{box.octet.number}.{number}"
        ec2 = self.ec2
        self.vpc = ec2.create_vpc(CidrBlock=f"{net}.0/24")["Vpc"]["VpcId"]
        self.subnet = ec2.create_subnet(VpcId=self.vpc, CidrBlock=f"{net}.0/25", AvailabilityZone=f"{REGION}a")[
            "Subnet"
        ]["SubnetId"]
        self.group = ec2.create_security_group(GroupName=self.name, Description="nodes", VpcId=self.vpc)["GroupId"]
        self.ssh = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": PORTAL}]}]
        self.own = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": self.group}]}]
        ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=self.ssh + self.own)
        self.filesystem = self.efs.create_file_system(CreationToken=self.name, Encrypted=True)["FileSystemId"]
        self.efs.create_mount_target(FileSystemId=self.filesystem, SubnetId=self.subnet, SecurityGroups=[self.group])
        self.image = image(box)

    def run(self, rank, *, data=None, **more):
        """Its instance id."""
        made = self.ec2.run_instances(
            ImageId=self.image,
            InstanceType="c5.large",
            MinCount=1,
            MaxCount=1,
            UserData=self.data(rank) if data is None else data,
            NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": self.subnet, "Groups": [self.group]}],
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "site", "Value": f"{self.name}-{rank}"}]}],
            **more,
        )
        return made["Instances"][0]["InstanceId"]

    def data(self, rank, *, mount=True):
        source = f"{self.filesystem}.efs.{REGION}.amazonaws.com:/"
        key = HostKey(hands.private(f"host {rank}"), hands.public(f"host {rank}"))
        keys = (hands.public("portal"), hands.public("cluster"))
        return user_data(
            Boot(f"node-{rank}", key, keys, Mount(source, "nfs4", "nfsvers=4.1,_netdev,nofail") if mount else None)
        )

    def instance(self, name):
        return self.ec2.describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0]

    def state(self, name):
        return self.instance(name)["State"]["Name"]

    def address(self, name):
        return self.instance(name)["PrivateIpAddress"]

    def ask(self, name, command, *, rank=0, user="coxswain", seconds=5):
        """What a command on it says; None where it does not answer. The host key is pinned."""

        async def go():
            shown = hands.key(f"host {rank}").convert_to_public()
            async with asyncssh.connect(
                self.address(name), username=user, client_keys=[hands.key("portal")], known_hosts=([shown], [], []),
                config=None, agent_path=None, connect_timeout=seconds, login_timeout=seconds,
            ) as connection:  # fmt: skip
                done = await connection.run(command)
                return None if done.exit_status is None else (done.stdout + done.stderr).strip()

        try:
            return asyncio.run(go())
        except (asyncssh.HostKeyNotVerifiable, asyncssh.PermissionDenied):
            raise
        except (OSError, asyncssh.Error):
            return None

    def comes(self, name, *, rank=0):
        until(
            lambda: self.ask(name, "mountpoint -q /shared && test -w /shared && echo up", rank=rank) == "up",
            what=self.box.console(name),
        )

    def close(self):
        ec2, efs = self.ec2, self.efs
        names = [
            one["InstanceId"]
            for many in ec2.describe_instances(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])["Reservations"]
            for one in many["Instances"]
            if one["State"]["Name"] != "terminated"
        ]
        if names:
            ec2.terminate_instances(InstanceIds=names)
            until(lambda: not set(names) & set(self.box.tell("nodes")), what="that the room is empty")
        for target in efs.describe_mount_targets(FileSystemId=self.filesystem)["MountTargets"]:
            efs.delete_mount_target(MountTargetId=target["MountTargetId"])
        efs.delete_file_system(FileSystemId=self.filesystem)
        ec2.delete_security_group(GroupId=self.group)
        ec2.delete_subnet(SubnetId=self.subnet)
        ec2.delete_vpc(VpcId=self.vpc)


NUMBERS = iter(range(200, 250))


@pytest.fixture
def site(box):
    made = Site(box, next(NUMBERS))
    yield made
    made.close()


@pytest.fixture(scope="module")
def up(box):
    """A site with one node that is up, for tests that leave it as it was."""
    made = Site(box, next(NUMBERS))
    made.node = made.run(0)
    made.comes(made.node)
    yield made
    made.close()


def test_three_instances_become_nodes_that_share_a_filesystem_and_each_shows_its_own_host_key(site):
    names = [site.run(rank) for rank in range(3)]
    for rank, name in enumerate(names):
        site.comes(name, rank=rank)
        assert site.ask(name, "hostname; id -un; id -u", rank=rank).split() == [f"node-{rank}", "coxswain", "20000"]
    site.ask(names[0], "echo of node 0 > /shared/note", rank=0)
    assert site.ask(names[2], "cat /shared/note", rank=2) == "of node 0"
    assert site.box.tell("files", filesystem=site.filesystem) == ["note"]
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        site.ask(names[0], "true", rank=1)
    with pytest.raises(asyncssh.PermissionDenied):
        site.ask(names[0], "true", user="root")


def test_a_stopped_node_comes_back_with_its_disk_and_a_rebooted_one_with_another_boot_id(site):
    name = site.run(0)
    site.comes(name)
    address, boot = site.address(name), site.ask(name, "cat /proc/sys/kernel/random/boot_id")
    site.ask(name, "echo kept > ~/note")
    site.ec2.stop_instances(InstanceIds=[name])
    until(lambda: site.state(name) == "stopped" and not site.box.tell("nodes")[name]["on"], what="its end")
    assert site.ask(name, "true", seconds=1) is None
    site.ec2.start_instances(InstanceIds=[name])
    site.comes(name)
    assert (site.address(name), site.ask(name, "cat ~/note")) == (address, "kept")
    again = site.ask(name, "cat /proc/sys/kernel/random/boot_id")
    assert again != boot
    site.ec2.reboot_instances(InstanceIds=[name])
    until(
        lambda: site.ask(name, "mountpoint -q /shared && cat /proc/sys/kernel/random/boot_id") not in (None, "", again)
    )
    assert site.ask(name, "cat ~/note") == "kept"
    assert site.box.tell("nodes")[name]["boots"] == 2


def test_a_stop_and_a_start_between_two_looks_of_the_room_are_a_boot_all_the_same(site):
    name = site.run(0)
    site.comes(name)
    boot = site.ask(name, "cat /proc/sys/kernel/random/boot_id")
    site.ec2.stop_instances(InstanceIds=[name])
    site.ec2.start_instances(InstanceIds=[name])
    until(lambda: site.ask(name, "cat /proc/sys/kernel/random/boot_id") not in (None, boot))


def test_where_the_security_group_does_not_admit_the_portal_nobody_answers_and_sessions_stay(up):
    up.ec2.revoke_security_group_ingress(GroupId=up.group, IpPermissions=up.ssh)
    try:
        until(lambda: up.ask(up.node, "true", seconds=1) is None, what="that it is shut")
    finally:
        up.ec2.authorize_security_group_ingress(GroupId=up.group, IpPermissions=up.ssh)
    until(lambda: up.ask(up.node, "echo there", seconds=1) == "there", what="that it is open")


def test_a_filesystem_is_mounted_only_through_a_target_whose_group_admits_the_node(site):
    other = site.ec2.create_security_group(GroupName=f"{site.name}-files", Description="files", VpcId=site.vpc)[
        "GroupId"
    ]
    (target,) = site.efs.describe_mount_targets(FileSystemId=site.filesystem)["MountTargets"]
    site.efs.modify_mount_target_security_groups(MountTargetId=target["MountTargetId"], SecurityGroups=[other])
    name = site.run(0)
    until(lambda: site.ask(name, "mountpoint /shared") == "/shared is not a mountpoint")
    until(lambda: "Connection timed out" in site.box.console(name))
    rule = {"IpProtocol": "tcp", "FromPort": 2049, "ToPort": 2049, "UserIdGroupPairs": [{"GroupId": site.group}]}
    site.ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[rule])
    site.comes(name)  # by what the user data does at each boot
    site.ec2.terminate_instances(InstanceIds=[name])
    site.efs.delete_mount_target(MountTargetId=target["MountTargetId"])
    site.ec2.delete_security_group(GroupId=other)


def test_metadata_is_told_to_whom_has_a_token_and_shows_the_user_data_with_the_host_key(up):
    base = "$AWS_EC2_METADATA_SERVICE_ENDPOINT"
    token = f"$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {base}/latest/api/token)"
    get = f'curl -s -H "X-aws-ec2-metadata-token: {token}" {base}/latest'
    assert up.ask(up.node, f"{get}/meta-data/instance-id") == up.node
    assert "BEGIN OPENSSH PRIVATE KEY" in up.ask(up.node, f"{get}/user-data")
    assert up.ask(up.node, f"curl -so /dev/null -w '%{{http_code}}' {base}/latest/user-data") == "401"
    assert up.ask(up.node, f"{get}/meta-data/iam/security-credentials/") == ""


def test_the_console_tells_how_it_booted_through_ec2(up):
    said = up.ec2.get_console_output(InstanceId=up.node)["Output"]
    assert "[ip-127-" in said
    assert "is up" in said
    assert " ".join(hands.public("host 0").split()[:2]) in said


def test_user_data_with_an_unknown_key_does_not_boot(site):
    data = "#cloud-config\n" + json.dumps({"hostname": "a", "runcmdd": ["true"]})
    name = site.run(0, data=data)
    until(lambda: "does not know:  ['runcmdd']" in site.box.console(name), what="a sentence on the console")
    until(lambda: not site.box.tell("nodes")[name]["on"], what="its end")


def test_what_a_node_is_told_to_do_wrong_it_does_once(site):
    wrong = {"never": "Kernel panic", "no-ssh": "is up", "another-key": "is up", "slow:1": "is up", "die:1": "booting"}
    names = {}
    for rank, what in enumerate(wrong):
        site.box.tell("fault", tag=["site", f"{site.name}-{rank}"], what=what)
        names[what] = site.run(rank)
    for what, said in wrong.items():
        until(lambda what=what, said=said: said in site.box.console(names[what]), what=what)
    assert site.ask(names["never"], "true", rank=0, seconds=1) is None
    assert site.ask(names["no-ssh"], "true", rank=1, seconds=1) is None
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        site.ask(names["another-key"], "true", rank=2)
    site.comes(names["slow:1"], rank=3)
    until(lambda: not site.box.tell("nodes")[names["die:1"]]["on"], what="its death")
    assert site.state(names["die:1"]) == "running", "EC2 does not know"
    site.ec2.reboot_instances(InstanceIds=[names["never"]])
    site.comes(names["never"], rank=0)


def test_a_frozen_node_takes_connections_and_says_nothing(site):
    name = site.run(0)
    site.comes(name)
    site.box.tell("freeze", id=name)
    assert site.ask(name, "true", seconds=1) is None
    site.box.tell("thaw", id=name)
    site.comes(name)


def test_nothing_of_a_room_outlives_its_process():
    if why := why_not():
        pytest.skip(why)
    with Box(accounts=("888888888888",)) as box:
        box.client = lambda service: box.emulator.client(service, "888888888888")
        site = Site(box, 1)
        name = site.run(0)
        site.comes(name)
        box.room.kill()
        until(lambda: site.ask(name, "true", seconds=1) is None, what="the end of the node")
        assert str(box.folder) not in Path("/proc/self/mounts").read_text()
        assert list((box.folder / "room").iterdir()) == []


def test_nothing_of_an_emulator_that_does_not_answer_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(Emulator, "_answers", lambda self: pytest.fail("it does not"))
    with pytest.raises(pytest.fail.Exception):
        Emulator(tmp_path)
    there = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in there
