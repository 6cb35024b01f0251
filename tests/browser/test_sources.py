"""What jobs run, and with what they sign in: a credential of the workspace, and a folder of its filesystem."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.gitserver import served

TOKEN = "a t0ken of the workspace"


def finished(page):
    page.wait_for_url("**/runs/**")
    expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED"), timeout=120_000)
    return page.locator("#run-facts")


def asked_for(page, name, command, source, kind="python"):
    page.fill("[name=name]", name)
    page.select_option("[name=kind]", kind)
    page.fill("[name=command]", command)
    page.fill("[name=git_url]", source)


def test_a_private_repository_is_read_with_a_credential_of_the_workspace(open_desk, portal, lab, cluster):
    with served({"ex.py": "print('from a private repository')"}, asks_for=("bot", TOKEN)) as url:
        page = open_desk(f"/workspaces/{lab}/settings/")
        page.click("text=Add a Git credential")
        page.fill("[name=name]", "build bot")
        page.fill("[name=server]", url)
        page.fill("[name=username]", "bot")
        page.fill("[name=secret]", TOKEN)
        assert faults(page) == []
        page.click("main button[type=submit]")
        expect(page.locator("#git-credentials")).to_contain_text("build bot")
        assert faults(page) == []
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{portal.url}/workspaces/{lab}/jobs/new/")
        asked_for(page, "Private", "ex.py", url)
        page.click("text=Show advanced")
        page.select_option("[name=git_credential]", label=f"build bot: bot at {url.rsplit('/', 2)[0]}")
        assert faults(page) == []
        page.set_viewport_size({"width": 1280, "height": 900})
        page.click("text=Check")
        expect(page.locator("#checked")).to_contain_text("It has ex.py.")
        page.click("#create")
        finished(page)
        assert TOKEN not in page.content()
        page.goto(f"{portal.url}/workspaces/{lab}/settings/")
        page.click("#git-credentials >> text=Delete")
        expect(page.locator("main")).to_contain_text("1 job uses it")
        assert faults(page) == []
        page.set_viewport_size({"width": 1280, "height": 900})
        page.click("main button[type=submit]")
        expect(page.locator("#git-credentials")).not_to_contain_text("build bot")


def test_a_folder_of_the_shared_filesystem_is_copied_and_on_record(open_desk, portal, lab, cluster):
    page = open_desk(f"/workspaces/{lab}/jobs/new/")
    write = "mkdir -p /shared/team/project && echo \"print('out of a folder')\" > /shared/team/project/ex.py"
    asked_for(page, "Put it there", write, f"{portal.url}/examples/hostnames", "shell")
    page.click("#create")
    finished(page)
    page.goto(f"{portal.url}/workspaces/{lab}/jobs/new/")
    asked_for(page, "Of a folder", "ex.py", "/shared/team/project")
    page.click("#create")
    facts = finished(page)
    expect(facts).to_contain_text("/shared/team/project")
    expect(facts).to_contain_text(re.compile("1 file, 25 bytes, sha256 [0-9a-f]{64}"))
    expect(page.locator(".viewer")).to_contain_text("out of a folder")
    assert faults(page) == []
