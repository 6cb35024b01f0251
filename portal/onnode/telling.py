"""What a command tells the portal while it runs: a log of frames, and facts.

A frame: kind (1 byte), world (2), rank (4; NOBODY: nobody's), size (4), time in ns (8), big endian; then its payload.
Kinds: `o` stdout, `e` stderr, `n` what MPI says on stderr after a program has ended, `s` what was done before it.
"""

import contextlib
import json
import os
import struct
import time

FRAME = struct.Struct(">cHIIQ")
NOBODY = 0xFFFFFFFF


class Log:
    """FOLDER/log. One process at a time writes it, and wakes who observes it."""

    def __init__(self, folder):
        self.file = (folder / "log").open("ab", buffering=1 << 20)
        try:
            self.bell = os.open(folder / "life", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # nobody keeps this
            self.bell = None

    def write(self, kind, data, *, world=0, rank=NOBODY, at=None):
        """Not before `flush` is it sure to be seen."""
        self.file.write(FRAME.pack(kind, world, rank, len(data), at or time.time_ns()))
        self.file.write(data)

    def say(self, sentence):
        self.write(b"s", f"{sentence}\n".encode(errors="replace"))
        self.flush()

    def flush(self):
        self.file.flush()
        if self.bell is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it rings already; nobody listens
                os.write(self.bell, b".")


def know(folder, facts):
    """FOLDER/facts.json, whole at any moment."""
    draft = folder / "facts.new"
    draft.write_text(json.dumps(facts))
    draft.replace(folder / "facts.json")
