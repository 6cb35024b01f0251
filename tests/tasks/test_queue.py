"""Hints for workers: of this portal, in a Redis that others use too."""

from __future__ import annotations

import os

import pytest
from redis import Redis
from rq import Queue, Worker

from portal.tasks import queue

# A hint that is given inside a transaction waits for its end: here there is none, whatever ran before.
pytestmark = pytest.mark.django_db(transaction=True)

redis_only = pytest.mark.skipif("REDIS_URL" not in os.environ, reason="needs Redis in REDIS_URL")


@pytest.fixture
def redis(settings):
    client = Redis.from_url(next(iter(settings.RQ_QUEUES.values()))["URL"])
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


@redis_only
def test_two_portals_with_one_redis_leave_each_others_hints_and_workers_alone(settings, redis):
    theirs = Queue("launch", connection=redis)
    theirs.enqueue("other.portal", job_id="theirs")
    others = Queue("second-launch", connection=redis)
    others.enqueue("second.portal", job_id="second")
    assert queue.lengths() == dict.fromkeys(settings.QUEUES, 0)
    ours = queue.queue("launch")
    for at, listened in (("ours", [ours]), ("theirs", [theirs, others])):
        Worker(listened, name=at, connection=redis).register_birth()
    assert [worker.name for worker in queue.workers()] == ["ours"]
    ours.enqueue("portal.tasks.ledger.run_task", 1, job_id="mine")
    assert queue.lengths()["launch"] == 1
    assert (theirs.job_ids, others.job_ids) == (["theirs"], ["second"])


@redis_only
def test_hints_go_by_one_connection_and_by_another_when_that_is_cut(redis):
    def give():
        """A hint. The number of the connection that it went by, and no other's: tests beside us have theirs."""
        ours = queue.queue("launch")
        ours.enqueue("portal.tasks.ledger.run_task", 1)
        return ours.connection.client_id()

    first = give()
    assert give() == first
    redis.client_kill_filter(_id=first)
    assert give() != first
    assert queue.lengths()["launch"] == 3


def test_the_prefix_is_in_the_name_of_every_queue(settings):
    assert {queue.queue(name).name for name in settings.QUEUES} == {
        f"{settings.REDIS_PREFIX}-{name}" for name in settings.QUEUES
    }
