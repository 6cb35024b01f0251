"""Where what a run has printed is kept, and what a page shows of it without scripts."""

from __future__ import annotations

import re

import pytest
from django.conf import settings
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion
from jobs.actions import start_run
from jobs.models import Job
from portal.clouds import Can
from portal.tasks import keeping, stores
from portal.tasks.output import stream_bytes
from portal.tasks.outputs import Output, Segment, Stream
from workspaces.models import CloudConfig

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def job(lab, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    version = EngineVersion.objects.create(kind="mpi", version="5", packages=[])
    tide = Cluster.objects.create(
        workspace=lab, name="tide", engine_version=version, status="running", node_count=1, cores_per_node=2
    )
    return Job.objects.create(workspace=lab, cluster=tide, name="count", git_url="https://git.test/a", command="a.py")


def test_it_lies_in_the_store_of_the_cloud_configuration_under_its_workspace_and_run(job, bob, lab, this_computer):
    run = start_run(job, by=bob)
    run.output.append(Stream.STDOUT, b"hello\n")
    keeping.keep(run.output)
    folder = settings.VAR / "stores" / str(this_computer.uuid) / "outputs" / str(lab.uuid) / str(run.uuid)
    (kept,) = folder.iterdir()
    assert kept.read_bytes().startswith(b"hello\n")
    assert b"".join(stream_bytes(Output.objects.get(pk=run.output_id))) == b"hello\n"


def test_where_a_kind_of_cloud_has_no_store_it_lies_in_the_portals_own(job, bob, monkeypatch):
    monkeypatch.setattr(CloudConfig, "can", frozenset(Can) - {Can.STORE})
    run = start_run(job, by=bob)
    assert run.output.store == stores.OWN
    run.output.append(Stream.STDOUT, b"hello\n")
    keeping.keep(run.output)
    assert b"".join(stream_bytes(Output.objects.get(pk=run.output_id))) == b"hello\n"


LINES = 3000


@pytest.fixture
def turn(job, bob, client):
    """Opens pages of a run that has printed short lines: (their numbers, where Earlier and Later lead)."""
    run = start_run(job, by=bob)
    run.output.append(Stream.STDOUT, b"\n" * LINES)
    client.force_login(bob)

    def turn(path=f"/outputs/{run.output.uuid}/", query=""):
        page = client.get(path + query).content.decode()
        leads = re.findall(
            r'href="(\?after=[^"]*)"\s*>(?:\s|<svg.*?</svg>|<i .*?</i>)*(Earlier|Later)', page, re.DOTALL
        )
        shown = [int(number) for number in re.findall(r'class="ln std(?:out|err)" id="L(\d+)"', page)]
        return shown, {word: where.replace("&amp;", "&") for where, word in leads}

    turn.run = run
    return turn


def test_a_page_shows_the_last_lines_however_short_they_are(turn):
    shown, _ = turn(f"/runs/{turn.run.uuid}/")
    assert shown == list(range(LINES - 499, LINES + 1))


@pytest.mark.parametrize(
    ("filtered", "word"), [("", "Later"), ("&stream=stdout", "Later"), ("&stream=stdout", "Earlier")]
)
def test_one_turns_pages_through_all_of_an_output(turn, filtered, word):
    """Whatever was kept of it: blocks, or a part in a store."""
    keeping.keep(turn.run.output)
    seen, query = [], f"?after=0{filtered}" if word == "Later" else f"?{filtered}"
    while query:
        shown, leads = turn(query=query)
        assert len(shown) <= 500
        seen += shown if word == "Later" else reversed(shown)
        query = leads.get(word)
    assert seen == list(range(1, LINES + 1))[:: 1 if word == "Later" else -1]


def test_one_turns_back_through_lines_that_ranks_wrote_in_turns(turn):
    """More pieces than one read of an output looks for."""
    ranks = 9000
    turn.run.output.append_log(
        [Segment(Stream.STDERR, b"\n", now(), rank=rank) for rank in range(ranks)], offset=0, size=ranks
    )
    _, leads = turn(query="?stream=stderr")
    before, _ = turn(query=leads["Earlier"])
    assert before == list(range(LINES + ranks - 999, LINES + ranks - 499))


@pytest.mark.parametrize("line", [1, 1234, LINES])
def test_a_page_with_a_line_has_it_and_those_before_it(turn, line):
    shown, _ = turn(query=f"?line={line}")
    assert line in shown
    assert shown[0] == max(1, line - 249)
