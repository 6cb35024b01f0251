"""The list of clusters by keyboard: a task drops down and stays through live news, and several are changed at once."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.test_life import look
from tests.running import until


@pytest.fixture(scope="module")
def two(portal, lab):
    made = {name: portal.call("make_cluster", workspace=lab, name=name, nodes=1, cores=1) for name in ("kelp", "cod")}
    for cluster in made.values():
        until(lambda cluster=cluster: portal.call("word_of", cluster=cluster) == "RUNNING", seconds=120, what="it")
    until(lambda: not portal.call("unfinished"), what="the end of all tasks")
    yield made
    for cluster in made.values():
        if portal.call("word_of", cluster=cluster) != "TERMINATED":
            portal.call("drop_cluster", cluster=cluster)


def focused(page):
    return page.evaluate("document.activeElement.id")


def test_a_task_drops_down_by_keyboard_and_stays_open_through_what_happens(open_desk, portal, lab, two):
    page = open_desk(f"/workspaces/{lab}/clusters/")
    page.evaluate(
        """heard = [], new MutationObserver(() => heard.push(document.getElementById('said').textContent))
        .observe(document.getElementById('said'), {childList: true, characterData: true, subtree: true})"""
    )
    details = page.locator(f"#drop-{two['kelp']}")
    details.focus()
    page.keyboard.press("Enter")
    dropped = page.locator(f"#dropped-{two['kelp']}")
    expect(dropped).to_contain_text("Nodes boot and answer")
    expect(dropped).to_contain_text("kelp-0")
    expect(details).to_have_attribute("aria-expanded", "true")
    assert focused(page) == f"drop-{two['kelp']}", "the focus stays where it was"
    assert f"open={two['kelp']}" in page.url, "a reload shows it again"
    look(page)

    tick = page.locator(f"#choose-{two['kelp']}")
    tick.focus()
    page.keyboard.press("Space")
    details.focus()
    portal.call("change", cluster=two["kelp"], verb="pause")  # somebody else does something
    status = page.locator(f"#cluster-status-{two['kelp']}")
    expect(status).to_have_text("PAUSED", timeout=120_000)
    expect(dropped).to_contain_text("Stop the nodes")
    expect(tick).to_be_checked()
    assert focused(page) == f"drop-{two['kelp']}"
    until(lambda: "kelp: PAUSED" in page.evaluate("heard"), what="being told")
    assert page.evaluate("heard").count("kelp: PAUSED") == 1

    page.keyboard.press("Enter")
    expect(dropped).to_have_count(0)
    expect(details).to_have_attribute("aria-expanded", "false")


def test_what_is_fetched_again_is_what_the_page_shows_by_then(open_desk, lab, two):
    """A task that has dropped down a moment before, which htmx has not looked at yet, is not shut by live news."""
    page = open_desk(f"/workspaces/{lab}/clusters/")
    page.evaluate(
        """(uuid) => {
          const list = document.getElementById("cluster-list");
          list.setAttribute("hx-get", `${location.pathname}?open=${uuid}`);
          htmx.trigger(list, "refresh");
        }""",
        two["cod"],
    )
    expect(page.locator(f"#dropped-{two['cod']}")).to_contain_text("Nodes boot and answer")


def test_the_list_without_javascript(open_desk, lab, two):
    page = open_desk(f"/workspaces/{lab}/clusters/", java_script_enabled=False)
    page.click(f"#drop-{two['cod']}")
    assert "Nodes boot and answer" in page.inner_text(f"#dropped-{two['cod']}")
    page.check(f"#choose-{two['cod']}")
    page.click("#chosen button:has-text('Pause')")
    assert page.inner_text("h1") == "Pause 1 cluster"
    page.click("text=Leave them as they are")
    page.click(f"#menu-{two['cod']} > summary")
    assert page.is_visible(f"#menu-{two['cod']} button:has-text('Pause')")


def test_nodes_have_charts_with_words(open_desk, portal, two):
    page = open_desk(f"/clusters/{two['cod']}/")
    chart = page.locator("#cluster-nodes svg.spark").first
    chart.wait_for(timeout=60_000)
    assert chart.get_attribute("aria-label").startswith("CPU of cod-0: ")
    look(page)


def test_several_clusters_are_deleted_by_keyboard(open_desk, portal, lab, two):
    page = open_desk(f"/workspaces/{lab}/clusters/")
    for cluster in two.values():
        page.locator(f"#choose-{cluster}").focus()
        page.keyboard.press("Space")
    page.locator("#chosen button:has-text('Delete')").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Delete 2 clusters')")
    expect(page.locator("main")).to_contain_text("kelp-0")
    look(page)
    page.locator("main [name=name]").focus()
    page.keyboard.type("2 clusters")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{portal.url}/workspaces/{lab}/clusters/")
    expect(page.locator("main")).to_contain_text("cod, kelp are being deleted.")
    until(
        lambda: {portal.call("word_of", cluster=one) for one in two.values()} == {"TERMINATED"}, seconds=60, what="it"
    )
