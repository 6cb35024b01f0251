from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from portal.clouds import Refused
from portal.clouds.aws import keyed
from portal.clouds.aws.account import AwsAccount
from portal.clouds.aws.options import AwsOptions, Reach
from portal.clouds.aws.setup import Setup
from portal.clouds.local import LocalCloud, LocalOptions
from tests.aws.box import CUSTOMER, REGION, Box, settings
from tests.aws.box import why_not as no_nodes
from tests.machines.computers import HOME, SHARED, Computers
from tests.machines.computers import why_not as no_computers

from . import hands


@functools.cache
def why_not(rung):
    """What this computer lacks for nodes of this kind."""
    if rung == "plain":
        return ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            LocalCloud(Path(folder), rung=rung).rung()
        except Refused as error:
            return f"{error.message} {error.evidence}"
    return ""


@pytest.fixture(autouse=True)
def _no_forced_rung(monkeypatch):
    monkeypatch.delenv("PORTAL_LOCAL_RUNG", raising=False)


@pytest.fixture
def local():
    """Makes local clouds and ends everything of them afterwards."""
    made = []
    # Not pytest's tmp_path: it lies in /tmp, which nodes do not see anyway, so hiding would not be tested.
    base = Path(__file__).resolve().parents[2] / "var" if os.access(Path(__file__).parents[2], os.W_OK) else None
    if base is not None:
        base.mkdir(mode=0o700, exist_ok=True)
    data = Path(tempfile.mkdtemp(prefix="test data ", dir=base))

    def make(rung="namespaces", name="local", **options):
        if reason := why_not(rung):
            pytest.skip(reason)
        made.append(LocalCloud(data / name, hidden=[data], rung=rung, options=LocalOptions.of(options)))
        return made[-1]

    yield make
    for cloud in made:
        for workspace in cloud._workspaces():
            for cluster in workspace.clusters():
                cloud.delete_nodes(hands.tags(workspace.path.name, cluster.path.name))
        cloud.power_off()
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session")
def box():
    if why := no_nodes():
        pytest.skip(why)
    with Box() as made:
        yield made


@pytest.fixture(scope="session")
def whole_account(box):
    """Of AWS: connected with an access key of its owner, who has a role called reader."""
    portal = settings(box.endpoint)
    principal = portal["PORTAL_AWS_PRINCIPAL"]
    wanted = Setup(CUSTOMER, REGION, principal, "portal-1", *["coxswain-test"] * 3, "external")
    options = AwsOptions(
        wanted.role_arn, wanted.bucket, wanted.table, REGION, principal, Reach.PRIVATE, ("127.0.0.0/8",), "",
        box.endpoint, "portal-1",
    )  # fmt: skip
    iam = box.client("iam")
    iam.create_user(UserName="owner")
    made = iam.create_access_key(UserName="owner")["AccessKey"]
    by_ec2 = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = {"Version": "2012-10-17", "Statement": by_ec2}
    iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(trust))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, portal[name])
        keyed.make(wanted, options, key=made["AccessKeyId"], secret=made["SecretAccessKey"])
        yield AwsAccount(options, "external")


@pytest.fixture
def aws(whole_account, box):
    """Empty again afterwards."""
    yield whole_account
    cloud = whole_account.cloud(REGION)
    for portal in ("portal-1", "portal-2"):
        # Clusters first: their workspace has the network that they are in.
        for tags in sorted(cloud.owners(portal), key=lambda tags: tags.subject == tags.workspace):
            hands.ask(cloud.delete_nodes, tags)
            hands.ask(whole_account.delete_role, tags)
            if tags.subject == tags.workspace:
                hands.clear(cloud, tags)
        assert cloud.owners(portal) == set()
    for name in whole_account.store.list():
        whole_account.store.delete(name)
    locks = box.client("dynamodb")
    for item in locks.scan(TableName="coxswain-test")["Items"]:
        locks.delete_item(TableName="coxswain-test", Key={"LockID": item["LockID"]})


@pytest.fixture(scope="session")
def five_desks():
    if why := no_computers():
        pytest.skip(why)
    with Computers(5) as five:
        yield five


@pytest.fixture
def desks(five_desks):
    """Computers of a team, without anything of ours."""
    yield five_desks
    for desk in five_desks:
        desk.path(f"{HOME}/.ssh/authorized_keys").write_text("")
        desk.run("pkill -9 -u team . || true; rm -rf /tmp/*", user="root")
    five_desks.computer[0].run(f"rm -rf {SHARED}/*", user="root")
