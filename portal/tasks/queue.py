"""Waking a worker. The only module that knows RQ. A hint in the queue says "look at this task"; the database is the
truth, and a hint that is lost, late or doubled changes nothing but the time.

RQ's own keys begin with "rq:" in every program that uses it. The portal's queues bear its prefix, so that two portals
with one Redis do not take each other's hints; the names of hints and workers are random, and meet nobody's.
"""

from __future__ import annotations

import functools
import logging
import secrets
from typing import TYPE_CHECKING

import django_rq
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError
from rq import Queue, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis
    from rq.worker import BaseWorker

    from portal.tasks.models import Task

logger = logging.getLogger(__name__)


def queue(name: str) -> Queue:
    """One of settings.QUEUES."""
    name = f"{settings.REDIS_PREFIX}-{name}"
    return django_rq.get_queue(name, connection=_redis(name, settings.RQ_QUEUES[name]["URL"]))


@functools.cache
def _redis(name: str, url: str) -> Redis:
    """Kept by this process, for all its threads: to connect anew takes about as long as to give a hint."""
    return django_rq.get_connection(name)


def new_ticket() -> str:
    return secrets.token_hex(12)


def enqueue(task: Task, *, is_new: bool = False) -> None:
    """Hand the task to a worker when the transaction commits. Never raises: the watch process asks again.

    A new one was made with a ticket. Any other gets one of its own for each hint: RQ forgets a hint by its ticket as
    soon as a worker has done with it, and with it one that came meanwhile.
    """
    if not is_new:
        _give_ticket(task)
    transaction.on_commit(lambda: push(task), robust=True)


def _give_ticket(task: Task) -> None:
    task.ticket = new_ticket()
    type(task).objects.filter(pk=task.pk).update(ticket=task.ticket)


def push(task: Task) -> None:
    """Queue a hint with the task's ticket."""
    try:
        # No time-out and no retry of RQ's: how long a step may take and how often it is tried is the ledger's affair.
        queue(task.queue).enqueue(
            "portal.tasks.ledger.run_task", task.pk, job_id=task.ticket, job_timeout=-1, result_ttl=0, failure_ttl=3600
        )
    except RedisError as error:
        logger.warning("task %s not queued, the watch process will: %s", task.pk, error)


def push_missing(tasks: Iterable[Task]) -> int:
    """Queue those tasks whose ticket is in no queue. Returns how many. Raises RedisError."""
    untold = missing(tasks)
    for task in untold:
        _give_ticket(task)
        push(task)
    return len(untold)


def missing(tasks: Iterable[Task]) -> list[Task]:
    """Those of them whose ticket is in no queue. Raises RedisError."""
    waiting: set[str] = set()
    for name in settings.QUEUES:
        waiting.update(queue(name).get_job_ids())
    return [task for task in tasks if not task.ticket or task.ticket not in waiting]


def lengths() -> dict[str, int]:
    """How many hints wait in each queue. Raises RedisError."""
    return {name: queue(name).count for name in settings.QUEUES}


def workers() -> list[BaseWorker]:
    """This portal's that have said within their time that they live, by name. Raises RedisError."""
    found = {worker.name: worker for name in settings.QUEUES for worker in Worker.all(queue=queue(name))}
    return [found[name] for name in sorted(found)]
