"""A cloud configuration in an account of moto's, for tests that go through the portal's plans in one process."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import uuid
from collections import Counter
from collections.abc import Collection
from datetime import timedelta

from django.utils.timezone import now

from portal import secrets, ssh
from portal.clouds.aws import policy, session
from portal.clouds.aws.things import KINDS, listed
from portal.clouds.types import InstanceType
from portal.tasks import ledger
from portal.tasks.models import Step, Task
from tests.aws.box import PORTAL, REGION
from tests.clouds import hands
from workspaces.models import CloudConfig

IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
TYPES = [
    InstanceType("m5.large", "m5", 1, 2, 8, spot=True),
    InstanceType("c5n.18xlarge", "c5n", 36, 72, 192, accelerated_network=True),
    InstanceType("c7g.large", "c7g", 2, 2, 4, architecture="arm64", spot=True),
]
READS = ("Describe", "Get", "List", "Head", "Simulate", "AssumeRole")


def settle(settings, monkeypatch, endpoint, **more):
    """The portal asks this address, and takes nobody's words for its credentials."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "portal")
    settings.AWS = settings.AWS | {
        "endpoint": endpoint, "principal": f"arn:aws:iam::{PORTAL}:role/portal", "addresses": ["127.0.0.1/32"],
        "image": IMAGE, "reach": "public",
    } | more  # fmt: skip
    # A list of 1,400 takes moto seconds; that it is read well is another test's.
    monkeypatch.setattr("portal.clouds.aws.types.ask", lambda at: list(TYPES))


def configuration(moto, harbor, alice, *, number=""):
    """ACTIVE, in an account in which nothing is but its store and, of other people, a network with a node."""
    number = number or str(uuid.uuid4().int)[:12]
    names = {"bucket": f"coxswain-{number}", "table": f"coxswain-{number}", "region": REGION}
    moto.client("s3", number).create_bucket(
        Bucket=names["bucket"], CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    moto.client("dynamodb", number).create_table(
        TableName=names["table"],
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "LockID", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "LockID", "KeyType": "HASH"}],
    )
    moto.client("iam", number).create_policy(
        PolicyName=policy.NODE_POLICY, Path=policy.NODE_PATH, PolicyDocument=json.dumps(policy.NODES)
    )
    ec2 = moto.client("ec2", number)
    vpc = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.99.1.0/24")["Subnet"]["SubnetId"]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, SubnetId=subnet)
    config = CloudConfig.objects.create(
        organization=harbor, name=f"AWS {number}", kind="aws", created_by=alice, checked=now(),
        options={"account": number, "role": f"arn:aws:iam::{number}:role/Coxswain", **names},
    )  # fmt: skip
    secrets.seal(config, "credentials", "external-1")
    config.save()
    return config


class World:
    """What there is in an account, as its owner sees it."""

    def __init__(self, moto, number, bucket):
        self.bucket = bucket
        # Making a client takes longer than all that it is asked.
        self.ec2, self.efs, self.iam, self.s3 = (moto.client(name, number) for name in ("ec2", "efs", "iam", "s3"))

    def things(self):
        """By kind, in its word: the ids."""
        seen = {kind.word: {one[kind.id] for one in listed(self, kind, [])} for kind in KINDS}
        seen["filesystem"] = {one["FileSystemId"] for one in self.efs.describe_file_systems()["FileSystems"]}
        seen["role"] = {one["RoleName"] for one in self.iam.list_roles()["Roles"]}
        profiles = self.iam.list_instance_profiles()["InstanceProfiles"]
        seen["instance profile"] = {one["InstanceProfileName"] for one in profiles}
        objects = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        seen["object"] = {one["Key"] for one in objects}
        return seen

    def every(self, operation, under, **asked):
        """As a `Region` has it."""
        if not self.ec2.can_paginate(operation):
            return list(getattr(self.ec2, operation)(**asked)[under])
        pages = self.ec2.get_paginator(operation).paginate(**asked)
        return list(pages.search(under + ("" if "[" in under else "[]")))


def more(before, after):
    """How many more there are of each kind; of what is gone, how many fewer."""
    counts = Counter({kind: len(ids) for kind, ids in after.items()})
    counts.subtract({kind: len(ids) for kind, ids in before.items()})
    return {kind: count for kind, count in counts.items() if count}


class Nodes:
    """They answer to everything, and remember who there is."""

    def __init__(self, monkeypatch):
        self.names = []
        for name in ("run_on_all", "run_each", "run"):
            monkeypatch.setattr(ssh, name, getattr(self, name))
        monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)

    def run_on_all(self, hosts, command, **_):
        self.names = [host.name for host in hosts]
        return [ssh.Answer(0, f"{host.name}\n".encode(), b"") for host in hosts]

    def run_each(self, calls, **_):
        return [ssh.Answer(0, hands.public(f"own {host.name}").encode(), b"") for host, *_ in calls]

    def run(self, host, command, **_):
        words = b""
        if found := re.search(r"mpiexec -n (\d+)", command):
            cores = int(found[1])
            words = json.dumps([cores, cores * (cores - 1) // 2, sorted(self.names)]).encode()
        return ssh.Answer(0, words, b"")


class Died(BaseException):
    """The process is gone. No code has a chance to tidy up."""


class Deaths:
    """The worker dies right after AWS has changed something: see `begin`."""

    def __init__(self, monkeypatch):
        self.done: list[str] = []  # the operations after which it has died
        self._after: Collection[str] | None = ()
        self._at: int | None = None
        self._every = 0
        make = session._client

        def client(*arguments):
            made = make(*arguments)
            made.meta.events.register("after-call", self._called)
            return made

        monkeypatch.setattr(session, "_client", client)

    def begin(self, *after, at=None, every=0):
        """Once for each operation, or for each of those that are named; or after one call alone, before which there
        are so many, and from then on after one of `every` so many.
        """
        self.done, self._after, self._at, self._every = [], after or None, at, every

    def _called(self, model, http_response, **_):
        if model.name.startswith(READS) or http_response.status_code >= 300:
            return
        if threading.current_thread() is not threading.main_thread():  # whoever renews a lock
            return
        if self._at is not None:
            self._at -= 1
            dies = self._at == -1
            if dies and self._every:
                self._at += self._every
        else:
            dies = model.name not in self.done and (self._after is None or model.name in self._after)
        if dies:
            self.done.append(model.name)
            raise Died(model.name)


def calls():
    """Before which calls somebody dies: every fifth, from the one on that CHAOS_SEED says; EACH_CALL=1: each."""
    if os.environ.get("EACH_CALL"):
        return itertools.count()
    return itertools.count(int(os.environ.get("CHAOS_SEED", "0")) % 5, 5)


def until_death(subject, deaths, rounds=100):
    """Do what is due of its last task. Whether somebody has died of it before it was over."""
    task = Task.objects.get(pk=subject.last_task.pk)
    for _ in range(rounds):
        work(task)
        if deaths.done or task.is_finished:
            break
        Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1))
    subject.refresh_from_db()
    return bool(deaths.done)


def go_on(subject, rounds=400, patient=True):
    """Do what is due until its last task has ended, as if no time passed while it waits; whoever dies is followed.

    Not `patient`: a passing fault has been met for an hour by the next time.
    """
    task = Task.objects.get(pk=subject.last_task.pk)
    for _ in range(rounds):
        work(task)
        if task.is_finished:
            break
        if not patient:
            Step.objects.filter(task=task, faults__gt=0).update(faulty_since=now() - timedelta(hours=1))
        Task.objects.filter(pk=task.pk).update(wake_at=now() - timedelta(seconds=1))
    subject.refresh_from_db()
    return task


def work(task):
    """A worker's turn, which may be its last."""
    try:
        ledger.run_task(task.pk)
    except Died:
        # Each time it is another outage, and not the step's fault.
        Step.objects.filter(task=task).update(deaths=0)
        Task.objects.filter(pk=task.pk, lease__isnull=False).update(lease_until=now() - timedelta(seconds=1))
    task.refresh_from_db()
