"""Secrets of a portal that works, looked for wherever they must not be."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.gitserver import served
from tests.running import RunningPortal, until
from tests.web import Client, code_of, hidden

# A program that tells all it knows: it ends up in the database, and on the pages.
LOOK = """import os, pathlib
print(os.environ, *(path.read_bytes() for path in pathlib.Path(".git").glob("*") if path.is_file()))
"""


@pytest.fixture(scope="module")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-canary-"))
    portal = RunningPortal(folder).start()
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


def clear_lines(private):
    """A line from the middle of a key, which nothing else contains."""
    return private.splitlines()[2]


def on_page(client, path, pattern, **fields):
    """A secret that the answer to a form shows, once."""
    choices = {"organization_role": "member", "role": "member" if "tokens" in path else "user", "days": "30"}
    return re.search(pattern, client.send(path, {**client.form(path), **choices, **fields}).decode())[1]


def set_up_app(client):
    path = "/accounts/security/totp/activate/"
    page = client.get(path).decode()
    secret = re.search(r'id="secret">([^<]+)<', page)[1].strip()
    client.send(path, {**hidden(page), "code": code_of(secret)})
    assert "recovery" in client.at
    return secret


@pytest.fixture(scope="module")
def canaries(portal):
    """Name → secret, after a day's work with each."""
    who = portal.call("setup")
    workspace = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    cluster = portal.call("make_cluster", workspace=workspace, nodes=1, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", seconds=90, what="running")
    git = ("canary", "canary of git, with b/la:nks")
    with served({"hello.py": LOOK}, asks_for=git) as repository:
        place = {"workspace": workspace, "cluster": cluster}
        made = portal.call("make_job", **place, git_url=repository, command="hello.py", credential=git)
        until(lambda: portal.call("run_state", run=made["run"])["kept"], what="the run")
        assert portal.call("run_state", run=made["run"])["status"] == "finished"
    client = Client(portal.url).sign_in(who["email"], who["password"])
    shown_once = {
        "invitation": on_page(client, "/people/", r"/invitations/([^/<]+)/", emails="canary@example.org"),
        "API token": on_page(client, "/organization/tokens/new/", r'id="secret"[^>]*>([^<]+)<', name="canary"),
        "authenticator app": set_up_app(client),
    }
    pages = [
        client.get(path)
        for path in (
            "/", "/workspaces/", f"/workspaces/{workspace}/settings/", f"/workspaces/{workspace}/clusters/",
            f"/clusters/{cluster}/", f"/jobs/{made['job']}/", f"/runs/{made['run']}/", "/cloud-configurations/",
            "/people/", "/organization/tokens/", "/organization/audit/", "/organization/audit/csv/", "/profile/data/",
            "/accounts/security/", "/accounts/sessions/",
        )
    ]  # fmt: skip
    portal.pages = b"".join(pages)
    kept = portal.call("secrets_kept", workspace=workspace, cluster=cluster)
    var = portal.var
    return shown_once | {
        "git password": git[1],
        "password": who["password"],
        "session": client.cookie.split("=", 1)[1],
        "the portal's secret key": (var / "secret_key").read_text().strip(),
        "encryption key": (var / "encryption_key").read_text().strip(),
        **{name: clear_lines(private) for name, private in kept.items()},
    }


def found(canaries, data):
    return [name for name, secret in canaries.items() if secret.encode() in data]


def read(paths):
    return b"".join(path.read_bytes() for path in paths if path.is_file())


def test_the_database(portal, canaries):
    """Whoever reads it is signed in nowhere and opens nothing: what is in there is hashed or encrypted."""
    data = portal.call("dump_database").encode() + read(portal.var.glob("portal.sqlite3*"))
    assert b"workspaces_workspace lab" in data, "this is not the database"
    assert found(canaries, data) == []


def test_the_queue(portal, canaries):
    journal = read(path for path in portal.var.rglob("*") if "appendonly" in str(path))
    data = portal.call("dump_queue").encode() + journal
    assert b"rq:" in data, "this is not the queue"
    assert found(canaries, data) == []


def test_logs(portal, canaries):
    data = portal.log().encode() + read(portal.folder.glob("log"))
    assert data
    assert found(canaries, data) == []


def test_pages(portal, canaries):
    assert b"tide" in portal.pages, "these are not the pages"
    assert found(canaries, portal.pages) == []


def test_command_lines(canaries):
    """Anybody on the machine may read them."""
    data = b""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                data += (entry / "cmdline").read_bytes() + b"\n"
            except OSError:  # it ended
                continue
    assert b"manage.py" in data
    assert found(canaries, data) == []


def test_what_stays_on_the_nodes(portal, canaries):
    """They have keys of their own. What a run was given is gone with it."""
    data = read(path for path in (portal.var / "local").rglob("*") if not path.is_symlink())
    assert b"mpi4py" in data, "these are not the nodes"
    assert "git password" not in found(canaries, data)


def test_files_that_others_may_read(portal, canaries):
    """Only what is in the portal's own folder, which is closed to others, holds secrets."""
    assert portal.var.stat().st_mode & 0o077 == 0
    for name in ("secret_key", "encryption_key"):
        assert (portal.var / name).stat().st_mode & 0o077 == 0


def test_the_canaries_would_be_found(canaries):
    for secret in canaries.values():
        assert len(secret) >= 20
        assert len(found(canaries, b"..." + secret.encode() + b"...")) >= 1
