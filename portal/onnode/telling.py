"""What a command tells the portal while it runs: a log of frames, and facts.

A frame: kind (1 byte), world (2), rank (4; NOBODY: nobody's), size (4), time in ns (8), big endian; then its payload.
Kinds: `o` stdout, `e` stderr, `n` what MPI says on stderr after a program has ended, `s` what was done before it.
"""

import json
import struct
import time

FRAME = struct.Struct(">cHIIQ")
NOBODY = 0xFFFFFFFF


class Log:
    """FOLDER/log. One process at a time writes it."""

    def __init__(self, folder):
        self.file = (folder / "log").open("ab", buffering=1 << 20)

    def write(self, kind, data, *, world=0, rank=NOBODY, at=None):
        """Not before `flush` is it sure to be seen."""
        self.file.write(FRAME.pack(kind, world, rank, len(data), at or time.time_ns()))
        self.file.write(data)

    def say(self, sentence):
        self.write(b"s", f"{sentence}\n".encode(errors="replace"))
        self.flush()

    def flush(self):
        self.file.flush()


def know(folder, facts):
    """FOLDER/facts.json, whole at any moment."""
    draft = folder / "facts.new"
    draft.write_text(json.dumps(facts))
    draft.replace(folder / "facts.json")
