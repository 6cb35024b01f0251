"""What a far cloud lists is read by the watch process, shared by all processes, and waited for by no page."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.urls import reverse

from clusters import offers
from portal.clouds import Refused
from tests.clouds.bad import AccountOf
from tests.clusters.market import MarketCloud
from tests.web import words
from workspaces import listings
from workspaces.models import CloudConfig, Listing, Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


class FarCloud(MarketCloud):
    """It may be asked by the watch process alone."""

    def __init__(self):
        super().__init__()
        self.lists = 0


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
        listing = Listing.objects.select_related("cloud_config").get(pk=pk)
        listings.write_down(listing, listings.ask(listing.cloud_config.account, listing.region))
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
    from workspaces.watch import ListingWatcher

    async def look():
        watcher = ListingWatcher()
        (pk,) = await watcher.wanted()
        await watcher.look_after(pk)

    asyncio.run(look())
    assert len(offers.catalogue(fresh(lab)).value.types) == len(MarketCloud.types)
