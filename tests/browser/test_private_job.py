"""A private repository, its token, a short commit, a cluster for the run alone, and a time that is to come."""

from __future__ import annotations

import base64
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.test_dedicated import has_no_job_clusters
from tests.gitserver import git, serving
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# It is told the token backwards, and looks for it wherever a program can look.
PROGRAM = """
import os, pathlib, sys
token = sys.argv[1][::-1].encode()
places = [pathlib.Path.home(), pathlib.Path.cwd().parent, pathlib.Path("/tmp"), pathlib.Path("/dev/shm")]
files = [one for place in places for one in place.rglob("*") if one.is_file() and not one.is_symlink()]
files += [one / name for one in pathlib.Path("/proc").glob("[0-9]*") for name in ("environ", "cmdline")]
found, looked = [], 0
for one in files:
    try:
        found += [str(one)] if token in one.read_bytes() else []
        looked += 1
    except OSError:
        pass
print(f"looked into {'many' if looked > 10 else 'too few'} files, found it in {found}")
"""


@pytest.fixture
def forge(tmp_path):
    """A server of one private repository, whose program is right in the first of its two commits alone."""
    repository = tmp_path / "private"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    for text in (PROGRAM, "raise SystemExit('the wrong commit')"):
        (repository / "look.py").write_text(text)
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", "Look")
    with serving(tmp_path) as server:
        server.asks_for = ("rower", f"canary-{secrets.token_hex(12)}")
        server.commit = git(repository, "rev-parse", "--short=8", "HEAD~1")
        yield server


def test_it_waits_for_its_time_runs_and_its_token_is_nowhere(open_desk, portal, lab, cluster, forge):
    token = forge.asks_for[1]
    page = open_desk(f"/workspaces/{lab}/jobs/new/", timezone_id="UTC")
    page.fill("[name=name]", "private")
    page.click("button[value=own]")
    page.fill("[name=own-node_count]", "2")
    page.click("button[value=use]")
    expect(page.locator("#cluster-choice")).to_contain_text("A new one for each run: 2 ×")
    page.fill("[name=command]", f"look.py {token[::-1]}")
    page.fill("[name=git_url]", f"{forge.url}/private/.git")
    page.fill("[name=due]", f"{datetime.now(UTC) + timedelta(minutes=2):%Y-%m-%dT%H:%M}")
    page.get_by_text("Show advanced").click()
    page.fill("[name=git_username]", "rower")
    page.fill("[name=git_password]", token)
    page.fill("[name=reference]", forge.commit)
    page.click("button[value=check]")
    expect(page.locator("#checked")).to_contain_text("It has look.py.")
    page.click("#create")
    page.wait_for_url("**/runs/**")
    head = page.locator("#run-head")
    expect(head.locator(".st")).to_have_text(re.compile("NEW"))
    expect(head).to_contain_text("its time is")
    beside = open_desk(f"/workspaces/{lab}/clusters/?tab=jobs")
    before = datetime.now(UTC)
    row = beside.locator("tbody tr", has_text="private-1")
    expect(row).to_have_count(1)
    expect(head.locator(".st")).to_have_text(re.compile("INPROGRESS"), timeout=240_000)
    assert datetime.now(UTC) - before > timedelta(seconds=30), "it did not wait for its time"
    assert not [
        one for one in Path("/proc").glob("[0-9]*/cmdline") if token in _text(one) and "chrom" not in _text(one)
    ]
    expect(head.locator(".st")).to_have_text(re.compile("FINISHED"), timeout=120_000)
    expect(page.locator(".log")).to_contain_text("looked into many files, found it in []")
    assert page.locator("body", has_text=token).count() == 0
    has_no_job_clusters(beside, portal, lab)
    kept = page.get_by_text("complete:")
    until(lambda: page.reload() and kept.count(), seconds=60, what="its whole output")
    words = [token, base64.b64encode(f"rower:{token}".encode()).decode()]
    for file in [portal.folder / "log", *portal.var.rglob("*")]:
        if file.is_file():
            assert not [word for word in words if word.encode() in file.read_bytes()], file


def _text(file):
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
