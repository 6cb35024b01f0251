"""How often news is passed on."""

from __future__ import annotations

import asyncio
import time

GAP = 0.1  # seconds between two, in the long run
AT_ONCE = 4  # that may follow each other without a gap, after a quiet time


class Pace:
    """Ten times a second in the long run; after a quiet time, the first few at once.

    A flood is joined into a few large pieces, and the one line that a person waits for is not made to wait for it.
    """

    def __init__(self) -> None:
        self._paid_until = 0.0

    def left(self) -> float:
        """Seconds until the next one may go."""
        return max(0.0, self._paid_until - (AT_ONCE - 1) * GAP - time.monotonic())

    def spend(self) -> None:
        """One goes now."""
        self._paid_until = max(self._paid_until, time.monotonic()) + GAP

    async def turn(self) -> None:
        """Wait until the next one may go, and count it."""
        await asyncio.sleep(self.left())
        self.spend()
