"""Waking a worker. The only module that knows RQ. A hint in the queue says "look at this task"; the database is the
truth, and a hint that is lost, late or doubled changes nothing but the time.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

import django_rq
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError
from rq import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rq.worker import BaseWorker

    from portal.tasks.models import Task

logger = logging.getLogger(__name__)


def enqueue(task: Task) -> None:
    """Hand the task to a worker when the transaction commits. Never raises: the watch process asks again."""
    transaction.on_commit(lambda: push(task), robust=True)


def push(task: Task) -> None:
    ticket = secrets.token_hex(12)
    type(task).objects.filter(pk=task.pk).update(ticket=ticket)
    try:
        # No time-out and no retry of RQ's: how long a step may take and how often it is tried is the ledger's affair.
        django_rq.get_queue(task.queue).enqueue(
            "portal.tasks.ledger.run_task", task.pk, job_id=ticket, job_timeout=-1, result_ttl=0, failure_ttl=3600
        )
    except RedisError as error:
        logger.warning("task %s not queued, the watch process will: %s", task.pk, error)


def push_missing(tasks: Iterable[Task]) -> int:
    """Queue those tasks whose ticket is in no queue. Returns how many. Raises RedisError."""
    untold = missing(tasks)
    for task in untold:
        push(task)
    return len(untold)


def missing(tasks: Iterable[Task]) -> list[Task]:
    """Those of them whose ticket is in no queue. Raises RedisError."""
    waiting: set[str] = set()
    for name in settings.QUEUES:
        waiting.update(django_rq.get_queue(name).get_job_ids())
    return [task for task in tasks if not task.ticket or task.ticket not in waiting]


def lengths() -> dict[str, int]:
    """How many hints wait in each queue. Raises RedisError."""
    return {name: django_rq.get_queue(name).count for name in settings.QUEUES}


def workers() -> list[BaseWorker]:
    """Those that have said within their time that they live, by name. Raises RedisError."""
    connection = django_rq.get_connection(settings.QUEUES[0])
    return sorted(Worker.all(connection=connection), key=lambda worker: worker.name)
