"""Named places where a test may kill this process, to see that the work goes on.

Armed by a file: `PORTAL_FAILPOINTS` names a folder; a file in it with a failpoint's name makes the next process that
passes there die of SIGKILL, once. Does nothing when the setting is empty.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from django.conf import settings


def failpoint(name: str) -> None:
    folder = settings.FAILPOINTS
    if not folder:
        return
    try:
        os.unlink(Path(folder) / name)  # whoever removes the file dies, so that it fires once
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
