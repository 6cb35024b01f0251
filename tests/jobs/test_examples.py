"""Jobs of the examples, when the portal answers somewhere else than it did, and where nodes do not reach it."""

from __future__ import annotations

import pytest
from django.urls import reverse

from clusters.models import Cluster, EngineVersion
from jobs.models import Job
from jobs.repositories import where_it_is_now
from tests.web import words
from workspaces.models import CloudConfig


@pytest.mark.parametrize("kept", ["http://127.0.0.1:8000/examples/flights", "http://localhost:8017/examples/flights/"])
def test_an_example_is_cloned_from_where_the_portal_is_now(settings, kept):
    settings.PORTAL_URL = "http://127.0.0.1:8001"
    assert where_it_is_now(kept) == "http://127.0.0.1:8001/examples/flights"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:3000/team/flights",
        "http://127.0.0.1:3000/examples/no-example",
        "https://git.example.org/examples/flights",
        "ssh://git@127.0.0.1/examples/flights",
    ],
)
def test_any_other_address_stays_as_it_is(settings, address):
    settings.PORTAL_URL = "http://127.0.0.1:8001"
    assert where_it_is_now(address) == address


@pytest.fixture
def tide(lab):
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": ["mpi4py"]})
    return Cluster.objects.create(
        workspace=lab, name="tide", instance_type="4x16", cores_per_node=4, node_count=2, engine_version=engine,
        status="running",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "portal", "reach"),
    [
        ("local", "http://127.0.0.1:8001", True),
        ("machines", "http://127.0.0.1:8001", False),
        ("machines", "https://localhost:8001", False),
        ("machines", "https://portal.example.org", True),
    ],
)
def test_an_example_is_offered_and_taken_where_the_nodes_reach_it(
    client, settings, lab, tide, bob, kind, portal, reach
):
    settings.PORTAL_URL, settings.GIT_FROM_THIS_MACHINE = portal, True
    CloudConfig.objects.filter(pk=lab.cloud_config_id).update(kind=kind)
    client.force_login(bob)
    address = reverse("new-job", args=[lab.uuid])
    page = words(client.get(address))
    assert ('value="flights"' in page, "do not reach" in page) == (reach, not reach)
    data = {"name": "f", "cluster": tide.uuid, "command": "flights.py", "git_url": f"{portal}/examples/flights"}
    said = client.post(address, data)
    assert Job.objects.exists() == reach
    if not reach:
        assert said.context["form"].errors["git_url"][0].startswith("The examples are served by this portal at http")
