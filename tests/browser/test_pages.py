"""Every page: accessible in both themes, no wider than a telephone, and of use without JavaScript."""

from __future__ import annotations

import pytest

from tests.browser.conftest import faults, rows, violations
from tests.running import until


@pytest.fixture(scope="module")
def addresses(portal, lab, cluster):
    url = f"{portal.url}/examples/hostnames"
    good = portal.call("make_job", workspace=lab, cluster=cluster, git_url=url, command="hostnames.py", name="good")
    bad = portal.call("make_job", workspace=lab, cluster=cluster, git_url=url, command="missing.py", name="bad")
    for made in (good, bad):
        until(lambda made=made: portal.call("run_state", run=made["run"])["task_status"] != "inprogress", what="it")
        until(lambda made=made: portal.call("run_state", run=made["run"])["kept"], seconds=120, what="its output")
    task = portal.call("state", kind="cluster", uuid=cluster)["task"]
    return {
        "cloud configurations": "/cloud-configurations/",
        "cloud configuration": f"/cloud-configurations/{portal.call('config')}/",
        "new cloud configuration": "/cloud-configurations/new/",
        "workspaces": "/workspaces/",
        "new workspace": "/workspaces/new/",
        "workspace settings": f"/workspaces/{lab}/settings/",
        "update workspace": f"/workspaces/{lab}/update/",
        "delete workspace": f"/workspaces/{lab}/delete/",
        "audit": "/organization/audit/",
        "audit without a finding": "/organization/audit/?q=nothing&verb=praised",
        "tokens": "/organization/tokens/",
        "workspace tokens": f"/workspaces/{lab}/tokens/",
        "new workspace token": f"/workspaces/{lab}/tokens/new/",
        "clusters": f"/workspaces/{lab}/clusters/",
        "cluster": f"/clusters/{cluster}/",
        "delete cluster": f"/clusters/{cluster}/delete/",
        "usage of the workspace": f"/workspaces/{lab}/usage/",
        "usage of the organization": "/organization/usage/",
        "job": f"/jobs/{good['job']}/",
        "finished run": f"/runs/{good['run']}/",
        "failed run": f"/runs/{bad['run']}/",
        "task": f"/tasks/{task}/",
        "change password": "/accounts/password/change/",
    }


def test_axe_finds_nothing_and_no_page_scrolls_sideways(open_desk, addresses, portal):
    page = open_desk()
    found = {}
    for name, path in addresses.items():
        page.goto(portal.url + path)
        page.wait_for_load_state("networkidle") if "run" in name else page.wait_for_load_state()
        if said := faults(page):
            found[name] = said
    assert found == {}


def test_axe_finds_nothing_on_doors(portal, browser):
    page = browser.new_page()
    for path in ("/accounts/login/", "/accounts/password/reset/", "/nothing/here/"):
        page.goto(portal.url + path)
        assert faults(page) == []
    page.close()


def test_axe_finds_nothing_on_a_form_with_errors_and_the_focus_is_on_what_is_wrong(open_desk, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/clusters/new/")
    page.fill("[name=name]", "Not A Name")
    page.click("main button:text-is('Create cluster')")
    page.wait_for_selector(".error-summary")
    assert page.evaluate("document.activeElement.classList.contains('error-summary')")
    page.click(".error-summary a")
    assert page.evaluate("document.activeElement.name") == "name"
    assert page.input_value("[name=name]") == "Not A Name"
    assert violations(page) == []


def test_pages_are_of_use_without_javascript(open_desk, addresses, portal):
    page = open_desk(java_script_enabled=False)
    page.goto(portal.url + addresses["finished run"])
    assert "answer: right" in page.text_content(".log")
    assert rows(page)
    assert "Complete: " in page.text_content("[data-state]")
    assert not page.locator(".needs-js:visible").count()
    with page.expect_download() as download:
        page.click("summary:has-text('Download')")
        page.click("text=Only stdout")
    assert "answer: right" in download.value.path().read_text()
    page.click("text=Run again")
    page.wait_for_url("**/runs/**")
    assert "run 2" in page.text_content("h1")


def test_a_failed_run_says_why_on_its_page(open_desk, addresses, portal):
    page = open_desk(addresses["failed run"])
    note = page.text_content("#run-head .note-bad")
    assert "missing.py" in note


def test_the_theme_is_remembered_and_is_there_before_the_first_paint(open_desk):
    page = open_desk(color_scheme="light")
    page.click("[data-theme-next]")
    page.click("[data-theme-next]")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    assert page.get_by_role("button", name="Theme: dark").get_attribute("title") == "Theme: dark. Change it"
    page.click("[data-theme-next]")
    page.get_by_role("button", name="Theme: as the system has it, light").wait_for()


def test_a_form_sent_twice_makes_one_thing(open_desk, portal):
    page = open_desk("/workspaces/new/")
    page.fill("[name=name]", "once")
    fields = page.eval_on_selector("main form", "form => Object.fromEntries(new FormData(form))")
    first, second = (page.request.post(page.url, form=fields) for _ in range(2))
    assert first.url == second.url
    page.goto(f"{portal.url}/workspaces/")
    assert page.locator("a.name:text-is('once')").count() == 1


def test_a_part_that_is_fetched_again_leaves_the_focus_where_it_was(open_desk, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/clusters/")
    page.wait_for_selector("#live:has-text('Live')")
    page.focus("a.name")
    page.evaluate("document.querySelector('a.name').textContent = 'old'")
    page.evaluate("line.changed(null)")
    page.wait_for_selector("a.name:not(:text-is('old'))")
    assert page.evaluate("document.activeElement.className") == "name"
