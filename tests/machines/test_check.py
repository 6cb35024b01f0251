"""What computers of a pool must be, looked at on real ones."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from portal.clouds.machines import certificates
from portal.clouds.machines.check import check
from portal.clouds.machines.models import Pool
from tests.machines.computers import SHARED, USER

pytestmark = pytest.mark.django_db


def make_pool(computers):
    pool = Pool(account=uuid4(), name="desks", user=USER, base=f"{SHARED}/coxswain")
    certificates.new_authority(pool)
    pool.save()
    for one in computers:
        pool.computers.create(address=one.address, port=one.port, host_public=one.host_public)
    computers.paste(pool.authorized_key)
    return pool


@pytest.fixture
def pool(computers):
    return make_pool(computers)


def checked(pool):
    rows = list(pool.computers.order_by("pk"))
    began = time.monotonic()
    findings = asyncio.run(check(pool, rows))
    print(f"{len(rows)} computers in {time.monotonic() - began:.1f} s")
    return findings


def wrong(finding):
    return {line.name: line.message for line in finding.lines if line.ok is False}


def test_computers_that_are_alike_and_share_a_folder_pass(pool, computers):
    for finding, one in zip(checked(pool), computers, strict=True):
        print(finding)
        assert finding.silence == ""
        assert wrong(finding) == {}
        assert finding.facts["hostname"] == one.name
    assert list(computers.shared.iterdir()) == [computers.shared / "coxswain"]
    assert list((computers.shared / "coxswain").iterdir()) == []
