"""The box is as AWS is, where it counts: asked with boto3 alone, as anybody would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid

import asyncssh
import pytest
from botocore.exceptions import ClientError

from portal.clouds import HostKey
from portal.clouds.bootstrap import Boot, Mount, user_data
from tests.aws.box import REGION
from tests.clouds import hands
from tests.running import until

pytestmark = pytest.mark.timeout(120)
PORTAL = "127.0.0.1/32"


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
        self.efs.create_mount_target(
            FileSystemId=self.filesystem, SubnetId=self.subnet, SecurityGroups=[self.group]
        )
        self.image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def run(self, rank, *, data=None, **more):
        """Its instance id."""
        made = self.ec2.run_instances(
            ImageId=self.image,
            InstanceType="c5.large",
            MinCount=1,
            MaxCount=1,
            UserData=self.data(rank) if data is None else data,
            NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": self.subnet, "Groups": [self.group]}],
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "site", "Value": f"{self.name}-{rank}"}]}
            ],
            **more,
        )
        return made["Instances"][0]["InstanceId"]

    def data(self, rank, *, mount=True):
        source = f"{self.filesystem}.efs.{REGION}.amazonaws.com:/"
        key = HostKey(hands.private(f"host {rank}"), hands.public(f"host {rank}"))
        keys = (hands.public("portal"), hands.public("cluster"))
        return user_data(Boot(f"node-{rank}", key, keys, Mount(source, "nfs4", "nfsvers=4.1,_netdev,nofail") if mount else None))

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
        until(lambda: self.ask(name, "mountpoint -q /shared && test -w /shared && echo up", rank=rank) == "up", what=self.box.console(name))

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
