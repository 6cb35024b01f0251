"""What a cloud announces of a spot node is on the page of its cluster while the node answers as ever."""

from __future__ import annotations

import pytest

from clusters.models import Cluster, EngineVersion, Node
from clusters.watch import note_announcements
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
