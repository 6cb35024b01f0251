from __future__ import annotations

from typing import Any

import django_rq
from django.conf import settings
from django.core.management import BaseCommand, CommandParser
from django.db import connections

from portal.tasks.worker import PortalWorker


class Command(BaseCommand):
    help = "Work on tasks of these queues, in this order of preference."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="*", default=list(settings.QUEUES), choices=settings.QUEUES)

    def handle(self, *args: Any, **options: Any) -> None:
        connections.settings["default"]["CONN_MAX_AGE"] = None  # one thread asks it, all the time
        queues = [django_rq.get_queue(name) for name in options["queues"] or settings.QUEUES]
        PortalWorker(queues, connection=queues[0].connection, serializer="rq.serializers.JSONSerializer").work(
            with_scheduler=False, logging_level="WARNING"
        )
