"""The frame around each page: Go to…, words that a sign-out would have lost, and files that weigh little."""

from __future__ import annotations

import re
import urllib.request

from playwright.sync_api import expect

from tests.browser.conftest import faults, sign_in


def test_go_to_works_by_keyboard_alone(open_desk, lab, portal):
    page = open_desk()
    page.focus("details.menu summary")
    page.keyboard.press("Control+k")
    field = page.get_by_role("dialog", name="Go to").get_by_role("searchbox")
    expect(field).to_be_focused()
    page.keyboard.type("audit")
    expect(page.locator("#go-found a")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#go-found a")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(field).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("details.menu summary")).to_be_focused()
    page.keyboard.press("Control+k")
    page.keyboard.press("Control+a")
    page.keyboard.type("audit")
    expect(page.locator("#go-found a")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url("**/organization/audit/")


def test_axe_finds_nothing_in_the_frames_own_pages(open_desk, portal, lab):
    page = open_desk()
    page.click("[data-go]")
    expect(page.locator("#go-found a").first).to_be_visible()
    found = {"dialog": faults(page)}
    page.goto(f"{portal.url}/cloud-configurations/")
    page.click("a.name")
    for name, path in (
        ("cloud configuration", page.url),
        ("delete it", f"{page.url}delete/"),
        ("settings", f"{portal.url}/workspaces/{lab}/settings/"),
        ("go to", f"{portal.url}/go-to/?q=o"),
    ):
        page.goto(path)
        found[name] = faults(page)
    assert {name: said for name, said in found.items() if said} == {}


def test_go_to_is_a_page_without_javascript(open_desk, lab):
    page = open_desk(java_script_enabled=False)
    page.click("[data-go]")
    page.fill("main [name=q]", "audit")
    page.click("main button[type=submit]")
    page.click(".go-list a")
    page.wait_for_url("**/organization/audit/")


def test_what_was_typed_before_a_sign_out_is_given_back_after_the_sign_in(portal, lab, browser):
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, portal)
    page.goto(f"{portal.url}/workspaces/new/")
    page.fill("[name=name]", "Half a morning's work")
    other = context.new_page()
    other.goto(portal.url)
    other.click("details.menu summary")
    other.click("button:has-text('Sign out')")
    other.wait_for_url("**/accounts/login/**")
    page.click("main button[type=submit]")
    page.wait_for_url("**/accounts/login/**")
    expect(page.locator(".note")).to_contain_text("You were signed out before you sent the form")
    page.fill("[name=login]", portal.who["email"])
    page.fill("[name=password]", portal.who["password"])
    page.click("button:has-text('Sign in')")
    page.wait_for_url("**/workspaces/new/")
    expect(page.locator("main .note")).to_contain_text("This is what you had typed")
    assert page.input_value("[name=name]") == "Half a morning's work"
    page.reload()
    assert page.input_value("[name=name]") == ""
    assert page.evaluate("sessionStorage.getItem('coxswain-typed')") is None
    context.close()


def test_files_are_compressed_and_cached_for_ever(portal):
    page = urllib.request.urlopen(f"{portal.url}/accounts/login/").read().decode()
    for address in re.findall(r'(?:href|src)="(/static/[^"]+\.(?:css|js))"', page):
        request = urllib.request.Request(portal.url + address, headers={"Accept-Encoding": "br"})
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["Content-Encoding"] == "br", address
            assert "immutable" in answer.headers["Cache-Control"], address


def test_a_long_command_in_the_audit_leaves_room_for_who_and_from_where(open_desk, portal, lab, cluster):
    url = f"{portal.url}/examples/hostnames"
    command = f"hostnames.py{300 * ' word'}"
    portal.call("make_job", workspace=lab, cluster=cluster, name="wordy", git_url=url, command=command)
    page = open_desk("/organization/audit/")
    page.set_viewport_size({"width": 1280, "height": 900})
    row = page.locator("tr:has-text('created job')", has_text="wordy").first
    for cell in ("Who", "From"):
        height = row.locator(f"[data-l={cell}] > span").bounding_box()["height"]
        assert height < 70, f"{cell} is {height} pixels high, where two lines or three would do"
