"""Tags of jobs: given in the form, shown where the job is, and a way to the jobs that have one."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import AuditEvent
from clusters.models import Cluster, EngineVersion
from jobs import rules
from jobs.actions import change_job, create_job, delete_job
from jobs.models import Job, Tag
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

WORDS = {"git_url": "https://git.test/a", "reference": "", "command": "a.py"}


@pytest.fixture(autouse=True)
def no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def tide(lab):
    return Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=1, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip


def listed(client, lab, query):
    response = client.get(f"{reverse('jobs', args=[lab.uuid])}?{query}")
    assert response.status_code == 200
    return sorted(job.name for job, *_ in response.context["rows"])


def test_tags_are_words_in_small_letters_each_once():
    assert rules.tags(" Nightly, eu-west nightly\tgroup:q3  ") == ["nightly", "eu-west", "group:q3"]
    assert rules.tags("") == []
    assert rules.tags("\u0939\u093f\u0928\u094d\u0926\u0940") == ["\u0939\u093f\u0928\u094d\u0926\u0940"], (
        "with its vowels"
    )
    assert rules.tags("E\u0301TUDE \u00e9tude") == ["\u00e9tude"], "however it was typed"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<b>", "“<b>” is no tag: it has letters, digits, and . : - _ within."),
        ("\u0301", "“\u0301” is no tag: it has letters, digits, and . : - _ within."),
        ("-x", "“-x” is no tag: it has letters, digits, and . : - _ within."),
        ("x\u202ey", "“x\u202ey” is no tag: it has letters, digits, and . : - _ within."),
        ("x" * 31, f"A tag has at most 30 characters, “{'x' * 30}…” has 31."),
        (" ".join(f"t{n}" for n in range(11)), "At most 10 tags; these are 11."),
        (" ".join(f"<{n}" for n in range(10_000)), "At most 10 tags; these are 10,000."),
    ],
)
def test_what_is_no_tag_is_said_in_a_sentence(text, why):
    with pytest.raises(ValidationError) as said:
        rules.tags(text)
    assert said.value.messages == [why]


def test_tags_of_the_form_are_on_the_jobs_page_and_lead_to_the_jobs_that_have_them(client, lab, tide, bob):
    client.force_login(bob)
    typed = {"cluster": tide.uuid, "command": "a.py", "git_url": "https://git.test/a"}
    client.post(reverse("new-job", args=[lab.uuid]), typed | {"name": "one", "tags": "Nightly, tides"})
    client.post(reverse("new-job", args=[lab.uuid]), typed | {"name": "two", "tags": "tides"})
    client.post(reverse("new-job", args=[lab.uuid]), typed | {"name": "none"})
    one = Job.objects.get(name="one")
    assert one.tags == ["nightly", "tides"]
    assert AuditEvent.objects.get(verb="created", subject=one.uuid).after["tags"] == "nightly tides"
    link = f'href="{reverse("jobs", args=[lab.uuid])}?tag=nightly"'
    assert link in client.get(reverse("jobs", args=[lab.uuid])).content.decode()
    assert link in client.get(one.get_absolute_url()).content.decode()
    assert listed(client, lab, "tag=tides") == ["one", "two"]
    assert listed(client, lab, "tag=Nightly") == ["one"]
    assert listed(client, lab, "tag=night") == []
    assert listed(client, lab, "tag=tides&sort=name&q=tw") == ["two"]


def test_changed_tags_are_found_at_once_and_what_is_not_asked_stays(client, lab, tide, bob):
    job, _ = create_job(lab, name="one", cluster=tide, by=bob, tags=["old", "kept"], **WORDS)
    client.force_login(bob)
    typed = {"name": "one", "cluster": tide.uuid, "command": "a.py", "git_url": WORDS["git_url"]}
    client.post(reverse("edit-job", args=[job.uuid]), typed | {"tags": "kept new"})
    assert listed(client, lab, "tag=old") == []
    assert listed(client, lab, "tag=new") == ["one"]
    entry = AuditEvent.objects.get(verb="changed")
    assert (entry.before, entry.after) == ({"tags": "old kept"}, {"tags": "kept new"})
    client.post(reverse("edit-job", args=[job.uuid]), typed)
    assert Job.objects.get().tags == ["kept", "new"]
    client.post(reverse("edit-job", args=[job.uuid]), typed | {"tags": ""})
    assert (Job.objects.get().tags, Tag.objects.count()) == ([], 0)


def test_a_tag_finds_no_job_of_another_workspace_and_none_that_is_deleted(client, lab, tide, alice, bob):
    other = Workspace.objects.create(
        organization=lab.organization, cloud_config=lab.cloud_config, name="other", region=lab.region, status="ready"
    )
    theirs = Cluster.objects.create(
        workspace=other, name="theirs", instance_type="local.2", cores_per_node=2, node_count=1, status="running",
        engine_version=tide.engine_version,
    )  # fmt: skip
    create_job(other, name="secret", cluster=theirs, by=alice, tags=["tides"], **WORDS)
    job, _ = create_job(lab, name="one", cluster=tide, by=bob, tags=["tides"], **WORDS)
    client.force_login(bob)
    assert listed(client, lab, "tag=tides") == ["one"]
    delete_job(job, by=bob)
    assert listed(client, lab, "tag=tides") == []


def test_the_jobs_page_costs_as_many_queries_with_a_tag_and_reads_an_index(client, lab, tide, bob):
    for n in range(6):
        create_job(lab, name=f"job-{n}", cluster=tide, by=bob, tags=[f"t{n}", "all"], **WORDS)
    client.force_login(bob)
    listed(client, lab, "")  # what only the first page of a session asks
    counts = set()
    for query in ("tag=all", "tag=t1", ""):
        with CaptureQueriesContext(connection) as captured:
            listed(client, lab, query)
        counts.add(len(captured))
    assert len(counts) == 1
    plan = Job.objects.live().filter(workspace=lab).tagged(lab.pk, "t1").explain()
    assert "job_by_tag" in plan or connection.vendor == "postgresql"  # which may well read so small a table whole
    change_job(Job.objects.get(name="job-1"), by=bob, tags=[])
    assert listed(client, lab, "tag=t1") == []
