"""Lists of runs, jobs and clusters: what is asked for in an address is what is shown, page by page, to the end."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion, Node
from jobs.models import Job, Run
from jobs.views import lists
from portal.tasks.models import Output
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def filled(lab, alice, bob, monkeypatch):
    """60 runs: of the job `long` 50, of `short` 10; every fifth failed; alice's and bob's by turns; a day apart."""
    monkeypatch.setattr(lists, "PAGE", 7)
    engine = EngineVersion.objects.get(kind="mpi")
    tide, old = (
        Cluster.objects.create(
            workspace=lab, name=name, instance_type="local.1", cores_per_node=1, node_count=1, status=status,
            engine_version=engine,
        )
        for name, status in (("tide", "running"), ("old", "terminated"))
    )  # fmt: skip
    Node.objects.create(cluster=tide, rank=0, hostname="tide-0", state="answers")
    jobs = [
        Job.objects.create(workspace=lab, cluster=tide, name=name, git_url="https://h/x", command="a.py")
        for name in ("long", "short")
    ]
    for n in range(60):
        run = Run.objects.create(
            job=jobs[n % 6 == 0], cluster=old if n < 10 else tide, number=n + 1, output=Output.objects.create(),
            status="failed" if n % 5 == 0 else "finished", started_by=(alice, bob)[n % 2], turn=now(), started=now(),
            ended=now(), cause="It broke.",
        )  # fmt: skip
        Run.objects.filter(pk=run.pk).update(created=now() - timedelta(days=59 - n, hours=1))
    return lab


@pytest.fixture
def walk(client, bob, filled):
    """The numbers of the runs of all pages, each page a list; and what the first page says."""

    def walk(query="", name="runs", row=None):
        client.force_login(bob)
        path = reverse(name, args=[] if name == "all-runs" else [(row or filled).uuid])
        pages, address = [], f"{path}?{query}"
        while address:
            response = client.get(address)
            assert response.status_code == 200
            pages.append([getattr(row, "number", row) for row in response.context["runs"]])
            older = response.context["older"]
            body = response.content.decode()
            (link,) = re.findall(rf'href="(\?[^"]*after={older})"', body) if older else (None,)
            address = f"{path}{link.replace('&amp;', '&')}" if link else None
        return pages

    return walk


@pytest.fixture
def counted(client, django_assert_max_num_queries):
    """How many queries a page needs."""

    def counted(path):
        with django_assert_max_num_queries(100) as context:
            assert client.get(path).status_code == 200
        return len(context)

    return counted


def numbers(pages):
    return [number for page in pages for number in page]


ALL = list(range(60, 0, -1))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ALL),
        ("sort=old", ALL[::-1]),
        ("status=failed", [n for n in ALL if (n - 1) % 5 == 0]),
        ("status=going", []),
        ("who=me", [n for n in ALL if n % 2 == 0]),
        ("days=7", ALL[:7]),
        ("q=SHOR", [n for n in ALL if (n - 1) % 6 == 0]),
        ("q=o", ALL),
        ("q=o&sort=old", ALL[::-1]),
        ("q=nothing", []),
        ("status=failed&who=me&q=long", [n for n in ALL if (n - 1) % 5 == 0 and n % 2 == 0 and (n - 1) % 6]),
    ],
)
def test_runs_are_found_by_what_is_in_the_address_and_each_is_on_one_page(walk, query, expected):
    pages = walk(query)
    assert numbers(pages) == expected
    assert all(len(page) == 7 for page in pages[:-1])


def test_runs_of_one_cluster_of_one_job_and_of_one_person(walk, alice):
    assert numbers(walk(f"cluster={Cluster.objects.get(name='old').uuid}")) == ALL[50:]
    assert numbers(walk(f"job={Job.objects.get(name='short').uuid}")) == [n for n in ALL if (n - 1) % 6 == 0]
    assert numbers(walk(f"who={alice.uuid}")) == [n for n in ALL if n % 2]


def test_the_page_of_a_job_goes_on_to_its_first_run(walk):
    assert numbers(walk("", "job", Job.objects.get(name="long"))) == [n for n in ALL if (n - 1) % 6]


@pytest.mark.parametrize("query", ["status=x", "cluster=x", "who=x", "days=0", "job=x", "sort=x", "q=" + "x" * 81])
def test_what_cannot_be_looked_for_is_said_and_shows_nothing(client, bob, filled, query):
    client.force_login(bob)
    answer = client.get(reverse("runs", args=[filled.uuid]) + f"?{query}")
    assert answer.status_code == 200
    assert answer.context["runs"] == []
    assert "That cannot be looked for" in answer.content.decode()


@pytest.mark.parametrize("after", ["x", "11111111-1111-4111-8111-111111111111"])
def test_a_cursor_that_is_none_is_no_trap(client, bob, filled, after):
    client.force_login(bob)
    answer = client.get(reverse("runs", args=[filled.uuid]) + f"?after={after}")
    assert answer.status_code == 200
    assert "First page" in " ".join(answer.content.decode().split())


def test_runs_of_other_workspaces_are_found_by_no_filter(client, filled, harbor, this_computer, alice, bob):
    lab = type(filled)
    other = lab.objects.create(
        organization=harbor, cloud_config=this_computer, name="other", region="x", status="ready"
    )
    other.members.create(user=bob, role="viewer")
    client.force_login(bob)
    job, old = Job.objects.get(name="long"), Cluster.objects.get(name="old")
    for query in ("", "q=o", f"job={job.uuid}", f"cluster={old.uuid}", "status=failed", "who=me", "days=30"):
        answer = client.get(reverse("runs", args=[other.uuid]) + f"?{query}")
        assert list(answer.context["runs"]) == []


def test_a_run_that_waits_says_why_and_since_when(client, bob, filled):
    job, tide = Job.objects.get(name="long"), Cluster.objects.get(name="tide")
    on, waits = (
        Run.objects.create(job=job, cluster=tide, number=n, output=Output.objects.create(), **fields)
        for n, fields in ((70, {"status": "inprogress", "started": now(), "turn": now()}), (71, {"status": "new"}))
    )
    Cluster.objects.filter(pk=tide.pk).update(occupied_by=on.uuid)
    client.force_login(bob)
    for path in (
        reverse("runs", args=[filled.uuid]), reverse("jobs", args=[filled.uuid]), reverse("job", args=[job.uuid]),
        reverse("workspace-dashboard", args=[filled.uuid]), "/", reverse("all-runs"),
        reverse("cluster", args=[tide.uuid]),
    ):  # fmt: skip
        body = client.get(path).content.decode()
        assert "long, run 70 is on tide" in body, path
        assert f'data-since="{waits.created.isoformat()}"' in body, path


def test_jobs_are_in_the_order_in_which_they_ran_or_by_name(client, bob, filled):
    Job.objects.filter(name="short").update(ran=now() + timedelta(hours=1))
    client.force_login(bob)

    def shown(query):
        answer = client.get(reverse("jobs", args=[filled.uuid]) + f"?{query}")
        return [job.name for job, *_ in answer.context["rows"]]

    assert shown("") == ["short", "long"]
    assert shown("sort=name") == ["long", "short"]
    assert shown("q=ONG") == ["long"]
    assert shown(f"cluster={Cluster.objects.get(name='old').uuid}") == []
    assert shown(f"sort=name&after={Job.objects.get(name='long').uuid}") == ["short"]
    assert shown(f"after={Job.objects.get(name='short').uuid}") == ["long"]


def test_clusters_that_are_gone_have_a_tab_of_their_own(client, bob, filled):
    client.force_login(bob)
    there, gone = (client.get(reverse("clusters", args=[filled.uuid]) + query) for query in ("", "?tab=gone"))
    assert [row.cluster.name for row in there.context["rows"]] == ["tide"]
    assert [row.cluster.name for row in gone.context["rows"]] == ["old"]
    assert "TERMINATED" in gone.content.decode()
    assert f"?cluster={Cluster.objects.get(name='old').uuid}" in gone.content.decode()
    none = client.get(reverse("clusters", args=[filled.uuid]) + "?status=failed")
    assert "Nothing found" in none.content.decode()
    Cluster.objects.update(status="terminated")
    assert "Those that were here were deleted." in client.get(reverse("clusters", args=[filled.uuid])).content.decode()


def test_the_figures_of_a_dashboard_are_counted_in_a_window_of_days(client, bob, filled):
    client.force_login(bob)
    figures = client.get(reverse("workspace-dashboard", args=[filled.uuid])).context["figures"]
    assert (figures["failed"].number, figures["finished"].number) == (1, 6)
    assert (figures["going"].number, figures["waiting"].number, figures["clusters"].number) == (0, 0, 1)
    body = client.get("/").content.decode()
    assert "Failed, last 7 days" in body
    assert "nothing needs you" in body


def test_a_cluster_that_has_lost_a_node_is_not_said_to_be_ready_for_runs(client, bob, filled):
    client.force_login(bob)
    url = reverse("workspace-dashboard", args=[filled.uuid])
    assert ">ready for runs<" in client.get(url).content.decode()
    Node.objects.update(state=Node.State.GONE)
    page = client.get(url).content.decode()
    assert "DEGRADED" in page
    assert ">none is ready for runs<" in page, "something can run all the same, on a cluster of its own"


def test_each_row_of_the_dashboard_names_its_workspace(client, bob, filled):
    client.force_login(bob)
    body = "".join(client.get("/").content.decode().split())
    assert f'href="{reverse("workspace-dashboard", args=[filled.uuid])}">lab</a>' in body


@pytest.fixture
def shelf(lab, filled):
    """Another workspace, in which bob is a viewer: of its 3 runs the last needs somebody."""
    shelf = type(lab).objects.create(
        organization=lab.organization, cloud_config=lab.cloud_config, name="shelf", region="x", status="ready"
    )
    cluster = Cluster.objects.get(name="tide")
    job = Job.objects.create(workspace=shelf, cluster=cluster, name="theirs", git_url="https://h/x", command="a.py")
    for n in (101, 102, 103):
        Run.objects.create(
            job=job, cluster=cluster, number=n, output=Output.objects.create(), status="failed", started=now(),
            ended=now(), needs_you=n == 103, cause="It broke.", turn=now(),
        )  # fmt: skip
    return shelf


def test_a_dashboard_has_the_newest_of_all_workspaces_and_what_needs_others_takes_no_place(client, bob, filled, shelf):
    shelf.members.create(user=bob, role="viewer")
    Run.objects.filter(workspace=shelf).update(needs_you=True)
    mine = Run.objects.get(workspace=filled, number=56)
    Run.objects.filter(pk=mine.pk).update(needs_you=True)
    own = Run.objects.get(workspace=shelf, number=101)
    for n in range(201, 212):
        Run.objects.create(
            job=own.job, cluster=own.cluster, number=n, output=Output.objects.create(), status="failed", turn=now(),
            ended=now(), needs_you=True,
        )  # fmt: skip
    client.force_login(bob)
    context = client.get("/").context
    assert [run.number for run in context["needs"]] == [56]
    assert [run.number for run in context["recent"]] == list(range(211, 203, -1))
    for n in range(301, 312):
        Run.objects.create(
            job=own.job, cluster=own.cluster, number=n, output=Output.objects.create(), status="new"
        )  # fmt: skip
    assert [run.number for run in client.get("/").context["waits"]] == list(range(301, 309)), "the longest first"


def test_the_runs_of_all_workspaces_of_a_person_are_one_list(walk, bob, shelf):
    assert numbers(walk("", "all-runs")) == ALL, "bob is not in shelf"
    shelf.members.create(user=bob, role="viewer")
    everything = [103, 102, 101, *ALL]
    assert numbers(walk("", "all-runs")) == everything
    assert numbers(walk("sort=old", "all-runs")) == everything[::-1]
    assert numbers(walk("days=7&status=failed", "all-runs")) == [103, 102, 101, 56]
    assert numbers(walk(f"who={bob.uuid}", "all-runs")) == numbers(walk("who=me"))


def test_what_needs_somebody_is_listed_where_the_person_can_do_something_about_it(client, walk, bob, vera, shelf):
    Run.objects.filter(number=56).update(needs_you=True)
    shelf.members.create(user=bob, role="viewer")
    assert numbers(walk("status=needs", "all-runs")) == [56]
    here = client.get("/")
    assert here.context["figures"]["needing"].number == 1
    assert f'href="{reverse("all-runs")}?status=needs"' in here.content.decode()
    assert "Needs you" not in client.get(reverse("workspace-dashboard", args=[shelf.uuid])).content.decode()
    client.force_login(vera)
    for path in ("/", reverse("workspace-dashboard", args=[Workspace.objects.get(name="lab").uuid])):
        assert "needs you" not in client.get(path).content.decode().lower()
    shared = client.get(reverse("all-runs") + "?status=needs")
    assert [run.number for run in shared.context["runs"]] == [56], "a link that somebody gave her still finds it"
    assert "Failed, not mended" in shared.content.decode()


def test_why_runs_of_a_cluster_wait_and_who_is_on_it_cost_a_query_each_however_many_do(client, bob, filled, counted):
    job, tide = Job.objects.get(name="long"), Cluster.objects.get(name="tide")
    client.force_login(bob)
    path = reverse("cluster", args=[tide.uuid])
    client.get(path)
    before = counted(path)
    for n in range(70, 75):
        Run.objects.create(job=job, cluster=tide, number=n, output=Output.objects.create(), status="new")
    Cluster.objects.filter(pk=tide.pk).update(occupied_by=Run.objects.get(number=60).uuid)
    assert counted(path) <= before + 2
    Cluster.objects.filter(pk=tide.pk).update(occupied_by=None)
    Node.objects.update(state="silent")
    assert counted(path) <= before + 2
    assert "tide is DEGRADED, tide-0 cannot be reached" in client.get(path).content.decode()


def test_jobs_that_run_or_wait_are_first_and_no_job_is_there_twice(client, bob, filled, monkeypatch):
    tide = Cluster.objects.get(name="tide")
    for n in range(12):
        job = Job.objects.create(
            workspace=filled, cluster=tide, name=f"j{n:02}", git_url="https://h/x", command="a.py",
            ran=now() - timedelta(days=n),
        )  # fmt: skip
        status = {5: "new", 11: "inprogress"}.get(n, "finished")
        took = timedelta(minutes=n)
        for number in (1, 2):
            Run.objects.create(
                job=job, cluster=tide, number=number, output=Output.objects.create(), started=now() - took, turn=now(),
                status="failed" if number == 1 else status, ended=None if number == 2 and n in (5, 11) else now(),
            )  # fmt: skip
    client.force_login(bob)
    path = reverse("jobs", args=[filled.uuid])
    first = client.get(path)
    names = [job.name for job, *_ in first.context["rows"]]
    assert names[:2] == ["j11", "j05"]
    assert "The last 2 runs took 3 min 00 s to 3 min 00 s; 1 of them failed" in first.content.decode()
    second = client.get(path, {"after": first.context["older"]})
    names += [job.name for job, *_ in second.context["rows"]]
    assert sorted(names) == sorted({"long", "short", *(f"j{n:02}" for n in range(12))})
    by_name = client.get(path, {"sort": "name"})
    assert [job.name for job, *_ in by_name.context["rows"]][:2] == ["j00", "j01"]


def test_what_a_run_cost_is_said_where_its_nodes_have_a_price(client, bob, filled):
    Cluster.objects.filter(name="tide").update(hourly_price="0.5", node_count=4)
    run = Run.objects.filter(cluster__name="tide").last()
    Run.objects.filter(pk=run.pk).update(started=now() - timedelta(minutes=30), ended=now())
    client.force_login(bob)
    page = client.get(reverse("runs", args=[filled.uuid])).content.decode()
    assert page.count("$1.00") == 1


def test_several_runs_are_cancelled_or_run_again_at_once(client, bob, vera, filled, monkeypatch):
    began = []
    monkeypatch.setattr("jobs.views.several.start_run", lambda job, by, uuid: began.append((job.name, uuid)))
    monkeypatch.setattr("jobs.views.several.cancel_run", lambda run, by: began.append(run.number) or True)
    runs = list(Run.objects.filter(job__name="long").order_by("-pk")[:2])
    Run.objects.filter(pk=runs[0].pk).update(status="inprogress")
    path = reverse("change-runs", args=[filled.uuid])
    sent = {"run": [str(run.uuid) for run in runs], "what": "cancel"}
    client.force_login(bob)
    asked = client.get(path, sent)
    assert asked.context["runs"] == runs[:1]
    assert [why for _, why in asked.context["left_out"]] == [f"{runs[1]} has ended"]
    client.post(path, sent)
    assert began == [runs[0].number]
    key = asked.context["key"]
    for _ in range(2):
        client.post(path, {**sent, "what": "again", "key": key})
    assert [name for name, _ in began[1:]] == ["long", "long"]
    assert began[1] == began[2], "asked twice with one form, it is one run"
    client.force_login(vera)
    assert client.post(path, sent).status_code == 403
