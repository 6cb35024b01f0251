"""Which engine versions are offered: plain MPI always, and the three latest Bodo releases of the package index."""

from __future__ import annotations

import asyncio
import logging
import re
import sys

from channels.db import database_sync_to_async

from clusters.models import EngineVersion

logger = logging.getLogger(__name__)

LATEST = 3
_RELEASE = re.compile(r"^\d{4}\.\d+(\.\d+)?$")


async def refresh() -> None:
    """Ask the package index, through pip and so with the machine's own settings. Offline, what is known stays."""
    asked = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pip", "index", "versions", "bodo", "--disable-pip-version-check", "--no-input"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await asked.communicate()
    except TimeoutError:
        asked.kill()
        await asked.wait()
        out = b""
    found = re.search(r"^Available versions: (.*)$", out.decode(errors="replace"), re.MULTILINE)
    if not found:
        logger.info("the package index does not say which versions of bodo there are")
        return
    await database_sync_to_async(offer)([v for v in found[1].split(", ") if _RELEASE.match(v)][:LATEST])


def offer(versions: list[str]) -> None:
    """Offer these Bodo releases, newest first, and no others."""
    bodo = EngineVersion.objects.filter(kind=EngineVersion.Kind.BODO)
    for version in versions:
        EngineVersion.objects.update_or_create(
            kind=EngineVersion.Kind.BODO,
            version=version,
            # With pandas 3.1 and later these releases do not import.
            defaults={"packages": [f"bodo=={version}", "pandas<3.1", "mpi4py>=4.1,<5"], "offered": True},
        )
    bodo.exclude(version__in=versions).update(offered=False)
