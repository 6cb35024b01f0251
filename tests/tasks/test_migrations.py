"""What was stored by an earlier version is what a page shows after the migration."""

from __future__ import annotations

from uuid import UUID

import pytest
from django.db import connections
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.utils.timezone import now

from portal.models import Installation
from portal.tasks import output as store
from portal.tasks.models import Output, Stream

pytestmark = pytest.mark.django_db


@pytest.fixture
def old(tmp_path):
    """Another database than that of the other tests, because there is no way back for it."""
    settings = {**connections["default"].settings_dict, "NAME": str(tmp_path / "old.sqlite3"), "OPTIONS": {}}
    connections["old"] = DatabaseWrapper(settings, "old")
    yield connections["old"]
    connections["old"].close()
    del connections["old"]


def test_output_from_before_ranks_keeps_its_streams_and_times(old):
    apps = MigrationExecutor(old).migrate([("tasks", "0002_staff_lists")]).apps
    before = apps.get_model("tasks", "Output").objects.using("old").create(head=9, lines=2, stdout=6, stderr=3)
    at = now()
    for stream, position, offset, line, data in [(1, 0, 0, 0, b"one\n"), (2, 4, 0, 1, b"oh\n"), (1, 7, 4, 2, b"tw")]:
        before.chunks.create(
            stream=stream, position=position, offset=offset, size=len(data), line=line, at=at, data=data
        )
    executor = MigrationExecutor(old)
    executor.migrate(executor.loader.graph.leaf_nodes("tasks"))

    output = Output.objects.using("old").get()
    pieces = store.read(output, 0)
    assert [(piece.stream, piece.data, piece.rank) for piece in pieces] == [
        (Stream.STDOUT, b"one\n", None),
        (Stream.STDERR, b"oh\n", None),
        (Stream.STDOUT, b"tw", None),
    ]
    assert {piece.ms for piece in pieces} == {int(at.timestamp() * 1000)}
    assert (output.log, output.nodes) == (0, {})
    found, _ = store.find(output, store.Filter.parse(output, stream="stderr"), 0)
    assert [piece.data for piece in found] == [b"oh\n"]


@pytest.mark.parametrize("used", [True, False])
def test_a_portal_that_has_made_something_keeps_the_tag_by_which_it_is_found(old, settings, used):
    settings.PORTAL_NAME = "Acme HPC"
    executor = MigrationExecutor(old)
    apps = executor.migrate([("workspaces", "0001_initial")]).apps
    if used:
        organization = apps.get_model("accounts", "Organization").objects.using("old").create(name="Harbor")
        config = apps.get_model("workspaces", "CloudConfig").objects.using("old")
        place = {"organization": organization, "name": "x"}
        here = config.create(**place, kind="local")
        apps.get_model("workspaces", "Workspace").objects.using("old").create(**place, cloud_config=here, region="x")
    MigrationExecutor(old).migrate([("portal", "0001_initial")])
    tag = Installation.objects.using("old").get().tag
    assert tag == "acme hpc" if used else UUID(tag)
