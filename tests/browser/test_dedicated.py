"""A job with a cluster of its own: asked for by keyboard alone, on a desk and on a phone, and without JavaScript."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.browser.test_journey import Hands
from tests.running import until

GONE = "text=No job has a cluster of its own now"


def has_no_job_clusters(page, portal, lab):
    def look():
        page.goto(f"{portal.url}/workspaces/{lab}/clusters/?tab=jobs")
        return page.locator(GONE).count()

    until(look, seconds=60, what="the end of the cluster")


def test_a_cluster_for_one_run_is_asked_for_by_keyboard_and_is_gone_when_the_run_is_over(
    open_desk, portal, lab, cluster
):
    page = open_desk(f"/workspaces/{lab}/jobs/new/")
    hands = Hands(page)
    hands.to("^Job name").type("On its own")
    hands.to("^New cluster, for this job alone").press()
    expect(page.locator("#own-title")).to_be_visible()
    expect(page.locator("#id_cluster")).to_be_focused()
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    hands.to("^Number of nodes").type("2")
    hands.to("^Use it").press()
    expect(page.locator("#cluster-choice")).to_contain_text("A new one for each run: 2 × local.")
    expect(page.locator("#id_cluster")).to_be_focused()
    assert page.input_value("[name=name]") == "On its own"
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    hands.to("^Command").type("hostnames.py")
    hands.to("^Path").type(f"{portal.url}/examples/hostnames/tree/main")
    hands.to("^Check").press()
    expect(page.locator("#checked")).to_contain_text("It has hostnames.py.")
    hands.to("^Show advanced").press()
    hands.to("^Name 1").type("TIDE")
    hands.to("^Value 1").type("low")
    hands.to("^Add more").press()
    assert page.evaluate("document.activeElement.ariaLabel") == "Name 2"
    hands.to("^Number of ranks").type("1")
    hands.to("^These are").press("ArrowDown")
    assert faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    hands.to("^Create").press()
    page.wait_for_url("**/runs/**")
    expect(page.locator("#run-head")).to_contain_text(re.compile("is (about to be|being) made"))

    beside = open_desk(f"/workspaces/{lab}/clusters/?tab=jobs")
    row = beside.locator("tbody tr", has_text="on-its-own-1")
    expect(row).to_contain_text("for On its own, run 1")
    assert faults(beside) == []
    row.locator("a.name").click()
    expect(beside.locator("#cluster-live")).to_contain_text("It belongs to On its own, run 1.")
    assert beside.locator("text=Create job").count() == 0

    expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED"), timeout=120_000)
    facts = page.locator("#run-facts")
    expect(facts).to_contain_text("TIDE=low")
    expect(facts).to_contain_text("mpiexec -n 2 python hostnames.py")  # one on each node
    has_no_job_clusters(beside, portal, lab)
    beside.goto(f"{portal.url}/workspaces/{lab}/clusters/?tab=gone")
    assert beside.locator("tbody", has_text="on-its-own-1").count()
    page.reload()
    expect(page.locator(".log")).to_contain_text("answer: right, 2 ranks")


def test_it_is_asked_for_and_cancelled_while_it_is_made_without_javascript(open_desk, portal, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/jobs/new/", java_script_enabled=False)
    page.fill("[name=name]", "without script")
    page.fill("[name=command]", "hostnames.py")
    page.fill("[name=git_url]", f"{portal.url}/examples/hostnames")
    page.click("button[value=own]")
    assert page.input_value("[name=name]") == "without script"
    page.fill("[name=own-node_count]", "99")
    page.click("button[value=use]")
    assert page.locator("[name=own-node_count][aria-invalid]").count(), "it stays open, and says what is wrong"
    page.fill("[name=own-node_count]", "2")
    page.click("button[value=use]")
    assert "A new one for each run: 2 ×" in page.text_content("#cluster-choice")
    page.click("button[value=check]")
    assert "It has hostnames.py." in page.text_content("#checked")
    assert page.input_value("[name=command]") == "hostnames.py"
    page.click("button[value=drop]")
    expect(page.locator("select[name=cluster]")).to_have_count(1)
    page.click("button[value=own]")
    page.fill("[name=own-node_count]", "2")
    page.click("#create")
    page.wait_for_selector("h1:has-text('without script, run 1')")
    page.click("text=Cancel…")
    page.click("main button[type=submit]")
    page.wait_for_selector("#run-head .st:has-text('CANCELLED')")
    has_no_job_clusters(page, portal, lab)
