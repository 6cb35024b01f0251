"""A schedule by keyboard: its times are shown while it is typed, it is made, deactivated, and fits a small screen."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.browser.test_journey import Hands
from tests.running import until


def test_a_schedule_is_made_looked_at_and_deactivated_by_keyboard(open_desk, portal, lab, cluster):
    run = portal.call("make_run", cluster=cluster, name="on a schedule", git_url=f"{portal.url}/examples/hostnames",
                      command="hostnames.py")  # fmt: skip
    page = open_desk(f"/runs/{run}/", reduced_motion="reduce")
    page.get_by_role("link", name="on a schedule", exact=True).first.click()
    hands = Hands(page)
    hands.to("^Add a schedule").press()
    hands.to("^When$").type("30 2 * * *")
    hands.to("^Time zone").type("Europe/Berlin")
    times = page.locator("#times")
    expect(times.locator("li")).to_have_count(10)
    expect(times).to_contain_text("Every day at 02:30, Europe/Berlin")
    expect(times).to_have_attribute("data-say", re.compile("^every day at 02:30, Europe/Berlin. First"))
    assert page.evaluate("document.activeElement.name") == "zone", "what is typed in keeps the focus"
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    hands.to("^When$").type("61 * * * *")
    expect(times).to_contain_text("This cannot be read: the field minute.")
    hands.to("^When$").type("* * * * *")
    expect(times.locator("li")).to_have_count(10)
    hands.to("^Create schedule").press()
    page.wait_for_url("**/schedules/*/")
    expect(page.locator("#schedule-state")).to_contain_text("Active. Next:")
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(page.locator("#schedule-live tbody .st", has_text="RAN").first).to_be_visible(timeout=120_000)
    hands.to("^Deactivate").press()
    expect(page.locator("#schedule-state")).to_contain_text("Not active")
    page.get_by_role("link", name="on a schedule", exact=True).first.click()
    expect(page.locator("#schedule-list")).to_contain_text("Not active")
    assert faults(page) == []
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", what="the cluster")


def test_a_schedule_is_made_without_javascript(open_desk, portal, lab, cluster):
    run = portal.call("make_run", cluster=cluster, name="without script, on time",
                      git_url=f"{portal.url}/examples/hostnames", command="hostnames.py")  # fmt: skip
    page = open_desk(f"/runs/{run}/", java_script_enabled=False)
    page.get_by_role("link", name="without script, on time", exact=True).first.click()
    page.click("text=Add a schedule")
    page.fill("[name=cron]", "0 9 * * 1-5")
    page.select_option("[name=zone]", "America/New_York")
    page.click("text=Show the times")
    expect(page.locator("#times")).to_contain_text("Every weekday at 09:00, America/New_York")
    assert page.input_value("[name=cron]") == "0 9 * * 1-5"
    page.click("#save")
    expect(page.locator("h1")).to_have_text("Every weekday at 09:00, America/New_York")
