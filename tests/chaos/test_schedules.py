"""kill -9 of the watch process while a schedule's time comes: it brings one run."""

from __future__ import annotations

import pytest

from tests.chaos.conftest import ended
from tests.running import until

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("name", ["jobs.schedules.claimed", "jobs.schedules.made"])
def test_a_time_brings_one_run_though_the_watch_process_dies(portal, lab, cluster, repository, name):
    command = f"program.py 5 0.1 /shared/marker-{name}"
    job = portal.call("make_job", workspace=lab, cluster=cluster, git_url=repository, command=command, name=name)["job"]
    portal.arm(name)
    schedule = portal.call("make_schedule", job=job)
    until(lambda: portal.fired(name), seconds=60, what=name)
    times = until(lambda: portal.call("times_of", schedule=schedule), seconds=60, what="its run")
    portal.call("drop_schedule", schedule=schedule)
    assert ended(portal, times[0][2], seconds=90)["status"] == "finished"
    times = portal.call("times_of", schedule=schedule)
    assert len({due for due, *_ in times}) == len(times), "a time came twice"
