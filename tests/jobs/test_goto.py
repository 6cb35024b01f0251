"""Go to…: by name, to what one may see and to nothing else."""

from __future__ import annotations

import pytest

from clusters.models import Cluster, EngineVersion
from jobs.actions import delete_job
from jobs.models import Job
from tests.web import words


@pytest.fixture
def tide(lab):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="2026.1", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, engine_version=engine,
        status="running",
    )  # fmt: skip
    Job.objects.create(
        workspace=lab, cluster=cluster, name="Tidal forces", git_url="https://x.example/y", command="x.py"
    )
    return cluster


def found(client, query=""):
    page = words(client.get("/go-to/", {"q": query} if query else {}))
    return page.split('<ul class="go-list">')[1].split("</ul>")[0]


def test_it_finds_by_a_part_of_the_name_however_it_is_written(client, tide, vera):
    client.force_login(vera)
    assert f'href="{tide.get_absolute_url()}"' in found(client, "TID")
    assert "Tidal forces" in found(client, "tid")
    assert "cluster in lab" in found(client, "tide")
    assert "Nothing that you may see is called that." in found(client, "no such thing")


def test_a_stranger_finds_nothing_of_others(client, tide, charlie):
    client.force_login(charlie)
    for name in ("tide", "Tidal", "lab", "This computer"):
        assert "Nothing that you may see is called that." in found(client, name)


def test_only_pages_that_one_may_open_are_offered(client, tide, alice, vera):
    client.force_login(vera)
    assert 'href="/organization/audit/"' not in found(client)
    assert 'href="/profile/"' in found(client)
    client.force_login(alice)
    assert 'href="/organization/audit/"' in found(client, "audit")


def test_what_is_gone_is_not_found(client, tide, lab, alice):
    client.force_login(alice)
    Cluster.objects.filter(pk=tide.pk).update(status="terminated")
    assert "cluster in lab" not in found(client, "tide")
    job = Job.objects.create(workspace=lab, cluster=tide, name="old job", git_url="https://git.test/a", command="a.py")
    assert "job in lab" in found(client, "old job")
    delete_job(job, by=alice)
    assert "job in lab" not in found(client, "old job")


def test_whoever_is_in_no_organization_finds_their_own_pages(client, db):
    from tests.conftest import person

    client.force_login(person("nomad"))
    assert 'href="/profile/"' in found(client)
    assert 'href="/workspaces/"' not in found(client)


def test_the_dialog_gets_the_list_alone(client, tide, vera):
    client.force_login(vera)
    part = words(client.get("/go-to/", {"q": "tide"}, headers={"hx-request": "true", "hx-target": "go-found"}))
    assert "<html" not in part
    assert "2 places" not in part
    assert "tide" in part
