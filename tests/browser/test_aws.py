"""From an AWS account to the right answer of a job, and back to nothing, on the pages of a whole portal.

AWS is an emulator with a real node behind each instance; the account's owner does by its API what the pages say.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.aws import owner
from tests.aws.account import World, more
from tests.aws.box import CUSTOMER, REGION, Box, why_not
from tests.aws.test_reading import flights, reads
from tests.aws.test_whole import becomes
from tests.browser import private
from tests.browser.conftest import faults, sign_in
from tests.browser.test_dedicated import has_no_job_clusters
from tests.running import RunningPortal, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MINUTES = 60_000  # ms
KIND = "m5.large"  # one core
TOKEN = "canary-of-a-token-0123456789"


@pytest.fixture(scope="session")
def box():
    if why := why_not():
        pytest.skip(why)
    with Box() as made:
        yield made


@pytest.fixture(scope="session")
def portal(box):
    folder = Path(tempfile.mkdtemp(prefix="cx-browser-aws-"))
    portal = RunningPortal(folder, collected=True, **box.settings).start()
    portal.who = portal.call("setup")
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def session_cookies(portal, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{portal.url}/accounts/login/")
    expect(page.locator("aside.emulated")).to_contain_text("Emulated.")
    sign_in(page, portal)
    cookies = context.cookies()
    context.close()
    return cookies


@pytest.fixture
def open_desk(open_desk):
    """Some pages ask AWS before they answer, which is an emulator here and has one turn at a time."""

    def open_one(*arguments, **options):
        page = open_desk(*arguments, **options)
        page.set_default_timeout(3 * MINUTES)
        return page

    return open_one


def look(page):
    """A page at two widths and in both themes; and it says that nothing here is AWS."""
    expect(page.locator("aside.emulated")).to_contain_text("Emulated.")
    assert faults(page, preload=False) == []
    page.set_viewport_size({"width": 1280, "height": 900})


def begin(page, portal, name):
    """A configuration of which only the account is known. Its id; the page says how to go on."""
    page.goto(f"{portal.url}/cloud-configurations/new/?kind=aws")
    page.fill("[name=name]", name)
    page.fill("[name=account]", CUSTOMER)
    page.fill("[name=region]", REGION)
    page.click("button:has-text('Create cloud configuration')")
    page.wait_for_selector("#external-id")
    return page.url.split("/")[4]


def is_active(page, portal, config):
    """Without anybody touching it; then on its page."""
    until(lambda: portal.call("config_badge", config=config)[0] == "ACTIVE", seconds=180, what="an ACTIVE one")
    page.goto(f"{portal.url}/cloud-configurations/{config}/")
    expect(page.locator("main .st").first).to_have_text("ACTIVE")


def made_as_shown(page, box):
    """What its owner makes, of what the page shows and has filled in: the role with its policies, bucket, table."""
    role = page.input_value("[name=role]").rpartition("/")[2]
    bucket, table = page.input_value("[name=bucket]"), page.input_value("[name=table]")
    iam, s3 = box.client("iam"), box.client("s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(blocked, True))
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    box.client("dynamodb").create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "LockID", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "LockID", "KeyType": "HASH"}],
    )
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=page.text_content("#trust"))
    for heading in page.locator("h3:has-text('Permission policy')").all():
        name = heading.text_content().rpartition(" ")[2]
        arn = iam.create_policy(PolicyName=name, PolicyDocument=page.text_content(f"[id='{name}']"))["Policy"]["Arn"]
        iam.attach_role_policy(RoleName=role, PolicyArn=arn)


def test_an_account_is_connected_in_three_ways(open_desk, portal, box):
    page = open_desk("/")
    config = begin(page, portal, "By hand")
    page.click("a:has-text('Manually')")
    page.click("button:has-text('Validate')")
    expect(page.locator("[role=status] .note-bad, [role=status] .t-bad").first).to_be_visible()
    expect(page.locator("button[name=finish]")).to_be_disabled()
    look(page)
    made_as_shown(page, box)
    page.click("button:has-text('Validate')")
    expect(page.locator("text=Everything is there. Finish it.")).to_be_visible()
    page.click("button[name=finish]")
    is_active(page, portal, config)
    look(page)

    config = begin(page, portal, "By a key")
    page.click("a:has-text('With an access key')")
    iam = box.client("iam")
    iam.create_user(UserName="owner")
    key = iam.create_access_key(UserName="owner")["AccessKey"]
    page.fill("[name=key]", key["AccessKeyId"])
    page.fill("[name=secret]", key["SecretAccessKey"])
    look(page)
    page.click("button:has-text('Make everything')")
    is_active(page, portal, config)
    assert key["SecretAccessKey"] not in portal.call("dump_database") + portal.call("dump_queue") + portal.log()

    config = begin(page, portal, "By a stack")
    with page.expect_download() as download:
        page.click("a:has-text('Download the template')")
    template = download.value.path().read_text()
    stack = page.locator("#launch").text_content().partition("--stack-name ")[2].split()[0]
    page.click("button:has-text('The stack is launched')")
    expect(page.locator("#aws-live")).to_contain_text("The portal tries the role every few seconds")
    look(page)
    policies = [{"ParameterKey": "NodePolicy", "ParameterValue": "is there"}]  # by the key
    box.client("cloudformation").create_stack(
        StackName=stack, TemplateBody=template, Parameters=policies, Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    expect(page.locator("#aws-live .st")).to_have_text("ACTIVE", timeout=3 * MINUTES)
    is_active(page, portal, config)


@pytest.fixture(scope="session")
def config(portal, box):
    """An account that is connected."""
    words = {"account": CUSTOMER, "region": REGION}
    iam = box.client("iam")
    iam.create_user(UserName="second owner")
    key = iam.create_access_key(UserName="second owner")["AccessKey"]
    made = portal.call("open_account", **words, key=key["AccessKeyId"], secret=key["SecretAccessKey"])
    until(lambda: portal.call("config_badge", config=made)[0] == "ACTIVE", seconds=180, what="an ACTIVE one")
    return made


@pytest.fixture
def workspace(open_desk, box, config):
    page = open_desk("/workspaces/new/")
    page.fill("[name=name]", "in AWS")
    page.select_option("[name=cloud_config]", config)
    page.fill("[name=range]", box.net)
    page.select_option("[name=region]", REGION)
    look(page)
    page.click("button:has-text('Create workspace')")
    finished(page)
    page.click("a:has-text('Open in AWS')")
    page.wait_for_url("**/dashboard/")
    return page.url.split("/")[4]


def finished(page):
    expect(page.locator("#task-head .st")).to_have_text(re.compile("FINISHED|FAILED"), timeout=6 * MINUTES)
    head = page.locator("main").inner_text()
    assert page.locator("#task-head .st").inner_text() == "FINISHED", head


def changed(page, portal, cluster, button, word):
    """By a button of its page."""
    page.goto(f"{portal.url}/clusters/{cluster}/")
    page.click(f"main button:has-text('{button}')")
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == word, seconds=360, what=word)
    page.goto(f"{portal.url}/clusters/{cluster}/")
    expect(page.locator("#cluster-live .st").first).to_have_text(word.upper())


def confirmed_by_name(page, name):
    page.fill("main [name=name]", name)
    page.click("main form.field button[type=submit]")


def states(box):
    """Of all instances of the account."""
    pages = box.client("ec2").get_paginator("describe_instances").paginate()
    return [one["State"]["Name"] for page in pages for many in page["Reservations"] for one in many["Instances"]]


def reader(page, portal, box, workspace, bucket):
    """A cluster of one node with a role that is registered on the page; its id and the role's."""
    arn = owner.role(box.client("iam"))
    page.goto(f"{portal.url}/workspaces/{workspace}/instance-roles/new/")
    page.fill("[name=name]", "reader")
    page.fill("[name=arn]", arn)
    look(page)
    page.click("main button:has-text('Create instance role')")
    page.wait_for_url(re.compile("/(tasks|instance-roles)/[0-9a-f-]{36}/"))
    page.goto(f"{portal.url}/workspaces/{workspace}/instance-roles/")
    page.click("main a:has-text('reader')")
    expect(page.locator("#role-live .st").first).to_have_text("ACTIVE", timeout=2 * MINUTES)
    role = page.url.split("/")[4]
    look(page)
    flights(box, bucket)
    page.click("a:has-text('Create a cluster with it')")
    page.fill("[name=name]", "reef")
    page.fill("#id_find", KIND)
    page.click(f"[name=instance_type][value='{KIND}']")
    page.fill("[name=node_count]", "1")
    assert page.input_value("[name=role]") == arn
    page.click("button:has-text('Create cluster')")
    finished(page)
    page.click("a:has-text('Open reef')")
    page.wait_for_selector("h1:has-text('reef')")
    expect(page.locator("main a:has-text('reader')").first).to_have_attribute("href", f"/instance-roles/{role}/")
    return page.url.split("/")[4], arn


def test_a_job_finds_the_right_answer_on_a_cluster_in_aws_and_nothing_is_left(open_desk, portal, box, workspace):
    foreign = box.client("ec2").create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    portal.call("forget_lists")
    page = open_desk(f"/workspaces/{workspace}/clusters/new/")
    expect(page.locator("#types")).to_contain_text("It is still being asked")
    page.fill("[name=name]", "trio")
    page.fill("[name=node_count]", "3")
    expect(page.locator("#id_find")).to_be_visible(timeout=4 * MINUTES)  # the emulator has 1,400 types, in one list
    assert (page.input_value("[name=name]"), page.input_value("[name=node_count]")) == ("trio", "3")
    expect(page.locator("[name=node_count]")).to_be_focused()
    assert page.locator("[name=zone] option").count() == 4, "any, and three of the region"
    expect(page.locator("#starts summary")).to_be_visible()
    expect(page.locator("#estimate")).to_contain_text("3 × ")
    page.fill("#id_find", KIND)
    page.click(f"[name=instance_type][value='{KIND}']")
    expect(page.locator("#estimate")).to_contain_text(f"3 × {KIND}")
    look(page)
    page.click("button:has-text('Create cluster')")
    finished(page)
    page.click("a:has-text('Open trio')")
    page.wait_for_selector("h1:has-text('trio')")
    cluster = page.url.split("/")[4]
    look(page)

    page.goto(f"{portal.url}/workspaces/{workspace}/jobs/new/?cluster={cluster}")
    page.fill("[name=git_url]", f"{portal.url}/examples/flights")
    page.fill("[name=command]", "flights.py")
    page.fill("[name=name]", "flights")
    page.click("#create")
    until(lambda: "/runs/" in page.url or page.locator(".error-summary").count(), seconds=120, what="an answer")
    assert "/runs/" in page.url, page.inner_text("main")
    expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED|FAILED"), timeout=12 * MINUTES)
    page.wait_for_selector("[data-state]:has-text('Complete: ')")
    assert "answer: right" in page.text_content(".log")
    look(page)

    changed(page, portal, cluster, "Pause", "paused")
    assert sorted(states(box)) == ["stopped"] * 3
    changed(page, portal, cluster, "Resume", "running")
    page.goto(f"{portal.url}/clusters/{cluster}/scale/")
    page.fill("[name=node_count]", "4")
    page.click("main form button[type=submit]")
    finished(page)
    assert states(box) == ["running"] * 4

    bucket = f"flights-{workspace[:8]}"
    reef, arn = reader(page, portal, box, workspace, bucket)
    read = portal.call("on_node", cluster=reef, command=reads(bucket))
    line, who = read["out"].splitlines()
    assert (read["status"], line, who.split("/")[:2]) == (0, "ORD,EWR,14", ["assumed-role", arn.partition("/")[2]]), (
        read
    )
    nobody = portal.call("on_node", cluster=reef, command=f'curl -sf "$AWS_ENDPOINT_URL/{bucket}/flights/2019.csv"')
    assert nobody["status"] != 0, "the bucket is everybody's"
    page.goto(f"{portal.url}/clusters/{reef}/delete/")
    confirmed_by_name(page, "reef")
    finished(page)

    made = portal.call(
        "make_dedicated", workspace=workspace, git_url=f"{portal.url}/examples/hostnames", command="hostnames.py",
        name="alone", instance_type=KIND, credential=["alice", TOKEN],
    )  # fmt: skip
    page.goto(f"{portal.url}/runs/{made['run']}/")
    expect(page.locator("#run-head .st")).to_have_text("INPROGRESS", timeout=6 * MINUTES)
    expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED|FAILED"), timeout=3 * MINUTES)
    page.wait_for_selector("[data-state]:has-text('Complete: ')")
    assert "answer: right, 2 ranks" in page.text_content(".log")
    until(lambda: states(box).count("terminated") == 3, seconds=120, what="the end of its cluster")
    kept = [portal.call("dump_database"), portal.call("dump_queue"), portal.log(), page.content()]
    kept += [path.read_text(errors="replace") for path in (*box.folder.glob("consoles/*"), box.folder / "recording")]
    assert [text[max(0, text.find(TOKEN) - 80) :][:200] for text in kept if TOKEN in text] == []

    page.goto(f"{portal.url}/clusters/{cluster}/delete/")
    confirmed_by_name(page, "trio")
    finished(page)
    page.goto(f"{portal.url}/workspaces/{workspace}/delete/")
    confirmed_by_name(page, "in AWS")
    finished(page)
    assert owner.attached(box.client("iam"), arn) == []
    assert box.client("s3").get_object(Bucket=bucket, Key="flights/2019.csv")["Body"].read() == b"ORD,EWR,14\n"
    assert left(box) == {"vpcs": [foreign], "instances": set(), "files": [], "profiles": [], "templates": []}


def left(box):
    ec2, iam = box.client("ec2"), box.client("iam")
    return {
        "vpcs": [one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if not one.get("IsDefault")],
        "instances": set(states(box)) - {"terminated"},
        "files": box.client("efs").describe_file_systems()["FileSystems"],
        "profiles": iam.list_instance_profiles()["InstanceProfiles"],
        "templates": ec2.describe_launch_templates()["LaunchTemplates"],
    }


def choose(page):
    expect(page.locator("#id_find")).to_be_visible(timeout=4 * MINUTES)
    page.fill("#id_find", KIND)
    page.click(f"[name=own-instance_type][value='{KIND}']")


def test_a_private_program_on_a_cluster_of_its_own_at_its_time_and_its_token_is_nowhere(
    open_desk, portal, box, config, tmp_path
):
    workspace = portal.call("make_workspace", name="private", uuid=config, choices={"range": box.net})
    becomes(portal, "workspace", workspace, "ready")
    world = World(box, CUSTOMER, portal.call("bucket_of", config=config))
    page = open_desk(f"/workspaces/{workspace}/jobs/new/", timezone_id="UTC")
    with private.forge(tmp_path) as forge:
        private.asked(page, forge, choose, checked="which only the nodes can look into")
        run = page.url.split("/")[4]
        beside = open_desk(f"/workspaces/{workspace}/clusters/?tab=jobs")
        row = beside.locator("tbody tr", has_text="private-1")
        expect(row).to_have_count(1)
        before = world.things()
        portal.call("bring_near", run=run, seconds=5)
        expect(page.locator("#run-head")).to_contain_text(re.compile("is (about to be|being) made"))
        private.is_running(page, forge, minutes=6)
        assert more(before, world.things())["instance"] == 2
        beside.reload()
        expect(row).to_contain_text("RUNNING")
        cluster = row.locator("a.name").get_attribute("href")
        job = f"/jobs/{portal.call('job_of', run=run)}/"
        for path in (cluster, job, f"/workspaces/{workspace}/jobs/", f"/workspaces/{workspace}/clusters/?tab=jobs"):
            beside.goto(portal.url + path)
            private.is_not_in(forge, beside.content())
        is_nowhere(portal, box, forge)
        assert box.tell("holding", words=[forge.asks_for[1][::-1]]), "whoever looks finds what the program was told"

        private.ends(page, forge, minutes=4)
        has_no_job_clusters(beside, portal, workspace)
        after = world.things()
        kept = after.pop("object") - before.pop("object")
        assert (more(before, after), [name for name in kept if "deployments/" in name]) == ({}, []), "outputs alone"
        is_nowhere(portal, box, forge)
        page.reload()
        expect(page.locator(".log")).to_contain_text(private.FOUND_NOTHING)
    portal.call("drop_workspace", workspace=workspace)
    becomes(portal, "workspace", workspace, "terminated")


def is_nowhere(portal, box, forge):
    """In what the portal keeps and writes, on a node, in a filesystem, in what was asked of AWS."""
    words = [word.decode() for word in private.shapes(forge)]
    assert box.tell("holding", words=words) == []
    private.is_not_in(forge, portal.call("dump_database"), portal.call("dump_queue"))
    assert private.holding(forge, [portal.folder / "log", *portal.var.rglob("*"), *box.folder.rglob("*")]) == []
