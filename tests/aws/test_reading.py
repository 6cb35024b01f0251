"""On a node of a cluster that was given a registered role, a program and a run's source read a bucket, without keys."""

from __future__ import annotations

import json
import uuid

import pytest

from jobs.plans import PROGRAMS
from portal import detached, ssh
from portal.clouds import HostKey
from portal.clouds.aws import leftovers, nodes, policy, roles
from portal.clouds.bootstrap import READY
from portal.clouds.types import NodesSpec, WorkspaceSpec
from portal.errors import PortalError
from tests.aws import owner
from tests.aws.box import CUSTOMER, REGION
from tests.aws.test_network import deleted, made, region
from tests.aws.test_nodes import IMAGE, ask
from tests.clouds import hands

pytestmark = pytest.mark.timeout(240)

# By curl, because a node has no SDK before somebody installs one.
READS = """set -eu
base=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -sfX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/api/token)
given=$base/meta-data/iam/security-credentials/
get() { curl -sf -H "X-aws-ec2-metadata-token: $token" "$1"; }
get "$given$(get $given)" > /dev/shm/keys
of() { python3 -c 'import json; print(json.load(open("/dev/shm/keys"))["'$1'"])'; }
signed() {
  service=$1; shift
  curl -sf --aws-sigv4 "aws:amz:REGION:$service" --user "$(of AccessKeyId):$(of SecretAccessKey)" \
    -H "x-amz-security-token: $(of Token)" "$@"
}
test "$(env | grep -c '^AWS_.*KEY')" = 0
signed s3 "$AWS_ENDPOINT_URL/BUCKET/flights/2019.csv"
signed sts -d 'Action=GetCallerIdentity&Version=2011-06-15' "$AWS_ENDPOINT_URL" | grep -o 'assumed-role/[^<]*'
"""


def flights(box, bucket):
    s3 = box.client("s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=bucket, Key="flights/2019.csv", Body=b"ORD,EWR,14\n")


def reads(bucket):
    return READS.replace("REGION", REGION).replace("BUCKET", bucket)


def test_a_program_and_a_run_on_a_node_with_a_registered_role_read_a_bucket_without_keys(box, monkeypatch):
    iam = box.client("iam")
    owner.node_policy(iam)
    bucket = f"flights-{uuid.uuid4().hex[:8]}"
    flights(box, bucket)
    role = owner.role(iam)
    name = role.rpartition("/")[2]
    iam.put_role_policy(RoleName=name, PolicyName="a-bucket", PolicyDocument=json.dumps(policy.use_of_a_bucket(bucket)))
    at = region(box.emulator, CUSTOMER, monkeypatch, image=IMAGE)
    roles.attach(at.session, role)
    workspace = hands.tags()
    where = hands.tags(workspace.workspace, str(uuid.uuid4()))
    made(at, WorkspaceSpec(workspace, choices=(("range", box.net),)))
    key = HostKey(*ssh.new_key("demo-0", "ecdsa-sha2-nistp256"))
    keys = (hands.public("portal"), hands.public("cluster"))
    spec = NodesSpec(where, "demo", "m5.large", (key,), keys, role=role)
    ask(lambda token: nodes.ensure(at, spec, token))
    (node,) = hands.up(_Cloud(at), where, 1)
    host = ssh.Host(node.hostname, node.address, node.port, node.user, hands.private("portal"), key.public)

    def says(command):
        try:
            return ssh.run(host, command, seconds=20)
        except PortalError:
            return None  # it boots

    hands.until(lambda: (answer := says(f"test -e {READY}")) and answer.status == 0, 60)
    answer = says(reads(bucket))
    assert answer.status == 0, answer
    assert answer.text.splitlines() == ["ORD,EWR,14", f"assumed-role/{name}/{node.id}"]
    order = {"git_url": f"s3://{bucket}/flights", "reference": "", "command": ["x"], "cores": 1, "hostfile": "hostfile",
             "engine": "/usr", "shared": node.shared, "environment": {}, "allow_this_machine": False}  # fmt: skip
    folder = f"{node.home}/run"
    detached.start(host, folder, argv=[folder, json.dumps(order)], program="job", programs=PROGRAMS, env={})
    hands.until(lambda: detached.look(host, folder)[0], 30)
    assert says(f"cat {folder}/src/2019.csv").text.splitlines() == ["ORD,EWR,14"], says(f"cat {folder}/log")
    assert "1 file, 11 bytes, sha256 " in says(f"cat {folder}/facts.json").text
    nobody = says(f'curl -s -o /dev/null -w "%{{http_code}}" "$AWS_ENDPOINT_URL/{bucket}/flights/2019.csv"')
    assert nobody.text != "200", "the bucket is not everybody's"

    ask(lambda _: nodes.delete(at, where, None))
    roles.detach(at.session, role)
    deleted(at, workspace)
    assert leftovers.of(at, where) == leftovers.of(at, workspace) == []
    assert owner.attached(iam, role) == []
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["a-bucket"]


class _Cloud:
    def __init__(self, at):
        self.at = at

    def nodes(self, where):
        return nodes.of(self.at, where)
