"""From the sign-in page to the end of a first job, without touching a mouse."""

from __future__ import annotations

import re

from playwright.sync_api import expect


class Hands:
    """Only keys. `to` presses Tab until the focus is on something of that name."""

    FOCUSED = """() => {
      const e = document.activeElement;
      const label = e.labels?.[0]?.textContent ?? "";
      return (e.ariaLabel ?? label + " " + (e.textContent ?? "")).replace(/\\s+/g, " ").trim();
    }"""

    def __init__(self, page):
        self.page = page

    def to(self, name):
        passed = []
        for _ in range(60):
            self.page.keyboard.press("Tab")
            passed.append(self.page.evaluate(self.FOCUSED)[:60])
            if re.search(name, passed[-1]):
                return self
        raise AssertionError(f"{name} cannot be reached with Tab, only {passed}")

    def type(self, text):
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)
        return self

    def press(self, key="Enter"):
        self.page.keyboard.press(key)
        return self


def test_somebody_without_a_mouse_gets_from_signing_in_to_a_finished_job(portal, browser):
    page = browser.new_page()
    hands = Hands(page)
    page.goto(f"{portal.url}/")
    hands.to("E-mail").type(portal.who["email"])
    hands.to("Password").type(portal.who["password"]).press()
    page.wait_for_url(f"{portal.url}/")

    hands.to("^Skip to content").press()
    assert page.evaluate("document.activeElement.id") == "main"

    page.goto(f"{portal.url}/workspaces/")
    hands.to("Create workspace").press()
    page.wait_for_selector("h1:has-text('Create workspace')")
    hands.to("Workspace name").type("keys only").press()
    page.wait_for_selector("#task-head .st:has-text('FINISHED')")
    hands.to("^Open keys only").press()
    page.wait_for_url("**/dashboard/")

    hands.to("Create cluster").press()
    page.wait_for_selector("h1:has-text('Create cluster')")
    hands.to("^Name").type("pair")
    hands.to(r"^local\.\d")
    while page.evaluate("document.activeElement.value") != "local.1":
        hands.press("ArrowUp")  # a group of radio buttons
    hands.to("Number of nodes").type("2").press()
    page.wait_for_selector("#task-head .st:has-text('FINISHED')", timeout=120_000)
    hands.to("^Open pair").press()

    page.wait_for_selector("h1:has-text('pair')")
    hands.to("Create job").press()
    page.wait_for_selector("h1:has-text('Create job')")
    hands.to("Use the example hostnames").press()
    expect(page.locator("[name=git_url]")).to_have_value(re.compile("/examples/hostnames$"))
    hands.to("^Job name").type("who is there").press()
    page.wait_for_url("**/runs/**")
    page.wait_for_selector("#run-head .st:has-text('FINISHED')", timeout=60_000)
    page.wait_for_selector("[data-state]:has-text('Complete: ')")
    assert "answer: right, 2 ranks" in page.text_content(".log")
    assert page.title().startswith("Finished: who is there, run 1")
    page.close()
