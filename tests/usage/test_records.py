"""What was used is written down once, as long as it was, and stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from threading import Barrier, Thread

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters.actions import create_cluster
from clusters.models import Cluster, EngineVersion
from portal.clouds import InstanceType
from usage import models
from usage.models import Record

START = datetime(2026, 11, 26, 12, 0, 10, tzinfo=UTC)


class Clock:
    """The database's, which goes on when it is told to."""

    def __init__(self):
        self.at = START

    def __call__(self):
        return self.at

    def goes_on(self, **by):
        self.at += timedelta(**by)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(models, "database_now", made)
    return made


@pytest.fixture
def make(lab, alice):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": []})

    def make(name="tide", **fields):
        return Cluster.objects.create(
            workspace=lab, name=name, instance_type="c5.xlarge", cores_per_node=2, engine_version=engine,
            **{"created_by": alice, "node_count": 3, "hourly_price": Decimal("0.192"), "status": "new", **fields},
        )  # fmt: skip

    return make


@pytest.fixture
def go(clock):
    """The cluster is each of these for some minutes."""

    def go(cluster, *statuses, minutes=10):
        for status in statuses:
            assert cluster.move(status)
            clock.goes_on(minutes=minutes)

    return go


def written(cluster):
    """From the first on: how many nodes, how many minutes; None where it goes on."""
    rows = Record.objects.filter(cluster=cluster.uuid).order_by("began", "pk")
    return [(row.node_count, row.minutes) for row in rows]


LIVES = {
    ("inprogress", "failed"): [],
    ("inprogress", "terminated"): [],
    ("inprogress", "running"): [(3, None)],
    ("inprogress", "running", "terminating", "terminated"): [(3, 10)],
    ("inprogress", "running", "terminating", "failed", "terminating"): [(3, 10)],
    ("inprogress", "running", "pausing", "paused", "resuming", "running"): [(3, 10), (3, None)],
    ("inprogress", "running", "pausing", "failed"): [(3, 10)],
    ("inprogress", "running", "pausing", "running", "pausing"): [(3, 10), (3, 10)],
    ("inprogress", "running", "stopping", "stopped", "restarting", "running", "stopping"): [(3, 10), (3, 10)],
    ("inprogress", "running", "stopping", "stopped", "restarting", "failed"): [(3, 10)],
    ("inprogress", "running", "restarting", "running", "terminating"): [(3, 30)],
    ("inprogress", "running", "inprogress", "running", "terminating"): [(3, 30)],
    ("inprogress", "running", "inprogress", "failed", "inprogress", "running"): [(3, None)],
    ("inprogress", "running", "scaling", "running", "terminating"): [(3, 30)],
    ("inprogress", "running", "scaling", "failed", "terminating"): [(3, 30)],
}  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("life", LIVES, ids=" ".join)
def test_it_counts_from_running_until_somebody_asks_for_its_end(make, go, life):
    cluster = make()
    go(cluster, *life)
    assert written(cluster) == LIVES[life]


@pytest.mark.django_db
def test_what_is_refused_writes_nothing(make, go):
    cluster = make()
    go(cluster, "inprogress", "running", "terminating", "terminated")
    assert not cluster.move("running")
    assert written(cluster) == [(3, 10)]


@pytest.mark.django_db
def test_when_the_change_is_taken_back_so_is_its_record(make, go):
    cluster = make()
    go(cluster, "inprogress", "running")
    with transaction.atomic():
        assert cluster.move("pausing")
        assert written(cluster) == [(3, 10)]
        transaction.set_rollback(True)
    assert written(cluster) == [(3, None)]


@pytest.mark.django_db
@pytest.mark.parametrize("change", [{"node_count": 5}, {"hourly_price": Decimal(2)}, {"hourly_price": None}])
def test_other_nodes_or_another_price_begin_a_record_of_their_own(make, go, change):
    cluster = make()
    go(cluster, "inprogress", "running", "scaling")
    Cluster.objects.filter(pk=cluster.pk).update(**change)  # while `cluster` was read before
    go(cluster, "running", "terminating")
    first, second = Record.objects.order_by("began")
    assert (first.minutes, second.minutes, first.ended) == (20, 10, second.began)
    assert {name: getattr(second, name) for name in change} == change


@pytest.mark.django_db
def test_a_record_tells_all_that_a_bill_needs_and_stays_when_the_rest_is_gone(make, go, lab, alice):
    cluster = make(spot=True)
    go(cluster, "inprogress", "running", "terminating", "terminated")
    cluster.delete()
    lab.members.all().delete()
    lab.delete()
    alice.delete()
    row = Record.objects.get()
    assert (row.organization, row.workspace, row.workspace_name) == (lab.organization.uuid, lab.uuid, "lab")
    assert (row.cluster, row.cluster_name) == (cluster.uuid, "tide")
    assert (row.person, row.person_name) == (alice.uuid, "alice@example.org")
    assert (row.instance_type, row.cores_per_node, row.spot) == ("c5.xlarge", 2, True)
    assert (row.hourly_price, row.began, row.minutes) == (Decimal("0.192"), START + timedelta(minutes=10), 10)


@pytest.mark.django_db
@pytest.mark.usefixtures("rings")
def test_the_price_is_that_of_the_instance_type_when_the_cluster_was_made(lab, alice, clock, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    engine = EngineVersion.objects.get(kind="mpi")
    dear = InstanceType(
        "c5.xlarge", family="c5", cores=2, vcpus=4, memory_gib=8.0, hourly_price=Decimal("0.123456")
    )  # fmt: skip
    made = create_cluster(lab, name="tide", instance_type=dear, node_count=2, engine_version=engine, by=alice)
    assert made.move("inprogress")
    assert made.move("running")
    row = Record.objects.get()
    assert (row.hourly_price, row.node_count, row.cores_per_node) == (Decimal("0.12346"), 2, 2)


@pytest.mark.django_db
def test_a_cluster_that_the_portal_made_has_nobodys_record(make, go):
    go(make(created_by=None), "inprogress", "running")
    assert (Record.objects.get().person, Record.objects.get().person_name) == (None, "")


@pytest.mark.django_db
@pytest.mark.parametrize(("seconds", "minutes"), [(0, 0), (29, 0), (30, 1), (89, 1), (90, 2), (3600, 60)])
def test_time_is_rounded_to_the_nearest_minute(make, clock, seconds, minutes):
    cluster = make(status="inprogress")
    assert cluster.move("running")
    clock.goes_on(seconds=seconds)
    assert cluster.move("pausing")
    assert written(cluster) == [(3, minutes)]


@pytest.mark.django_db
def test_a_clock_that_goes_back_costs_nothing(make, clock):
    cluster = make(status="inprogress")
    assert cluster.move("running")
    clock.goes_on(hours=-1)
    assert cluster.move("pausing")
    assert written(cluster) == [(3, 0)]


@pytest.mark.django_db
def test_each_month_has_records_of_its_own(make, clock):
    cluster = make(status="inprogress")
    assert cluster.move("running")
    clock.goes_on(days=70, seconds=40)
    until = Record.objects.all()
    months = {month: amount.node_minutes for _, month, _, amount in until.amounts(until=clock.at)}
    assert cluster.move("terminating")
    rows = list(Record.objects.order_by("began"))
    assert [f"{row.month}" for row in rows] == ["2026-11-01", "2026-12-01", "2027-01-01", "2027-02-01"]
    assert all(one.ended == other.began for one, other in pairwise(rows))
    assert sum(row.minutes for row in rows) == 70 * 24 * 60 + 1
    assert months == {row.month: row.minutes * 3 for row in rows}, "as it was told while it went on"
    assert {row.cluster_name for row in rows} == {"tide"}
    assert not Record.objects.open().exists()


@pytest.mark.django_db
def test_one_that_ends_when_a_month_does_is_of_that_month_alone(make, clock):
    clock.at = datetime(2026, 12, 31, 23, tzinfo=UTC)
    cluster = make(status="inprogress")
    assert cluster.move("running")
    clock.goes_on(hours=1)
    assert cluster.move("pausing")
    assert written(cluster) == [(3, 60)]


@pytest.mark.django_db
def test_what_was_asked_for_twice_is_written_once(make, clock):
    cluster = make(status="inprogress")
    assert cluster.move("running")
    clock.goes_on(minutes=5)
    row = Record.objects.get()
    Record(**{name: getattr(row, name) for name in ("organization", "workspace", "cluster", *Record.SAME)}).begin()
    assert written(cluster) == [(3, None)], "the same went on"
    stale = Record.objects.get()
    assert Record.objects.end(cluster.uuid)
    clock.goes_on(minutes=5)
    assert not stale.end(clock.at), "read before the other one ended it"
    assert not Record.objects.end(cluster.uuid)
    assert written(cluster) == [(3, 5)]


@pytest.mark.django_db
def test_the_database_takes_no_second_open_record(make, go):
    cluster = make()
    go(cluster, "inprogress", "running")
    row = Record.objects.get()
    row.pk, row._state.adding = None, True
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()


@pytest.mark.django_db
def test_nobody_changes_a_record(make, go):
    go(make(), "inprogress", "running", "terminating")
    row = Record.objects.get()
    row.minutes = 1
    for change in (row.save, row.delete, Record.objects.all().delete, lambda: Record.objects.update(minutes=1)):
        with pytest.raises(TypeError):
            change()
    assert Record.objects.get().minutes == 10


@pytest.mark.django_db(transaction=True)
def test_of_four_that_end_it_at_once_one_writes(make, clock):
    cluster = make(status="inprogress")
    assert cluster.move("running")
    clock.goes_on(days=10)  # into the next month: there is more than one row to write
    barrier, ends = Barrier(4), []
    rows = [(Cluster.objects.get(pk=cluster.pk), status) for status in ("pausing", "stopping", "terminating", "failed")]
    Cluster.objects.filter(pk=cluster.pk).update(status="running")

    def end(row, status):
        try:
            barrier.wait(20)
            ends.append(row.move(status) if status != "failed" else Record.objects.end(row.uuid))
        finally:
            connection.close()

    threads = [Thread(target=end, args=each) for each in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ends) == 4
    assert sum(minutes for _, minutes in written(cluster)) == 10 * 24 * 60
    assert len(written(cluster)) == 2


COUNTS_FROM, GOES_ON = "running", {"running", "inprogress", "restarting", "scaling", "failed"}
FOLLOWS = {
    status: sorted(to for to, state in Cluster.STATES.items() if status in state.follows) for status in Cluster.STATES
}


@pytest.mark.django_db
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_the_minutes_of_any_life_are_the_time_that_it_ran(make, clock, data):
    """Whatever it becomes, in whatever order, with whatever number of nodes, over however many months."""
    cluster = make(f"c{Cluster.objects.count()}")
    expected, since, nodes = [], None, 3
    counted = 0  # nodes
    for _ in range(data.draw(st.integers(1, 14))):
        if not (possible := FOLLOWS[cluster.status]):
            break
        status = data.draw(st.sampled_from(possible))
        if cluster.status == "scaling":
            after = data.draw(st.integers(1, 4))
            Cluster.objects.filter(pk=cluster.pk).update(node_count=after)
        else:
            after = nodes
        assert cluster.move(status)
        if since and (status not in GOES_ON or (status == COUNTS_FROM and after != counted)):
            expected.append((counted, clock.at - since))
            since = None
        if status == COUNTS_FROM and since is None:
            since, counted = clock.at, after
        nodes = after
        clock.goes_on(seconds=data.draw(st.integers(0, 40 * 24 * 3600)))
    if since:
        expected.append((counted, clock.at - since))
    rows = Record.objects.filter(cluster=cluster.uuid)
    assert rows.open().count() == bool(since)
    minutes = [(count, (length + timedelta(seconds=30)) // timedelta(minutes=1)) for count, length in expected]
    amount = rows.amount(until=clock.at)
    assert amount.node_minutes == sum(count * lasted for count, lasted in minutes)
    assert amount.cost == (sum(count * lasted for count, lasted in minutes) * Decimal("0.192") / 60 if rows else None)
    assert all(row.began <= row.ended and row.began.strftime("%Y-%m-01") == f"{row.month}" for row in rows if row.ended)
