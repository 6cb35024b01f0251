"""Every address of the portal has a row here: who gets in by GET, and who by POST. An address without a row fails."""

from __future__ import annotations

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from clusters.models import Cluster, EngineVersion
from jobs.actions import create_job
from portal.tasks.ledger import start_task

EVERYBODY = ("alice", "bob", "vera", "charlie", "nobody")
INSIDE = ("alice", "bob", "vera")
# name: (what its uuid is, who may GET, who may POST). None: the method is not allowed.
ROWS = {
    "healthz": (None, EVERYBODY, EVERYBODY),
    "readyz": (None, EVERYBODY, EVERYBODY),
    "dashboard": (None, (*INSIDE, "charlie"), None),
    "workspaces": (None, (*INSIDE, "charlie"), None),
    "cloud-configs": (None, ("alice", "charlie"), None),
    "new-cloud-config": (None, ("alice", "charlie"), ("alice", "charlie")),
    "new-workspace": (None, ("alice", "charlie"), ("alice", "charlie")),
    "audit": (None, ("alice", "charlie"), None),
    "audit-csv": (None, ("alice", "charlie"), None),
    "workspace": ("workspace", INSIDE, None),
    "workspace-settings": ("workspace", INSIDE, None),
    "delete-workspace": ("workspace", ("alice",), ("alice",)),
    "clusters": ("workspace", INSIDE, None),
    "new-cluster": ("workspace", ("alice",), ("alice",)),
    "jobs": ("workspace", INSIDE, None),
    "new-job": ("workspace", ("alice", "bob"), ("alice", "bob")),
    "cluster": ("cluster", INSIDE, None),
    "repair-cluster": ("cluster", None, ("alice",)),
    "delete-cluster": ("cluster", ("alice",), ("alice",)),
    "job": ("job", INSIDE, None),
    "run-job": ("job", None, ("alice", "bob")),
    "run": ("run", INSIDE, None),
    "cancel-run": ("run", ("alice", "bob"), ("alice", "bob")),
    "task": ("task", INSIDE, None),
    "cancel-task": ("task", ("alice",), ("alice",)),
    "retry-task": ("task", None, ("alice",)),
    "output": ("output", INSIDE, None),
    "output-frame": ("output", INSIDE, None),
    "output-download": ("output", INSIDE, None),
}
# allauth's own, the examples (public) and the first administrator's link have tests of their own.
ELSEWHERE = ("account_", "example-file", "first-administrator")


def named(patterns, prefix=""):
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from named(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            yield pattern.name, prefix + str(pattern.pattern)


ADDRESSES = dict(named(get_resolver().url_patterns))


def test_every_address_has_a_row():
    ours = {name for name in ADDRESSES if not name.startswith(ELSEWHERE)}
    assert ours == set(ROWS)


@pytest.fixture
def things(lab, alice, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    engine = EngineVersion.objects.get(kind="mpi")
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, engine_version=engine,
        status="running",
    )  # fmt: skip
    task = start_task(cluster, "clusters.create", title="Create cluster tide", by=alice)
    url = "https://git.example.org/x"
    job, run = create_job(lab, name="j", cluster=cluster, git_url=url, reference="", command="ex.py", by=alice)
    return {
        "workspace": lab.uuid, "cluster": cluster.uuid, "job": job.uuid, "run": run.uuid, "task": task.uuid,
        "output": task.output.uuid,
    }  # fmt: skip


@pytest.fixture
def cast(alice, bob, vera, charlie):
    return {"alice": alice, "bob": bob, "vera": vera, "charlie": charlie, "nobody": None}


@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("name", ROWS)
def test_who_gets_in(client, things, cast, name, who):
    kind, may_get, may_post = ROWS[name]
    if cast[who]:
        client.force_login(cast[who])
    address = "/" + ADDRESSES[name].replace("<uuid:uuid>", str(things.get(kind, "")))
    for method, may in (("get", may_get), ("post", may_post)):
        answer = getattr(client, method)(address)
        if may is EVERYBODY:
            assert answer.status_code in (200, 503)
        elif who == "nobody":
            assert answer.status_code == 405 or "/accounts/login/" in answer.url, (method, answer)
        elif may is None:
            assert answer.status_code == 405, (method, answer)
        elif who in may:
            assert answer.status_code in (200, 302), (method, answer)
            assert "/accounts/login/" not in getattr(answer, "url", "")
        else:
            # To a stranger it does not exist; somebody who may see it is told that they may not do this.
            assert answer.status_code == (404 if kind and who == "charlie" else 403), (method, answer)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[0] and row[1]])
def test_what_belongs_to_others_is_as_if_it_were_not(client, things, charlie, name):
    client.force_login(charlie)
    theirs = client.get("/" + ADDRESSES[name].replace("<uuid:uuid>", str(things[ROWS[name][0]])))
    none = client.get("/" + ADDRESSES[name].replace("<uuid:uuid>", "00000000-0000-4000-8000-000000000000"))
    assert (theirs.status_code, theirs.content) == (none.status_code, none.content) == (404, none.content)


def test_a_cluster_of_others_cannot_be_named_in_a_form(client, things, elsewhere, charlie, lab, bob):
    client.force_login(bob)
    answer = client.post(
        f"/workspaces/{lab.uuid}/jobs/new/",
        {"name": "x", "cluster": "00000000-0000-4000-8000-000000000000", "command": "a.py", "git_url": "https://h/x"},
    )
    assert answer.status_code == 200
    assert not lab.jobs.filter(name="x").exists()
