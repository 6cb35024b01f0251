"""Filling in the form that makes a cluster: by keyboard, on a desk and on a phone, with and without JavaScript."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.test_accounts import tab_to
from tests.browser.test_life import look
from tests.running import until


@pytest.fixture
def market(open_desk, portal, lab):
    """The form, on a cloud with 1,400 instance types; and what was asked of it."""
    asked = []

    def answer(route):
        request = route.request
        where = urlsplit(request.url)
        asked.append(request.method)
        headers = request.all_headers()
        route.fulfill(
            **portal.call(
                "market",
                method=request.method,
                path=f"{where.path}?{where.query}",
                cookie=headers.get("cookie", ""),
                target=headers.get("hx-target", ""),
                body=request.post_data or "",
            )
        )

    def open_one(**options):
        page = open_desk("/", **options)
        page.route("**/clusters/new/**", answer)
        page.goto(f"{portal.url}/workspaces/{lab}/clusters/new/")
        page.asked = asked
        return page

    return open_one


def test_a_cluster_is_made_by_keyboard_alone(open_desk, portal, lab):
    page = open_desk(f"/workspaces/{lab}/clusters/new/")
    look(page)
    tab_to(page, "#id_name")
    page.keyboard.type("laver")
    tab_to(page, "[name=instance_type]")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    tab_to(page, "#id_node_count")
    page.keyboard.type("1")
    expect(page.locator("#estimate")).to_contain_text("1 × local.")
    assert page.evaluate("document.activeElement.id") == "id_node_count", "the plan takes no focus"
    tab_to(page, "#id_auto_pause_0")
    page.keyboard.type("45")
    page.keyboard.press("Tab")
    page.keyboard.type("Min")
    tab_to(page, "summary")
    while "advanced" not in page.evaluate("document.activeElement.textContent"):
        tab_to(page, "summary")
    page.keyboard.press("Enter")
    tab_to(page, "#id_extra_tags")
    page.keyboard.type("project=laver")
    tab_to(page, "#id_description")
    page.keyboard.type("Under water")
    look(page)
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks/**")
    until(lambda: page.locator("#task-head .st:has-text('FINISHED')").count(), seconds=120, what="the cluster")
    cluster = portal.call("choices", name="laver")
    assert cluster == {
        "nodes": 1, "description": "Under water", "auto_pause": 45, "auto_shutdown": 0, "tags": {"project": "laver"},
    }  # fmt: skip
    page.click("#task-head a:has-text('Open laver')")
    page.click("#menu > summary")
    page.click("#menu a:has-text('Create one like this')")
    page.wait_for_selector("h1:has-text('Create cluster')")
    assert page.input_value("#id_name") == "laver-2"
    assert page.input_value("#id_auto_pause_0") == "45"
    expect(page.locator("#id_description")).to_be_visible()
    expect(page.locator("#estimate")).to_contain_text("1 × local.")


def test_of_1400_types_one_is_found_and_chosen_by_keyboard_and_nothing_is_made_by_looking(market):
    page = market()
    look(page)
    expect(page.locator("#types")).to_contain_text("1,400 instance types")
    tab_to(page, "#id_find")
    page.keyboard.type("c5n 9x")
    expect(page.locator("#types")).to_contain_text("1 of 1,400 instance types")
    expect(page.locator("#said")).to_have_text("1 of 1,400 instance types")
    assert page.evaluate("document.activeElement.id") == "id_find"
    page.keyboard.press("Enter")
    expect(page.locator("[name=instance_type]")).to_have_count(2)  # with the one that is chosen so far
    look(page)
    page.focus("[name=instance_type][value='c5n.9xlarge']")
    page.keyboard.press("Space")
    expect(page.locator("#estimate")).to_contain_text("2 × c5n.9xlarge")
    expect(page.locator("#estimate")).to_contain_text("$1.80 / h")
    expect(page.locator("#said")).to_have_text("2 × c5n.9xlarge: 36 cores, $1.80 an hour")
    page.fill("#id_node_count", "20")
    expect(page.locator("#estimate")).to_contain_text("It cannot be had. 20 of these are over your quota.")
    look(page)
    assert set(page.asked) == {"GET"}
    page.focus("#id_name")
    page.keyboard.type("Kelp!")
    page.keyboard.press("Enter")
    page.wait_for_selector(".error-summary")
    assert page.asked[-1] == "POST", "in any other field Enter creates"
    assert page.locator("[value='c5n.9xlarge']").is_checked()
    assert page.input_value("#id_name") == "Kelp!"


def test_it_all_works_without_javascript(market):
    page = market(java_script_enabled=False)
    page.fill("#id_name", "laver")
    page.fill("#id_find", "r5n.24x")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.input_value("#id_name") == "laver"
    page.check("[value='r5n.24xlarge']")
    page.fill("#id_node_count", "3")
    with page.expect_navigation():
        page.click("button:has-text('Work it out again')")
    assert "3 × r5n.24xlarge" in page.text_content("#estimate")
    page.click("summary:has-text('Snowflake')")
    with page.expect_navigation():
        page.click("button[value=XS]")
    assert page.locator("[value='c5n.2xlarge']").is_checked()
    assert "This is a starting point only" in page.text_content("main")
    assert page.input_value("#id_name") == "laver"
