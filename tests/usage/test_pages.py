"""Usage by month, as pages and as files."""

from __future__ import annotations

import csv
import io
import random
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
import time_machine
from django.urls import reverse

from clusters.models import Cluster, EngineVersion
from usage.amounts import Amount
from usage.models import Record
from usage.months import later, month_of, portions
from usage.report import MOST, report
from workspaces.models import CloudConfig, Workspace

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = date(2026, 11, 1)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _in_november():
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def used(lab, alice):
    """Writes down that a cluster was used."""

    def used(began, hours=None, *, name="tide", cluster=None, person=alice, workspace=lab, **fields):
        place = {
            "organization": workspace.organization.uuid, "workspace": workspace.uuid, "workspace_name": workspace.name,
            "cluster": cluster or uuid4(), "cluster_name": name, "person": person.uuid, "person_name": person.email,
            "instance_type": "c5.xlarge", "cores_per_node": 2, "node_count": 1, "hourly_price": None, **fields,
        }  # fmt: skip
        if hours is None:
            return [Record.objects.create(**place, month=month_of(began), began=began)]
        return Record.objects.bulk_create(
            Record(**place, month=month_of(start), began=start, ended=end, minutes=minutes)
            for start, end, minutes in portions(began, began + timedelta(hours=hours))
        )

    return used


def at(day, month=11, hour=0, year=2026):
    return datetime(year, month, day, hour, tzinfo=UTC)


def words(response):
    """Of the page itself, without its frame."""
    return " ".join(re.sub("<[^>]*>", " ", response.content.decode().partition("<main")[2]).split())


def page_of(client, who, lab=None, **asked):
    client.force_login(who)
    path = reverse("workspace-usage", args=[lab.uuid]) if lab else reverse("organization-usage")
    return client.get(path, asked)


def rows_of(client, who, lab=None, **asked):
    client.force_login(who)
    path = reverse("workspace-usage-csv", args=[lab.uuid]) if lab else reverse("organization-usage-csv")
    response = client.get(path, asked)
    assert response.streaming
    return list(csv.DictReader(io.StringIO(b"".join(response.streaming_content).decode())))


def test_before_anything_was_used_the_page_says_what_will_be_here(client, lab, vera, alice):
    for answer in (page_of(client, vera, lab), page_of(client, alice)):
        said = words(answer)
        assert "Nothing has been used yet" in said
        assert "CSV" not in said


def test_hours_alone_are_of_use_where_nothing_has_a_price(client, lab, vera, used):
    used(at(1), 10, name="tide", node_count=2)
    said = words(page_of(client, vera, lab))
    assert "tide 20.00 40.00" in said
    assert "Node-hours of twelve months" in said
    assert "Cost" not in said
    assert "$" not in said


def test_prices_are_exact_until_they_are_shown(client, lab, vera, used):
    for _ in range(3):
        used(at(1), 1 / 60, hourly_price=Decimal("0.20000"))  # a third of a cent each
    amount = Record.objects.all().amount(until=NOW)
    assert amount.cost == Decimal("0.01")
    said = words(page_of(client, vera, lab))
    assert "tide 0.02 0.03 under $0.01" in said
    assert "alice@example.org 0.05 0.10 $0.01" in said


def test_what_has_no_price_is_told_beside_what_has_one(client, lab, vera, used):
    used(at(1), 10, name="free")
    used(at(1), 5, name="dear", hourly_price=Decimal("3.888"))
    said = words(page_of(client, vera, lab))
    assert "10.00 node-hours of November 2026 have no price" in said
    assert "free 10.00 20.00 no price" in said
    assert said.index("dear 5.00 10.00 $19.44") < said.index("free 10.00"), "what cost the most comes first"
    assert "November 2026 shown below 15.00 30.00 $19.44" in said


def test_a_month_is_chosen_in_the_address(client, lab, vera, used):
    used(at(1, 3), 10, name="spring")
    used(at(31, 10, 23), 2, name="over")
    said = words(page_of(client, vera, lab, month="2026-10"))
    assert "over 1.00" in said
    assert "spring" not in said
    assert "October 2026 shown below 1.00" in said
    assert "November 2026 1.00" in said
    assert 'href="?month=2026-03"' in page_of(client, vera, lab).content.decode()
    assert "Nothing was used in May 2026" in words(page_of(client, vera, lab, month="2026-05"))


@pytest.mark.parametrize("month", ["", "x", "2026", "2026-13", "2026-11-01", "1999-12", "2026-12", "9999-12", "\0"])
def test_what_is_no_month_is_not_there(client, lab, alice, month):
    client.force_login(alice)
    for name, args in (("workspace-usage", [lab.uuid]), ("organization-usage", [])):
        for way in (name, f"{name}-csv"):
            assert client.get(reverse(way, args=args), {"month": month}).status_code == 404


def test_older_months_are_found_by_links(client, lab, vera, used):
    type(lab).objects.filter(pk=lab.pk).update(created=at(1, 1, year=2024))
    used(at(1, 2, year=2024), 10, name="old")
    path, asked = reverse("workspace-usage", args=[lab.uuid]), {}
    for _ in range(4):
        answer = page_of(client, vera, lab, **asked)
        found = answer.context
        if found["report"].chosen.amount.node_minutes or not found["earlier"]:
            break
        assert f'href="?month={found["earlier"]:%Y-%m}"' in answer.content.decode()
        asked = {"month": f"{found['earlier']:%Y-%m}"}
    months = {f"{month.first:%Y-%m}" for month in answer.context["report"].months}
    assert "2024-02" in months
    assert "old 10.00" in words(client.get(path, {"month": "2024-02"}))
    later_one = client.get(path, {"month": "2024-02"}).context["later"]
    assert later_one > date(2024, 2, 1)
    again = page_of(client, vera, lab, month=f"{later_one:%Y-%m}").context["report"]
    assert later_one in {month.first for month in again.months}


def test_what_goes_on_counts_in_each_of_its_months(client, lab, vera, used):
    used(at(31, 10, 12), name="tide", node_count=2, hourly_price=Decimal(1))
    october = words(page_of(client, vera, lab, month="2026-10"))
    november = words(page_of(client, vera, lab))
    assert "tide 24.00 48.00 $24.00" in october
    assert "tide 936.00 1,872.00 $936.00" in november  # 19 days and a half
    rows = rows_of(client, vera, lab)
    assert [(row["month"], row["from"], row["until"], row["dollars"]) for row in rows] == [
        ("2026-10", "2026-10-31T12:00:00Z", "2026-11-01T00:00:00Z", "24.000000"),
        ("2026-11", "2026-11-01T00:00:00Z", "", "936.000000"),
    ]


def test_a_cluster_is_called_as_it_was_last(client, lab, vera, used):
    cluster = uuid4()
    used(at(1), 1, name="ebb", cluster=cluster)
    used(at(2), 1, name="flood", cluster=cluster)
    said = words(page_of(client, vera, lab))
    assert "flood 2.00" in said
    assert "ebb" not in said


def test_of_many_clusters_the_dearest_are_named_and_the_others_are_one_line(client, lab, vera, used):
    for number in range(MOST + 3):
        used(at(1), number + 1, name=f"c{number}")
    said = words(page_of(client, vera, lab))
    assert f"c{MOST + 2} {MOST + 3}.00" in said
    assert "3 more each is in the file 6.00 12.00" in said
    assert len(rows_of(client, vera, lab)) == MOST + 3


def test_an_organization_sees_all_its_workspaces_and_no_others(client, lab, alice, charlie, elsewhere, used):
    used(at(1), 10, name="ours")
    config = CloudConfig.objects.create(organization=elsewhere, name="x", kind="local")
    theirs = Workspace.objects.create(organization=elsewhere, cloud_config=config, name="theirs", region="r")
    used(at(1), 20, name="foreign", workspace=theirs, person=charlie)
    kitchen = Workspace.objects.create(
        organization=lab.organization, cloud_config=lab.cloud_config, name="kitchen", region="r", status="terminated"
    )
    used(at(2), 30, name="gone", workspace=kitchen)
    answer = page_of(client, alice)
    said = words(answer)
    assert "kitchen 30.00 60.00 lab 10.00 20.00" in said
    assert "foreign" not in said
    assert "gone in kitchen 30.00" in said
    body = answer.content.decode()
    assert reverse("workspace-usage", args=[lab.uuid]) in body
    assert reverse("workspace-usage", args=[kitchen.uuid]) not in body, "alice is not in it"
    assert {row["cluster"] for row in rows_of(client, alice)} == {"ours", "gone"}
    assert {row["cluster"] for row in rows_of(client, charlie)} == {"foreign"}
    assert [row["cluster"] for row in rows_of(client, alice, lab)] == ["ours"]


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "x;=1+1", "\uff1d1", '<script>alert("1")</script>', 'a "b", c\nd']


def test_names_are_text_on_the_page_and_in_the_file(client, lab, vera, used):
    for name in HOSTILE:
        used(at(1), 1, name=name)
    rows = rows_of(client, vera, lab, month="2026-11")
    assert not [cell for row in rows for cell in row.values() if cell[:1] in set("=+-@\t\r\uff1d")]
    assert {row["cluster"].replace("'", "") for row in rows} == {name.replace("'", "") for name in HOSTILE}
    assert "<script>alert" not in page_of(client, vera, lab).content.decode()


def test_a_file_has_one_line_for_each_record_and_adds_up_to_the_page(client, lab, vera, bob, used):
    used(at(1), 1.5, name="tide", node_count=4, cores_per_node=8, hourly_price=Decimal("0.34"), spot=True, person=bob)
    used(at(1, 9), 1)
    (row,) = rows_of(client, vera, lab, month="2026-11")
    del row["cluster_uuid"]
    assert row == {
        "month": "2026-11", "workspace": "lab", "workspace_uuid": str(lab.uuid), "cluster": "tide",
        "made_by": "bob@example.org", "instance_type": "c5.xlarge", "cores_per_node": "8", "nodes": "4", "spot": "yes",
        "from": "2026-11-01T00:00:00Z", "until": "2026-11-01T01:30:00Z", "minutes": "90", "node_hours": "6.0000",
        "core_hours": "48.0000", "dollars_per_node_hour": "0.34000", "dollars": "2.040000",
    }  # fmt: skip
    assert "November 2026 shown below 6.00 48.00 $2.04" in words(page_of(client, vera, lab))
    assert len(rows_of(client, vera, lab)) == 2
    client.force_login(vera)
    headers = client.get(reverse("workspace-usage-csv", args=[lab.uuid]), {"month": "2026-11"}).headers
    assert headers["Content-Disposition"] == 'attachment; filename="usage-2026-11.csv"'
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_database_adds_up_what_an_hour_of_pencil_and_paper_would(lab, alice, bob, used):
    """Compared with a loop over all records; with open ones, prices that change and months that end meanwhile."""
    chance = random.Random(7)  # noqa: S311
    clusters = [uuid4() for _ in range(8)]
    for number in range(120):
        cluster, began = chance.choice(clusters), NOW - timedelta(minutes=chance.randrange(500 * 24 * 60))
        nodes, price = chance.randint(1, 9), chance.choice([None, Decimal("0.09600"), Decimal("3.88801")])
        fields = {"node_count": nodes, "hourly_price": price, "name": f"c{clusters.index(cluster)}"}
        if number < 3:
            used(began, None, cluster=clusters[number], **{**fields, "name": f"c{number}"})
        else:
            hours = min(chance.expovariate(1 / 100), (NOW - began) / timedelta(hours=1))
            used(began, hours, cluster=cluster, person=chance.choice([alice, bob]), **fields)
    for chosen in (NOVEMBER, later(NOVEMBER, -5), later(NOVEMBER, -14)):
        found = report(Record.objects.filter(workspace=lab.uuid), chosen, now=NOW)
        paper, by_cluster, by_person = {}, {}, {}
        for record in Record.objects.all():
            for start, _, minutes in record.pieces(NOW):
                more = Amount.of(
                    minutes, nodes=record.node_count, cores=record.cores_per_node, price=record.hourly_price
                )
                paper[month_of(start)] = paper.get(month_of(start), Amount()) + more
                if month_of(start) == chosen:
                    by_cluster[record.cluster] = by_cluster.get(record.cluster, Amount()) + more
                    by_person[record.person] = by_person.get(record.person, Amount()) + more
        assert {month.first: month.amount for month in found.months} == {
            month.first: paper.get(month.first, Amount()) for month in found.months
        }
        assert len(found.months) == 12
        assert {line.uuid: line.amount for line in found.clusters.lines} == by_cluster
        assert {line.uuid: line.amount for line in found.people.lines} == by_person
        assert found.chosen.amount == sum(by_cluster.values(), Amount())


def test_many_records_need_no_more_queries_than_few(client, lab, alice, used, django_assert_max_num_queries):
    def count():
        numbers = []
        for place in (lab, None):
            page_of(client, alice, place)
            with django_assert_max_num_queries(8) as queries:
                path = reverse("workspace-usage", args=[lab.uuid]) if place else reverse("organization-usage")
                assert client.get(path).status_code == 200
            numbers.append(len(queries))
        return numbers

    used(at(1), 1)
    before = count()
    for number in range(300):
        used(at(1 + number % 19, 1 + number % 11), 3, name=f"c{number}", node_count=1 + number % 5)
    assert count() == before


def test_the_bars_of_the_chart_are_as_high_as_what_was_used(client, lab, vera, used):
    used(at(1, 10), 50)
    used(at(1, 11), 25)
    bars = page_of(client, vera, lab).context["report"].bars
    assert [bar.height for bar in bars] == ["0.0"] * 10 + ["96.0", "48.0"]
    assert [bar.top for bar in bars][-2:] == ["4.0", "52.0"]


def test_the_page_of_a_cluster_says_what_it_has_cost(client, lab, vera, used):
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, status="stopped",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip
    client.force_login(vera)
    assert "Used so far 0.00 node-hours" in words(client.get(cluster.get_absolute_url()))
    used(at(1, 9), 10, cluster=cluster.uuid)
    assert "Used so far 10.00 node-hours without a price" in words(client.get(cluster.get_absolute_url()))
    used(at(1), 10, cluster=cluster.uuid, hourly_price=Decimal("1.5"), node_count=2)
    assert "Cost so far $30.00, for 30.00 node-hours" in words(client.get(cluster.get_absolute_url()))
