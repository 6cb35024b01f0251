"""Two portals that share an account: one acts on a workspace's infrastructure at a time, by the locks of its store."""

from __future__ import annotations

import time

import pytest

from portal.clouds.aws.session import Session
from portal.clouds.aws.store import AwsStore
from portal.errors import Conflict
from portal.tasks import locks
from portal.tasks.models import Task
from tests.aws import account
from tests.aws.account import go_on
from tests.aws.test_crashes import config, deaths, workspace, world  # noqa: F401 (fixtures)
from tests.clouds import hands

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_heartbeat", "rings")]
OTHER = "another-portal/its-task"


def test_one_waits_for_the_other_and_what_the_first_still_writes_is_refused(
    config,  # noqa: F811
    deaths,  # noqa: F811
    world,  # noqa: F811
    alice,
    monkeypatch,
):
    theirs = AwsStore(Session(config.connection, "external-1"))  # of a process on another host
    before = world.things()
    sea = workspace(config, alice)
    name, document = f"workspaces/{sea.uuid}", f"deployments/{sea.uuid}/{sea.uuid}.json"
    first = theirs.lock(name, owner=OTHER, seconds=600)
    go_on(sea, rounds=3)
    task = sea.last_task
    assert "Another portal that shares this cloud configuration's account works on it" in {
        step.detail for step in task.steps.all()
    }
    assert world.things() == before, "nothing is made meanwhile"
    theirs.put(document, b"theirs", lock=first)
    assert theirs.lock(name, owner=OTHER, seconds=0), "and then nothing more is heard of it"

    monkeypatch.setattr(locks, "TERM", 12.0)
    deaths.begin("CreateVpc")
    hands.until(lambda: go_on(sea, rounds=1) and deaths.done, seconds=60)
    fence = Task.objects.get(pk=task.pk).fence
    assert fence > first.fence
    with pytest.raises(Conflict):
        theirs.put(document, b"theirs, too late", lock=first)
    assert theirs.lock(name, owner=OTHER, seconds=600) is None, "the portal that died has it until its term is over"

    left = theirs._held(name).until - time.time()
    monkeypatch.setattr("portal.clouds.aws.store._date", lambda said: time.time() + left + 5)
    assert theirs.lock(name, owner=OTHER, seconds=600).fence > fence
    task = go_on(sea)
    assert (task.status, sea.status) == ("failed", "failed")
    assert task.cause == "Another portal may work on this now, so this one has stopped."
    assert len(world.things()["VPC"] - before["VPC"]) == 1
    assert account.more(before, world.things()).get("subnet") is None
