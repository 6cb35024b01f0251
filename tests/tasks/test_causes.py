"""Why a task failed is said by a table, which a site extends; what was said then is not lost."""

from __future__ import annotations

import pytest
from django.core.checks import run_checks
from django.urls import reverse

from clusters.models import Cluster, EngineVersion
from portal.errors import Alternative, NoRoom
from portal.tasks import causes, ledger
from portal.tasks.models import Output, Step, Task
from tests.web import words


@pytest.fixture
def site(tmp_path, settings):
    def write(text):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text)
        settings.CAUSES = str(path)

    return write


def explain(cause, evidence="", code="", kind="clusters.create"):
    return causes.explain(kind, code, cause, evidence, "As it was.")


def test_a_known_cause_has_its_sentence_its_two_lines_and_its_buttons():
    boot = "tide-1: kernel up\nmounting /shared\nmount.nfs: Connection refused\nFailed to start sshd\nlogin:"
    found = explain("Gave up after 15 minutes: 1 of 2 answer, waiting for tide-1.", boot)
    assert found.say == "A node has not answered for 15 minutes."
    assert found.lines == ["mount.nfs: Connection refused", "Failed to start sshd"]
    assert found.buttons == ("keep", "retry")
    assert found.has_more
    assert "1 of 2 answer, waiting for tide-1" in found.evidence, "what was said is not lost behind the sentence"


def test_what_no_entry_is_about_is_said_as_it_was():
    found = explain("The moon is in the way.", "one\ntwo\nthree")
    assert (found.say, found.advice, found.lines) == ("The moon is in the way.", "As it was.", ["two", "three"])


def test_an_entry_is_about_its_kinds_of_tasks_alone():
    said = "The MPI program ended with exit status 1."
    assert explain(said, kind="workspaces.create").say == said
    assert explain(said).say != said


def test_a_site_says_its_own_causes_first_with_words_of_the_failure(site):
    site('[[cause]]\npattern = "proxy (\\\\S+) refused"\nsay = "The proxy \\\\1 is down."\nadvice = "Call 4711."\n')
    found = explain("Gave up after 15 minutes: 0 of 2 answer.", "curl: proxy web-1 refused")
    assert (found.say, found.advice, found.buttons) == ("The proxy web-1 is down.", "Call 4711.", ("retry",))
    assert explain("A disk quota: no space left on device").say == "A disk is full."


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[cause]]\nsay = 'x'\n", "cause 1: a cause needs a code or a pattern"),
        ("[[cause]]\npattern = '('\n", "cause 1: missing )"),
        ("[[cause]]\npattern = 'x'\nsay = '\\\\1'\n", "cause 1: invalid group reference"),
        ("[[cause]]\ncode = 'x'\nbuttons = ['explode']\n", "there is no button 'explode'"),
        ("[[cause]]\ncode = 'x'\nsays = 'y'\n", "'says' is no word of a cause"),
        ("[[cause]\n", "Expected"),
    ],
)
def test_a_table_that_is_wrong_is_told_at_the_start_and_where(site, text, fault):
    site(text.replace("\\\\", "\\"))
    (found,) = [one for one in run_checks() if one.id == "portal.E012"]
    assert fault in found.msg


@pytest.fixture
def tide(lab):
    return Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=2, status="failed",
        engine_version=EngineVersion.objects.filter(kind="mpi").first(),
    )  # fmt: skip


@pytest.mark.django_db
def test_what_the_cloud_offers_instead_is_a_button_for_whoever_may_make_clusters(
    client, tide, alice, vera, rings, monkeypatch
):
    output = Output.objects.create()
    task = Task.objects.create(kind="clusters.create", title="x", subject=tide, queue="provision", output=output)
    record = Step.objects.create(task=task, position=0, name="nodes", title="Ask", status="running")
    work = ledger.Work(task, record)
    monkeypatch.setattr(work, "prove", lambda **changes: Task.objects.filter(pk=task.pk).update(**changes))
    work.fail(NoRoom("No room for 2 nodes.", [Alternative(instance_type="local.1")], evidence="InsufficientCapacity"))
    client.force_login(alice)
    for page in (reverse("task", args=[task.uuid]), tide.get_absolute_url()):
        body = words(client.get(page))
        assert "The cloud has no room for these nodes just now." in body
        assert "InsufficientCapacity" in body
        address = f"{reverse('new-cluster', args=[tide.workspace.uuid])}?like={tide.uuid}&amp;instance_type=local.1"
        assert f'href="{address}"' in body
        assert "Make one like it with local.1" in body
    client.force_login(vera)
    assert "Make one like it" not in words(client.get(tide.get_absolute_url()))
