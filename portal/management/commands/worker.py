from __future__ import annotations

import logging
import os
import time
from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandParser
from redis.exceptions import RedisError

from portal.database import keep_connection
from portal.loaded import keep_what_is_loaded
from portal.tasks.queue import queue
from portal.tasks.worker import PortalWorker

NICE = 5  # who looks at a page comes first, and the workers before what runs on nodes of this computer

logger = logging.getLogger(__name__)


def _queue(word: str) -> str:
    """Not argparse's `choices`, which refuse that none is named."""
    if word not in settings.QUEUES:
        raise ArgumentTypeError(f"{word} is none of {', '.join(settings.QUEUES)}")
    return word


class Command(BaseCommand):
    help = "Work on tasks of these queues, in this order of preference."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "queues", nargs="*", type=_queue, help=f"all of them if none is named: {', '.join(settings.QUEUES)}"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        os.nice(NICE)
        keep_connection()
        keep_what_is_loaded()
        queues = [queue(name) for name in options["queues"] or settings.QUEUES]
        while True:
            worker = PortalWorker(queues, connection=queues[0].connection, serializer="rq.serializers.JSONSerializer")
            try:
                worker.work(with_scheduler=False, logging_level="WARNING")
            except RedisError as error:
                # It waits for a server that is away, but not wherever it may lose it.
                logger.warning("the queue's server went away, beginning again: %s", error)
                time.sleep(1)
            else:
                return
