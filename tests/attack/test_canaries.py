"""Secrets of a portal that works, looked for wherever they must not be."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.aws import owner
from tests.aws.box import CUSTOMER, PORTAL, REGION, Emulator
from tests.gitserver import served
from tests.running import RunningPortal, until
from tests.web import Client, code_of, hidden

# A program that tells all it knows: it ends up in the database, and on the pages.
LOOK = """import os, pathlib
print(os.environ, *(path.read_bytes() for path in pathlib.Path(".git").glob("*") if path.is_file()))
"""


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    made = Emulator(tmp_path_factory.mktemp("moto"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def portal(moto):
    folder = Path(tempfile.mkdtemp(prefix="cx-canary-"))
    portal = RunningPortal(
        folder,
        AWS_ACCESS_KEY_ID="AKIAOFTHEPORTALSOWNS",
        AWS_SECRET_ACCESS_KEY="a canary, which is the portal's own in AWS",
        PORTAL_AWS_ENDPOINT=moto.endpoint,
        PORTAL_AWS_PRINCIPAL=f"arn:aws:iam::{PORTAL}:role/portal",
        PORTAL_AWS_ADDRESSES="127.0.0.0/8",
    ).start()
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


def work_in_aws(portal, moto, client):
    """An account that is connected with an access key, a workspace in it and a role of theirs. Name → secret.

    On the configuration's own pages, the external id is shown on purpose.
    """
    iam = moto.client("iam")
    iam.create_user(UserName="owner")
    key = iam.create_access_key(UserName="owner")["AccessKey"]
    typed = {"kind": "aws", "name": "Ours", "account": CUSTOMER, "region": REGION}
    connect = client.post("/cloud-configurations/new/", typed)
    page = client.get(connect).decode()
    external_id = re.search(r'id="external-id">([^<]+)<', page)[1]
    way = {**hidden(page), "way": "key"}
    wrong = {"key": "AKIACANARYOFANOTHERONE", "secret": "a canary of a key that is of another account"}
    pages = [client.send(connect, way | wrong | {"token": "a canary of a session that is of another account"})]
    assert b"the configuration is for 222233334444" in pages[0]
    pages.append(client.send(connect, way | {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}))
    config = client.at.split("/")[2]
    pages.append(client.get(f"/cloud-configurations/{config}/"))
    pages = [page.replace(external_id.encode(), b"") for page in pages]
    until(lambda: portal.call("config_badge", config=config)[0] == "ACTIVE", seconds=60, what="the account")
    workspace = portal.call("make_workspace", name="in AWS", uuid=config)
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    roles = f"/workspaces/{workspace}/instance-roles/"
    for name in ("coxswain-none", owner.role(iam).rpartition("/")[2]):
        client.post(roles + "new/", {"name": name, "arn": f"arn:aws:iam::{CUSTOMER}:role/{name}"})
        role = client.at
        until(lambda at=role: re.search(rb"ACTIVE|FAILED", client.get(at)), what="what becomes of the role")
        pages.append(client.get(role))
    assert b"There is no role coxswain-none in the account." in pages[-2]
    assert b"ACTIVE" in pages[-1]
    asked = "\n".join(call.text for call in moto.recording() if call.is_ours)
    tokens = set(re.findall(r'"x-amz-security-token": "([^"]+)"', asked, re.I))
    tokens -= {"a canary of a session that is of another account"}
    assert tokens
    portal.pages = b"".join([*pages, client.get(roles)])
    return {
        "the portal's own key in AWS": portal.env["AWS_SECRET_ACCESS_KEY"],
        "external id": external_id,
        **{f"access key, {name}": word for name, word in wrong.items()},
        "access key": key["AccessKeyId"],
        "secret of the access key": key["SecretAccessKey"],
        "session of the access key": "a canary of a session that is of another account",
        **{f"session {n}": token for n, token in enumerate(sorted(tokens))},
        **{f"key of a session {n}": key for n, key in enumerate(sorted(set(re.findall("ASIA[A-Z0-9]{16}", asked))))},
    }


@pytest.fixture(scope="module")
def canaries(portal, moto):
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
    in_aws = work_in_aws(portal, moto, client)
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
    portal.pages += b"".join(pages)
    kept = portal.call("secrets_kept", workspace=workspace, cluster=cluster)
    var = portal.var
    return (
        shown_once
        | in_aws
        | {
            "git password": git[1],
            "password": who["password"],
            "session": client.cookie.split("=", 1)[1],
            "the portal's secret key": (var / "secret_key").read_text().strip(),
            "encryption key": (var / "encryption_key").read_text().strip(),
            **{name: clear_lines(private) for name, private in kept.items()},
        }
    )


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
