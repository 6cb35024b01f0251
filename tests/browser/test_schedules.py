"""A schedule by keyboard, and without JavaScript: its times are shown, it is made, runs, and is deactivated."""

from __future__ import annotations

import os
import re

from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.browser.test_journey import Hands


def test_a_schedule_is_made_by_keyboard_runs_and_is_deactivated(open_desk, portal, lab, cluster):
    url = f"{portal.url}/examples/hostnames"
    job = portal.call("make_job", workspace=lab, cluster=cluster, name="timely", git_url=url, command="hostnames.py")[
        "job"
    ]
    page = open_desk(f"/jobs/{job}/")
    hands = Hands(page)
    hands.to("^Add a schedule").press()
    page.wait_for_url("**/schedules/new/")
    hands.to("^When$").type("30 2 * * *")
    hands.to("^Time zone").type("Europe/Berlin")
    times = page.locator("#times")
    expect(times.locator("li")).to_have_count(10)
    expect(times).to_contain_text("Every day at 02:30, Europe/Berlin")
    expect(times).to_have_attribute("data-say", re.compile("^every day at 02:30, Europe/Berlin. First"))
    assert page.evaluate("document.activeElement.name") == "zone", "what is typed in keeps the focus"
    assert faults(page) == []
    if shots := os.environ.get("SHOTS"):
        page.screenshot(path=f"{shots}/schedule-form-320.png", full_page=True)
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
    if shots:
        page.screenshot(path=f"{shots}/schedule-1280.png", full_page=True)
        page.set_viewport_size({"width": 320, "height": 900})
        page.screenshot(path=f"{shots}/schedule-320.png", full_page=True)
        page.set_viewport_size({"width": 1280, "height": 900})
    hands.to("^Deactivate").press()
    page.wait_for_load_state()
    expect(page.locator("#schedule-state")).to_contain_text("Not active")
    page.goto(f"{portal.url}/jobs/{job}/")
    expect(page.locator("#schedule-list")).to_contain_text("Not active. In the name of Alice.")
    wide = "(one, part) => one.querySelector(part).offsetWidth > 0.8 * one.offsetWidth"
    assert page.locator("#schedule-list .feed > li").evaluate(wide, ".grow"), "it has no status to leave room for"
    assert faults(page) == []

    plain = open_desk(f"/jobs/{job}/schedules/new/", java_script_enabled=False)
    plain.fill("[name=cron]", "0 9 * * 1-5")
    plain.select_option("[name=zone]", "America/New_York")
    plain.click("text=Show the times")
    expect(plain.locator("#times")).to_contain_text("Every weekday at 09:00, America/New_York")
    assert plain.input_value("[name=cron]") == "0 9 * * 1-5"
    plain.click("#save")
    expect(plain.locator("h1")).to_have_text("Every weekday at 09:00, America/New_York")
