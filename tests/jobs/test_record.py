"""What is kept of what a run was; the same again; and two runs beside each other."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.urls import reverse
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion
from jobs import record
from jobs.actions import change_job, create_job, start_run
from jobs.models import Run
from portal.errors import Passing

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

COMMIT = "4e003a86395f" + "0" * 28
WORDS = {"git_url": "https://git.test/a", "reference": "main", "command": "a.py"}


@pytest.fixture(autouse=True)
def no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def tide(lab):
    return Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=3, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"), hourly_price=Decimal("0.36"),
    )  # fmt: skip


@pytest.fixture
def runs(lab, tide, bob):
    job, first = create_job(lab, name="tides", cluster=tide, by=bob, environment={"A": "1", "B": "2"}, **WORDS)
    change_job(job, by=bob, command="b.py", environment={"A": "1", "B": "3"})
    second = start_run(job, by=bob)
    began = now() - timedelta(minutes=10)
    for run, took, packages in ((first, 5, ["numpy==2.0", "x==1"]), (second, 10, ["numpy==2.1", "x==1"])):
        Run.objects.filter(pk=run.pk).update(
            status="finished", commit=COMMIT, started=began, ended=began + timedelta(minutes=took), packages=packages
        )
        run.refresh_from_db()
    return first, second


def test_packages_are_read_from_what_their_folders_are_called_and_from_nothing_else():
    listed = [
        "/e/lib/python3.11/site-packages/numpy-2.1.0.dist-info", "/e/lib/python3.11/site-packages/*.dist-info",
        "/f/packages/Zope_Interface-5.4.post1.dist-info", "/f/packages/numpy-2.2.0+cpu.dist-info", "",
        "/f/packages/<script>-1.dist-info", "/f/packages/a-1\x1b[2J.dist-info",
        "/f/packages/" + "x" * 200 + "-1.dist-info",
    ]  # fmt: skip
    assert record.versions(listed) == ["numpy==2.2.0+cpu", "zope-interface==5.4.post1"]


def test_a_node_that_does_not_answer_hinders_nothing(runs, monkeypatch):
    def silent(*_, **__):
        raise Passing("tide-0 does not answer.")

    first, _ = runs
    monkeypatch.setattr(record, "take", silent)
    assert record.keep(first) == "tide-0 does not answer."


def test_what_a_run_cost_is_its_cluster_for_as_long_as_it_ran(runs):
    assert record.cost(runs[0]) == Decimal("0.36") * 3 * 5 / 60
    Cluster.objects.update(hourly_price=None)
    assert record.cost(Run.objects.get(pk=runs[0].pk)) is None


def test_exactly_this_again_is_of_the_same_commit_and_not_what_the_job_has_become(client, runs, bob, vera):
    first, _ = runs
    client.force_login(vera)
    assert client.post(reverse("repeat-run", args=[first.uuid])).status_code == 403
    client.force_login(bob)
    assert "Exactly this again" in client.get(reverse("run", args=[first.uuid])).content.decode()
    answer = client.post(reverse("repeat-run", args=[first.uuid]))
    again = Run.objects.latest("pk")
    assert answer.url == reverse("run", args=[again.uuid])
    assert (again.number, again.reference, again.command) == (3, COMMIT, "a.py")
    assert again.environment == {"A": "1", "B": "2"}


def test_where_it_cannot_be_had_again_it_is_said_why(client, runs, bob):
    first, second = runs
    client.force_login(bob)
    Run.objects.filter(pk=second.pk).update(commit="")
    assert "Exactly this again" not in client.get(reverse("run", args=[second.uuid])).content.decode()
    answer = client.post(reverse("repeat-run", args=[second.uuid]), follow=True)
    assert "its commit is known" in answer.content.decode()
    Cluster.objects.update(status="terminated")
    answer = client.post(reverse("repeat-run", args=[first.uuid]), follow=True)
    assert "tide is TERMINATED" in answer.content.decode()
    assert Run.objects.count() == 2


def test_two_runs_are_compared_and_of_lists_only_what_differs_is_shown(client, runs, vera):
    first, second = runs
    client.force_login(vera)
    assert (
        reverse("compare-runs", args=[second.uuid]) in client.get(reverse("run", args=[second.uuid])).content.decode()
    )
    page = client.get(reverse("compare-runs", args=[second.uuid]))
    assert page.context["other"] == first
    differ = {name: pair for name, _, pair in page.context["differ"]}
    assert differ["Command"] == ("b.py", "a.py")
    assert differ["Environment"] == ("B=3", "B=2")
    assert differ["Packages"] == ("numpy==2.1", "numpy==2.0")
    assert differ["Took"] == ("10 min", "5 min")
    assert "Commit" not in differ
    assert client.get(reverse("compare-runs", args=[first.uuid])).context["other"] == second
    assert client.get(reverse("compare-runs", args=[second.uuid]), {"with": "1"}).context["other"] == first


@pytest.mark.parametrize("asked", ["99", "0", "9" * 40])
def test_a_run_that_there_is_not_is_said(client, runs, vera, asked):
    client.force_login(vera)
    page = client.get(reverse("compare-runs", args=[runs[1].uuid]), {"with": asked})
    assert f"There is no run {asked} of this job." in page.content.decode()


def test_the_only_run_of_a_job_says_so(client, lab, tide, bob):
    _, run = create_job(lab, name="alone", cluster=tide, by=bob, **WORDS)
    client.force_login(bob)
    assert "It is the only run of its job." in client.get(reverse("compare-runs", args=[run.uuid])).content.decode()
