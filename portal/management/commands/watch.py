from __future__ import annotations

import asyncio
from typing import Any

from django.core.management import BaseCommand

from portal.database import keep_connection
from portal.loaded import give_way_often, keep_what_is_loaded
from portal.tasks import watch


class Command(BaseCommand):
    help = "Look after tasks, runs and nodes. Any number may be started, on any host; they share the work."

    def handle(self, *args: Any, **options: Any) -> None:
        keep_connection()
        keep_what_is_loaded()
        give_way_often()
        asyncio.run(watch.main())
