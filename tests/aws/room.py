"""The machine room: a real node behind each instance of an emulated EC2. `python -m tests.aws.room ORDER`, as root.

The emulator has the truth: the room asks it, and makes what there is agree. What can only be seen in requests (a
reboot, a stop and start between two looks) it reads in the emulator's recording. It has a mount and a pid namespace of
its own, so that nothing is left when it ends, however it ends.

Lines of JSON on standard input say what is to go wrong; each is answered by one on standard output.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.aws.recording import ROOM, Recording

HERE = Path(__file__).parent
SYSTEM = HERE.parent / "system.sh"
SSH, NFS = 22, 2049
NEAR, FAR = 0.2, 2.0  # seconds between looks, while something changes and while nothing does
CALM = 6.0  # seconds after which nothing does
READS = ("Describe", "Get", "List", "Head", "Simulate", "Assume")
CLOUD_CFG = """\
datasource_list: [NoCloud]
network: {config: disabled}
locale: false
cloud_init_modules: [bootcmd, write-files, mounts, set_hostname, update_hostname, users-groups, ssh]
cloud_config_modules: [runcmd]
cloud_final_modules: [write-files-deferred, scripts-per-once, scripts-per-boot, scripts-per-instance, scripts-user,
                      keys-to-console, final-message]
"""


@dataclass(frozen=True)
class Order:
    endpoint: str  # of the emulator
    accounts: tuple[str, ...]
    regions: tuple[str, ...]
    folder: Path  # of the box: the recording and the consoles are there, and the room's own disk
    engine: str = "tiny"  # or cloud-init
    layers: str = ""  # a folder that lies over this computer's system: of Debian's packages, unpacked
    hidden: tuple[str, ...] = ()
    here: str = "127.0.0.1"  # from where connections of the portal's come; those of nodes come from there as well
    mib: int = 6000  # of memory, for all disks and filesystems

    @classmethod
    def of(cls, text: str) -> Order:
        told: dict[str, Any] = json.loads(text)
        for name in ("accounts", "regions", "hidden"):
            told[name] = tuple(told[name])
        return cls(**{**told, "folder": Path(told["folder"])})


@dataclass
class Fault:
    """Of the next node that has this tag."""

    tag: tuple[str, str]
    what: str  # never, slow:SECONDS, no-ssh, another-key, die:SECONDS


@dataclass
class Node:
    id: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    boots: int = 0
    fault: str = ""
    credentials: dict[str, Any] = field(default_factory=dict)
    ends: float = float("inf")  # when it dies, by monotonic time
    notice: str = ""  # of the end of a spot instance
    server: int = 0  # the SSH server that listens
    is_frozen: bool = False

    @property
    def is_on(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def halt(self) -> None:
        """As when the power goes."""
        if self.process:
            self.process.kill()
            self.process.wait()
        self.server, self.is_frozen = 0, False


class Place:
    """One region of one account."""

    def __init__(self, order: Order, account: str, region: str) -> None:
        self.account, self.region = account, region
        config = Config(user_agent_extra=ROOM, retries={"total_max_attempts": 1})
        session = boto3.Session("room", "room", region_name=region)

        def client(service: str) -> Any:
            made = session.client(service, endpoint_url=order.endpoint, config=config)
            made.meta.events.register("before-sign.*.*", self._as_account)
            return made

        self.ec2, self.efs, self.iam, self.sts = (client(name) for name in ("ec2", "efs", "iam", "sts"))

    def _as_account(self, request: Any, **_: object) -> None:
        request.headers.add_header("x-moto-account-id", self.account)

    def instances(self) -> list[dict[str, Any]]:
        pages = self.ec2.get_paginator("describe_instances").paginate()
        return [one for page in pages for many in page["Reservations"] for one in many["Instances"]]

    def targets(self) -> list[dict[str, Any]]:
        """The mount targets, with their security groups."""
        found = []
        for system in self.efs.describe_file_systems()["FileSystems"]:
            for one in self.efs.describe_mount_targets(FileSystemId=system["FileSystemId"])["MountTargets"]:
                groups = self.efs.describe_mount_target_security_groups(MountTargetId=one["MountTargetId"])
                found.append({**one, "SecurityGroups": groups["SecurityGroups"]})
        return found


class Groups:
    """What security groups let in."""

    def __init__(self, place: Place) -> None:
        self.rules = {
            one["GroupId"]: one["IpPermissions"] for one in place.ec2.describe_security_groups()["SecurityGroups"]
        }

    def admits(self, groups: list[str], port: int, *, address: str, members: list[str] = []) -> bool:  # noqa: B006
        """Whether one of these groups takes connections at the port, from an address whose own groups are `members`."""
        for rule in (rule for group in groups for rule in self.rules.get(group, ())):
            if rule["IpProtocol"] != "-1" and not (
                rule["IpProtocol"] == "tcp" and rule["FromPort"] <= port <= rule["ToPort"]
            ):
                continue
            if any(ipaddress.ip_address(address) in ipaddress.ip_network(one["CidrIp"]) for one in rule["IpRanges"]):
                return True
            if any(one["GroupId"] in members for one in rule["UserIdGroupPairs"]):
                return True
        return False


class Room:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = order.folder / "room"
        self.consoles = order.folder / "consoles"
        for folder in (self.folder, self.consoles):
            folder.mkdir(exist_ok=True, mode=0o700)
        _mount("-t", "tmpfs", "-o", f"mode=700,size={order.mib}m", "room", str(self.folder))
        for name in ("efs", "hosts", "nodes"):
            (self.folder / name).mkdir(mode=0o700)
        if order.layers:  # on another disk than what it lies over, or the kernel takes it for a loop
            shutil.copytree(order.layers, self.folder / "layers", symlinks=True)
        self.places = [Place(order, account, region) for account in order.accounts for region in order.regions]
        self.recording = Recording(order.folder / "recording")
        self.nodes: dict[str, Node] = {}
        self.faults: list[Fault] = []
        self.starts: Counter[str] = Counter()  # of each instance: what was asked for after it had been made
        self.changed = time.monotonic()

    # The emulator.

    def hear(self) -> None:
        for call in self.recording.more():
            name = call.action.split(":")[1]
            if name in ("StartInstances", "RebootInstances"):
                self.starts.update(value for key, value in call.parameters.items() if key.startswith("InstanceId"))
            if call.is_ours and not name.startswith(READS):
                self.changed = time.monotonic()

    def look(self) -> None:
        for place in self.places:
            instances = place.instances()
            # Only now: what has come into the state of an instance was recorded before it was done.
            self.hear()
            if any(one["State"]["Name"] != "terminated" or one["InstanceId"] in self.nodes for one in instances):
                self.settle(place, instances)

    def settle(self, place: Place, instances: list[dict[str, Any]]) -> None:
        groups, targets = Groups(place), place.targets()
        for target in targets:
            (self.folder / "efs" / target["FileSystemId"]).mkdir(exist_ok=True)
        live = [one for one in instances if one["State"]["Name"] != "terminated" and one.get("PrivateIpAddress")]
        for vpc in {one["VpcId"] for one in live}:
            names = [(one["PrivateIpAddress"], one["PrivateDnsName"]) for one in live if one["VpcId"] == vpc]
            lines = "".join(f"{address} {name} {name.split('.')[0]}\n" for address, name in sorted(names))
            _replace(self.folder / "hosts" / vpc, "127.0.0.1 localhost\n" + lines, in_place=True)
        for one in instances:
            self.agree(place, one, groups, targets)

    def agree(self, place: Place, one: dict[str, Any], groups: Groups, targets: list[dict[str, Any]]) -> None:
        name, state = one["InstanceId"], one["State"]["Name"]
        node = self.nodes.get(name)
        if state not in ("pending", "running"):
            if node:
                node.halt()
                node.process = None
            if node and state == "terminated":
                shutil.rmtree(node.folder)
                del self.nodes[name]
            return
        if node is None:
            node = self.nodes[name] = self.make(place, one)
        if node.process and node.boots != self.starts[name]:
            node.halt()
            node.process = None
        if time.monotonic() > node.ends:
            node.halt()
        mine = [group["GroupId"] for card in one["NetworkInterfaces"] for group in card["Groups"]]
        filesystems = []
        for target in targets:
            if target.get("VpcId", one["VpcId"]) == one["VpcId"]:
                admitted = groups.admits(target["SecurityGroups"], NFS, address=one["PrivateIpAddress"], members=mine)
                host = f"{target['FileSystemId']}.efs.{place.region}.amazonaws.com"
                filesystems.append((target["FileSystemId"], host, target["IpAddress"], "yes" if admitted else "no"))
        _replace(node.folder / "given/efs", "".join(" ".join(line) + "\n" for line in filesystems))
        _replace(node.folder / "given/metadata", json.dumps(self.metadata(place, one, node)))
        if node.process is None:
            self.boot(one, node)
        self.guard(node, is_open=groups.admits(mine, SSH, address=self.order.here))

    def make(self, place: Place, one: dict[str, Any]) -> Node:
        node = Node(one["InstanceId"], self.folder / "nodes" / one["InstanceId"])
        for path in ("root", "disk/upper", "disk/work", "disk/home", "given"):
            (node.folder / path).mkdir(parents=True)
        (node.folder / "given").chmod(0o700)
        node.boots = self.starts[node.id]
        said = place.ec2.describe_instance_attribute(InstanceId=node.id, Attribute="userData")["UserData"]
        given = {
            "user-data": b64decode(said.get("Value", "")).decode(),
            "meta-data": json.dumps({"instance-id": node.id, "local-hostname": one["PrivateDnsName"].split(".")[0]}),
            "cloud.cfg": CLOUD_CFG,
            # What stands on a real node's way to AWS by itself.
            "environment": f"AWS_ENDPOINT_URL={self.order.endpoint}\n"
            f"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{one['PrivateIpAddress']}:1338\n",
        }
        for name, text in given.items():
            (node.folder / "given" / name).write_text(text)
        for program in (HERE / "inside").glob("*.*"):
            shutil.copy(program, node.folder / "given")
        tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
        for fault in self.faults:
            if tags.get(fault.tag[0]) == fault.tag[1]:
                self.faults.remove(fault)
                node.fault = fault.what
                break
        return node

    def metadata(self, place: Place, one: dict[str, Any], node: Node) -> dict[str, str]:
        said = {
            "/user-data": (node.folder / "given/user-data").read_text(),
            "/meta-data/instance-id": node.id,
            "/meta-data/instance-type": one["InstanceType"],
            "/meta-data/local-ipv4": one["PrivateIpAddress"],
            "/meta-data/local-hostname": one["PrivateDnsName"],
            "/meta-data/placement/region": place.region,
            "/meta-data/placement/availability-zone": one["Placement"]["AvailabilityZone"],
        }
        if node.notice:
            said["/meta-data/spot/instance-action"] = json.dumps({"action": "terminate", "time": node.notice})
        if profile := one.get("IamInstanceProfile"):
            keys = node.credentials
            if not keys or keys["Expiration"] - datetime.now(UTC) < timedelta(minutes=10):
                found = place.iam.get_instance_profile(InstanceProfileName=profile["Arn"].split("/")[-1])
                role = found["InstanceProfile"]["Roles"][0]
                asked = place.sts.assume_role(RoleArn=role["Arn"], RoleSessionName=node.id)
                keys = node.credentials = {"Role": role["RoleName"], **asked["Credentials"]}
            at = "/meta-data/iam/security-credentials/"
            said[at] = keys["Role"]
            said[at + keys["Role"]] = json.dumps(
                {
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "LastUpdated": datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z"),
                    "AccessKeyId": keys["AccessKeyId"],
                    "SecretAccessKey": keys["SecretAccessKey"],
                    "Token": keys["SessionToken"],
                    "Expiration": keys["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            )
        return said

    # The nodes.

    def boot(self, one: dict[str, Any], node: Node) -> None:
        what, _, seconds = node.fault.partition(":")
        hosts = self.folder / "hosts" / one["VpcId"]
        words = [
            SYSTEM, node.folder, self.folder / "efs", hosts, self.order.engine, one["PrivateDnsName"].split(".")[0],
            one["PrivateIpAddress"], "" if what == "die" else node.fault, *self.order.hidden,
        ]  # fmt: skip
        own = ("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/root",
        }
        with (self.consoles / node.id).open("ab") as console:
            node.process = subprocess.Popen(
                [*own, "sh", str(HERE / "node.sh"), *map(str, words)],
                env=env | {"LAYERS": str(self.folder / "layers") if self.order.layers else ""},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        node.boots, node.server = self.starts[node.id], 0
        node.ends = time.monotonic() + float(seconds) if what == "die" else float("inf")
        node.fault = ""

    def guard(self, node: Node, *, is_open: bool) -> None:
        """Where the security group says no, the SSH server stands still: connections are taken, and nobody answers.

        What is connected already stays so, as on AWS.
        """
        if node.is_frozen:
            return
        if not node.server or not _is_process(node.server):
            node.server = next((pid for pid in self.kin(node) if _words(pid).startswith("sshd: /usr/sbin/sshd")), 0)
        if node.server:
            stands = _state(node.server) == "T"
            if is_open and stands:
                os.kill(node.server, signal.SIGCONT)
            elif not is_open and not stands:
                os.kill(node.server, signal.SIGSTOP)

    def kin(self, node: Node) -> list[int]:
        """All processes of a node."""
        if not node.is_on or not node.process:
            return []
        found, among = [], [node.process.pid]
        while among:
            pid = among.pop()
            with contextlib.suppress(OSError):
                children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
                found += children
                among += children
        return found

    def holding(self, words: list[bytes]) -> list[str]:
        """Files on disks, in filesystems and in the memory of nodes in which one of these is."""
        places = [self.folder]
        for node in self.nodes.values():
            for pid in self.kin(node)[:1]:
                root = Path(f"/proc/{pid}/root")
                places += [
                    root / "tmp",
                    root / "dev/shm",
                    *set(root.glob("run/*")) - {root / "run/room", root / "run/efs"},
                ]
        files = [file for place in places for file in (place, *place.rglob("*"))]
        plain = [file for file in files if file.is_file() and not file.is_symlink()]
        return [str(file) for file in plain if any(word in _content(file) for word in words)]

    # What tests ask.

    def answer(self, told: dict[str, Any]) -> Any:
        match told:
            case {"do": "fault", "tag": tag, "what": what}:
                self.faults.append(Fault(tuple(tag), what))
            case {"do": "die", "id": name}:  # and stays dead until it is started again or rebooted
                self.nodes[name].halt()
            case {"do": "freeze" | "thaw" as what, "id": name}:
                self.nodes[name].is_frozen = what == "freeze"
                for pid in self.kin(self.nodes[name]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP if what == "freeze" else signal.SIGCONT)
            case {"do": "notice", "id": name, "seconds": seconds}:
                at = datetime.now(UTC) + timedelta(seconds=seconds)
                self.nodes[name].notice = at.strftime("%Y-%m-%dT%H:%M:%SZ")
            case {"do": "nodes"}:
                return {name: {"on": node.is_on, "boots": node.boots} for name, node in self.nodes.items()}
            case {"do": "files", "filesystem": name}:
                root = self.folder / "efs" / name
                return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
            case {"do": "holding", "words": words}:
                return self.holding([word.encode() for word in words])
            case _:
                raise ValueError(f"What is {told}?")
        self.changed = time.monotonic()
        return None

    def run(self) -> None:
        print(json.dumps("open"), flush=True)
        looked = 0.0
        while True:
            ready, _, _ = select.select([sys.stdin], [], [], NEAR)
            if ready:
                line = sys.stdin.readline()
                if not line:
                    return
                print(json.dumps(self.answer(json.loads(line))), flush=True)
            self.hear()
            calm = time.monotonic() - self.changed > CALM
            if time.monotonic() - looked >= (FAR if calm else NEAR):
                try:
                    self.look()
                except (ClientError, BotoCoreError) as error:  # something went away between two questions
                    print("looking again:", error, file=sys.stderr, flush=True)
                looked = time.monotonic()


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _replace(path: Path, text: str, *, in_place: bool = False) -> None:
    """Where it is another. `in_place`: what is mounted elsewhere stays the file that it is."""
    if path.exists() and path.read_text() == text:
        return
    if in_place:
        path.write_text(text)
        return
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)


def _is_process(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _content(file: Path) -> bytes:
    with contextlib.suppress(OSError):
        return file.read_bytes()
    return b""


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return ""


if __name__ == "__main__":
    Room(Order.of(sys.argv[1])).run()
