"""A watch process that looks after numbers, and says so: `sharing.py DATABASE SECONDS_OF_A_TERM MOST`."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

import django

django.setup()

from django.db import connections  # noqa: E402

from portal.tasks import leases  # noqa: E402

leases.TERM = timedelta(seconds=float(sys.argv[2]))

from portal.tasks import watch  # noqa: E402


class Numbers(watch.SharingWatcher):
    kind = "number"
    rung_by = ("numbers",)

    async def wanted(self):
        return set(range(int(sys.argv[3])))

    async def look_after(self, pk):
        print(f"+{pk}", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print(f"-{pk}", flush=True)


async def main():
    await watch.Watch([Numbers()]).run()


if __name__ == "__main__":
    connections["default"].settings_dict["NAME"] = sys.argv[1]
    asyncio.run(main())
