"""What is wrong with a plan is said at the start, and not when its first task ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.conf import settings

from clusters.models import Cluster
from clusters.plans import CREATE
from portal.tasks import registry


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.setattr(registry, "plans", {})
    monkeypatch.setattr(registry, "done_to", {})

    def of(**changes):
        registry.add_subject(Cluster, replace(CREATE, kind="clusters.x", **changes))
        return list(registry.faults(settings.QUEUES))

    return of


def test_the_plans_of_the_apps_are_good():
    assert list(registry.faults(settings.QUEUES)) == []
    assert len(registry.plans) == len(registry.done_to) > 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queue": "slow"}, "is for the queue slow, which does not exist"),
        ({"then": {}}, "does not say what its subject becomes"),
        ({"steps": [*CREATE.steps, CREATE.steps[0]]}, "has two steps of one name"),
        ({"then": {**CREATE.then, "failed": "broken"}}, "speaks of the status broken, which its subject does not have"),
        ({"then": {**CREATE.then, "failed": "new"}}, "cannot say that it has failed: new does not follow inprogress"),
    ],
)
def test_a_plan_that_cannot_end_well_is_named(faults, changes, said):
    assert faults(**changes) == [f"The plan clusters.x {said}."]
