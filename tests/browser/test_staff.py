"""The staff pages in a browser: their own scripts and styles are all that they need, and the policy allows them."""

from __future__ import annotations

from tests.browser.conftest import faults

LISTS = (
    "",
    "accounts/user/",
    "tasks/task/",
    "tasks/task/queues/",
    "accounts/auditevent/",
    "clusters/engineversion/add/",
)


def test_axe_finds_nothing(open_desk, portal):
    page = open_desk("/admin/")
    found = {}
    for path in LISTS:
        page.goto(f"{portal.url}/admin/{path}")
        found[path] = faults(page, [1280], preload=False)
    assert {path: said for path, said in found.items() if said} == {}
    page.goto(f"{portal.url}/admin/tasks/task/queues/")
    assert "coxswain-launch" in page.inner_text("#content")
    assert faults(page, [320], preload=False) == [], "what is wide scrolls in its place"


def test_axe_finds_nothing_on_the_pages_of_single_things(open_desk, portal, cluster):
    """The first of each list that has any."""
    page = open_desk("/admin/")
    lists = page.eval_on_selector_all("#content-main th a", "links => links.map(link => link.href)")
    found, seen = {}, set()
    for address in lists:
        page.goto(address)
        first = page.query_selector("#result_list tbody th a")
        if first is None:
            continue
        page.goto(f"{portal.url}{first.get_attribute('href')}")
        seen.add(address.split("/admin/")[1])
        assert page.url.endswith("/change/")
        found[page.url] = faults(page, [1280], preload=False)
    assert {"accounts/user/", "clusters/cluster/", "tasks/task/", "accounts/auditevent/"} <= seen
    assert {path: said for path, said in found.items() if said} == {}


def test_people_are_chosen_and_unlocked(open_desk, portal):
    page = open_desk("/admin/accounts/user/")
    page.check("tr:has-text('alice@example.org') .action-select")
    assert page.inner_text(".action-counter").startswith("1 of ")
    page.select_option("[name=action]", "unlock")
    page.click("text=Go")
    page.fill("[name=reason]", "Back from leave")
    page.click("[value=Unlock]")
    assert "Unlocked: alice@example.org." in page.inner_text(".messagelist")
