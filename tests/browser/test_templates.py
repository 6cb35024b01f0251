"""Templates: one is made, edited and used by keyboard; on a phone, in both themes."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.browser.test_journey import Hands


def test_a_template_is_made_and_a_job_of_it_runs(open_desk, portal, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/templates/new/")
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    hands = Hands(page)
    hands.to("^Template name").type("Hosts")
    hands.to("^Command").type("hostnames.py {words}")
    hands.to("^Path").type(f"{portal.url}/examples/hostnames")
    page.locator("#id_p-0-name").fill("words")
    page.locator("#id_p-0-default").fill("two words")
    page.locator("#id_p-1-name").fill("rate")
    page.locator("#id_p-1-type").select_option("decimal")
    page.locator("#id_p-1-choices").fill("0, 1")
    hands.to("^Create").press()
    expect(page.locator(".error-summary")).to_be_visible()
    expect(page.locator("body")).to_contain_text("It is used nowhere: write {rate}")
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("#id_command").fill("hostnames.py {words} {rate}")
    hands.to("^Create").press()
    page.wait_for_url(re.compile("/templates/[0-9a-f-]{36}/$"))
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(page.locator("#id_p-words")).to_have_value("two words")
    hands.to("^rate").type("0.25")
    hands.to("^Create and run").press()
    page.wait_for_url("**/runs/**")
    expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED"), timeout=60_000)
    expect(page.locator("#run-facts")).to_contain_text("hostnames.py 'two words' 0.25")
    page.goto(f"{portal.url}/workspaces/{lab}/templates/")
    expect(page.locator("#template-list")).to_contain_text("words, rate")
    assert faults(page) == []
