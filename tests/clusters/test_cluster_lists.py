"""The list of clusters: found, ordered, dropped down, and changed several at once."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import AuditEvent
from clusters.models import Cluster, EngineVersion, Node
from clusters.views import clusters as views
from portal.tasks.models import Step, Task
from tests.pages.test_pages import make_run, make_task
from tests.web import words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture(autouse=True)
def queued(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def make(lab, alice):
    engine = EngineVersion.objects.get(kind="mpi")

    def make(name, status="running", *, nodes=2, **fields):
        cluster = Cluster.objects.create(
            workspace=lab, name=name, instance_type="local.2", cores_per_node=2, node_count=nodes, status=status,
            **{"engine_version": engine, "created_by": alice, **fields},
        )  # fmt: skip
        for rank in range(nodes):
            Node.objects.create(cluster=cluster, rank=rank, hostname=f"{name}-{rank}", host_public="ssh-ed25519 AAAA")
        return cluster

    return make


@pytest.fixture
def listed(client, lab, alice):
    """The page of the list that an address like `?sort=new` asks for."""
    client.force_login(alice)
    return lambda query="": words(client.get(f"/workspaces/{lab.uuid}/clusters/{query}"))


def names(page):
    return re.findall(r'class="name" href="/clusters/[^"]+">([^<]+)</a>', page)


# In the address


def test_a_list_is_in_the_order_that_is_asked_for_over_all_of_its_pages(make, listed, monkeypatch):
    monkeypatch.setattr(views, "PAGE", 2)
    make("b", "failed", nodes=1)
    make("d", "running", nodes=4)
    make("a", "paused", nodes=2)
    make("c", "inprogress", nodes=4)
    for sort, order in (("", "abcd"), ("new", "cadb"), ("status", "bcda"), ("cores", "dcab")):
        first = listed(f"?sort={sort}")
        after = re.search(r'href="\?([^"]*after=[^"]+)"', first)[1].replace("&amp;", "&")
        assert "".join(names(first) + names(listed(f"?{after}"))) == order, sort


def test_a_page_by_status_goes_on_where_the_one_before_ended_though_its_last_row_changed(make, listed, monkeypatch):
    monkeypatch.setattr(views, "PAGE", 1)
    first, _ = make("a", "failed"), make("b", "failed")
    after = re.search(r'href="\?([^"]*after=[^"]+)"', listed("?sort=status&status=failed"))[1].replace("&amp;", "&")
    Cluster.objects.filter(pk=first.pk).update(name="renamed")
    assert names(listed(f"?{after}")) == ["b"]


def test_a_list_can_be_narrowed_to_an_engine(make, listed):
    make("plain")
    make("bodo", engine_version=EngineVersion.objects.create(kind="bodo", version="2026.1", packages=[]))
    assert names(listed("?engine=bodo")) == ["bodo"]
    assert names(listed("?engine=mpi")) == ["plain"]


# Dropped down


def test_the_last_task_of_a_cluster_drops_down_in_the_list(make, listed, lab, django_assert_max_num_queries):
    cluster, other = make("tide", "inprogress"), make("reef")
    make_task(cluster, "inprogress")
    make_task(other, "finished")
    page = listed()
    assert 'aria-expanded="true"' not in page
    assert "Step 2 of 2" not in page
    link = re.search(rf'href="\?(open={cluster.uuid})#cluster-{cluster.uuid}"', page)[1]
    with django_assert_max_num_queries(13):
        page = listed(f"?{link}")
    assert page.count('aria-expanded="true"') == 1
    assert "Step 2 of 2: two" in page
    assert "<progress" in page
    assert page.count("waiting…") == 2, "neither of its nodes has an address"
    assert f'data-copy="{cluster.last_task.uuid}"' in page
    assert reverse("output", args=[cluster.last_task.output.uuid]) in page
    assert f'href="?#cluster-{cluster.uuid}"' in page, "it can be closed again"
    assert f'href="?open={cluster.uuid}&amp;open={other.uuid}#cluster-{other.uuid}"' in page, "another one opens beside"
    assert 'data-every="3"' in page, "the time that is left goes on"


def test_what_is_dropped_down_says_the_nodes_addresses_and_why_a_task_failed(make, listed):
    tide, ebb = make("tide"), make("ebb", "failed")
    tide.nodes.filter(rank=1).update(private_address="10.0.0.7")
    make_task(tide, "finished")
    make_task(ebb, "failed", cause="The cloud has no room.", advice="Try another zone.")
    page = listed(f"?open={tide.uuid}&open={ebb.uuid}")
    assert "10.0.0.7" in page
    assert "The cloud has no room." in page
    assert "Try another zone." in page
    assert "<progress" not in page


def test_progress_in_the_list_is_what_the_history_tells(make, listed):
    for n in range(3):
        done = make_task(make(f"c{n}"), "finished")
        Step.objects.filter(task=done).update(status="done", started=now(), finished=now())
    cluster = make("tide", "inprogress")
    make_task(cluster, "inprogress")
    page = listed(f"?open={cluster.uuid}")
    assert re.search(r"about \d+ s left \(usually \d+ s in all, from 3 like it\)", page)
    assert re.search(r">\d+%</span>", page)


def test_only_some_are_dropped_down_at_once_and_nothing_of_other_workspaces(make, listed, lab):
    made = [make(f"c{n}") for n in range(7)]
    for cluster in made:
        make_task(cluster, "finished")
    page = listed("?" + "&".join(f"open={cluster.uuid}" for cluster in made))
    assert page.count('aria-expanded="true"') == views.MOST_OPEN
    assert 'aria-expanded="true"' not in listed("?open=1&open=00000000-0000-0000-0000-000000000000&open=%00")


def test_a_list_says_what_the_last_task_is(make, listed):
    cluster = make("tide")
    Task.objects.filter(pk=make_task(cluster, "finished").pk).update(kind="clusters.scale", title="Scale cluster tide")
    page = listed()
    assert "Scale cluster</span>" in page
    assert page.count(">FINISHED</span>") == 1


def test_a_list_costs_as_many_queries_with_ten_times_as_many_rows(make, listed, django_assert_max_num_queries):
    for n in range(25):
        make_task(make(f"c{n:02}", nodes=1), "finished")
        if n == 2:
            listed()
            with django_assert_max_num_queries(8):
                listed()
    with django_assert_max_num_queries(8):
        page = listed()
    assert len(names(page)) == 25


# Menus


def test_each_row_has_the_menu_of_its_own_cluster(make, listed):
    made = [make("a"), make("b"), make("c", "paused")]
    page = listed()
    for cluster in made:
        menu = re.search(rf'id="menu-{cluster.uuid}">(.*?)</details>', page)[1]
        addresses = set(re.findall(r"/clusters/([0-9a-f-]{36})/", menu)) | set(re.findall(r"cluster=([^\"]+)", menu))
        assert addresses == {str(cluster.uuid)}
        assert ("/pause/" in menu, "/resume/" in menu) == ((True, False), (False, True))[cluster.status == "paused"]
    assert "place-" not in page, "no place was left empty"


# Several at once


def choose(client, lab, what, *clusters, **fields):
    data = {"what": what, "cluster": [str(cluster.uuid) for cluster in clusters], **fields}
    return client.post(f"/workspaces/{lab.uuid}/clusters/change/", data, follow=True)


def test_several_are_paused_each_by_itself_and_who_refuses_is_left_out_in_words(client, lab, alice, make):
    client.force_login(alice)
    tide, reef, paused, busy = make("tide"), make("reef"), make("ebb", "paused"), make("busy")
    job = lab.jobs.create(name="j", cluster=busy, git_url="https://example.org/a", command="a.py")
    run = make_run(job, 1, "inprogress")
    Cluster.objects.filter(pk=busy.pk).update(occupied_by=run.uuid)
    query = "&".join(f"cluster={cluster.uuid}" for cluster in (tide, reef, paused, busy))
    page = words(client.get(f"/workspaces/{lab.uuid}/clusters/change/?what=pause&{query}"))
    assert "Pause 2 clusters" in page
    assert names(page) == ["reef", "tide"]
    assert "2 clusters are left out" in page
    assert "ebb cannot be paused while it is PAUSED." in page
    assert f"busy cannot be paused now: {run} is on it." in page
    assert not Task.objects.filter(kind="clusters.pause").exists(), "nothing has happened yet"
    page = words(choose(client, lab, "pause", tide, reef))
    assert "reef, tide are being paused." in page
    assert {row.status for row in Cluster.objects.filter(name__in=["tide", "reef"])} == {"pausing"}
    assert sorted(AuditEvent.objects.filter(verb="paused").values_list("subject_name", flat=True)) == ["reef", "tide"]


@pytest.mark.parametrize("what", ["pause", "delete"])
def test_more_that_are_chosen_need_no_more_queries(client, lab, alice, make, django_assert_max_num_queries, what):
    client.force_login(alice)
    path, counted = f"/workspaces/{lab.uuid}/clusters/change/?what={what}", []
    for n in range(5):
        cluster = make(f"tide{n}")
        job = lab.jobs.create(name=f"j{n}", cluster=cluster, git_url="https://example.org/a", command="a.py")
        run = make_run(job, 1, "inprogress")
        path += f"&cluster={cluster.uuid}"
        client.get(path)
        with django_assert_max_num_queries(50) as context:
            page = words(client.get(path))
        assert str(run) in page
        counted.append(len(context))
    assert len(set(counted)) == 1, counted


def test_who_was_faster_is_said_for_that_cluster_and_the_others_go_on(client, lab, alice, make, monkeypatch):
    client.force_login(alice)
    tide, reef = make("tide"), make("reef")
    monkeypatch.setattr("clusters.actions.why_not", lambda cluster, plan: "")  # as the page had found them
    Cluster.objects.filter(pk=reef.pk).update(status="terminating")
    page = words(choose(client, lab, "pause", tide, reef))
    assert "reef cannot be paused while it is TERMINATING." in page
    assert "tide is being paused." in page


def test_several_are_deleted_once_somebody_has_typed_how_many(client, lab, alice, make):
    client.force_login(alice)
    tide, ebb = make("tide"), make("ebb", "failed")
    page = words(choose(client, lab, "delete", tide, ebb, name="yes"))
    assert "That is not 2 clusters." in page
    assert "tide-0, tide-1" in page
    assert "The nodes, and what is on their own disks" in page
    assert not Task.objects.filter(kind="clusters.delete").exists()
    page = words(choose(client, lab, "delete", tide, ebb, name="2 clusters"))
    assert "ebb, tide are being deleted." in page
    assert AuditEvent.objects.filter(verb="deleted").count() == 2


def test_nothing_of_another_workspace_can_be_chosen(client, lab, alice, make):
    client.force_login(alice)
    cluster = make("tide")
    other = type(lab).objects.create(
        organization=lab.organization, cloud_config=lab.cloud_config, name="other", region="x", status="ready"
    )
    Cluster.objects.filter(pk=cluster.pk).update(workspace=other)
    page = words(choose(client, lab, "pause", cluster))
    assert "Choose clusters by the boxes" in page
    assert not Task.objects.exists()


@pytest.mark.parametrize("query", ["", "?what=pause", "?what=melt", "?what=pause&cluster=x&cluster=%00"])
def test_whoever_has_chosen_nothing_is_sent_back_to_the_list(client, lab, alice, make, query):
    client.force_login(alice)
    response = client.get(f"/workspaces/{lab.uuid}/clusters/change/{query}")
    assert (response.status_code, response["Location"]) == (302, f"/workspaces/{lab.uuid}/clusters/")


def test_boxes_are_for_those_alone_who_may_change_something(client, lab, make, alice, bob):
    make("tide")
    for person, may in ((alice, True), (bob, False)):
        client.force_login(person)
        page = words(client.get(f"/workspaces/{lab.uuid}/clusters/"))
        assert ('name="cluster" value=' in page) is may
