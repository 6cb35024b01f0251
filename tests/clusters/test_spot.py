"""What a cloud announces of a spot node is on the page of its cluster while the node answers as ever."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from clusters import watch
from clusters.models import Cluster, EngineVersion, Node
from clusters.watch import SpotWatcher, note_announcements
from portal.clouds import CloudNode, NodeState
from portal.tasks import live
from tests.web import words

pytestmark = pytest.mark.django_db
NOTICE = "AWS takes this spot node back within two minutes."


def listed(cluster, **notices):
    return {
        cluster.tags: [
            CloudNode(f"i-{rank}", rank, f"tide-{rank}", NodeState.RUNNING, "10.0.0.1", 22, "10.0.0.1", "coxswain",
                      "/home/coxswain", "/shared", spot=True, notice=notices.get(f"tide_{rank}", ""))
            for rank in range(2)
        ]
    }  # fmt: skip


@pytest.fixture
def heard(monkeypatch):
    """What pages are told of."""
    names = []
    monkeypatch.setattr(live, "ring", lambda *rung: names.extend(rung))
    return names


def test_what_is_announced_is_said_once_and_is_over_with_the_node(client, lab, vera, heard):
    tide = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="m5.large", cores_per_node=1, node_count=2, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"), spot=True,
    )  # fmt: skip
    for rank in range(2):
        Node.objects.create(cluster=tide, rank=rank, hostname=f"tide-{rank}", cloud_id=f"i-{rank}", state="answers")
    client.force_login(vera)
    note_announcements([tide], listed(tide))
    assert heard == []
    assert NOTICE not in words(client.get(tide.get_absolute_url()))
    note_announcements([tide], listed(tide, tide_1=NOTICE))
    assert f"cluster.{tide.uuid}" in heard
    page = words(client.get(tide.get_absolute_url()))
    assert f'data-say="tide-1: {NOTICE}"' in page
    assert "tide-0: AWS" not in page
    heard.clear()
    note_announcements([tide], listed(tide, tide_1=NOTICE))
    assert heard == [], "nothing is new"
    note_announcements([tide], listed(tide))
    assert NOTICE not in words(client.get(tide.get_absolute_url()))


async def test_an_account_that_does_not_answer_holds_up_no_other_and_is_not_asked_twice(monkeypatch):
    go, asked, seen = threading.Event(), [], []

    def place(name, answer):
        def inventory(_):
            asked.append(name)
            return answer()

        tags = SimpleNamespace(portal="p")
        return [SimpleNamespace(workspace=SimpleNamespace(cloud=SimpleNamespace(inventory=inventory)), tags=tags)]

    places = {(1, "stuck"): place("stuck", lambda: go.wait(30)), (2, "well"): place("well", dict)}

    def threads(call):
        async def run(*words):
            return call(*words)

        return run

    monkeypatch.setattr(watch, "DATABASE", threads)
    monkeypatch.setattr(watch, "SPOT_EVERY", 0.01)
    monkeypatch.setattr(watch, "_spot", lambda: places)
    monkeypatch.setattr(watch, "note_announcements", lambda clusters, listed: seen.append(clusters))
    running = asyncio.create_task(SpotWatcher().run(None))
    async with asyncio.timeout(20):
        while len(seen) < 3:
            await asyncio.sleep(0.01)
    assert asked.count("stuck") == 1
    assert {id(clusters) for clusters in seen} == {id(places[2, "well"])}
    go.set()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
