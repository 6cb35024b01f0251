from __future__ import annotations

import asyncio
from typing import Any

from django.core.management import BaseCommand
from django.db import connections

from portal.tasks import watch


class Command(BaseCommand):
    help = "Look after tasks, runs and nodes. Any number may be started, on any host; they share the work."

    def handle(self, *args: Any, **options: Any) -> None:
        connections.settings["default"]["CONN_MAX_AGE"] = None  # a few threads ask it, all the time
        asyncio.run(watch.main())
