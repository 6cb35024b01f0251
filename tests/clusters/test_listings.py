"""What a far cloud lists is read by the watch process, shared by all processes, and waited for by no page."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models.functions import Now
from django.urls import reverse

from clusters import offers
from portal.clouds import Market, Passing, Refused
from portal.clouds.market import Limit
from tests.clouds.bad import AccountOf
from tests.clusters.market import MarketCloud
from tests.web import words
from workspaces import listings
from workspaces.models import CloudConfig, Listing, Workspace
from workspaces.watch import ListingWatcher, _listing

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


class FarCloud(MarketCloud):
    """It may be asked by the watch process alone."""

    def __init__(self):
        super().__init__()
        self.lists = self.counts = 0
        self.runs = {}

    def market(self):
        limits = [Limit("vCPUs of standard nodes", "[cm]", spot, 100) for spot in (False, True)]
        prices = {"c1n.large": {"north-1a": "0.02", "north-1b": "0.03"}}
        return Market({"c1n.large": ["north-1a", "north-1b"], "m1.large": ["north-1b"]}, prices, limits)

    def running(self):
        self.counts += 1
        return self.runs

    def offer(self, *_, **__):
        raise AssertionError("a page has asked the cloud")


class FarAccount(AccountOf):
    def instance_types(self, region):
        self._cloud.lists += 1
        if self._cloud.refuses:
            raise Refused("It does not know us.", evidence="AuthFailure", code="not_known")
        return list(MarketCloud.types)


@pytest.fixture
def far(monkeypatch, lab):
    cloud = FarCloud()
    cloud.refuses = False
    monkeypatch.setattr(CloudConfig, "account", FarAccount(cloud))
    monkeypatch.setattr(CloudConfig, "can", cloud.can)
    CloudConfig.objects.update(kind="aws", options={"role": "arn:aws:iam::111122223333:role/Coxswain"})
    return cloud


def fresh(workspace):
    return Workspace.objects.select_related("cloud_config", "organization").get(pk=workspace.pk)


def watch():
    """One look of the watch process. How much was due."""
    due = listings.due()
    for pk in due:
        listing, whole = _listing(pk)
        found = listings.ask(listing.cloud_config.account, listing.region, whole=whole)
        listings.write_down(listing, found, whole=whole)
    return len(due)


def test_a_page_reads_what_is_kept_and_asks_nobody(client, far, lab, alice):
    client.force_login(alice)
    page = words(client.get(reverse("new-cluster", args=[lab.uuid])))
    assert "The cloud is being asked what there is." in page
    assert far.lists == 0
    assert watch() == 1
    assert watch() == 0, "it is kept for an hour"
    page = words(client.get(reverse("new-cluster", args=[lab.uuid])))
    assert "c1n.large" in page
    assert "north-1b (new)" in page
    assert far.lists == 1
    found = offers.catalogue(fresh(lab))
    assert found.value.types == offers.Catalogue(MarketCloud.types).types, "prices and all"
    Listing.objects.update(read=Now() - timedelta(hours=1), due=Now() - timedelta(seconds=1))
    assert offers.catalogue(fresh(lab)).age > timedelta(minutes=59)
    assert watch() == 1
    assert offers.catalogue(fresh(lab)).age < timedelta(minutes=1)


def test_what_is_kept_is_shown_while_there_is_no_newer_list_with_the_reason(client, far, lab, alice):
    client.force_login(alice)
    far.refuses = True
    watch()
    page = words(client.get(reverse("new-cluster", args=[lab.uuid])))
    assert "It does not know us." in page
    assert "AuthFailure" in page
    assert f'href="{reverse("aws-guide")}#not-allowed"' in page
    far.refuses = False
    Listing.objects.update(due=Now())
    watch()
    far.refuses = True
    Listing.objects.update(due=Now(), read=Now() - timedelta(hours=2))
    watch()
    page = words(client.get(reverse("new-cluster", args=[lab.uuid])))
    assert "c1n.large" in page
    assert "there is no newer one. It does not know us." in page
    Listing.objects.update(read=Now() - timedelta(days=2))
    assert offers.catalogue(fresh(lab)).value is None, "too old to be of use"


def test_regions_without_a_workspace_are_not_asked(far, lab):
    Workspace.objects.update(status="terminated")
    assert watch() == 0
    assert far.lists == 0


@pytest.mark.django_db(transaction=True)
def test_the_watch_process_reads_it(far, lab):
    async def look():
        watcher = ListingWatcher()
        (pk,) = await watcher.wanted()
        await watcher.look_after(pk)

    asyncio.run(look())
    assert len(offers.catalogue(fresh(lab)).value.types) == len(MarketCloud.types)


def test_the_plan_is_worked_out_from_what_is_kept_and_no_page_asks_the_cloud(far, lab):
    assert offers.offer(fresh(lab), "c1n.large", 3).is_coming
    far.runs = {"m1.large": [10, 0], "c1n.large": [0, 2], "mac1.metal": [1, 0]}
    watch()
    found = offers.offer(fresh(lab), "c1n.large", 3).value
    (quota,) = found.quotas
    assert (found.hourly_price, quota.asked, quota.left, found.warnings) == (Decimal("0.15"), 6, 80, ())
    spot = offers.offer(fresh(lab), "c1n.large", 3, spot=True).value
    assert (spot.hourly_price, spot.quotas[0].left) == (Decimal("0.09"), 96), "the dearest zone"
    assert offers.offer(fresh(lab), "c1n.large", 3, zone="north-1a", spot=True).value.hourly_price == Decimal("0.06")
    said = offers.offer(fresh(lab), "m1.large", 1, zone="north-1a").value.impossible
    assert said == "m1.large cannot be had in north-1a. Those that have it: north-1b."
    assert offers.offer(fresh(lab), "m1.large", 1).value.warnings == ("Only north-1b has this type.",)
    unpriced = offers.offer(fresh(lab), "m1.large", 1, spot=True).value
    assert (unpriced.hourly_price, len(unpriced.warnings)) == (None, 2)
    assert offers.offer(fresh(lab), "huge.9000", 1).value.impossible


def test_what_counts_against_quotas_is_asked_for_more_often_by_one_question(far, lab):
    watch()
    Listing.objects.update(count_due=Now())
    far.runs = {"m1.large": [50, 0]}
    assert watch() == 1
    assert (far.lists, far.counts) == (1, 2)
    assert offers.offer(fresh(lab), "c1n.large", 1).value.quotas[0].left == 0
    far.running = _raise
    Listing.objects.update(count_due=Now())
    assert (watch(), watch()) == (1, 0)
    assert offers.offer(fresh(lab), "c1n.large", 1).value.quotas[0].left == 0, "as it was"
    assert offers.catalogue(fresh(lab)).trouble is None


def _raise():
    raise Passing("It is too busy.")


def test_a_form_that_was_opened_before_the_answer_gets_all_that_follows_from_it(client, far, lab, alice):
    client.force_login(alice)
    where = reverse("new-cluster", args=[lab.uuid])

    def asks(**more):
        return client.get(where, {"awaited": "yes", "zone": "north-1b", **more}, headers={"HX-Target": "types"})

    early = asks()
    assert "It is still being asked" in early.text
    assert "HX-Trigger-After-Swap" not in early.headers
    watch()
    late = asks()
    assert json.loads(late.headers["HX-Trigger-After-Swap"]) == {"filled": {}}
    for part in ("finder", "zone-of-nodes", "starts"):
        assert f'id="{part}" hx-swap-oob' in late.text, part
    assert '<option value="north-1b" selected>' in late.text, "what was chosen stays"
    found = client.get(where, {"find": "c1n"}, headers={"HX-Target": "types"})
    assert "hx-swap-oob" not in found.text, "who looks among them loses nothing that was typed"


def test_the_form_of_a_job_with_a_cluster_of_its_own_gets_it_too(client, far, lab, alice):
    client.force_login(alice)
    where = reverse("new-job", args=[lab.uuid])
    early = client.get(where)
    assert "It is still being asked" in early.text
    watch()
    late = client.get(where, {"awaited": "yes", "own-zone": "north-1b"}, headers={"HX-Target": "types"})
    for part in ("finder", "zone-of-nodes"):
        assert f'id="{part}" hx-swap-oob' in late.text, part
    assert 'name="own-instance_type"' in late.text
    assert '<option value="north-1b" selected>' in late.text, "what was chosen stays"
    found = client.get(where, {"find": "c1n"}, headers={"HX-Target": "types"})
    assert ("c1n.large" in found.text, "m1.large" in found.text) == (True, False)
