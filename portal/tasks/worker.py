"""The worker: RQ's, without its forks.

A step is a few calls to a cloud or over a kept SSH connection; a fork for each would cost more than the step, and lose
the connection. There is no second process that could live on when this one is killed; the ledger's lease is what
notices the death.
"""

from __future__ import annotations

from typing import Any

from django.db import close_old_connections
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.timeouts import TimerDeathPenalty


class PortalWorker(SimpleWorker):
    death_penalty_class = TimerDeathPenalty

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["worker_ttl"] = 60
        super().__init__(*args, **kwargs)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        close_old_connections()
        try:
            return bool(super().perform_job(job, queue, execution))
        finally:
            close_old_connections()
