"""Who is asked too often is asked less often: what is not answered for that makes the questions after it wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from portal.clouds.aws.trouble import THROTTLED
from portal.errors import Passing

FIRST, MOST = 1.0, 60.0  # seconds of a pause: it doubles with each answer that says so, and is over with a good one
_NONE = 0.0, 0.0, ""
READS = ("Describe", "Get", "List", "Head", "Simulate")


class Brake:
    """Of one account. AWS counts questions together, and each other kind of call for itself; so does this."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._pauses: dict[str, tuple[float, float, str]] = {}  # how long, until when, and AWS's words

    def watch(self, client: Any) -> None:
        """From now on this client's calls are refused while they are to wait, with `Passing`, and nothing is sent."""
        client.meta.events.register("before-call", self._before)
        client.meta.events.register("after-call", self._after)

    def _before(self, model: Any, **_: object) -> None:
        with self._lock:
            _pause, until, words = self._pauses.get(_kind(model), _NONE)
        if (left := until - self._clock()) > 0:
            raise Passing(
                "AWS is asked too often just now.",
                evidence=f"{words}\n{model.name} waits for {max(1, left):.0f} more seconds.",
                code="throttled",
            )

    def _after(self, model: Any, parsed: Mapping[str, Any], **_: object) -> None:
        kind = _kind(model)
        with self._lock:
            error = parsed.get("Error", {})
            if error.get("Code") not in THROTTLED:
                self._pauses.pop(kind, None)
                return
            pause = min(MOST, self._pauses.get(kind, _NONE)[0] * 2 or FIRST)
            words = f"{error['Code']}, {str(error.get('Message', ''))[:200]}"
            self._pauses[kind] = pause, self._clock() + pause, words


def _kind(model: Any) -> str:
    name: str = model.name
    return f"{model.service_model.service_name}:{'reads' if name.startswith(READS) else name}"
