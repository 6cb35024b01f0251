"""Jobs by keyboard alone and on a telephone: found, changed, run with changes, deleted; a dashboard that is mended."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import faults, violations
from tests.browser.test_journey import Hands
from tests.running import until


@pytest.fixture(scope="module")
def made(portal, lab, cluster):
    """A job of which the only run has failed."""
    url = f"{portal.url}/examples/hostnames"
    made = portal.call("make_job", workspace=lab, cluster=cluster, git_url=url, command="missing.py", name="mendable")
    until(lambda: portal.call("run_state", run=made["run"])["status"] == "failed", what="its end")
    return made


@pytest.fixture(scope="module")
def addresses(lab, made, cluster):
    return {
        "dashboard": "/",
        "workspace dashboard": f"/workspaces/{lab}/dashboard/",
        "jobs": f"/workspaces/{lab}/jobs/",
        "runs": f"/workspaces/{lab}/runs/",
        "runs that failed": f"/workspaces/{lab}/runs/?status=failed&days=7",
        "runs of all workspaces": "/runs/",
        "what needs somebody": "/runs/?status=needs",
        "no runs": f"/workspaces/{lab}/runs/?q=nothing",
        "job": f"/jobs/{made['job']}/",
        "edit": f"/jobs/{made['job']}/edit/",
        "delete": f"/jobs/{made['job']}/delete/",
        "with changes": f"/runs/{made['run']}/with-changes/",
        "new job": f"/workspaces/{lab}/jobs/new/",
        "gone": f"/workspaces/{lab}/clusters/?tab=gone",
        "new cluster": f"/workspaces/{lab}/clusters/new/",
    }


def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(open_desk, portal, addresses):
    page = open_desk()
    found = {}
    for name, path in addresses.items():
        page.goto(portal.url + path)
        for menu in page.locator("main details.menu").all()[:1]:
            menu.locator("summary").click()
        found[name] = faults(page)
    assert {name: said for name, said in found.items() if said} == {}


def test_a_job_is_found_mended_and_deleted_without_a_mouse(open_desk, portal, lab, made):
    page = open_desk(f"/workspaces/{lab}/dashboard/")
    hands = Hands(page)
    assert "mendable, run 1" in page.text_content("#need-" + made["run"])
    page.goto(f"{portal.url}/workspaces/{lab}/jobs/")
    hands.to("Find by the job's name").type("MENDA").press()
    page.wait_for_url("**/jobs/?**q=MENDA**")
    hands.to("^What can be done with mendable").press()
    hands.to("^Edit$").press()
    page.wait_for_selector("h1:has-text('Edit mendable')")
    hands.to("^Job name").type("mended")
    hands.to("^Command").type("no_file").press()
    page.wait_for_selector(".error-summary:has-text('does not look like a Python file')")
    assert page.input_value("[name=name]") == "mended"
    hands.to("^Command$").press().type("hostnames.py")  # the link of the summary leads to the field
    hands.to("^Save and run").press()
    page.wait_for_selector("#run-head .st:has-text('FINISHED')", timeout=60_000)
    assert "mended, run 2" in page.text_content("h1")

    page.goto(f"{portal.url}/workspaces/{lab}/dashboard/")
    assert page.locator("#need-" + made["run"]).count() == 0, "a later run is FINISHED"

    page.goto(f"{portal.url}/runs/{made['run']}/")
    hands.to("^Run with changes").press()
    page.wait_for_selector("h1:has-text('Run mended with changes')")
    assert page.input_value("[name=command]") == "missing.py"
    hands.to("^Command").type("hostnames.py --x")
    hands.to("^Run once").press()
    page.wait_for_selector("h1:has-text('mended, run 3')")
    page.wait_for_selector("#run-head .st:has-text('FINISHED'), #run-head .st:has-text('FAILED')", timeout=60_000)

    page.goto(f"{portal.url}/jobs/{made['job']}/")
    assert page.locator(".facts dd.mono").first.text_content() == "hostnames.py", "the job is as it was"
    hands.to("^More").press()
    hands.to("^Delete").press()
    page.wait_for_selector("h1:has-text('Delete job mended')")
    hands.to("^Delete job").press()
    page.wait_for_selector("text=mended is deleted.")
    page.goto(f"{portal.url}/runs/{made['run']}/")
    assert "Its job was deleted" in page.text_content("#run-head")


def test_both_live_parts_of_a_runs_page_follow_it_from_new_to_finished(open_desk, portal, lab, cluster):
    def make(example, command, name):
        url = f"{portal.url}/examples/{example}"
        return portal.call("make_job", workspace=lab, cluster=cluster, git_url=url, command=command, name=name)

    before = make("chatty", "chatty.py --lines 6000 --rate 50", "before")
    after = make("hostnames", "hostnames.py", "after")
    page = open_desk(f"/runs/{after['run']}/")
    page.evaluate("window.isTheSame = true")
    assert "Waiting since" in page.text_content("#run-head")
    facts = page.locator("#run-facts")
    assert "mpiexec -n CORES" in facts.text_content()
    assert "not cloned yet" in facts.text_content()
    portal.call("cancel", run=before["run"])
    page.wait_for_selector("#run-head .st:has-text('FINISHED')", timeout=60_000)
    page.wait_for_selector("#run-facts li:has-text('Clean up on the nodes') .bi-check-circle-fill", timeout=30_000)
    assert facts.count() == 1
    assert "mpiexec -n 2 python hostnames.py" in facts.text_content()
    assert "The hostnames example" in facts.text_content()
    assert page.locator("#run-facts dt:has-text('Exit') + dd").text_content().strip() == "0"
    assert page.evaluate("window.isTheSame")


def test_enter_in_the_command_is_a_line_of_a_shell_and_sends_any_other(open_desk, portal, lab):
    page = open_desk(f"/workspaces/{lab}/jobs/new/")
    page.fill("[name=name]", "lines")
    page.fill("[name=git_url]", f"{portal.url}/examples/hostnames")
    page.select_option("[name=kind]", "shell")
    command = page.locator("[name=command]")
    command.press_sequentially("cd tides")
    command.press("Enter")
    command.press_sequentially("make")
    assert page.input_value("[name=command]") == "cd tides\nmake"
    assert not page.locator(".only-python").is_visible()
    page.select_option("[name=kind]", "ipynb")
    assert not page.locator(".only-python").is_visible(), "no notebook is run by it"
    command.press("Enter")
    page.wait_for_selector(".error-summary:has-text('No shell runs this')")


def test_filters_work_without_a_script(open_desk, lab, made):
    page = open_desk(f"/workspaces/{lab}/runs/", java_script_enabled=False)
    page.select_option("[name=status]", "failed")
    page.select_option("[name=days]", "7")
    page.click("text=Find")
    page.wait_for_url("**status=failed**")
    expect(page.locator(f"#run-{made['run']}")).to_have_count(1)
    page.select_option("[name=status]", "new")
    page.click("text=Find")
    expect(page.locator("main")).to_contain_text("Nothing found")
    page.click("text=Show all")
    page.wait_for_url("**/runs/")


def test_the_sums_of_a_cluster_follow_what_is_chosen(open_desk, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/clusters/new/")
    page.fill("[name=node_count]", "64")
    page.wait_for_selector("#estimate li:has-text('More than this computer has')")
    assert "cores" in page.text_content("#sum-cores")
    assert violations(page) == []


def test_an_example_keeps_what_was_typed(open_desk, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/jobs/new/")
    page.fill("[name=name]", "my own name")
    page.click("text=Show advanced")
    page.fill("[name=time_limit]", "5")
    page.click("text=Use the example chatty")
    expect(page.locator("[name=command]")).to_have_value("chatty.py")
    assert page.input_value("[name=name]") == "my own name"
    assert page.input_value("[name=time_limit]") == "5"


def test_what_is_sent_after_the_way_back_is_made_too(
    portal, lab, cluster, browser_type, browser_type_launch_args, session_cookies
):
    """A browser of people keeps pages as they were left, which Playwright tells it not to do."""
    options = {"ignore_default_args": ["--disable-back-forward-cache"]}
    browser = browser_type.launch(**browser_type_launch_args, **options)
    context = browser.new_context()
    context.add_cookies(session_cookies)
    page = context.new_page()
    page.goto(f"{portal.url}/workspaces/{lab}/jobs/new/")
    page.evaluate("addEventListener('pageshow', (event) => { window.kept = event.persisted })")
    made = []
    for name in ("there", "and back"):
        page.fill("[name=name]", name)
        page.fill("[name=command]", "hostnames.py")
        page.fill("[name=git_url]", f"{portal.url}/examples/hostnames")
        page.click("#create")
        page.wait_for_url("**/runs/**")
        made.append(page.url)
        page.evaluate("history.back()")
        page.wait_for_url("**/jobs/new/", wait_until="commit")  # what is shown again is not loaded
        page.wait_for_function("window.kept")
    browser.close()
    assert len(set(made)) == 2, "the second one was taken for the first"


def test_a_command_has_room_on_a_telephone(open_desk, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/jobs/new/", viewport={"width": 320, "height": 800})
    assert page.locator("[name=command]").bounding_box()["width"] > 200


def test_no_name_is_wider_than_a_page(open_desk, portal, lab, cluster):
    url = f"{portal.url}/examples/hostnames"
    long = "L" * 80
    made = portal.call("make_job", workspace=lab, cluster=cluster, git_url=url, command="missing.py", name=long)
    page = open_desk()
    page.set_viewport_size({"width": 320, "height": 800})
    there = [f"/jobs/{made['job']}/", f"/runs/{made['run']}/", f"/workspaces/{lab}/jobs/", f"/workspaces/{lab}/runs/"]
    for path in (*there, f"/workspaces/{lab}/dashboard/"):
        page.goto(portal.url + path)
        assert page.locator("main", has_text=long).count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") == 320, path
