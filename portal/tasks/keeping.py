"""Keeping outputs: they move from the database to the metadata store."""

from __future__ import annotations

import asyncio

from channels.db import database_sync_to_async

from portal.tasks import output
from portal.tasks.outputs import Output
from portal.tasks.watch import Bell


class OutputWatcher:
    """Keeps outputs that have ended and were not moved to the metadata store, because a worker died before it."""

    EVERY = 60.0

    async def run(self, bell: Bell) -> None:
        while True:
            await asyncio.sleep(self.EVERY)
            await database_sync_to_async(keep_ended)()


def keep_ended() -> None:
    for ended in Output.objects.filter(ended=True, file="", head__gt=0)[:50]:
        output.compact(ended)
