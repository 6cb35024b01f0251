"""How a run is started and ended, as far as the database and the ledger go."""

from __future__ import annotations

import pytest

from jobs import plans
from jobs.models import Run
from portal.clouds.errors import PortalError, Refused
from portal.tasks.ledger import retry_task, run_task
from portal.tasks.models import StepStatus


@pytest.mark.django_db(transaction=True)
def test_the_task_of_a_run_that_failed_to_start_cannot_start_it_once_more(run, bob, client, monkeypatch):
    started = []

    def start(*_, **__):
        started.append(1)
        raise Refused("The disk is full.")

    monkeypatch.setattr(plans.detached, "start", start)
    task = run.last_task
    task.steps.filter(name="cluster").update(status=StepStatus.DONE)
    Run.objects.filter(pk=run.pk).update(observed=True)
    monkeypatch.setattr(plans, "end_what_is_left", lambda *_: "")
    monkeypatch.setattr(plans.ssh, "run", lambda *_, **__: None)
    run_task(task.pk)
    run.refresh_from_db()
    task.refresh_from_db()
    assert (run.status, task.status) == (Run.Status.FAILED, "failed")
    with pytest.raises(PortalError, match="Start it anew"):
        retry_task(task, by=bob)
    client.force_login(bob)
    page = client.get(task.get_absolute_url()).content.decode()
    assert "Try again" not in page
    assert "Start it anew" in page
    client.post(f"/tasks/{task.uuid}/retry/")
    run_task(task.pk)
    assert len(started) == 1
