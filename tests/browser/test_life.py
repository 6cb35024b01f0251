"""A cluster is paused, resumed, scaled, edited, stopped, started and deleted, as a person does it."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import violations
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOOKS = (("light", 1280), ("dark", 390))


@pytest.fixture
def reef(portal, lab):
    cluster = portal.call("make_cluster", workspace=lab, name="reef", nodes=2, cores=1)
    until(lambda: portal.call("word_of", cluster=cluster) == "RUNNING", seconds=120, what="it")
    return cluster


def look(page):
    """At the page as it is, on a desk by day and on a phone by night."""
    wide = page.viewport_size
    found = []
    for theme, width in LOOKS:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("theme => { document.documentElement.dataset.bsTheme = theme }", theme)
        found += [f"{theme}, {width}: {one}" for one in violations(page, preload=False)]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{width}: it scrolls sideways"
    page.set_viewport_size(wide)
    assert found == []


def finish(page, word):
    """The task's page, to its end; then the cluster's own."""
    page.wait_for_selector("#task-head .st:has-text('FINISHED')", timeout=60_000)
    page.click("#task-head a:has-text('Open reef')")
    expect(page.locator("#cluster-live .st").first).to_have_text(word)
    page.wait_for_load_state()
    look(page)


def choose(page, words):
    page.click("#menu > summary")
    page.click(f"#menu a:has-text('{words}')")
    page.wait_for_selector(f"h1:has-text('{words} cluster reef')")
    page.wait_for_load_state()


def test_the_whole_life_of_a_cluster(open_desk, portal, lab, reef):
    page = open_desk(f"/clusters/{reef}/")
    page.click("#menu > summary")
    look(page)
    page.reload()
    page.click("button:has-text('Pause')")
    finish(page, "PAUSED")

    url = f"{portal.url}/examples/hostnames"
    run = portal.call("make_job", workspace=lab, cluster=reef, git_url=url, command="hostnames.py", name="on reef")[
        "run"
    ]
    page.goto(f"{portal.url}/runs/{run}/")
    expect(page.locator("#run-head")).to_contain_text("reef is PAUSED, and the run begins once somebody resumes it")
    look(page)
    page.click("button:has-text('Resume reef')")
    finish(page, "RUNNING")
    until(lambda: portal.call("run_state", run=run)["status"] == "finished", seconds=60, what="the run that has waited")
    until(lambda: not portal.call("unfinished"), what="the end of its task")

    page.reload()
    choose(page, "Scale")
    look(page)
    page.fill("[name=node_count]", "1")
    page.click("button:has-text('Scale cluster')")
    expect(page.locator("main [role=alert]")).to_contain_text("1 node will go, with what is on its own disk: reef-1.")
    page.wait_for_load_state()
    look(page)
    page.click("button:has-text('Take away 1 node')")
    finish(page, "RUNNING")
    assert [node["name"] for node in portal.call("nodes", cluster=reef)] == ["reef-0"]

    choose(page, "Restart")
    look(page)
    page.click("button:has-text('Restart cluster')")
    finish(page, "RUNNING")

    choose(page, "Stop")
    look(page)
    page.click("button:has-text('Stop cluster')")
    finish(page, "STOPPED")
    assert portal.call("leftovers", cluster=reef) == []

    choose(page, "Edit")
    look(page)
    page.fill("[name=node_count]", "2")
    page.fill("[name=description]", "For the tides")
    page.click("button:has-text('Save')")
    expect(page.locator(".page-head")).to_contain_text("For the tides")
    page.click("button:has-text('Start')")
    finish(page, "RUNNING")
    assert [node["state"] for node in portal.call("nodes", cluster=reef)] == ["answers"] * 2

    page.click("a:has-text('Delete')")
    page.wait_for_selector("h1:has-text('Delete cluster reef')")
    page.wait_for_load_state()
    look(page)
    page.fill("main [name=name]", "reef")
    page.click("button:has-text('Delete cluster')")
    page.wait_for_selector("#task-head .st:has-text('FINISHED')")
    assert portal.call("leftovers", cluster=reef) == []
    page.goto(f"{portal.url}/workspaces/{lab}/clusters/?tab=gone")
    expect(page.locator("#cluster-list")).to_contain_text("reef")
