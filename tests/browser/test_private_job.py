"""A private repository's program on a cluster of its own on this computer, at its time, and the token nowhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from tests.browser import private
from tests.browser.test_dedicated import has_no_job_clusters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def forge(tmp_path):
    with private.forge(tmp_path) as server:
        yield server


def test_it_waits_for_its_time_runs_and_its_token_is_nowhere(open_desk, portal, lab, cluster, forge):
    page = open_desk(f"/workspaces/{lab}/jobs/new/", timezone_id="UTC")
    private.asked(page, forge)
    beside = open_desk(f"/workspaces/{lab}/clusters/?tab=jobs")
    before = datetime.now(UTC)
    expect(beside.locator("tbody tr", has_text="private-1")).to_have_count(1)
    private.is_running(page, forge)
    assert datetime.now(UTC) - before > timedelta(seconds=30), "it did not wait for its time"
    private.ends(page, forge)
    has_no_job_clusters(beside, portal, lab)
    assert private.holding(forge, [portal.folder / "log", *portal.var.rglob("*")]) == []
