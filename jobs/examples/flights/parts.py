"""What of the program needs neither MPI nor pandas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import BinaryIO

# Per key (a carrier, an hour): the sum of the delays in whole minutes, and how many arrivals that is.
Totals = dict[str, tuple[int, int]]


def part_of(file: BinaryIO, size: int, number: int, of: int) -> bytes:
    """Return the lines after the header whose first byte lies in this part: every line is in exactly one part."""
    file.seek(0)
    body = len(file.readline())
    start = body + (size - body) * number // of
    end = body + (size - body) * (number + 1) // of
    if start == end:
        return b""
    file.seek(start - 1)
    at = start - 1 + len(file.readline())  # the rest of a line of the part before, or only its newline
    if at >= end:
        return b""
    lines = file.read(end - at)
    if not lines.endswith(b"\n"):
        lines += file.readline()
    return lines


def add(one: Totals, other: Totals) -> Totals:
    both = dict(one)
    for key, (total, count) in other.items():
        had_total, had_count = both.get(key, (0, 0))
        both[key] = (had_total + total, had_count + count)
    return both


def differences(
    ours: Mapping[str, tuple[float, int]], theirs: Mapping[str, tuple[float, int]], tolerance: float = 1e-9
) -> list[str]:
    """Say in one line each where two tables of (mean, count) disagree."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if mine is None or other is None:
            found.append(f"{key}: only in {'theirs' if mine is None else 'ours'}: {other or mine}")
        elif mine[1] != other[1] or not math.isclose(mine[0], other[0], rel_tol=tolerance, abs_tol=tolerance):
            found.append(f"{key}: mean {mine[0]!r} of {mine[1]}, but pandas says {other[0]!r} of {other[1]}")
    return found
