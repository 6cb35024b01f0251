"""A cluster that nobody uses, as its people see it."""

from __future__ import annotations

import os

from playwright.sync_api import expect

from tests.browser.test_life import look
from tests.running import until


def test_a_warning_comes_by_itself_and_one_click_takes_it_back(portal, lab, cluster, open_desk):
    portal.call("set_timers", cluster=cluster, pause=60, shutdown=180)
    page = open_desk(f"/clusters/{cluster}/")
    expect(page.locator("#activity")).to_contain_text("Idle since")
    portal.call("leave_alone", cluster=cluster, minutes=51)
    warning = page.locator("#idle-warning")
    expect(warning).to_contain_text("It pauses at")
    look(page)
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=f"{folder}/idle.png", full_page=True)
    page.goto(f"{portal.url}/workspaces/{lab}/clusters/")
    expect(page.locator(f"#cluster-{cluster}")).to_contain_text("pauses at")
    look(page)
    if folder:
        page.screenshot(path=f"{folder}/idle-list.png")
    page.goto(f"{portal.url}/clusters/{cluster}/edit/")
    look(page)
    if folder:
        page.screenshot(path=f"{folder}/idle-edit.png", full_page=True)
    page.goto(f"{portal.url}/clusters/{cluster}/")
    warning.get_by_role("button", name="Snooze").click()
    expect(page.locator("#idle-warning")).to_have_count(0)

    portal.call("leave_alone", cluster=cluster, minutes=51)
    expect(warning).to_be_visible()
    portal.call("leave_alone", cluster=cluster, minutes=10)
    expect(page.locator("#cluster-live .st").first).to_have_text("PAUSED", timeout=120_000)
    expect(page.locator("#activity")).to_contain_text("is deleted at")
    look(page)
    page.click("button:has-text('Resume')")
    until(lambda: portal.call("word_of", cluster=cluster) == "RUNNING", what="RUNNING")
    portal.call("set_timers", cluster=cluster)
