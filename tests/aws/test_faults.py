"""What goes wrong between the portal and AWS, and what the pages say of it: by microburst in front of moto."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html import unescape

import pytest
from django.urls import reverse

from portal import guides
from portal.clouds import connect
from portal.clouds.aws import brake, making, session
from portal.tasks import causes, ledger
from portal.tasks.models import Output
from portal.tasks.output import stream_bytes
from tests.aws import account
from tests.aws.account import go_on, more
from tests.aws.test_crashes import OF_CLUSTER, OF_WORKSPACE, cluster, workspace
from tests.web import words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings"), pytest.mark.timeout(600)]

ANOTHER, CONFIG, AGAIN = "Make one like it with another choice", "Open the cloud configuration", "Try again"
NOBODY = "The cloud does not allow the portal to do this."


@dataclass(frozen=True)
class Fault:
    """AWS answers so, to this operation, so many times; none: always."""

    operation: str
    code: str  # empty: it is done, and the answer is lost
    says: str = ""  # the page's sentence
    guide: str = ""
    ways: tuple[str, ...] = (AGAIN,)
    status: int = 400
    times: int | None = None
    patient: bool = True
    message: str = ""  # AWS's own; empty: its code, and that this was told
    more: dict[str, str] = field(default_factory=dict)
    along: tuple[Fault, ...] = ()  # which the portal gets over before it comes to this one

    def happen(self, faults):
        words = self.more | ({} if self.times is None else {"times": self.times})
        if not self.code:
            faults.lose_reply(self.operation, **words)
        else:
            message = self.message or f"{self.code}, as was told."
            error = {"code": self.code, "status": self.status, "message": message}
            faults.will(operation=self.operation, error=error, **words)


ROOM = "The cloud has no room for these nodes just now."
NODES = "The account's quota does not allow so many nodes."
QUOTA = "A quota of the cloud's is reached."
BUSY = "The cloud takes no more requests of this account just now."
# In the order of the plan's steps: after each, the task is tried again, and meets the next one.
OF_WORKSPACES = [
    Fault("CreateVpc", "VpcLimitExceeded", QUOTA, "quota"),
    Fault("CreateVpc", "RequestLimitExceeded", BUSY, "asked-too-often", status=503, patient=False),
    Fault("CreateSubnet", "UnauthorizedOperation", NOBODY, "not-allowed", (AGAIN, CONFIG), 403),
    Fault("CreateSubnet", "InvalidVpcID.NotFound", "AWS does not know of something that was there.", "not-known-yet",
          patient=False),
    Fault("AllocateAddress", "AddressLimitExceeded", QUOTA, "quota", along=(
        Fault("CreateVpcEndpoint", "", times=1),
        Fault("DescribeSubnets", "RequestLimitExceeded", status=503, times=1),
        Fault("CreateRoute", "InvalidRouteTableID.NotFound", times=1),
    )),
    Fault("CreateFileSystem", "FileSystemLimitExceeded", QUOTA, "quota", status=403, more={"service": "efs"}),
]  # fmt: skip
OF_CLUSTERS = [
    Fault("CreateRole", "LimitExceeded", NODES, "quota", (AGAIN, ANOTHER), 409),
    Fault("CreateRole", "AccessDenied", NOBODY, "not-allowed", (AGAIN, CONFIG), 403),
    Fault("CreatePlacementGroup", "PlacementGroupLimitExceeded", NODES, "quota", (AGAIN, ANOTHER)),
    Fault("RunInstances", "InsufficientInstanceCapacity", ROOM, "no-capacity", (AGAIN, ANOTHER), 500),
    Fault("RunInstances", "Unsupported", ROOM, "no-capacity", (AGAIN, ANOTHER)),
    Fault("RunInstances", "VcpuLimitExceeded", NODES, "quota", (AGAIN, ANOTHER)),
    Fault("RunInstances", "UnauthorizedOperation", NOBODY, "not-allowed", (AGAIN, CONFIG), 403),
    Fault("RunInstances", "InvalidAMIID.NotFound", "The image of the nodes is not there any more.", "wrong-image",
          (AGAIN, ANOTHER)),
    Fault("RunInstances", "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
          "The account has no service-linked role for spot nodes yet, and the portal may not make it.",
          "service-linked-role", (AGAIN, CONFIG), 403),
    Fault("DescribeInstances", "AuthFailure", "AWS does not know who the portal is.", "not-trusted", (AGAIN, CONFIG),
          401),
    Fault("DescribeInstances", "InternalError", "AWS cannot do this just now.", "not-known-yet", status=500,
          patient=False),
    Fault("DescribeInstances", "RequestLimitExceeded", BUSY, "asked-too-often", status=503, patient=False),
]  # fmt: skip
# What the portal gets over by itself, all at once; each so many times. Without a code, the answer is lost.
PASSING_OF_WORKSPACES = [Fault("CreateFileSystem", "", times=1, more={"service": "efs"})]
PASSING_OF_CLUSTERS = [
    Fault("RunInstances", "InvalidParameterValue", times=1,
          message="Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"),
    Fault("RunInstances", "InvalidSecurityGroupID.NotFound", times=1),
    Fault("RunInstances", "RequestLimitExceeded", status=503, times=1),
    Fault("RunInstances", "", times=2),
    Fault("CreateTags", "InvalidInstanceID.NotFound", times=1),
    Fault("DescribeInstances", "InternalError", status=500, times=2),
]  # fmt: skip


@pytest.fixture
def portal(moto, faults, settings, monkeypatch):
    account.settle(settings, monkeypatch, faults.endpoint)
    account.Nodes(monkeypatch)
    monkeypatch.setattr(making, "MOST_ZONES", 2)
    session.portal_session.cache_clear()
    connect.cache_clear()
    monkeypatch.setattr(brake, "FIRST", 0.05)
    yield
    session.portal_session.cache_clear()
    connect.cache_clear()


def go_through(subject, table, passing, faults, client, by):
    """Each fault of the table ends the task, which is tried again; those that pass do not. What is wrong with that."""
    wrong = []
    for number, fault in enumerate(table):
        faults.clear()
        connect.cache_clear()  # another process: what was slowed down by the one before is not
        for one in (fault, *fault.along):
            one.happen(faults)
        if number:
            ledger.retry_task(subject.last_task, by=by)
        task = go_on(subject, patient=fault.patient)
        wrong += [(fault.operation, fault.code, one) for one in check(fault, faults, client, task)]
    faults.clear()
    connect.cache_clear()
    for fault in passing:
        fault.happen(faults)
    ledger.retry_task(subject.last_task, by=by)
    task = go_on(subject)
    fired, due = Counter(faults.fired()), Counter()
    for fault in passing:
        due[fault.operation] += fault.times
    if (task.status, fired) != ("finished", due):
        wrong.append((task.status, task.cause, task.evidence, fired))
    return wrong


def check(fault, faults, client, task):
    """What is wrong with what the page of the task says."""
    if missing := {one.operation for one in (fault, *fault.along)} - {*faults.fired()}:
        yield f"they did not happen: {missing}"
    if task.status != "failed":
        yield f"{task.status}: {b''.join(stream_bytes(Output.objects.get(pk=task.output_id)))!r}"
        return
    page = unescape(words(client.get(reverse("task", args=[task.uuid]))))
    link = f'href="{reverse("aws-guide")}#{fault.guide}"'
    for wanted in (fault.says, fault.code, f"{fault.code}, as was told.", link, *fault.ways):
        if wanted not in page:
            yield f"{wanted!r} is not on the page: {task.cause!r} {task.evidence!r}"
    for way in {ANOTHER, CONFIG} - {*fault.ways}:
        if way in page:
            yield f"{way!r} is on the page and does not help"


@pytest.mark.slow
def test_each_fault_is_said_with_its_cause_aws_words_and_a_way_on_or_is_got_over_and_nothing_is_there_twice(
    moto, faults, portal, harbor, alice, client
):
    config = account.configuration(moto, harbor, alice)
    world = account.World(moto, config.options["account"], config.options["bucket"])
    client.force_login(alice)
    before = world.things()
    sea = workspace(config, alice)
    assert go_through(sea, OF_WORKSPACES, PASSING_OF_WORKSPACES, faults, client, alice) == []
    empty = world.things()
    assert more(before, empty) == OF_WORKSPACE
    tide = cluster(sea, alice)
    assert go_through(tide, OF_CLUSTERS, PASSING_OF_CLUSTERS, faults, client, alice) == []
    assert more(empty, world.things()) == OF_CLUSTER


def test_a_role_that_does_not_trust_the_portal_any_more(moto, faults, portal, harbor, alice, client):
    config = account.configuration(moto, harbor, alice)
    client.force_login(alice)
    fault = Fault("AssumeRole", "AccessDenied", "AWS does not let the portal take on its role in the account.",
                  "not-trusted", (AGAIN, CONFIG), 403)  # fmt: skip
    fault.happen(faults)
    sea = workspace(config, alice)
    assert list(check(fault, faults, client, go_on(sea))) == []


def test_each_link_to_the_guide_leads_to_a_section_of_it(client, alice):
    client.force_login(alice)
    page = client.get(reverse("aws-guide")).content.decode()
    anchors = {anchor for anchor, _, _ in guides.read(guides.AWS)[1] if anchor}
    assert {*causes.guides()["aws"].values()} | {"clean-up-by-hand"} == anchors
    assert all(f'<section id="{anchor}"' in page for anchor in anchors)
    assert "<code>InsufficientInstanceCapacity</code>" in page
    order = page.partition('<section id="clean-up-by-hand"')[2]
    assert order.count("<li>", order.index("<ol>"), order.index("</ol>")) == 9
