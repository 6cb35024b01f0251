"""Print a lot: numbered lines from every rank, to see that each of them arrives, in order and once.

mpiexec -n 4 python chatty.py --lines 250000 --width 100              1,000,000 lines, 100 MB, as fast as they go
mpiexec -n 4 python chatty.py --lines 600 --rate 10 --stderr 0.1      a minute of 10 lines a second, a tenth to stderr

Every line is `r<rank> <sequence> <payload>`. Stream by stream, a rank's sequence numbers only grow; both streams
together hold each number once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Iterator

# A pipe takes so much in one piece (PIPE_BUF); of longer writes, the launcher may mix pieces of several ranks' lines.
BLOCK = 4096
LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"


def line(rank: int, sequence: int, width: int) -> bytes:
    """A line of exactly `width` bytes with its newline, as long as its numbers leave room."""
    start = b"r%d %d " % (rank, sequence)
    room = max(0, width - len(start) - 1)
    turn = sequence % len(LETTERS)
    payload = (LETTERS[turn:] + LETTERS * (room // len(LETTERS) + 1))[:room]
    return start + payload + b"\n"


def is_for_stderr(sequence: int, share: float) -> bool:
    """Whether this line goes to stderr; spread evenly, so that the first n lines hold n * share of them."""
    return int((sequence + 1) * share) > int(sequence * share)


def lines(rank: int, count: int, width: int, share: float) -> Iterator[tuple[bool, bytes]]:
    for sequence in range(count):
        yield is_for_stderr(sequence, share), line(rank, sequence, width)


def write_all(descriptor: int, content: bytes) -> None:
    """Write everything: a pipe takes a part when it is nearly full."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def talk(rank: int, count: int, width: int, share: float, rate: float) -> tuple[int, str]:
    """Write whole lines in blocks, each in one piece, and return the bytes of stdout and their sha256."""
    waiting = {1: bytearray(), 2: bytearray()}
    digest, written = hashlib.sha256(), 0
    began = time.monotonic()
    for sequence, (to_stderr, text) in enumerate(lines(rank, count, width, share)):
        if rate and (pause := began + sequence / rate - time.monotonic()) > 0:
            time.sleep(pause)
        descriptor = 2 if to_stderr else 1
        held = waiting[descriptor]
        if len(held) + len(text) > BLOCK:
            write_all(descriptor, bytes(held))
            held.clear()
        held += text
        if rate:
            write_all(descriptor, bytes(held))
            held.clear()
        if not to_stderr:
            digest.update(text)
            written += len(text)
    for descriptor, held in waiting.items():
        write_all(descriptor, bytes(held))
    return written, digest.hexdigest()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lines", type=int, default=1000, help="from every rank")
    arguments.add_argument("--width", type=int, default=100, help="bytes of a line, with its newline")
    arguments.add_argument("--rate", type=float, default=0, help="lines a second of every rank; 0: no pauses")
    arguments.add_argument("--stderr", type=float, default=0, help="this share of the lines goes to stderr, e.g. 0.1")
    asked = arguments.parse_args()
    rank = int(os.environ.get("PMI_RANK") or 0)  # the launcher's: chattering needs no MPI
    began = time.monotonic()
    written, digest = talk(rank, asked.lines, asked.width, asked.stderr, asked.rate)
    seconds = time.monotonic() - began
    done = f"r{rank} end {asked.lines} lines, {written} bytes to stdout, sha256 {digest}, {seconds:.1f} s\n"
    write_all(1, done.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
