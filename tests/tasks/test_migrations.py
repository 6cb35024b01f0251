"""What was stored by an earlier version is what a page shows after the migration."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.utils.timezone import now

from clusters.models import Cluster
from jobs.models import Job, Run
from portal.models import Installation
from portal.tasks import output as store
from portal.tasks.models import Output, Stream, Task
from usage.models import Record
from workspaces.models import CloudConfig, Stray, Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def old(tmp_path):
    """Another database than that of the other tests, because there is no way back for it."""
    default = connections["default"]
    settings = {**default.settings_dict, "NAME": str(tmp_path / "old.sqlite3"), "OPTIONS": {}}
    if default.vendor == "postgresql":
        settings["NAME"] = f"{default.settings_dict['NAME']}_old"
        with default._nodb_cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{settings["NAME"]}"')
    connections["old"] = type(default)(settings, "old")
    yield connections["old"]
    connections["default"] = default
    connections["old"].close()
    del connections["old"]
    if default.vendor == "postgresql":
        with default._nodb_cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{settings["NAME"]}"')


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

    connections["default"] = old  # for what asks no row where it is from
    output = Output.objects.get()
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


def test_runs_that_waited_or_ran_when_the_portal_was_upgraded_go_on(old):
    """And each job knows when it ran, each run where it is, and names that differ in case alone are told apart."""
    executor = MigrationExecutor(old)
    before = [("jobs", "0005_verdicts"), ("tasks", "0003_ranks"), ("clusters", "0004_node_door")]
    executor.migrate([*before, ("workspaces", "0001_initial")])
    apps = executor.loader.project_state(before).apps

    def make(model, **fields):
        return apps.get_model(model).objects.using("old").create(**fields)

    harbor = make("accounts.Organization", name="Harbor")
    config = make("workspaces.CloudConfig", organization=harbor, name="here", kind="local")
    lab, _ = (
        make("workspaces.Workspace", organization=harbor, cloud_config=config, region="x", status="ready", name=name)
        for name in ("lab", "Lab")
    )
    version = apps.get_model("clusters.EngineVersion").objects.using("old").first()
    tide = make(
        "clusters.Cluster", workspace=lab, name="tide", status="running", node_count=1, cores_per_node=1,
        engine_version=version,
    )  # fmt: skip
    kind, _ = (
        apps.get_model("contenttypes.ContentType").objects.using("old").get_or_create(app_label="jobs", model="run")
    )
    jobs = [make("jobs.Job", workspace=lab, cluster=tide, name=name, git_url="u", command="a.py") for name in "ab"]

    def run(number, status, task, **fields):
        made = make(
            "jobs.Run", job=jobs[0], number=number, cluster=tide, git_url="u", command="a.py", status=status,
            output=make("tasks.Output"), **fields,
        )  # fmt: skip
        work = make(
            "tasks.Task", kind="jobs.run", title="x", subject_type=kind, subject_id=made.pk, queue="launch",
            status=task, output=made.output,
        )  # fmt: skip
        for position, step in enumerate(("cluster", "launch", "run", "keep", "clean")):
            make("tasks.Step", task=work, position=position, name=step, title=step)
        return made

    run(1, "failed", "failed", started=now(), ended=now(), observed=True)
    running = run(2, "inprogress", "inprogress", started=now())
    waiting = run(3, "new", "inprogress")
    apps.get_model("jobs.Run").objects.using("old").filter(pk=waiting.pk).update(created=now() + timedelta(hours=1))
    executor = MigrationExecutor(old)
    executor.migrate(executor.loader.graph.leaf_nodes())

    record = Record.objects.using("old").get()
    assert (record.cluster, record.ended, record.workspace_name) == (tide.uuid, None, "lab"), "counted from now on"
    assert [one.number for one in Run.objects.using("old").waiting()] == [3]
    task = Task.objects.using("old").unfinished().get()
    assert (task.subject_id, [step.name for step in task.steps.all()]) == (
        running.pk,
        ["launch", "run", "keep", "clean"],
    )
    assert task.undoes_on_failure
    assert Cluster.objects.using("old").get().occupied_by == running.uuid
    assert Run.objects.using("old").get(needs_you=True).number == 1
    assert set(Run.objects.using("old").values_list("workspace", flat=True)) == {lab.pk}
    a, b = Job.objects.using("old").order_by("name")
    assert (a.ran, b.ran) == (Run.objects.using("old").get(number=3).created, b.created)
    assert sorted(Workspace.objects.using("old").values_list("name", flat=True)) == ["Lab (2)", "lab"]


def test_names_of_before_that_differ_in_how_they_are_written_are_told_apart(old):
    apps = MigrationExecutor(old).migrate([("workspaces", "0001_initial")]).apps
    harbor = apps.get_model("accounts", "Organization").objects.using("old").create(name="Harbor")
    configs = apps.get_model("workspaces", "CloudConfig").objects.using("old")
    for name in ("here", "Here", "HERE (2)", "there"):
        configs.create(organization=harbor, name=name, kind="local")
    MigrationExecutor(old).migrate([("workspaces", "0003_names_and_deletion")])
    found = CloudConfig.objects.using("old").order_by("pk").values_list("name", flat=True)
    assert list(found) == ["here", "Here (2)", "HERE (2) (2)", "there"]


def test_what_was_left_behind_before_the_upgrade_can_be_looked_at_after_it(old):
    before = [("workspaces", "0006_checks"), ("accounts", "0006_names")]
    apps = MigrationExecutor(old).migrate(before).apps

    def make(model, **fields):
        return apps.get_model(model).objects.using("old").create(**fields)

    harbor = make("accounts.Organization", name="Harbor")
    config = make("workspaces.CloudConfig", organization=harbor, name="here", kind="local")
    for subject, ended in (("a", None), ("b", None), ("c", now())):
        make("workspaces.Stray", cloud_config=config, region="x", workspace="w", subject=subject, ended=ended)
    MigrationExecutor(old).migrate([("workspaces", "0007_strays_as_subjects")])
    found = Stray.objects.using("old").order_by("subject")
    assert [(one.status, one.workspace_tag) for one in found] == [("there", "w"), ("there", "w"), ("gone", "w")]
    assert len({one.uuid for one in found}) == 3
