"""From an invitation to the workspace, by keyboard alone; and the pages of people, as they look."""

from __future__ import annotations

import pytest

from tests.browser.conftest import faults, sign_in, violations


@pytest.fixture
def page_of(portal, browser):
    contexts = []

    def open_one(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.goto(portal.url + path if path.startswith("/") else path)
        return page

    yield open_one
    for context in contexts:
        context.close()


def tab_to(page, selector):
    """Tab until the element has the focus, as somebody without a mouse does."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} cannot be reached by keyboard")


def test_invited_by_keyboard_accepted_by_keyboard_and_in_the_workspace(open_desk, page_of, portal, lab):
    desk = open_desk(f"/workspaces/{lab}/people/")
    tab_to(desk, "textarea[name=emails]")
    desk.keyboard.type("Nina@Example.org")
    tab_to(desk, "main form:has(textarea) button[type=submit]")
    desk.keyboard.press("Enter")
    desk.wait_for_selector("#link-1")
    assert violations(desk) == []
    link = desk.text_content("#link-1").strip()

    guest = page_of(link, timezone_id="Asia/Tokyo")
    assert link.rstrip("/").rsplit("/", 1)[1] not in guest.url
    assert violations(guest) == []
    tab_to(guest, "[name=name]")
    guest.keyboard.type("Nina")
    tab_to(guest, "[name=password]")
    guest.keyboard.type("short")
    guest.keyboard.press("Enter")
    guest.wait_for_selector(".error-summary")
    assert guest.input_value("[name=name]") == "Nina"
    assert violations(guest) == []
    tab_to(guest, "[name=password]")
    guest.keyboard.type("blue tractor sings")
    guest.keyboard.press("Enter")
    guest.wait_for_url(f"**/workspaces/{lab}/dashboard/")
    assert "Welcome to lab" in guest.text_content("main")
    assert violations(guest) == []
    guest.goto(f"{portal.url}/profile/")
    assert guest.input_value("[name=time_zone]") == "Asia/Tokyo", "nobody had to choose it"
    assert not guest.is_visible("[data-take-zone]")

    again = page_of(link)
    assert "no longer works" in again.text_content("h1")
    assert violations(again) == []
    desk.goto(f"{portal.url}/workspaces/{lab}/people/")
    assert "nina@example.org" in desk.text_content("table")


def test_the_profile_offers_the_zone_of_this_browser_where_it_has_another_one(open_desk):
    page = open_desk("/profile/", timezone_id="America/New_York")
    assert violations(page) == []
    tab_to(page, "[data-take-zone]")
    assert page.text_content("[data-take-zone]") == "Use this browser's zone: America/New York"
    page.keyboard.press("Enter")
    assert page.input_value("[name=time_zone]") == "America/New_York"
    assert not page.is_visible("[data-take-zone]")
    page.select_option("[name=time_zone]", "UTC")
    assert page.is_visible("[data-take-zone]")


def test_pages_of_people_and_organizations(open_desk, portal, lab):
    page = open_desk("/people/")
    person = page.get_attribute("main a.name", "href")
    found = {}
    for path in (
        "/people/", person, "/organization/", "/organization/settings/", "/organization/leave/",
        "/organization/delete/", "/organizations/", "/organizations/new/", f"/workspaces/{lab}/people/",
    ):  # fmt: skip
        page.goto(portal.url + path)
        for summary in page.query_selector_all("details.place > summary"):
            if summary.is_visible():
                summary.click()
        if said := faults(page):
            found[path] = said
    assert found == {}


def test_a_tab_that_was_left_behind_says_so_and_leads_back(page_of, portal, lab):
    page = page_of("/accounts/login/")
    sign_in(page, portal)
    page.goto(f"{portal.url}/people/")
    other = page.context.new_page()
    other.goto(f"{portal.url}/organizations/new/")
    other.fill("[name=name]", "Second")
    other.click("main button[type=submit]")
    other.wait_for_url(f"{portal.url}/")
    page.fill("[name=emails]", "otto@example.org")
    page.click("main form:has(textarea) button[type=submit]")
    page.wait_for_selector("h1:has-text('You have switched to Second')")
    assert violations(page) == []
    page.click("text=Switch back to Harbor Analytics")
    page.wait_for_url(f"{portal.url}/")
    page.goto(f"{portal.url}/people/")
    assert "otto@example.org" not in page.text_content("main")
