"""From three computers that were there before to a job on them and back, on the pages alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import violations
from tests.browser.test_terminal import enter, shows
from tests.machines.computers import HOME, SHARED, Computers, why_not
from tests.machines.house import make_repository, serving
from tests.running import ROOT, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BASE = f"{SHARED}/coxswain"


@pytest.fixture
def computers():
    if why := why_not():
        pytest.skip(why)
    with Computers(3) as three:
        yield three


@pytest.fixture
def flights(computers, tmp_path):
    """The example, on a Git server that the computers reach."""
    source = ROOT / "jobs/examples/flights"
    make_repository(tmp_path / "flights", {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()})
    with serving(computers, tmp_path) as address:
        yield f"{address}/flights/.git"


def finished(page, seconds=60):
    page.wait_for_selector("#task-head .st:has-text('FINISHED')", timeout=seconds * 1000)


def confirmed_by_name(page, name):
    """A page that destroys asks for the name of what it destroys."""
    page.fill("main [name=name]", name)
    page.click("main form.field button[type=submit]")


def test_three_computers_become_a_cluster_that_finds_the_right_answer_and_are_as_before(
    open_desk, portal, computers, flights
):
    page = open_desk("/cloud-configurations/new/?kind=machines")
    page.set_default_timeout(60_000)
    page.fill("[name=name]", "The desks")
    page.click("button:has-text('Create cloud configuration')")
    page.click("a:has-text('Create pool')")
    config = page.url.split("/")[4]
    page.fill("[name=name]", "desks")
    page.fill("[name=user]", "team")
    page.fill("[name=base]", BASE)
    page.click("button:has-text('Create pool')")

    page.wait_for_selector("#pool-line")
    line = page.text_content("#pool-line").strip()
    for one in computers:
        one.run(page.text_content("#pool-command").strip())
    page.click("a:has-text('Add computers')")
    page.fill("textarea", "\n".join(one.address for one in computers))
    page.click("button:has-text('Add computers')")
    for one in computers:
        expect(page.locator(f"#confirm tr:has-text('{one.address}')")).to_contain_text(
            one.fingerprint(), timeout=30_000
        )
    assert violations(page, preload=False) == []
    for box in page.locator("#confirm tbody input[type=checkbox]").all():
        box.check()
    page.click("button:has-text('Confirm the chosen ones')")
    for one in computers:
        row = page.locator(f"section:has(#computers) tr:has-text('{one.name}')")
        expect(row.locator(".st")).to_have_text("READY", timeout=60_000)
    assert violations(page, preload=False) == []

    page.goto(f"{portal.url}/workspaces/new/")
    page.fill("[name=name]", "on desks")
    page.select_option("[name=cloud_config]", config)
    page.select_option("[name=region]", "desks")
    page.click("button:has-text('Create workspace')")
    finished(page)
    page.click("a:has-text('Open on desks')")
    page.wait_for_url("**/dashboard/")
    workspace = page.url.split("/")[4]

    page.goto(f"{portal.url}/workspaces/{workspace}/clusters/new/")
    page.fill("[name=name]", "trio")
    page.locator("[name=instance_type]").first.check()
    page.fill("[name=node_count]", "3")
    assert "Auto pause" not in page.text_content("main")
    expect(page.locator("main")).to_contain_text("Give back after")
    page.click("button:has-text('Create cluster')")
    finished(page, 240)
    page.click("a:has-text('Open trio')")
    page.wait_for_selector("h1:has-text('trio')")
    cluster = page.url.split("/")[4]
    for one in computers:
        expect(page.locator("main")).to_contain_text(one.name)

    page.goto(f"{portal.url}/workspaces/{workspace}/jobs/new/?cluster={cluster}")
    page.fill("[name=git_url]", flights)
    page.fill("[name=command]", "flights.py")
    page.fill("[name=name]", "flights")
    page.click("#create")
    page.wait_for_url("**/runs/**")
    page.wait_for_selector("#run-head .st:has-text('FINISHED')", timeout=240_000)
    page.wait_for_selector("[data-state]:has-text('Complete: ')")
    assert "answer: right" in page.text_content(".log")

    page.goto(f"{portal.url}/clusters/{cluster}/terminal/")
    expect(page.locator("#terminal-words")).to_have_text("Connected", timeout=30_000)
    enter(page, "ssh desk3 'hostname; pwd' && echo $HOME")
    shows(page, "^desk3$")
    shows(page, rf"{BASE}/{workspace}/.nodes/{cluster}/0$")

    page.goto(f"{portal.url}/clusters/{cluster}/delete/")
    confirmed_by_name(page, "trio")
    finished(page)
    page.goto(f"{portal.url}/workspaces/{workspace}/delete/")
    confirmed_by_name(page, "on desks")
    finished(page)

    for one in computers:
        assert one.path(f"{HOME}/.ssh/authorized_keys").read_text() == f"{line}\n"
        assert one.run("find ~ /tmp -user team -type f").out == f"{HOME}/.ssh/authorized_keys\n"
        mine = [str(process) for process in one.processes("team") if not process.words.startswith("sshd: team")]
        assert mine == []
    until(lambda: not list((computers.shared / "coxswain").iterdir()), what="an empty base folder")
