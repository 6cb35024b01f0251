"""A job with tags that has its cluster paused afterwards: made by keyboard, found by a tag, and the cluster resumed."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.browser.test_journey import Hands
from tests.running import until


@pytest.fixture
def thrift(portal, lab):
    """A cluster that no other test waits for."""
    made = portal.call("make_cluster", workspace=lab, name="thrift", nodes=1, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=made)["status"] == "running", seconds=120, what="it")
    yield made
    portal.call("drop_cluster", cluster=made)


def test_a_job_with_tags_pauses_its_cluster_when_it_has_ended(open_desk, portal, lab, thrift):
    page = open_desk(f"/workspaces/{lab}/jobs/new/?cluster={thrift}")
    hands = Hands(page)
    hands.to("^Pause the cluster when finished").press("Space")
    hands.to("Use the example hostnames").press()
    expect(page.locator("[name=command]")).to_have_value("hostnames.py")
    expect(page.locator("[name=pauses]")).to_be_checked()
    hands.to("^Show advanced").press()
    hands.to("^Tags").type("nightly <b>harbor</b>").press()
    expect(page.locator(".error-summary")).to_contain_text("“<b>harbor</b>” is no tag")
    expect(page.locator("[name=pauses]")).to_be_checked()
    hands.to("^Tags").press()  # the link of the summary leads to the field
    hands.type("nightly, of:harbor").press()
    page.wait_for_url("**/runs/**")
    expect(page.locator("#run-head .st")).to_have_text("FINISHED", timeout=60_000)
    expect(page.locator("#run-facts")).to_contain_text("was paused: nothing else used it")
    until(
        lambda: portal.call("state", kind="cluster", uuid=thrift)["status"] == "paused", seconds=120, what="the pause"
    )
    assert faults(page) == []

    page.goto(f"{portal.url}/workspaces/{lab}/jobs/")
    page.set_viewport_size({"width": 1280, "height": 900})
    hands.to("^Jobs with the tag of:harbor").press()
    page.wait_for_url("**/jobs/?tag=of%3Aharbor")
    expect(page.locator("main tbody tr")).to_have_count(1)
    assert faults(page) == []

    page.goto(f"{portal.url}/clusters/{thrift}/")
    page.set_viewport_size({"width": 1280, "height": 900})
    hands.to("^Resume").press()
    until(
        lambda: portal.call("state", kind="cluster", uuid=thrift)["status"] == "running", seconds=120, what="the resume"
    )
