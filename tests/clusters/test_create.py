"""The form that makes a cluster: what it asks, shows, refuses and keeps; on a cloud with 1,400 instance types."""

from __future__ import annotations

import html
import re
import threading
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from accounts.models import AuditEvent
from clusters import offers
from clusters.actions import create_cluster, pause_cluster
from clusters.forms.create import MOST_ROWS
from clusters.life import possible
from clusters.models import Cluster, EngineVersion, InstanceRole
from portal import ssh
from portal.clouds import Can, NoRoom, Refused
from portal.errors import Alternative, Conflict, Passing, PortalError
from portal.tasks.models import Task
from tests.clusters.market import SIZES, MarketAccount, MarketCloud
from tests.clusters.test_bad_clouds import go_on
from tests.running import until
from workspaces.models import CloudConfig, Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]


@pytest.fixture
def cloud(monkeypatch, lab):
    made = MarketCloud()
    account = MarketAccount(made)
    monkeypatch.setattr(CloudConfig, "account", property(lambda self: account))
    monkeypatch.setattr(CloudConfig, "can", property(lambda self: made.can))
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    # It is of the kind “This computer”, and as large as a cloud.
    monkeypatch.setattr("clusters.forms.create.room_for", lambda *_: None)
    made.account = account
    for name, status in (("reader", "active"), ("writer", "active"), ("broken", "failed")):
        InstanceRole.objects.create(workspace=lab, name=name, arn=name, status=status)
    return made


@pytest.fixture
def ask(client, lab, alice, cloud):
    """Gets the form, as a person or as a part of the page, or sends it."""
    client.force_login(alice)
    address = f"/workspaces/{lab.uuid}/clusters/new/"

    def show(sent=None, *, part="", **query):
        headers = {"HX-Request": "true", "HX-Target": part} if part else {}
        response = client.get(address, query, headers=headers) if sent is None else client.post(address, sent)
        response.words = text_of(response)
        return response

    return show


@pytest.fixture
def typed():
    """All that can be chosen, as a browser sends it."""
    return {
        "key": str(uuid4()), "name": "tide", "instance_type": "c5n.2xlarge", "node_count": "3",
        "engine_version": str(EngineVersion.objects.get(kind="mpi").pk),
        "auto_pause_0": "90", "auto_pause_1": "minutes", "auto_shutdown_0": "2", "auto_shutdown_1": "days",
        "role": "reader", "zone": "north-1b", "extra_tags": "project = waves\n\ncost center=4711=x",
        "description": "Winter season", "auto_repair": "on",
    }  # fmt: skip


def text_of(response):
    """What is read of a page: without tags, and each space once."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


def rows(response):
    return re.findall(r'name="instance_type"\s+id="[^"]+"\s+value="([^"]+)"', response.content.decode())


def chosen(response):
    return re.findall(r'value="([^"]+)"\s+required\s+checked', response.content.decode())


def make(lab, alice, cloud, **more):
    fields = {
        "name": "tide", "instance_type": cloud.account.instance_types("")[0], "node_count": 2, "by": alice,
        "engine_version": EngineVersion.objects.get(kind="mpi"),
    } | more  # fmt: skip
    return create_cluster(lab, **fields)


# What is made


def test_everything_that_is_chosen_is_kept_of_the_cluster_and_written_down(ask, typed, cloud):
    assert ask(typed).status_code == 302
    cluster = Cluster.objects.get()
    assert cluster.uuid == UUID(typed["key"])
    expected = {
        "name": "tide", "instance_type": "c5n.2xlarge", "node_count": 3, "role": "reader", "zone": "north-1b",
        "extra_tags": {"project": "waves", "cost center": "4711=x"}, "auto_repair": True,
        "description": "Winter season",
    }  # fmt: skip
    assert {name: getattr(cluster, name) for name in expected} == expected
    assert (cluster.auto_pause, cluster.auto_shutdown, cluster.spot) == (90, 2880, False)
    assert (cluster.cores_per_node, cluster.hourly_price) == (4, Decimal("0.2"))
    event = AuditEvent.objects.get(verb="created")
    assert event.after == {
        "nodes": 3, "instance type": "c5n.2xlarge", "engine version": str(cluster.engine_version),
        "auto pause": "90 minutes", "auto shutdown": "2 days", "repair by itself": True, "role": "reader",
        "zone": "north-1b", "tags": {"project": "waves", "cost center": "4711=x"}, "description": "Winter season",
    }  # fmt: skip


def test_what_was_chosen_reaches_the_cloud(lab, alice, cloud):
    lab.keep_login_key(*ssh.new_key("test"))
    kind = next(one for one in cloud.types if one.spot)
    cluster = make(
        lab,
        alice,
        cloud,
        instance_type=kind,
        zone="north-1a",
        spot=True,
        role="reader",
        extra_tags={"b": "2", "a": "1"},
    )
    go_on(cluster, rounds=3)
    (spec, *_) = cloud.specs
    assert (spec.zone, spec.spot, spec.role) == ("north-1a", True, "reader")
    assert spec.extra_tags == (("a", "1"), ("b", "2"))
    assert kind.hourly_price
    assert cluster.hourly_price is None, "that is not what spot nodes cost, and nobody has said what they do"


@pytest.mark.parametrize(
    ("more", "says"),
    [({"zone": "south-9z"}, "has no zone south-9z"), ({"role": "writer"}, "There is no role writer")],
)
def test_a_zone_or_a_role_that_is_gone_by_then_ends_the_task_before_anything_is_made(lab, alice, cloud, more, says):
    cluster = make(lab, alice, cloud, **more)
    task = go_on(cluster)
    assert (task.status, cluster.status, cloud.specs) == ("failed", "failed", [])
    assert says in task.cause


def test_a_form_that_is_sent_twice_makes_one_cluster(ask, typed):
    first, second = ask(typed), ask(typed)
    assert first["Location"] == second["Location"]
    assert Cluster.objects.count() == Task.objects.count() == 1


def test_spot_nodes_cost_what_the_cloud_says_of_them_and_cannot_be_paused(ask, typed, lab, alice):
    ask(typed | {"spot": "on", "auto_pause_1": "never"})
    cluster = Cluster.objects.get()
    assert (cluster.spot, cluster.hourly_price) == (True, Decimal("0.05"))
    Cluster.objects.update(status="running")
    cluster.refresh_from_db()
    assert not {"pause", "restart"} & possible(cluster)
    assert {"stop", "scale"} <= possible(cluster)
    with pytest.raises(Conflict, match="Spot nodes cannot be paused"):
        pause_cluster(cluster, by=alice)


# What is refused


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "", "Fill this in."),
        ("name", "Tide", "Use small letters"),
        ("instance_type", "", "Choose an instance type."),
        ("instance_type", "c99.huge", "c99.huge cannot be had here."),
        ("node_count", "0", "1"),
        ("node_count", "65", "64"),
        ("node_count", "two", ""),
        ("engine_version", "0", ""),
        ("auto_pause_0", "0", "choose Never"),
        ("auto_shutdown_0", "99", "At most 60 days."),
        ("role", "broken", "This cannot be chosen here."),
        ("zone", "south-9z", ""),
        ("extra_tags", "project", "write name=value, one a line"),
        ("extra_tags", "=waves", "write name=value"),
        ("extra_tags", "a/b=c", "a name has at most 100"),
        ("extra_tags", f"{'a' * 101}=c", "a name has at most 100"),
        ("extra_tags", f"a={'b' * 201}", "a value has at most 200"),
        ("extra_tags", "a=b\x07", "no control characters"),
        ("extra_tags", "AWS:name=x", "belong to clouds"),
        ("extra_tags", "coxswain-portal=x", "belong to clouds"),
        ("extra_tags", "Team=a\nteam=b", "there twice"),
        ("extra_tags", "\n".join(f"t{n}=1" for n in range(21)), "At most 20 tags; these are 21."),
        ("description", "x" * 201, ""),
    ],
)
def test_a_bad_value_is_said_at_its_field_and_everything_typed_stays(ask, typed, field, value, says):
    sent = typed | {field: value}
    response = ask(sent)
    name = re.sub(r"_\d$", "", field)
    form = response.context["form"]
    assert list(form.errors) == [name]
    assert says in form.errors[name][0]
    assert html.escape(form.errors[name][0]) in response.content.decode()
    assert not Cluster.objects.exists()
    shown = response.content.decode()
    for other, text in sent.items():
        if other not in ("instance_type", "extra_tags", "engine_version", "zone", "node_count", field):
            assert html.escape(text) in shown, other
    if field != "instance_type":
        assert chosen(response) == ["c5n.2xlarge"]
    is_open = re.search(r'<details\s+class="more"\s+open>\s*<summary>Show advanced', shown)
    assert is_open, "what was typed there can be seen"


def test_advanced_is_closed_until_something_of_it_is_chosen_or_wrong(ask):
    advanced = r'<details\s+class="more"\s*(open)?\s*>\s*<summary>Show advanced'
    assert re.search(advanced, ask().content.decode())[1] is None
    assert re.search(advanced, ask(description="x").content.decode())[1] == "open"
    assert re.search(advanced, ask({"auto_shutdown_1": "hours"}).content.decode())[1] == "open"


@pytest.mark.parametrize(
    ("more", "field", "says"),
    [
        ({"spot": "on"}, "auto_pause", "Spot nodes cannot be paused"),
        (
            {"spot": "on", "auto_pause_1": "never", "instance_type": "z1.large"},
            "spot",
            "z1.large cannot be had as spot",
        ),
    ],
)
def test_what_does_not_go_together_is_said_where_it_can_be_changed(ask, typed, more, field, says):
    form = ask(typed | more).context["form"]
    assert list(form.errors) == [field]
    assert says in form.errors[field][0]


def test_what_a_cloud_cannot_do_is_neither_asked_nor_taken(ask, typed, cloud, lab, alice, monkeypatch):
    monkeypatch.setattr(cloud, "can", cloud.can - {Can.ZONE, Can.SPOT, Can.ROLE, Can.PAUSE})
    shown = ask().content.decode()
    assert not [name for name in ("zone", "spot", "role", "auto_pause_0") if f'name="{name}"' in shown]
    ask(typed | {"spot": "on"})
    cluster = Cluster.objects.get()
    assert (cluster.zone, cluster.spot, cluster.role, cluster.auto_pause) == ("", False, "", 0)
    for more in ({"zone": "north-1a"}, {"spot": True}, {"role": "reader"}, {"auto_pause": 5}):
        with pytest.raises(Refused, match="cannot do this"):
            make(lab, alice, cloud, name="ebb", **more)
    with pytest.raises(PortalError, match="1 to 64 nodes"):
        make(lab, alice, cloud, name="ebb", node_count=65)
    assert Cluster.objects.count() == 1


# The picker


def test_of_1400_instance_types_a_page_has_few_and_says_how_many_there_are(ask, cloud):
    response = ask()
    assert len(cloud.types) == 1400
    assert len(rows(response)) <= MOST_ROWS + 1
    assert "1,400 instance types" in response.words
    assert "say more of what you look for" in response.words
    assert len(response.content) < 100_000
    part = ask(part="types")
    assert len(part.content) < 60_000
    assert rows(part) == rows(response)


@pytest.mark.parametrize(
    ("asked", "all_of_it"),
    [
        ({"find": "c5n"}, {f"c5n.{size}" for _, size in SIZES}),
        ({"find": "R5N 24x"}, {"r5n.24xlarge"}),
        ({"find": "c5", "cores": "48", "quick": "on"}, {"c5n.24xlarge"}),
        ({"find": "c5", "memory": "190"}, {f"c5{more}.24xlarge" for more in ("", "n", "g", "d", "i")}),
        ({"find": "c5", "architecture": "arm64", "cores": "72"}, {"c5g.18xlarge", "c5g.24xlarge"}),
        ({"find": "t2.nano"}, set()),
    ],
)  # fmt: skip
def test_the_search_finds_what_is_asked_and_the_chosen_one_stays_in_sight(ask, asked, all_of_it):
    response = ask(part="types", instance_type="x1.large", **asked)
    assert set(rows(response)) - {"x1.large"} == all_of_it
    assert chosen(response) == ["x1.large"]
    assert f"{len(all_of_it)} of 1,400 instance types" in response.words
    assert ("Nothing is like that" in response.words) is (not all_of_it)


def test_types_are_shown_by_family_with_what_they_have(ask):
    response = ask(part="types", find="c5n", instance_type="c5n.large")
    assert response.words.index("C5N") < response.words.index("c5n.large")
    assert "c5n.2xlarge 8 4 16 accelerated 0.200" in response.words
    assert "Chosen" not in response.words


def test_a_filter_that_makes_no_sense_says_so(ask):
    response = ask(cores="many")
    assert response.context["types"].errors["cores"][0] in response.words
    assert "1,400 instance types" in response.words, "the others are followed"


def test_without_javascript_a_search_keeps_what_was_typed_and_makes_nothing(ask, typed):
    response = ask(typed | {"look": "types", "find": "c5n", "auto_pause_0": "7", "name": "Not yet a name"})
    form = response.context["form"]
    assert not form.is_bound
    shown = response.content.decode()
    for text in ("Not yet a name", "Winter season", 'value="7"', 'value="c5n"', typed["key"], "cost center=4711=x"):
        assert text in shown
    assert chosen(response) == ["c5n.2xlarge"]
    assert not Cluster.objects.exists()


def test_a_cloud_that_refuses_its_list_is_named_with_the_way_to_mend_it(ask, typed, cloud, lab, bob, client):
    def refuse(region):
        raise Refused("The cloud does not accept these credentials.", evidence="UnauthorizedOperation", advice="Mend.")

    cloud.account.instance_types = refuse
    response = ask()
    assert "The cloud does not accept these credentials. Mend. UnauthorizedOperation" in response.words
    assert f'href="{lab.cloud_config.get_absolute_url()}"' in response.content.decode()
    response = ask(typed)
    assert "instance_type" in response.context["form"].errors
    assert 'type="hidden" name="instance_type" value="c5n.2xlarge"' in " ".join(response.content.decode().split())
    lab.members.filter(user=bob).update(role="admin")
    client.force_login(bob)
    response = ask()
    assert "An admin of the organization can look at the cloud configuration" in response.words
    assert f'href="{lab.cloud_config.get_absolute_url()}"' not in response.content.decode()


def test_a_cloud_that_offers_nothing_is_said_to_and_why(ask, cloud):
    cloud.account.instance_types = lambda region: []
    assert "Mostly its credentials are missing, or allow too little." in ask().words


def test_a_zone_is_taken_unseen_while_the_cloud_does_not_say_which_there_are_but_none_of_any_length(
    ask, typed, cloud, monkeypatch
):
    monkeypatch.setattr(type(cloud), "zones", _raise(Passing("The cloud does not answer.")))
    assert "zone" in ask({**typed, "zone": "n" * 41}).context["form"].errors
    assert ask(typed).status_code == 302


def test_a_slow_cloud_breaks_no_page_and_its_answer_comes_later(ask, cloud, monkeypatch):
    monkeypatch.setattr(offers, "PATIENCE", 0.05)
    go, asked = threading.Event(), []
    types, offer = cloud.account.instance_types, cloud.offer

    def slow(region):
        asked.append(region)
        go.wait(20)
        return types(region)

    cloud.account.instance_types = slow
    for _ in range(3):
        response = ask()
        assert "The cloud has not answered within" in response.words
        assert "It is still being asked which instance types it has" in response.words
    assert len(asked) == 1, "it is asked once, however often the page is looked at"
    go.set()
    until(lambda: "1,400 instance types" in ask(part="types").words, what="the list")
    cloud.offer = lambda *args, **more: go.wait(20) and offer(*args, **more)
    go.clear()
    plan = ask(part="estimate", instance_type="c5n.large", node_count="9")
    assert "The cloud is being asked" in plan.words
    assert "9 × c5n.large 9 cores, 36 GiB" in plan.words
    go.set()
    until(lambda: "The quota allows it" in ask(part="estimate", instance_type="c5n.large", node_count="9").words)


def test_a_list_is_asked_for_anew_after_a_while_and_the_old_one_is_shown_where_there_is_no_newer(
    ask, cloud, monkeypatch
):
    ask()
    clock = [offers.time.monotonic()]
    monkeypatch.setattr(offers.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(cloud.account, "instance_types", _raise(Passing("The cloud is too busy.")), raising=False)
    assert "too busy" not in ask().words
    clock[0] += offers.LISTS + 1
    ask()
    until(lambda: "there is no newer one. The cloud is too busy." in ask().words)
    assert rows(ask())
    clock[0] += offers.OLDEST
    ask()
    until(lambda: not rows(ask()), what="the end of a list that is a day old")


def _raise(error):
    def call(*_, **__):
        raise error

    return call


def test_a_process_asks_a_hanging_cloud_no_more_than_so_many_things_at_once(lab, cloud, monkeypatch):
    monkeypatch.setattr(offers, "PATIENCE", 0.01)
    monkeypatch.setattr(offers, "_threads", threading.BoundedSemaphore(2))
    go = threading.Event()
    monkeypatch.setattr(cloud, "offer", lambda *_, **__: go.wait(20))
    said = [offers.offer(lab, "c5n.large", nodes).trouble.message for nodes in (1, 2, 3)]
    go.set()
    until(lambda: all(offers.offer(lab, "c5n.large", nodes).value for nodes in (1, 2)), what="both answers")
    assert [one.startswith("The cloud has not answered") for one in said] == [True, True, False]
    assert said[2] == "The cloud is being asked many other things just now."


def test_a_list_that_was_true_before_the_credentials_were_refused_is_not_shown(ask, cloud, monkeypatch):
    assert rows(ask())
    clock = [offers.time.monotonic()]
    monkeypatch.setattr(offers.time, "monotonic", lambda: clock[0])
    cloud.account.instance_types = _raise(Refused("These credentials are not valid any more."))
    clock[0] += offers.LISTS + 1
    ask()
    until(lambda: "These credentials are not valid any more." in ask().words)
    assert not rows(ask())


def test_prices_that_nobody_looks_at_any_more_are_forgotten_and_the_list_is_not(lab, cloud, monkeypatch):
    monkeypatch.setattr(offers, "MOST_KEPT", 5)
    clock = [offers.time.monotonic()]
    monkeypatch.setattr(offers.time, "monotonic", lambda: clock[0])
    offers.catalogue(lab)
    for nodes in range(1, 20):
        offers.offer(lab, "c5n.large", nodes)
        clock[0] += 1
    clock[0] += offers.OFFERS
    offers.offer(lab, "c5n.large", 20)
    assert [what for _, what in offers._kept[cloud.account]] == ["types", ("offer", "c5n.large", 20, "", False)]


# The plan


def test_the_plan_says_what_it_would_be_and_cost_and_count_against(ask):
    plan = ask(part="estimate", instance_type="c5n.9xlarge", node_count="4", auto_pause_0="2", auto_pause_1="hours")
    assert "4 × c5n.9xlarge 72 cores, 288 GiB" in plan.words
    assert "While it runs $3.60 / h" in plan.words
    assert "Idle, until auto pause after 2 hours $7.20" in plan.words
    assert "vCPUs of standard nodes: 144 asked, 640 left" in plan.words
    assert 'data-say="4 × c5n.9xlarge: 72 cores, $3.60 an hour"' in plan.content.decode()
    never = ask(part="estimate", instance_type="c5n.9xlarge", node_count="4", auto_pause_1="never")
    assert "A day, if nobody pauses it $86.40" in never.words


def test_the_plan_says_what_is_short_and_what_cannot_be_had(ask):
    plan = ask(part="estimate", instance_type="c5n.24xlarge", node_count="8", zone="north-1b", spot="on")
    assert "It cannot be had. 8 of these are over your quota." in plan.words
    assert "More than the quota allows" in plan.words
    plan = ask(part="estimate", instance_type="c5n.large", node_count="2", zone="north-1b")
    assert "The zone was short of these yesterday." in plan.words


def test_a_cloud_that_refuses_to_say_is_quoted_and_the_form_works(ask, typed, cloud, monkeypatch):
    monkeypatch.setattr(cloud, "offer", _raise(Refused("You may not ask for quotas.")))
    plan = ask(part="estimate", instance_type="c5n.9xlarge", node_count="4")
    assert "You may not ask for quotas. So it is not known whether this can be had." in plan.words
    assert "While it runs $3.60 / h" in plan.words, "the list of types says that"
    assert ask(typed).status_code == 302


@pytest.mark.parametrize("nodes", ["", "0", "65", "x"])
def test_a_plan_of_nonsense_asks_for_sense_and_the_cloud_for_nothing(ask, cloud, nodes):
    plan = ask(part="estimate", instance_type="c5n.9xlarge", node_count=nodes)
    assert "Choose an instance type, and how many nodes." in plan.words
    assert cloud.asked == []


def test_the_plan_says_when_it_would_be_ready_once_enough_clusters_were(ask, lab, alice, cloud):
    assert "Ready in about" not in ask().words
    for number, seconds in enumerate((30, 40, 50)):
        cluster = make(lab, alice, cloud, name=f"c{number}")
        task = cluster.last_task
        end = task.created + timedelta(seconds=seconds)
        Task.objects.filter(pk=task.pk).update(status="finished", cloud="local", started=task.created, finished=end)
    assert "Ready in about 40 s 9 of 10 took at most 48 s, of the last 3" in ask().words


# Filling it in


def test_a_warehouse_size_fills_in_where_to_start_and_keeps_the_rest(ask, typed):
    shown = ask()
    assert "XL 2 × r5n.24xlarge 96 19.20" in shown.words
    response = ask(typed | {"size": "XL"})
    form = response.context["form"]
    assert (form.chosen, form["node_count"].value(), form["name"].value()) == ("r5n.24xlarge", 2, "tide")
    assert chosen(response) == ["r5n.24xlarge"]
    assert "Filled in for size XL: 2 × r5n.24xlarge. This is a starting point only" in response.words
    assert not Cluster.objects.exists()


def test_where_a_type_of_the_table_cannot_be_had_the_nearest_is_taken_and_said(ask, cloud):
    cloud.account.instance_types = lambda region: [one for one in MarketCloud.types if one.family in ("M5", "R4D")]
    response = ask(size="S")
    assert chosen(response) == ["r4d.4xlarge"]
    assert "It is the nearest to r5n.4xlarge, which cannot be had here." in response.words
    assert ask(size="enormous").status_code == 200


def test_a_cluster_can_be_made_like_another_one(ask, typed, lab):
    ask(typed | {"spot": "on", "auto_pause_1": "never"})
    like = Cluster.objects.get()
    response = ask(like=like.uuid)
    form = response.context["form"]
    values = {name: form[name].value() for name in form.fields if name != "key"}
    assert values == {
        "name": "tide-2", "instance_type": "c5n.2xlarge", "node_count": 3, "engine_version": like.engine_version_id,
        "auto_pause": 0, "auto_shutdown": 2880, "role": "reader", "zone": "north-1b", "spot": True,
        "extra_tags": "project=waves\ncost center=4711=x", "description": "Winter season", "auto_repair": True,
    }  # fmt: skip
    assert form["key"].value() != like.uuid
    assert "Filled in like tide" in response.words
    Cluster.objects.update(status="terminated")
    assert ask(like=like.uuid).context["form"]["name"].value() == "tide", "the name is free again"


def test_what_is_not_offered_any_more_is_named(ask, lab, alice, cloud):
    like = make(lab, alice, cloud)
    Cluster.objects.update(instance_type="m0.old")
    response = ask(like=like.uuid)
    assert "m0.old cannot be had here." in response.words
    assert chosen(response)


def test_nobody_copies_what_they_may_not_see(ask, lab, alice, cloud, elsewhere, charlie):
    config = CloudConfig.objects.create(organization=elsewhere, name="Theirs", kind="local")
    theirs = Workspace.objects.create(
        organization=elsewhere, cloud_config=config, name="theirs", region="memory", status="ready"
    )
    secret = make(theirs, charlie, cloud, name="secret")
    for asked in (secret.uuid, uuid4(), "nonsense"):
        assert ask(like=asked).status_code == 404
    beside = Workspace.objects.create(
        organization=lab.organization, cloud_config=lab.cloud_config, name="beside", region="memory", status="ready"
    )
    inside = make(beside, alice, cloud, name="inside")
    assert ask(like=inside.uuid).status_code == 404, "an admin of the organization is not inside each workspace"


def test_where_there_was_no_room_the_others_are_one_press_away(ask, client, lab, alice, cloud, monkeypatch):
    lab.keep_login_key(*ssh.new_key("test"))
    others = [
        Alternative(zone="north-1b"),
        Alternative(instance_type="c4n.2xlarge"),
        Alternative(zone="north-1a", instance_type="m5.large"),
    ]
    monkeypatch.setattr(cloud, "ensure_nodes", _raise(NoRoom("No room for that in north-1a.", others)))
    cluster = make(lab, alice, cloud, zone="north-1a", node_count=5)
    assert go_on(cluster).status == "failed"
    shown = html.unescape(client.get(f"/clusters/{cluster.uuid}/").content.decode())
    links = re.findall(r'href="[^"]*\?(like=[^"]*&[^"]*)"', shown)
    assert links == [
        f"like={cluster.uuid}&zone=north-1b",
        f"like={cluster.uuid}&instance_type=c4n.2xlarge",
        f"like={cluster.uuid}&zone=north-1a&instance_type=m5.large",
    ]
    form = ask(like=cluster.uuid, zone="north-1b").context["form"]
    assert (form["zone"].value(), form["node_count"].value()) == ("north-1b", 5)
    assert ask(like=cluster.uuid, instance_type="c4n.2xlarge").context["form"].chosen == "c4n.2xlarge"


def test_the_page_of_a_cluster_says_what_was_chosen_for_it(client, ask, typed):
    ask(typed | {"spot": "on", "auto_pause_1": "never"})
    cluster = Cluster.objects.get()
    shown = text_of(client.get(f"/clusters/{cluster.uuid}/"))
    for words in (
        "c5n.2xlarge, spot nodes Price of a node $0.050 an hour Zone north-1b Instance role reader",
        "Tags project=waves cost center=4711=x",
    ):
        assert words in shown


def test_the_page_of_a_cluster_leads_to_one_like_it(client, lab, alice, cloud, vera):
    cluster = make(lab, alice, cloud)
    client.force_login(alice)
    assert f"?like={cluster.uuid}" in client.get(f"/clusters/{cluster.uuid}/").content.decode()
    client.force_login(vera)
    assert f"?like={cluster.uuid}" not in client.get(f"/clusters/{cluster.uuid}/").content.decode()
