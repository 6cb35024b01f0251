"""A private repository, its token, a short commit, a cluster for the run alone, and a time that is to come.

Parts of journeys to that, which are the same whatever cloud the cluster is in.
"""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import expect

from tests.gitserver import git, serving
from tests.running import until

# It is told the token backwards, and looks for it wherever a program can look. It ends when others have looked as well.
PROGRAM = """
import os, pathlib, sys, urllib.error, urllib.request
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
print(f"looked into {'many' if looked > 10 else 'too few'} files, found it in {found}", flush=True)
try:
    urllib.request.urlopen(sys.argv[2])
except urllib.error.HTTPError:
    pass
"""
FOUND_NOTHING = "looked into many files, found it in []"


@contextlib.contextmanager
def forge(folder):
    """A server of one private repository, whose program is right in the first of its two commits alone.

    The program ends once `looked` is set.
    """
    repository = folder / "private"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    for text in (PROGRAM, "raise SystemExit('the wrong commit')"):
        (repository / "look.py").write_text(text)
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", "Look")
    with serving(folder) as server:
        server.asks_for = ("rower", f"canary-{secrets.token_hex(12)}")
        server.commit = git(repository, "rev-parse", "--short=8", "HEAD~1")
        server.looked = threading.Event()
        server.before = lambda path: path == "/looked" and server.looked.wait(300)
        try:
            yield server
        finally:
            server.looked.set()


def asked(page, forge, choose=None, *, checked="It has look.py."):
    """In the form of a new job, with a cluster of two nodes for each run, in two minutes. `choose(page)`: its type.

    What the check of its source says is `checked`. The page is the run's then, which waits for its time.
    """
    token = forge.asks_for[1]
    page.fill("[name=name]", "private")
    if page.locator("button[value=own]").count():  # else there is no other cluster, and it is open already
        page.click("button[value=own]")
    if choose:
        choose(page)
    page.fill("[name=own-node_count]", "2")
    page.click("button[value=use]")
    expect(page.locator("#cluster-choice")).to_contain_text("A new one for each run: 2 ×")
    page.fill("[name=command]", f"look.py {token[::-1]} {forge.url}/looked")
    page.fill("[name=git_url]", f"{forge.url}/private/.git")
    page.fill("[name=due]", f"{datetime.now(UTC) + timedelta(minutes=2):%Y-%m-%dT%H:%M}")
    page.get_by_text("Show advanced").click()
    page.fill("[name=git_username]", "rower")
    page.fill("[name=git_password]", token)
    page.fill("[name=reference]", forge.commit)
    page.click("button[value=check]")
    expect(page.locator("#checked")).to_contain_text(checked, timeout=120_000)
    page.click("#create")
    page.wait_for_url("**/runs/**")
    head = page.locator("#run-head")
    expect(head.locator(".st")).to_have_text(re.compile("NEW"))
    expect(head).to_contain_text("its time is")


def is_running(page, forge, *, minutes=4):
    """Its program has looked around, and found nothing. Nor is there anything in the words of any process now."""
    expect(page.locator("#run-head .st")).to_have_text(re.compile("INPROGRESS"), timeout=minutes * 60_000)
    expect(page.locator(".log")).to_contain_text("looked into", timeout=minutes * 60_000)
    words = shapes(forge)
    told = {one.parent.name: _bytes(one) for one in Path("/proc").glob("[0-9]*/cmdline")}
    assert len(told) > 10
    assert [pid for pid, line in told.items() if any(word in line for word in words)] == []


def ends(page, forge, *, minutes=2):
    """And says what it has found, to the last byte."""
    forge.looked.set()
    expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED|FAILED"), timeout=minutes * 60_000)
    assert "FINISHED" in page.locator("#run-head .st").inner_text(), page.inner_text("main")
    kept = page.get_by_text("complete:")
    until(lambda: page.reload() and kept.count(), seconds=60, what="its whole output")
    expect(page.locator(".log")).to_contain_text(FOUND_NOTHING)
    is_not_in(forge, page.content())


def shapes(forge):
    """The token as it is, and as it looks in base64, wherever in what was written so it lies."""
    token = forge.asks_for[1].encode()
    found = [token]
    for before in range(3):
        text = base64.b64encode(b"-" * before + token)
        found.append(text[-(-8 * before // 6) : len(text) - 4])
    return found


def is_not_in(forge, *texts):
    for text in texts:
        at = [text.find(word.decode()) for word in shapes(forge)]
        assert max(at) == -1, text[max(0, max(at) - 80) :][:200]


def holding(forge, files):
    """Those of these files in which the token is, in one shape or another."""
    words = shapes(forge)
    return [str(file) for file in files if file.is_file() and any(word in _bytes(file) for word in words)]


def _bytes(file):
    try:
        return file.read_bytes()
    except OSError:  # it has gone
        return b""
